"""The difference of our logits and gradients from those of `transformers`, for each model family.

    python benchmarks/parity.py [--json results.json]

Every family gets a small model with random weights far from their initialization (norms of 1 and
tiny logits would hide mistakes). It is written as a checkpoint folder and loaded by `transformers`,
and both compute the same random tokens in the same number format.

What this leaves out: speed, and trained weights, which are smoother than random ones.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from lm_core.formats.checkpoint_files import write_checkpoint
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.weights.pretrained import hugging_face_family, to_hugging_face
from transformer_lm.weights.weight_layout import to_their_layout

SMALL: dict[str, Any] = {
    "vocab_size": 131,
    "context_length": 64,
    "d_model": 48,
    "num_layers": 3,
    "num_heads": 6,
    "num_kv_heads": 2,
    "d_ff": 80,
    "rope_theta": 500.0,
    "norm_eps": 1e-3,
    "tie_embeddings": False,
}
GPT2_SHAPE = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True}
GPT2_SHAPE |= {"rope_theta": 10_000.0}  # not meaningful there: GPT-2's config does not store it
LLAMA3 = RopeScaling(kind="llama3", factor=4.0, original_context_length=32)
YARN = RopeScaling(kind="yarn", factor=2.0, original_context_length=32, beta_fast=8.0)
SHAPES: dict[str, dict[str, Any]] = {
    "llama, grouped heads": {},
    "llama, tied": {"tie_embeddings": True, "num_kv_heads": 6},
    "llama, biases": {"biases": True},
    "llama, linear rescaling": {
        "rope_scaling": RopeScaling(kind="linear", factor=2.0, original_context_length=32)
    },
    "llama, llama3 rescaling": {"rope_scaling": LLAMA3},
    "llama, yarn rescaling": {"rope_scaling": YARN},
    # SmolLM2-135M's proportions: 9 heads of 64 over 3, 30 layers, tied.
    "llama, as SmolLM2": {
        "num_layers": 10,
        "num_heads": 9,
        "num_kv_heads": 3,
        "d_model": 72,
        "d_ff": 192,
        "rope_theta": 100_000.0,
        "norm_eps": 1e-5,
        "tie_embeddings": True,
    },
    "mistral, window of 9": {"sliding_window": 9},
    "mistral, wider heads": {"d_model": 40, "num_heads": 6, "head_dim": 12},
    "qwen3": {"qk_norm": True, "head_dim": 16},
    "qwen3, window of 9, tied": {"qk_norm": True, "sliding_window": 9, "tie_embeddings": True},
    "qwen3, yarn rescaling": {"qk_norm": True, "head_dim": 16, "rope_scaling": YARN},
    "gpt2": GPT2_SHAPE | {"num_kv_heads": 6, "tie_embeddings": True},
    "gpt2, untied": GPT2_SHAPE | {"num_kv_heads": 6, "d_ff": 100},
}


class Parity(NamedTuple):
    """Errors of one shape in one number format; gradients only if they were computed.

    Attributes:
        logits: the largest absolute difference between ours and theirs, over all positions.
        largest_logit: for comparison.
        ours_rounded, theirs_rounded: the largest difference of each from float32 with the same
            weights, the error due to the number format.
        gradients: their parameter name -> the largest error, relative to the tensor's largest
            value.
    """

    logits: float
    largest_logit: float
    ours_rounded: float
    theirs_rounded: float
    gradients: dict[str, float]


def shape_named(name: str) -> ModelConfig:
    """Return one of SHAPES."""
    return ModelConfig(**(SMALL | SHAPES[name]))


def random_model(config: ModelConfig, seed: int = 0) -> TransformerLM:
    """Return a model far from its initialization."""
    torch.manual_seed(seed)
    model = TransformerLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def random_ids(config: ModelConfig, seed: int = 1) -> torch.Tensor:
    """Return two sequences as long as the context."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (2, config.context_length), generator=generator)


def measure(ours: TransformerLM, theirs: torch.nn.Module, with_gradients: bool = True) -> Parity:
    """Run both on the same tokens and compare."""
    config = ours.config
    ids = random_ids(config)
    our_logits, their_logits = ours(ids), theirs(ids).logits
    in_float32 = float32_logits(ours, ids)
    errors = (
        _largest(our_logits - their_logits),
        _largest(their_logits),
        _largest(our_logits - in_float32),
        _largest(their_logits - in_float32),
    )
    if not with_gradients:
        return Parity(*errors, {})
    targets = random_ids(config, seed=2).flatten()
    for logits in (our_logits, their_logits):
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets).backward()
    sources = hugging_face_family(config).sources(config)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = to_their_layout(gradients, sources, config.head_dim)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    return Parity(
        *errors,
        {
            name: _largest(found[name] - gradient) / _largest(gradient)
            for name, gradient in expected.items()
        },
    )


def float32_logits(model: TransformerLM, ids: torch.Tensor) -> torch.Tensor:
    """Return the model's logits in float32 with its own weights."""
    wide = TransformerLM(model.config)
    wide.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    with torch.no_grad():
        return wide(ids)


def _largest(values: torch.Tensor) -> float:
    return values.abs().max().item()


def loaded_by_transformers(model: TransformerLM, folder: Path) -> transformers.PreTrainedModel:
    """Return our model as `transformers` reads it from a checkpoint folder."""
    write_checkpoint(folder, *to_hugging_face(model), {}, None)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def parity_of(name: str, dtype: torch.dtype) -> Parity:
    """Compare our model of one of SHAPES with theirs; gradients in float32 only."""
    model = random_model(shape_named(name))
    for parameter in model.parameters():  # model.to(dtype) would convert angle tables
        parameter.data = parameter.data.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        theirs = loaded_by_transformers(model, Path(folder) / "checkpoint")
        return measure(model, theirs, with_gradients=dtype == torch.float32)


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = []
    print(f"{'':38}  logits, largest   largest difference from float32   gradients,")
    print(f"{'shape':28} {'format':9}  difference       of ours      of transformers   relative")
    for name in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            found = parity_of(name, dtype)
            kind = str(dtype).removeprefix("torch.")
            gradient = max(found.gradients.values(), default=None)
            shown = "-" if gradient is None else f"{gradient:.1e}"
            print(
                f"{name:28} {kind:9}     {found.logits:7.1e}       {found.ours_rounded:7.1e}"
                f"              {found.theirs_rounded:7.1e}    {shown:>7}"
            )
            row = {"shape": name, "family": hugging_face_family(shape_named(name)).name}
            row |= {"dtype": kind, "largest_logit_error": found.logits}
            row |= {"largest_logit": found.largest_logit}
            row |= {"ours_from_float32": found.ours_rounded}
            row |= {"transformers_from_float32": found.theirs_rounded}
            rows.append(row | {"largest_relative_gradient_error": gradient})
    text = json.dumps(rows, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
