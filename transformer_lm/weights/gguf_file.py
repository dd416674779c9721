"""Loading of a llama.cpp GGUF file as one of our models, with weights in float32 or another
requested format.

The names are in gguf_layout.py, the packed types in gguf_blocks.py, the container in
lm_core/formats/gguf_container.py. What this leaves out: writing such files, keeping the weights
packed, and the tokenizer (tokenizer_bpe/formats/gguf_vocabulary.py).
"""

from collections import Counter
from pathlib import Path

import torch

from lm_core.formats.gguf_container import GGUFFile, read_gguf
from lm_core.progress import progress_bar
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.weights.empty_model import empty_model
from transformer_lm.weights.gguf_blocks import PACKINGS, dequantized, scales_are_finite
from transformer_lm.weights.gguf_layout import gguf_config, gguf_sources
from transformer_lm.weights.gguf_rope import ROPE_FACTORS
from transformer_lm.weights.pretrained import with_weights
from transformer_lm.weights.weight_layout import (
    is_finite,
    refuse_all,
    refuse_overflow,
    shape_problems,
    their_shapes,
    to_our_layout,
)


def load_gguf(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    file: GGUFFile | None = None,
) -> TransformerLM:
    """Read the model of a GGUF file.

    Args:
        path: the file.
        device: where the model goes.
        dtype: dtype of the parameters. float32 represents the packed values exactly; bfloat16
            rounds.
        file: the result of `read_gguf` for this path, if it has been read already.

    Raises:
        ValueError: see `read_gguf`; or the architecture or a tensor type of the file is not
            supported, or its tensors do not fit its metadata.
    """
    file = read_gguf(path) if file is None else file
    try:
        return _model(file, dtype).to(device)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def types_by_size(file: GGUFFile) -> list[str]:
    """Return the types of the tensors, such as ["Q4_1", "Q8_0", "F32"]; that of most bytes
    first.
    """
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.type] += tensor.data.nbytes
    return [kind for kind, _ in sizes.most_common()]


def _model(file: GGUFFile, dtype: torch.dtype) -> TransformerLM:
    architecture, config = gguf_config(file)
    foreign = [kind for kind in types_by_size(file) if kind not in PACKINGS]
    if foreign:
        raise UserError(
            f"tensors are of type {', '.join(foreign)}; this code reads {', '.join(PACKINGS)}"
        )
    model, sources = empty_model(config), gguf_sources(architecture, config)
    expected = their_shapes({n: p.shape for n, p in model.named_parameters()}, sources)
    # The config already has the divisors of the rotary frequencies.
    turned = config.position == "rotary"
    found = {n: t.shape for n, t in file.tensors.items() if not (turned and n == ROPE_FACTORS)}
    refuse_all(shape_problems(found, expected), "the file does not fit its metadata")
    weights, broken = {}, []
    by_name: dict[str, list[str]] = {}
    for ours, source in sources.items():
        by_name.setdefault(source.name, []).append(ours)
    with progress_bar("unpack", len(by_name), "tensors") as bar:
        for name, parts in by_name.items():
            packed = file.tensors[name]
            if not scales_are_finite(packed.data, packed.type):
                broken.append(f"{name} holds NaN or infinity")
                continue
            theirs = torch.from_numpy(dequantized(packed.data, packed.type, packed.shape))
            if not PACKINGS[packed.type].scales and not is_finite(theirs):
                broken.append(f"{name} holds NaN or infinity")
            for ours in parts:
                weight = to_our_layout(theirs, sources[ours], config.head_dim)
                # Otherwise, parts of one tensor would share its memory.
                weights[ours] = weight.to(dtype, copy=len(parts) > 1)
            bar.advance()
    refuse_all(broken, "the weights are damaged")
    if dtype != torch.float32:
        refuse_overflow(weights, sources)
    return with_weights(model, weights)
