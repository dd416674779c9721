"""Keys and values in int8: a cache of little more than half the bytes of bfloat16.

A row is the key or value of one token and one head. It is stored as `head_dim` codes, followed by
its own scale as the four bytes of a float32. So a row keeps its scale wherever its block is copied,
shared or used again, and a new token changes no scale of an earlier one.

What this leaves out: one scale for each channel of the keys, whose largest numbers are often in the
same channels (Hooper et al. 2024, "KVQuant", arXiv 2401.18079): it would have to be known before
the tokens come.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

LARGEST_CODE = 127  # -128 stays unused, so that the codes are symmetric
SCALE_BYTES = 4


def quantize_rows(
    numbers: Float[Tensor, "*rows head_dim"],
) -> Int8[Tensor, "*rows head_dim_and_scale"]:
    """Return rows as codes with their scale: codes = round(numbers / scale), half to even, with
    scale = the largest absolute number / 127.

    A row of zeros has the scale 0, and one with NaN or infinity the scale NaN: all of it is then
    read as NaN. The result has `head_dim + 4` columns.
    """
    numbers = numbers.float()
    scales = numbers.abs().amax(-1, keepdim=True) / LARGEST_CODE
    scales = torch.where(scales.isfinite(), scales, torch.nan)
    codes = torch.where(scales > 0, numbers / scales, 0).round()
    codes = codes.clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8)  # the scale may be subnormal
    scale_bytes = scales.flatten().view(torch.int8).view(*codes.shape[:-1], SCALE_BYTES)
    return torch.cat([codes, scale_bytes], -1)


def restore_rows(
    stored: Int8[Tensor, "*rows head_dim_and_scale"],
) -> Float[Tensor, "*rows head_dim"]:
    """Return codes * scale in float32; each number is wrong by half a scale at most."""
    codes, scale_bytes = stored[..., :-SCALE_BYTES], stored[..., -SCALE_BYTES:]
    scale_bytes = scale_bytes.clone(memory_format=torch.contiguous_format).flatten()
    scales = scale_bytes.view(torch.float32).view(*codes.shape[:-1], 1)
    return codes.float() * scales
