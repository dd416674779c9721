"""What the checks of a2 share: the formulas in float64, weights that are known, a plain cache.

Nothing here imports the code under test. Every oracle can also be asked for a typical mistake, so
that a check can tell what went wrong. What this leaves out: speed.
"""

import importlib
import math
import os

# Before Triton is imported: its kernels then run in Python, on any machine.
os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm_course.check_outcome import GradedFailure
from lm_course.graded_checks import check_true
from lm_course.tensor_checks import TensorCounter, check_tensor

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

# What a mistake in the attention layer does, in words.
ATTENTION_MISTAKES = {
    "no mask": "positions look ahead: no causal mask",
    "no scale": "the scores are not divided by sqrt(head_dim)",
    "heads without transpose": "the width is cut into [seq, heads, head_dim] and only then are the "
    "two axes exchanged; a view to [heads, seq, head_dim] mixes positions",
    "heads joined without transpose": "the heads' results go back to [seq, heads, head_dim] before "
    "they are joined",
    "key heads tiled": "query head h reads key head h // (num_heads / num_kv_heads): neighbours "
    "share; yours repeats the key heads as 0, 1, 0, 1 (h % num_kv_heads)",
    "first key head alone": "every query head reads the first key head",
    "no rotary": "queries and keys are not turned by their positions",
    "rotary on queries alone": "the keys are not turned",
    "rotary on values": "values are not turned, only queries and keys",
    "positions from 0": "the positions that are given are ignored",
    "no head norm": "qk_norm is ignored",
    "head norm after rotary": "the norms of queries and keys come before the rotation",
    "window one longer": "a window of w is the position itself and w - 1 before it",
    "no window": "sliding_window is ignored",
    "no biases": "the biases are missing",
    "first with first": "the mask lines up the first query with the first key (as PyTorch's "
    "is_causal does); with a cache the last query stands at the last key",
}


