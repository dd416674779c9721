"""Attention as the kernels compute it, and its gradients, on whole tensors in float64; and the
results of typical mistakes in the loop over tiles.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attention_formulas import attend, visible
from torch import Tensor

from lm_course.grading.comparisons import check_true
from lm_course.grading.tensor_comparisons import check_tensor


def expected_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: dict[str, Any],
    serve: list[int] | None = None,
    **changes: Any,
) -> Tensor:
    """Compute the formula on whole tensors."""
    given = {"is_causal": options["is_causal"], "window": options.get("sliding_window")}
    given |= {name: value for name, value in changes.items() if name != "scale"}
    group = q.shape[1] // k.shape[1]
    serve = [head // group for head in range(q.shape[1])] if serve is None else serve
    mask = visible(q.shape[2], k.shape[2], **given)
    return attend(q, k[:, serve], v[:, serve], mask, changes.get("scale"))


def online_without_rescaling(
    q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], forgotten: str
) -> Tensor:
    """Run the loop over tiles of keys without one of its lines (equal heads, no window)."""
    q, k, v = q.double(), k.double(), v.double()
    largest = torch.full(q.shape[:-1], -math.inf, dtype=torch.float64)
    total, weighted = torch.zeros_like(largest), torch.zeros(*q.shape[:-1], v.shape[-1]).double()
    allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if options["is_causal"]:
        allowed = allowed.tril(k.shape[2] - q.shape[2])
    for start in range(0, k.shape[2], options["key_tile"]):
        keys = slice(start, start + options["key_tile"])
        scores = q @ k[:, :, keys].transpose(-1, -2) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~allowed[:, keys], -math.inf)
        new = torch.maximum(largest, scores.amax(-1))
        weights = torch.exp(scores - new[..., None]).nan_to_num(0.0)
        rescale = torch.exp(largest - new).nan_to_num(1.0)
        total = total * (1 if forgotten == "total" else rescale) + weights.sum(-1)
        kept = weighted * (1 if forgotten == "weighted" else rescale[..., None])
        weighted = kept + weights @ v[:, :, keys]
        largest = new
    return weighted if forgotten == "division" else weighted / total[..., None]


def forward_causes(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> dict[str, Tensor]:
    """Return likely cause -> the result that it gives."""
    heads, kv_heads, keys = q.shape[1], k.shape[1], k.shape[2]
    whole = keys // options["key_tile"] * options["key_tile"]
    causes = {
        "is_causal is ignored": expected_of(q, k, v, options, is_causal=False, window=None),
        "the result is causal, although is_causal is False": expected_of(
            q, k, v, options, is_causal=True
        ),
        "sliding_window is ignored": expected_of(q, k, v, options, window=None),
        "the scores are not divided by sqrt(head_dim)": (expected_of(q, k, v, options, scale=1.0)),
        "the scores are divided by the root of the padded head_dim, not of the real one": (
            expected_of(q, k, v, options, scale=2 ** (-math.ceil(math.log2(q.shape[-1])) / 2))
        ),
        "query head h reads key-value head h // (heads / kv_heads); yours reads h % kv_heads": (
            expected_of(q, k, v, options, serve=[h % kv_heads for h in range(heads)])
        ),
    }
    if options["is_causal"] and q.shape[2] != keys:
        mask = torch.ones(q.shape[2], keys, dtype=torch.bool).tril(0)
        causes[
            "the first query was aligned with the first key: the queries are the LAST positions"
        ] = attend(q, k, v, mask)
    if whole < keys and not options["is_causal"]:
        if whole:
            causes[
                "the keys after the last whole tile are missing: the last tile may be shorter"
            ] = expected_of(q, k[:, :, :whole], v[:, :, :whole], options)
        behind = whole + options["key_tile"] - keys
        zeros = torch.zeros(*k.shape[:2], behind, max(k.shape[3], v.shape[3])).double()
        causes["rows of zeros after the last key got weights: mask them"] = expected_of(
            q,
            torch.cat([k.double(), zeros[..., : k.shape[3]]], 2),
            torch.cat([v.double(), zeros[..., : v.shape[3]]], 2),
            options,
        )
    if heads == kv_heads and "sliding_window" not in options:
        for forgotten, sentence in {
            "total": "the sum so far is not rescaled when a larger score appears",
            "weighted": "the weighted values so far are not rescaled when a larger score appears",
            "division": "the weighted sum is not divided by the sum of the weights",
        }.items():
            causes[sentence] = online_without_rescaling(q, k, v, options, forgotten)
    return causes


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradient of each tensor, if the result's gradient is `grad`."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    result = function(*leaves)
    check_true(
        result.requires_grad,
        "the result of tiled_attention has no gradient: return the result of TiledAttention.apply",
    )
    return torch.autograd.grad(result, leaves, grad)


def wrong_gradients(
    q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], grad: Tensor
) -> dict[str, tuple[Tensor, ...]]:
    """Return likely cause -> (dq, dk, dv), by the formulas with one mistake each."""
    group = q.shape[1] // k.shape[1]
    serve = [head // group for head in range(q.shape[1])]
    mask = visible(q.shape[2], k.shape[2], options["is_causal"], options.get("sliding_window"))
    q, wide_k, wide_v, grad = q.double(), k.double()[:, serve], v.double()[:, serve], grad.double()
    scale = q.shape[-1] ** -0.5
    scores = (q @ wide_k.transpose(-1, -2) * scale).masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    d_weights = grad @ wide_v.transpose(-1, -2)
    delta = (weights * d_weights).sum(-1, keepdim=True)

    def all_three(d_scores, scale=scale, heads=slice(None), by=weights):
        dk, dv = d_scores.transpose(-1, -2) @ q * scale, by.transpose(-1, -2) @ grad
        dk, dv = (x.unflatten(1, (-1, group))[:, :, heads].sum(2) for x in (dk, dv))
        return d_scores @ wide_k * scale, dk, dv

    right = weights * (d_weights - delta)
    plain = torch.softmax(q @ wide_k.transpose(-1, -2) * scale, -1)
    plain_scores = plain * (d_weights - (plain * d_weights).sum(-1, keepdim=True))
    return {
        "delta = rowsum(do * o) is not subtracted: dS = P * (dP - delta)": (
            all_three(weights * d_weights)
        ),
        "the 1 / sqrt(head_dim) of the scores is missing in the gradient": all_three(right, 1.0),
        "1 / sqrt(head_dim) is applied twice": all_three(right, scale**2),
        "the sum over the query heads of a group is missing: only the first one counts": (
            all_three(right, heads=slice(0, 1))
        ),
        "only the last query head of each group counts": all_three(right, heads=slice(-1, None)),
        "this is the mean over the query heads of a group; the gradient is their sum": tuple(
            x / (group if number else 1) for number, x in enumerate(all_three(right))
        ),
        "the mask is missing in the backward pass": all_three(plain_scores, by=plain),
        "P is missing: dS = P * (dP - delta)": all_three(d_weights - delta),
    }


def check_gradients(
    found: Sequence[Tensor],
    expected: Sequence[Tensor],
    wrong: dict[str, tuple[Tensor, ...]],
    what: str,
    **options: Any,
) -> None:
    for number, name in enumerate(("q", "k", "v")):
        causes = {sentence: three[number] for sentence, three in wrong.items()}
        right = expected[number]
        nothing = f"d{name} is all zeros: was it never written?"
        causes[nothing] = lambda x, right=right: not bool(x.any()) and bool(right.any())
        check_tensor(found[number], right, f"the gradient of {name} ({what})", causes, **options)
