"""Attention among packed documents: several documents in one sequence, each seen by itself alone.

`cu_seqlens` has the borders: document i has the tokens from cu_seqlens[i] to cu_seqlens[i + 1].
The table of attention weights is then block-diagonal, and only its blocks are computed. The borders
stay on the CPU, because the sizes of the blocks are needed there.

What this leaves out: a cache, so packed documents are for training; and one kernel for all
documents on a GPU without Triton.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lm_core.user_error import UserError
from transformer_lm.kernels.attention_backend import AttentionBackend, choose_backend
from transformer_lm.model_config import ModelConfig
from transformer_lm.token_id_check import check_token_ids


def document_positions(
    cu_seqlens: Int[Tensor, " documents_and_one"], device: torch.device
) -> Int[Tensor, " tokens"]:
    """Return the position of each token in its own document, from 0, on `device`."""
    total = int(cu_seqlens[-1])
    borders = cu_seqlens.to(device, torch.int64, non_blocking=True)
    starts = borders[:-1].repeat_interleave(borders.diff(), output_size=total)
    return torch.arange(total, device=device) - starts


def check_packed(
    token_ids: Int[Tensor, "batch tokens"],
    cu_seqlens: Int[Tensor, " documents_and_one"],
    config: ModelConfig,
) -> None:
    """Raise UserError if `cu_seqlens` does not divide the tokens into documents that the model can
    read, or if an id is not in the vocabulary (checked only on a CPU without compilation).
    """
    if token_ids.shape[0] != 1:
        raise UserError(
            f"packed documents are one sequence, [1, tokens], but token_ids is "
            f"{list(token_ids.shape)}; concatenate the sequences"
        )
    if not cu_seqlens.is_cpu:
        raise UserError(f"cu_seqlens is on {cu_seqlens.device}; keep it on the CPU")
    borders = cu_seqlens.tolist()
    lengths = cu_seqlens.diff().tolist()
    if not lengths or borders[0] != 0 or borders[-1] != token_ids.shape[1] or min(lengths) < 1:
        raise UserError(
            f"cu_seqlens must rise from 0 to the number of tokens, {token_ids.shape[1]}; "
            f"got {borders if len(borders) < 9 else [*borders[:4], '...', *borders[-4:]]}"
        )
    if max(lengths) > config.context_length:
        raise UserError(
            f"{max(lengths)} tokens of one document are more than the model's context of "
            f"{config.context_length}; cut long documents"
        )
    if token_ids.is_cpu and not torch.compiler.is_compiling():
        check_token_ids(token_ids, config.vocab_size)


def packed_attention(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Float[Tensor, "1 heads tokens head_dim"],
    k: Float[Tensor, "1 kv_heads tokens head_dim"],
    v: Float[Tensor, "1 kv_heads tokens head_dim"],
    cu_seqlens: Int[Tensor, " documents_and_one"],
    backend: AttentionBackend = "eager",
    sliding_window: int | None = None,
) -> Float[Tensor, "1 heads tokens head_dim"]:
    """Return the result of `attend` for every document alone, concatenated.

    Args:
        attend: (q, k, v) of one document -> what its queries get.
        q, k, v: of all documents.
        cu_seqlens: the borders, on the CPU; see the top of this file.
        backend: where "triton" runs, its kernels compute all documents in one launch instead.
        sliding_window: for these kernels.
    """
    lengths = cu_seqlens.diff().tolist()
    if choose_backend(backend, q, k) == "triton":
        return _by_triton(q, k, v, cu_seqlens, max(lengths), sliding_window)
    # split, not slices: the gradient of each slice would be a tensor as large as the whole.
    documents = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    return torch.cat([attend(*document) for document in documents], dim=2)


def _by_triton(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, sliding_window: int | None
) -> Tensor:
    from transformer_lm.kernels.flash_attention import (
        flash_attention_varlen,  # needs Triton: not on every machine
    )

    borders = cu_seqlens.to(q.device, torch.int32, non_blocking=True)
    rows = [x.squeeze(0).transpose(0, 1) for x in (q, k, v)]  # [tokens, heads, head_dim]
    attended = flash_attention_varlen(
        *rows, borders, borders, longest, longest, is_causal=True, sliding_window=sliding_window
    )
    return attended.transpose(0, 1).unsqueeze(0)
