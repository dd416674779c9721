"""a6.18 to a6.20 on drawn inputs: the space of each graded function."""

import torch
from hypothesis import strategies as st
from quantization_inputs import codes, group_sizes, row_counts, row_lengths, weights

from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import tensor
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within
from transformer_lm.language_model import TransformerLM
from transformer_lm.layers import Linear
from transformer_lm.model_config import ModelConfig

NAME = "inference.weight_quantization."
booleans = st.booleans()


def exact(x):
    """A float tensor up to the last rounding: a scale may be tiny."""
    return Within(x, 1e-6, 0.0)


# a6.18


@st.composite
def row_shapes(draw):
    leading = draw(st.sampled_from([(), (1,), (2,), (3, 2), (2, 1, 2)]))
    rows = (draw(row_counts),) if leading in ((), (1,)) and draw(booleans) else ()
    return (*leading, *rows, draw(row_lengths))


@st.composite
def int8_rows(draw):
    return {"x": draw(weights(row_shapes(), 127, 500))}


def int8_view(value):
    found, scales = value
    return found, exact(scales)


@st.composite
def int8_codes(draw):
    shape = draw(row_shapes())
    scales = tensor(draw, (*shape[:-1], 1), ("float32",), (1.0, 1e-3, 1e5), layouts=("contiguous",))
    return {"codes": codes(draw, shape, "int8", 127), "scales": scales}


@st.composite
def pairs(draw):
    shape = draw(row_shapes())
    other = shape if draw(st.integers(0, 7)) != 1 else (*shape, 1)
    sizes = (1.0, 1e-30, 1e-3, 1e25)
    return {
        "weight": tensor(draw, shape, sizes=(1.0,)) if draw(booleans)
        else tensor(draw, shape, ("float32", "float64"), sizes),
        "restored": tensor(draw, other, ("float32", "float64"), (1.0, 1e-3)),
        "same": draw(st.integers(0, 5)) == 1,
        "zeros": draw(st.integers(0, 5)) == 1,
    }  # fmt: skip


def call_error(module, weight, restored, same, zeros):
    weight = torch.zeros_like(weight) if zeros else weight
    return module.relative_error(weight, weight.clone() if same else restored)


INT8 = [
    Space("a6.18", f"{NAME}quantize_int8", int8_rows(), view=int8_view, draws=50),
    Space("a6.18", f"{NAME}dequantize_int8", int8_codes(), view=exact, draws=30),
    Space(
        "a6.18",
        f"{NAME}relative_error",
        pairs(),
        call_error,
        view=lambda value: Within(value, 1e-9, 0.0),
        draws=24,
    ),
]


# a6.19

POSITIVE = (0, 2, 2.5, 7.5, 12.5, 15)  # how far above 0 a range of 15 steps ends


@st.composite
def groups(draw, rare=True):
    """A weight, and groups of which some have a scale that is a power of two."""
    symmetric, size = draw(booleans), draw(group_sizes)
    shape = st.tuples(row_counts, row_lengths)
    limit, positives = (7, (None,)) if symmetric else (15, POSITIVE)
    weight = draw(weights(shape, limit, size, positives, rare=rare))
    return {"weight": weight, "group_size": size, "symmetric": symmetric}


@st.composite
def int4_weights(draw):
    inputs = draw(groups())
    refused = draw(st.integers(0, 15)) == 1
    return inputs | {"group_size": draw(st.sampled_from([0, -3]))} if refused else inputs


def call_int4(module, weight, group_size, symmetric):
    if symmetric:
        settings = () if group_size == 32 else (group_size,)
        return module.quantize_int4(weight, *settings)
    return module.quantize_int4(weight, group_size, symmetric=False)


def int4_view(value):
    return (
        value.packed, exact(value.scales), value.zeros, value.num_columns, value.group_size
    )  # fmt: skip


@st.composite
def nibbles(draw):
    return {"codes": codes(draw, (draw(row_counts), draw(row_lengths)), "uint8", 15)}


