"""The parameters by name and shape, as in the handout, and known values for them."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from lm_course.grading.comparisons import check_true

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


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
        sentence = f"{what} has no parameter {missing[0]} of shape {shapes[missing[0]]}"
        close = get_close_matches(missing[0], extra, n=1)
        if not found:
            sentence += ": make it with nn.Parameter, and call super().__init__() first"
        elif close:
            sentence += f"; yours is called {close[0]}"
        check_true(False, sentence, details)
    check_true(
        not extra,
        f"{what} has parameters that the handout does not list: {', '.join(extra)}",
        details,
    )
    for name, shape in shapes.items():
        check_true(
            found[name] == shape,
            f"{what}: the parameter {name} has shape {found[name]}, expected {shape}",
        )


def fill(module: nn.Module, shapes: Shapes, what: str, seed: int = 0) -> Weights:
    """Give every parameter a known value that does not cancel out; return float64 copies."""
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