def softmax(x: Tensor, dim: int) -> Tensor:
    return torch.softmax(x.double(), dim)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The formula; a query that sees nothing gives 0."""
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("...qd,...kd->...qk", q, k)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


def visible(
    num_queries: int, num_keys: int, is_causal: bool = True, window: int | None = None
) -> Tensor:
    """True where a query may look, place by place."""
    allowed = torch.ones(num_queries, num_keys, dtype=torch.bool)
    for query in range(num_queries):
        for key in range(num_keys):
            distance = num_keys - num_queries + query - key
            if is_causal and (distance < 0 or (window is not None and distance >= window)):
                allowed[query, key] = False
    return allowed


def frequencies(head_dim: int, theta: float = 10000.0) -> Tensor:
    values = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    return torch.tensor(values, dtype=torch.float64)


def rotate(
    x: Tensor, positions: Tensor, turns: Tensor | float = 10000.0, pairs: str = "adjacent"
) -> Tensor:
    """Every pair turned by its 2 x 2 matrix; `turns` are the frequencies, or theta."""
    x = x.double()
    if isinstance(turns, float):
        turns = frequencies(x.shape[-1], turns)
    angles = positions.double()[..., None] * turns
    cos, sin = angles.cos(), angles.sin()
    if pairs == "halves":
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def norm(config: Any, weights: Weights, name: str, x: Tensor) -> Tensor:
    if config.norm == "none":
        return x
    if config.norm == "rmsnorm":
        return rms_norm(x, weights[f"{name}.weight"], config.norm_eps)
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return nn.functional.layer_norm(x.double(), x.shape[-1:], weight, bias, config.norm_eps)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x.double() @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def attention(
    config: Any,
    weights: Weights,
    x: Tensor,
    positions: Tensor,
    mistake: str = "",
    has_rotary: bool = True,
    last: int | None = None,
) -> Tensor:
    """The attention layer over whole sequences, or its `last` positions, with or without a
    mistake.
    """
    if mistake == "no biases":
        weights = {name: value for name, value in weights.items() if not name.endswith("bias")}
    batch, seq, _ = x.shape
    shape = {"query": config.num_heads, "key": config.num_kv_heads, "value": config.num_kv_heads}
    heads = {}
    for name, number in shape.items():
        projected = linear(weights, name, x)
        if mistake == "heads without transpose":
            heads[name] = projected.reshape(batch, number, seq, config.head_dim)
        else:
            heads[name] = projected.reshape(batch, seq, number, config.head_dim).transpose(1, 2)

    def normed(name: str) -> Tensor:
        return rms_norm(heads[name], weights[f"{name}_norm.weight"], config.norm_eps)

    def turned(name: str) -> Tensor:
        where = torch.arange(seq) if mistake == "positions from 0" else positions
        turns = frequencies(config.head_dim, config.rope_theta)
        if config.rope_scaling is not None and mistake != "no scaling":
            assert config.rope_scaling.kind == "linear", "no other kind is worked out here"
            turns = turns / config.rope_scaling.factor
        return rotate(heads[name], where, turns)

    has_norm = config.qk_norm and mistake != "no head norm"
    turn = ["query", "key"]
    if not has_rotary or mistake == "no rotary":
        turn = []
    elif mistake == "rotary on queries alone":
        turn = ["query"]
    elif mistake == "rotary on values":
        turn = ["query", "key", "value"]
    if has_norm and mistake != "head norm after rotary":
        heads |= {name: normed(name) for name in ("query", "key")}
    heads |= {name: turned(name) for name in turn}
    if has_norm and mistake == "head norm after rotary":
        heads |= {name: normed(name) for name in ("query", "key")}
    group = config.num_heads // config.num_kv_heads
    serve = [h // group for h in range(config.num_heads)]
    if mistake == "key heads tiled":
        serve = [h % config.num_kv_heads for h in range(config.num_heads)]
    elif mistake == "first key head alone":
        serve = [0] * config.num_heads
    window = config.sliding_window
    if mistake == "window one longer" and window is not None:
        window += 1
    mask = visible(seq, seq, mistake != "no mask", None if mistake == "no window" else window)
    scale = 1.0 if mistake == "no scale" else None
    if last is not None:
        mask = mask[:last] if mistake == "first with first" else mask[-last:]
        heads["query"], seq = heads["query"][:, :, -last:], last
    attended = attend(heads["query"], heads["key"][:, serve], heads["value"][:, serve], mask, scale)
    if mistake == "heads joined without transpose":
        return linear(weights, "output", attended.reshape(batch, seq, -1))
    return linear(weights, "output", attended.transpose(1, 2).flatten(-2))


def feed_forward(config: Any, weights: Weights, x: Tensor) -> Tensor:
    up = linear(weights, "up", x)
    if config.mlp == "swiglu":
        inner = nn.functional.silu(linear(weights, "gate", x)) * up
    else:
        inner = nn.functional.gelu(up, approximate="tanh")
    return linear(weights, "down", inner)


def part(weights: Weights, prefix: str) -> Weights:
    """The weights of a submodule, under their names there."""
    start = f"{prefix}."
    return {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}


def block(config: Any, weights: Weights, x: Tensor, positions: Tensor, mistake: str = "") -> Tensor:
    """One block over whole sequences."""
    has_rotary = config.position == "rotary"

    def attended(y: Tensor) -> Tensor:
        return attention(config, part(weights, "attention"), y, positions, mistake, has_rotary)

    def fed(y: Tensor) -> Tensor:
        return feed_forward(config, part(weights, "feed_forward"), y)

    def normed(name: str, y: Tensor) -> Tensor:
        return norm(config, weights, f"{name}_norm", y)

    post = config.norm_position == "post"
    if mistake == "other norm position":
        post = not post
    if post:
        x = normed("attention", x + attended(x))
        return normed("feed_forward", x + fed(x))
    if mistake == "norm in the stream":
        x = normed("attention", x)
        x = x + attended(x)
        x = normed("feed_forward", x)
        return x + fed(x)
    if mistake == "side by side":
        return x + attended(normed("attention", x)) + fed(normed("feed_forward", x))
    kept = 0.0 if mistake == "no residual" else 1.0
    if mistake == "norms exchanged":
        x = x + attended(normed("feed_forward", x))
        return x + fed(normed("attention", x))
    x = kept * x + attended(normed("attention", x))
    return kept * x + fed(normed("feed_forward", x))


BLOCK_MISTAKES = {
    "other norm position": "norm_position is ignored: pre normalises what a branch reads, post the "
    "sum",
    "norm in the stream": "what is added to must be the stream itself, not its norm",
    "no residual": "the input is not added to what each branch gives",
    "side by side": "the feed-forward must read the stream after the attention was added",
    "norms exchanged": "the two norms are exchanged",
}


def decoder(config: Any, weights: Weights, token_ids: Tensor, mistake: str = "") -> Tensor:
    """Logits over whole sequences."""
    positions = torch.arange(token_ids.shape[1])
    x = weights["token_embedding.weight"][token_ids]
    if config.position == "learned" and mistake != "no positions":
        x = x + weights["position_embedding.weight"][positions]
    for layer in range(config.num_layers):
        number = 0 if mistake == "one block" else layer
        x = block(config, part(weights, f"blocks.{number}"), x, positions, mistake)
    if config.norm_position == "pre" and mistake != "no final norm":
        x = norm(config, weights, "final_norm", x)
    if config.tie_embeddings:
        return x @ weights["token_embedding.weight"].T
    return linear(weights, "output_head", x)


MODEL_MISTAKES = {
    "no final norm": "the norm in front of the output head is missing",
    "one block": "the first block is used for all layers",
    "no positions": "the position embedding is not added",
    "no rotary": ATTENTION_MISTAKES["no rotary"],
    "no scaling": "config.rope_scaling is not given to RotaryEmbedding",
    "no mask": ATTENTION_MISTAKES["no mask"],
}


# The parameters by name, as the handout lists them.


def linear_shapes(name: str, d_in: int, d_out: int, bias: bool) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (d_out, d_in)}
    return shapes | ({f"{name}.bias": (d_out,)} if bias else {})


def norm_shapes(config: Any, name: str) -> Shapes:
    weight: Shapes = {f"{name}.weight": (config.d_model,)}
    bias: Shapes = {f"{name}.bias": (config.d_model,)}
    return {"none": {}, "rmsnorm": weight, "layernorm": weight | bias}[config.norm]


def attention_shapes(config: Any) -> Shapes:
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: Shapes = {}
    for name, d_out in (("query", width), ("key", kv_width), ("value", kv_width)):
        shapes |= linear_shapes(name, config.d_model, d_out, config.biases)
    shapes |= linear_shapes("output", width, config.d_model, config.biases)
    if config.qk_norm:
        shapes |= {f"{name}_norm.weight": (config.head_dim,) for name in ("query", "key")}
    return shapes


def feed_forward_shapes(config: Any) -> Shapes:
    inward = ("gate", "up") if config.mlp == "swiglu" else ("up",)
    shapes: Shapes = {}
    for name in inward:
        shapes |= linear_shapes(name, config.d_model, config.d_ff, config.biases)
    return shapes | linear_shapes("down", config.d_ff, config.d_model, config.biases)


def block_shapes(config: Any) -> Shapes:
    inner = {"attention": attention_shapes(config), "feed_forward": feed_forward_shapes(config)}
    shapes = {f"{name}.{key}": shape for name, of in inner.items() for key, shape in of.items()}
    return shapes | norm_shapes(config, "attention_norm") | norm_shapes(config, "feed_forward_norm")


def model_shapes(config: Any) -> Shapes:
    shapes: Shapes = {"token_embedding.weight": (config.vocab_size, config.d_model)}
    if config.position == "learned":
        shapes["position_embedding.weight"] = (config.context_length, config.d_model)
    for layer in range(config.num_layers):
        of_block = block_shapes(config).items()
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in of_block}
    if config.norm_position == "pre":
        shapes |= norm_shapes(config, "final_norm")
    if not config.tie_embeddings:
        shapes |= linear_shapes("output_head", config.d_model, config.vocab_size, bias=False)
    return shapes


def check_parameters(module: nn.Module, shapes: Shapes, what: str) -> None:
    """Fail unless the parameters have these names and shapes."""
    found = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    missing = [name for name in shapes if name not in found]
    extra = [name for name in found if name not in shapes]
    details = {"expected": ", ".join(shapes), "got": ", ".join(found) or "no parameters"}
    if missing:
        sentence = f"{what} has no parameter {missing[0]}, of shape {shapes[missing[0]]}"
        close = get_close_matches(missing[0], extra, n=1)
        if not found:
            sentence += ": make it with nn.Parameter, and call super().__init__() first"
        elif close:
            sentence += f"; yours is called {close[0]}"
        check_true(False, sentence, details)
    check_true(not extra, f"{what} has a parameter too many: {', '.join(extra)}", details)
    for name, shape in shapes.items():
        check_true(
            found[name] == shape,
            f"{what}: the parameter {name} has the shape {found[name]}, expected {shape}",
        )


def fill(module: nn.Module, shapes: Shapes, what: str, seed: int = 0) -> Weights:
    """Give every parameter a known value that nothing cancels out; return float64 copies."""
    check_parameters(module, shapes, what)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                values = 1 + 0.3 * values
            elif name.endswith("weight"):
                values = values / parameter.shape[-1] ** 0.5 * 1.5
            else:
                values = 0.3 * values
            parameter.copy_(values)
            weights[name] = values.double()
    return weights


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class GrowingCache:
    """The cache of the handout: keeps what it is given, layer by layer."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.appended: list[int] = []  # the layers, in the order of the calls

    @property
    def length(self) -> int:
        """It changes with the first `append` of a pass."""
        return max((keys.shape[2] for keys, _ in self.layers.values()), default=0)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        check_true(
            keys.dim() == values.dim() == 4,
            "cache.append takes keys and values of shape [batch, kv_heads, new, head_dim]",
            {"got": f"{tuple(keys.shape)} and {tuple(values.shape)}"},
        )
        self.appended.append(layer)
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return keys, values