@st.composite
def packed_rows(draw):
    columns = draw(row_lengths)
    shape = (draw(row_counts), -(-columns // 2))
    return {"packed": codes(draw, shape, "uint8", 255), "num_columns": columns}


@st.composite
def stored(draw):
    """The parts of an Int4Weight."""
    inputs, size = draw(packed_rows()), draw(group_sizes)
    rows, columns = inputs["packed"].shape[0], inputs["num_columns"]
    shape = (rows, -(-columns // size))
    zeros = codes(draw, shape, "uint8", 15) if draw(booleans) else None
    return {
        "packed": inputs["packed"],
        "scales": tensor(draw, shape, ("float32",), (1.0, 1e-3)),
        "zeros": zeros,
        "num_columns": columns,
        "group_size": size,
    }


def call_restore(module, **parts):
    return module.dequantize_int4(module.Int4Weight(**parts))


@st.composite
def layers(draw):
    inputs = draw(groups(rare=False))
    rows, columns = inputs["weight"].shape
    kind = draw(st.sampled_from(["int8", "int4", "int4", "int3"]))
    leading = draw(st.sampled_from([(), (1,), (2, 3)]))
    bias = tensor(draw, (rows,)) if draw(booleans) else None
    x = tensor(draw, (*leading, columns), ("float32", "float32", "bfloat16"))
    return inputs | {"bias": bias, "x": x, "kind": kind}


def quantized_layer(module, weight, bias, kind, group_size, symmetric):
    """A layer of a linear layer with this weight, and another made after it."""
    made = []
    for scale in (1, 2):
        with torch.random.fork_rng(devices=[]):
            linear = Linear(weight.shape[1], weight.shape[0], bias is not None)
        linear.weight = torch.nn.Parameter(weight if scale == 1 else weight * 2)
        if bias is not None:
            linear.bias = torch.nn.Parameter(bias if scale == 1 else bias * 2)
        made.append(module.QuantizedLinear(linear, kind, group_size, symmetric))
    return made[0]


def call_constructor(module, weight, group_size, symmetric, bias, x, kind):
    """Return the number of parameters, and whether there are buffers with bytes, of any names."""
    layer = quantized_layer(module, weight, bias, kind, group_size, symmetric)
    state = layer.state_dict().values()
    size = sum(each.numel() * each.element_size() for each in state)
    return len(list(layer.parameters())), len(list(layer.buffers())) > 0, size > 0


def call_dequantized(module, weight, group_size, symmetric, bias, x, kind):
    layer = quantized_layer(module, weight, bias, kind, group_size, symmetric)
    return layer.dequantized()


def call_forward(module, weight, group_size, symmetric, bias, x, kind):
    layer = quantized_layer(module, weight, bias, kind, group_size, symmetric)
    with torch.no_grad():
        result = layer(x)
    return result, float(x.abs().sum()) * float(weight.abs().max())


def forward_view(value):
    """The tolerance is relative to the largest sum that is possible: sums may cancel."""
    result, largest = value
    epsilon = 0.02 if result.dtype == torch.bfloat16 else 1e-5
    return Within(result, 0.0, epsilon * (1 + largest))


@st.composite
def models(draw):
    fields = {
        "vocab_size": draw(st.sampled_from([11, 8])),
        "context_length": 8,
        "d_model": 8,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": draw(st.sampled_from([1, 2])),
        "d_ff": draw(st.sampled_from([8, 12])),
        "mlp": draw(st.sampled_from(["swiglu", "gelu", "squared_relu", "geglu"])),
        "norm_position": draw(st.sampled_from(["pre", "post"])),
        "position": draw(st.sampled_from(["rotary", "learned", "none"])),
        "biases": draw(booleans),
        "qk_norm": draw(booleans),
        "tie_embeddings": draw(booleans),
    }
    return {
        "config": fields,
        "seed": draw(st.integers(0, 3)),
        "kind": draw(st.sampled_from(["int8", "int4", "int4", "float4"])),
        "group_size": draw(st.sampled_from([4, 5, 32])),
        "symmetric": draw(booleans),
    }


def call_model(module, config, seed, kind, group_size, symmetric):
    """The layers that were replaced, what stays, whether the model is as before, and logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TransformerLM(ModelConfig(**config), attention_backend="eager").eval()
    before = [(name, x.clone()) for name, x in model.state_dict().items()]
    made = module.quantize_model(model, kind, group_size, symmetric)
    after = list(model.state_dict().items())
    same = [name for name, _ in before] == [name for name, _ in after]
    same = same and all(torch.equal(a[1], b[1]) for a, b in zip(before, after, strict=True))
    parts = dict(made.named_modules())
    replaced = [n for n, part in parts.items() if isinstance(part, module.QuantizedLinear)]
    kept = [name for name, _ in made.named_parameters()]
    with torch.no_grad():
        logits = made(torch.arange(8)[None])
    return sorted(replaced), sorted(kept), same, logits


INT4 = [
    Space("a6.19", f"{NAME}quantize_int4", int4_weights(), call_int4, int4_view, draws=50),
    Space("a6.19", f"{NAME}pack_nibbles", nibbles(), draws=16),
    Space("a6.19", f"{NAME}unpack_nibbles", packed_rows(), draws=16),
    Space("a6.19", f"{NAME}dequantize_int4", stored(), call_restore, exact, draws=30),
    Space(
        "a6.19",
        f"{NAME}QuantizedLinear.__init__",
        layers(),
        call_constructor,
        told="int3",
        draws=8,
    ),
    Space("a6.19", f"{NAME}QuantizedLinear.dequantized", layers(), call_dequantized, draws=10),
    Space(
        "a6.19", f"{NAME}QuantizedLinear.forward", layers(), call_forward, forward_view, draws=20
    ),
    Space("a6.19", f"{NAME}quantize_model", models(), call_model, told="float4", draws=6),
]


# a6.20


@st.composite
def block_shapes(draw):
    leading = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    return (*leading, 32 * draw(st.sampled_from([1, 2, 3])) + draw(odd_columns))


odd_columns = st.sampled_from([0] * 9 + [1, 16, -1])


def blocks(limit):
    """Values whose scale is not below the smallest normal float32."""
    drawn = weights(block_shapes(), limit, 32)
    return arguments({"values": drawn.filter(lambda weight: weight.pattern != "tiny")})


GGUF = [
    Space("a6.20", f"{NAME}q8_0_bytes", blocks(127), draws=40),
    Space("a6.20", f"{NAME}q4_0_bytes", blocks(8), draws=40),
]

test_as_the_reference, test_contracts = drawn_checks([*INT8, *INT4, *GGUF])