def wrong_by(
    oracle: Callable[..., Tensor], mistakes: dict[str, str], names: Sequence[str], *args: Any
) -> dict[str, Tensor]:
    """likely cause -> what the oracle gives with this mistake."""
    return {mistakes[name]: oracle(*args, mistake=name) for name in names}


# Attention as the kernels compute it, on whole tensors.


def expected_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: dict[str, Any],
    serve: list[int] | None = None,
    **changes: Any,
) -> Tensor:
    """The formula, on whole tensors."""
    given = {"is_causal": options["is_causal"], "window": options.get("sliding_window")}
    given |= {name: value for name, value in changes.items() if name != "scale"}
    group = q.shape[1] // k.shape[1]
    serve = [head // group for head in range(q.shape[1])] if serve is None else serve
    mask = visible(q.shape[2], k.shape[2], **given)
    return attend(q, k[:, serve], v[:, serve], mask, changes.get("scale"))


def online_without_rescaling(
    q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], forgotten: str
) -> Tensor:
    """The loop over tiles of keys, for equal heads, no window, and one line of it left out."""
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
    """likely cause -> what it gives."""
    heads, kv_heads, keys = q.shape[1], k.shape[1], k.shape[2]
    whole = keys // options["key_tile"] * options["key_tile"]
    causes = {
        "is_causal is ignored": expected_of(q, k, v, options, is_causal=False, window=None),
        "causal although is_causal is False": expected_of(q, k, v, options, is_causal=True),
        "sliding_window is ignored": expected_of(q, k, v, options, window=None),
        "the scores are not divided by sqrt(head_dim)": (expected_of(q, k, v, options, scale=1.0)),
        "divided by the root of the padded head_dim, not of the real one": (
            expected_of(q, k, v, options, scale=2 ** (-math.ceil(math.log2(q.shape[-1])) / 2))
        ),
        "query head h reads key head h // (heads / kv_heads); yours reads h % kv_heads": (
            expected_of(q, k, v, options, serve=[h % kv_heads for h in range(heads)])
        ),
    }
    if options["is_causal"] and q.shape[2] != keys:
        mask = torch.ones(q.shape[2], keys, dtype=torch.bool).tril(0)
        causes[
            "the first query was lined up with the first key: the queries are the LAST positions"
        ] = attend(q, k, v, mask)
    if whole < keys and not options["is_causal"]:
        if whole:
            causes["the keys after the last whole tile are left out"] = expected_of(
                q, k[:, :, :whole], v[:, :, :whole], options
            )
        behind = whole + options["key_tile"] - keys
        zeros = torch.zeros(*k.shape[:2], behind, max(k.shape[3], v.shape[3])).double()
        causes["rows of zeros behind the last key got weights: hide them"] = expected_of(
            q,
            torch.cat([k.double(), zeros[..., : k.shape[3]]], 2),
            torch.cat([v.double(), zeros[..., : v.shape[3]]], 2),
            options,
        )
    if heads == kv_heads and "sliding_window" not in options:
        for forgotten, sentence in {
            "total": "the sum so far is not rescaled when a larger score comes",
            "weighted": "the weighted values so far are not rescaled when a larger score comes",
            "division": "the weighted sum is not divided by the sum of the weights",
        }.items():
            causes[sentence] = online_without_rescaling(q, k, v, options, forgotten)
    return causes


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor, ...]:
    """Of each tensor, if the result's gradient is `grad`."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    result = function(*leaves)
    check_true(result.requires_grad, "the result of tiled_attention has no gradient")
    return torch.autograd.grad(result, leaves, grad)


def wrong_gradients(
    q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], grad: Tensor
) -> dict[str, tuple[Tensor, ...]]:
    """likely cause -> (dq, dk, dv), from the formulas with one mistake each."""
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
        "delta = rowsum(do * o) is not taken off: dS = P * (dP - delta)": (
            all_three(weights * d_weights)
        ),
        "the 1 / sqrt(head_dim) of the scores is missing in the gradient": all_three(right, 1.0),
        "1 / sqrt(head_dim) comes in twice": all_three(right, scale**2),
        "the sum over the query heads of a group is missing: one of them was taken": (
            all_three(right, heads=slice(0, 1))
        ),
        "only the last query head of each group counts": all_three(right, heads=slice(-1, None)),
        "the mean over a group was taken; the gradient is the sum": tuple(
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
        nothing = f"d{name} is all zeros"
        causes[nothing] = lambda x, right=right: not bool(x.any()) and bool(right.any())
        check_tensor(found[number], right, f"the gradient of {name}: {what}", causes, **options)


def own_error(call: Callable[[], Any]) -> Any:
    """What `call` returns. Triton's interpreter wraps what a kernel raises, call by call: this
    unwraps it, and keeps the lines of all those calls.
    """
    try:
        return call()
    except Exception as error:
        wrapped: BaseException = error
        lines = wrapped.__traceback__
        while type(wrapped).__name__ == "InterpreterError" and wrapped.__cause__ is not None:
            wrapped = wrapped.__cause__
            lines = joined(lines, wrapped.__traceback__)
        if isinstance(wrapped, AssertionError):  # Triton's own: it is no check that failed
            wrapped = TypeError(str(wrapped))
        raise wrapped.with_traceback(lines) from None


def joined(outer: TracebackType | None, inner: TracebackType | None) -> TracebackType | None:
    """One traceback after the other."""
    if outer is None:
        return inner
    rest = joined(outer.tb_next, inner)
    return TracebackType(rest, outer.tb_frame, outer.tb_lasti, outer.tb_lineno)


def load_what_checks_use() -> None:
    """PyTorch loads some of itself with the first use; done here, once, no check pays for it.

    Nothing runs backward: its threads would not survive the fork.
    """
    with TensorCounter():
        torch.ones(2, 2) @ torch.ones(2, 2)


@pytest.fixture(scope="session")
def triton() -> None:
    """Triton's interpreter, and what PyTorch loads with the first operator of one's own (a second
    or two, once).
    """
    pytest.importorskip("triton", reason="Triton is on Linux only")
    importlib.import_module("torch._dynamo")
    importlib.import_module("triton.runtime.interpreter")


@pytest.fixture(scope="session")
def a2() -> Iterator[SimpleNamespace]:
    """The oracles and the ways to fail."""
    torch.set_num_threads(1)  # small tensors; and threads do not survive a fork
    load_what_checks_use()
    yield SimpleNamespace(
        ATTENTION_MISTAKES=ATTENTION_MISTAKES,
        BLOCK_MISTAKES=BLOCK_MISTAKES,
        MODEL_MISTAKES=MODEL_MISTAKES,
        GradedFailure=GradedFailure,
        GrowingCache=GrowingCache,
        attend=attend,
        attention=attention,
        attention_shapes=attention_shapes,
        block=block,
        block_shapes=block_shapes,
        check=check_tensor,
        check_gradients=check_gradients,
        check_parameters=check_parameters,
        decoder=decoder,
        expected_of=expected_of,
        feed_forward=feed_forward,
        feed_forward_shapes=feed_forward_shapes,
        fill=fill,
        forward_causes=forward_causes,
        frequencies=frequencies,
        gradients=gradients,
        linear_shapes=linear_shapes,
        model_shapes=model_shapes,
        own_error=own_error,
        random=random,
        rms_norm=rms_norm,
        rotate=rotate,
        softmax=softmax,
        visible=visible,
        wrong_by=wrong_by,
        wrong_gradients=wrong_gradients,
    )
