"""a6.18 to a6.20: int8 by row, int4 by group, a quantized model, GGUF blocks."""

import itertools
import math

import pytest
import torch
from quantization_oracle import q4_0_block, q8_0_block

MODULE = "inference.weight_quantization"
INT8 = pytest.mark.task("a6.18")
INT4 = pytest.mark.task("a6.19")
GGUF = pytest.mark.task("a6.20")
TIES = torch.tensor([[127, -63.5, 0.5, 1.5, -2.5], [127, 62.5, -0.5, -1.5, 2.5]])


def pair(a6, got, what):
    """Return codes and scales; fail if the result is something else."""
    a6.true(
        isinstance(got, tuple) and len(got) == 2,
        f"{what}: expected a tuple (codes, scales), got {a6.shown(got)}",
    )
    return got


def check_codes(a6, got, expected, what, causes=None, dtype=torch.int8):
    a6.tensor(got, torch.as_tensor(expected), what, causes, dtype=dtype, rtol=0, atol=0)


def check_steps(a6, call, small, large, what):
    """Fail if the larger input takes many more lines and calls than the smaller one."""
    call(small)  # what the first call alone does
    counts = []
    for x in (small, large):
        with a6.StepCounter(limit=20_000, c_calls=True) as counter:
            call(x)
        counts.append(counter.steps)
    a6.true(
        counts[1] <= 1.5 * counts[0] + 60,
        f"{what} of {tuple(large.shape)} takes {counts[1]:,} steps of Python, that of "
        f"{tuple(small.shape)} {counts[0]:,}: work on whole tensors, without a loop over rows, "
        "groups or blocks",
    )


# a6.18


@INT8
def test_int8_by_hand(implementation, a6):
    codes, scales = pair(a6, implementation(MODULE).quantize_int8(TIES), "quantize_int8")
    away = [[127, -64, 1, 2, -3], [127, 63, -1, -2, 3]]
    causes = {
        "a half is rounded to the even neighbor, as torch.round does, not away from 0": away,
        "the fraction is cut off; round to the nearest whole number": TIES.trunc(),
        "a half is rounded to the even neighbor, not up": (TIES + 0.5).floor(),
        "127 is the largest code, not 128": (TIES * (128 / 127)).round().clamp(-128, 127),
    }
    expected = [[127, -64, 0, 2, -2], [127, 62, 0, -2, 2]]
    causes = {cause: torch.as_tensor(wrong) for cause, wrong in causes.items()}
    check_codes(a6, codes, expected, "the codes of rows with the scale 1", causes)
    a6.tensor(scales, torch.ones(2, 1), "the scales of these rows")


@INT8
def test_each_row_has_its_scale(implementation, a6):
    x = torch.tensor([[[1.0, -2.0], [0.25, 0.125]], [[300.0, 3.0], [-1e-3, 1e-3]]])
    codes, scales = pair(a6, implementation(MODULE).quantize_int8(x), "quantize_int8")
    expected = x.abs().amax(-1, keepdim=True).double() / 127
    causes = {
        "one scale for the whole tensor: take the largest magnitude of each row": lambda got: (
            got.unique().numel() == 1
        ),
        "keep the last axis with length 1 (keepdim=True)": expected.squeeze(-1),
        "the largest magnitude counts, not the largest value": x.amax(-1, keepdim=True) / 127,
        "rows lie along the last axis": x.abs().amax(-2, keepdim=True) / 127,
        "divide by 127, not by 128": expected * 127 / 128,
        "the scale is what a code is multiplied by: largest magnitude / 127, not the inverse": (
            1 / expected
        ),
    }
    a6.tensor(scales, expected, "the scales of rows of different sizes", causes, atol=0)
    check_codes(a6, codes, [[[64, -127], [127, 64]], [[127, 1], [-127, 127]]], "their codes")


@INT8
def test_a_row_whose_scale_is_zero(implementation, a6):
    module = implementation(MODULE)
    for row in ([0.0, -0.0, 0.0], [2e-45, 0.0, -2e-45]):
        x = torch.tensor([[1.0, 2.0, 4.0], row])
        codes, scales = pair(a6, module.quantize_int8(x), "quantize_int8")
        what = f"of a row {row}"
        a6.tensor(scales[1], torch.zeros(1), f"the scale {what}", atol=0)
        check_codes(a6, codes[1], [0, 0, 0], f"the codes {what}")
        restored = module.dequantize_int8(codes, scales)
        a6.tensor(restored[1], torch.zeros(3), f"the restored values {what}", atol=0)


@INT8
def test_int8_is_symmetric(implementation, a6):
    module = implementation(MODULE)
    x = a6.random(40, 16, seed=3)
    plus, minus = module.quantize_int8(x)[0], module.quantize_int8(-x)[0]
    a6.true(int(minus.min()) > -128, "the code -128 is used; codes are from -127 to 127")
    check_codes(a6, minus, -plus, "the codes of -x are those of x, negated")


@INT8
def test_codes_of_the_smallest_floats(implementation, a6):
    """The scale of 190 steps of 2**-149 is one step, so the quotient is 190."""
    x = torch.tensor([[190.0, -190.0, 3.0]]) * 2.0**-149
    codes, _ = pair(a6, implementation(MODULE).quantize_int8(x), "quantize_int8")
    causes = {
        "190 does not fit into int8; limit codes to -127..127 before the conversion": lambda got: (
            got[0, 0] == 190 - 256
        )
    }
    check_codes(a6, codes, [[127, -127, 3]], "the codes of [190, -190, 3] * 2**-149", causes)


@INT8
def test_the_error_is_at_most_half_a_scale(implementation, a6):
    module = implementation(MODULE)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = a6.random(30, 50, seed=4, dtype=dtype)
        codes, scales = pair(a6, module.quantize_int8(x), "quantize_int8")
        restored = module.dequantize_int8(codes, scales)
        a6.true(
            scales.dtype == restored.dtype == torch.float32,
            f"for {dtype}, the scales are {scales.dtype} and the restored values "
            f"{restored.dtype}; both are float32 whatever the input is: convert x first",
        )
        excess = (restored.double() - x.double()).abs() / scales.double()
        a6.true(
            float(excess.max()) < 0.5001,
            f"a value of {dtype} was moved by {float(excess.max()):.3f} scales; rounding moves it "
            "by at most half a scale",
        )


@INT8
def test_int8_restored_by_hand(implementation, a6):
    codes = torch.tensor([[100, -127, 0], [127, 1, -100]], dtype=torch.int8)
    scales = torch.tensor([[0.5], [4.0]])
    expected = torch.tensor([[50, -63.5, 0], [508, 4, -400]])
    causes = {
        "convert the codes to floats before the product": lambda got: got.dtype == torch.int8,
        "one scale for all rows": codes * 0.5,
    }
    got = implementation(MODULE).dequantize_int8(codes, scales)
    a6.tensor(got, expected, "dequantize_int8", causes, atol=0)


@INT8
def test_a_row_that_is_not_finite(implementation, a6):
    quantize = implementation(MODULE).quantize_int8
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.tensor([[1.0, 2.0], [bad, 1.0]])
        a6.raises(ValueError, lambda x=x: quantize(x), f"quantize_int8 of {bad}")


@INT8
def test_relative_error_by_hand(implementation, a6):
    module = implementation(MODULE)
    got = module.relative_error(torch.tensor([[3.0, 0], [0, 4]]), torch.tensor([[3.0, 1], [0, 2]]))
    a6.true(isinstance(got, float), f"relative_error returns {a6.shown(got)}, expected a float")
    causes = {
        "take the square root of both sums": 5 / 25,
        "divide by the norm of the weight, not of the restored one": math.sqrt(5 / 14),
        "the norm of the difference, not the difference of the norms": ((5 - math.sqrt(14)) / 5),
        "divide by the norm of the weight": math.sqrt(5),
    }
    a6.close(got, math.sqrt(5) / 5, 1e-12, 0, "relative_error, norms sqrt(5) and 5", causes)


@INT8
def test_relative_error_of_extreme_tensors(implementation, a6):
    error = implementation(MODULE).relative_error
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    a6.close(error(zeros, zeros), 0, 0, 0, "relative_error of zeros and zeros")
    a6.true(error(zeros, ones) == math.inf, f"zeros restored as ones: {error(zeros, ones)!r}, "
            "expected infinity")  # fmt: skip
    a6.close(error(ones, zeros), 1, 1e-12, 0, "relative_error of ones and zeros")
    small = torch.full((3,), 1e-30)
    causes = {"a square of 1e-30 is 0 in float32: compute in float64": lambda got: got != got}
    a6.close(error(small, 2 * small), 1, 1e-6, 0, "relative_error of 1e-30 and 2e-30", causes)
    a6.close(
        error(ones.bfloat16(), ones * (1 + 2**-12)), 2**-12, 1e-9, 0,
        "relative_error of ones in bfloat16, restored as 1 + 2**-12 in float32",
    )  # fmt: skip
    for shape in ((3,), (2, 1), (3, 2), (1, 2, 3)):
        a6.raises(
            ValueError,
            lambda shape=shape: error(ones, torch.ones(shape)),
            f"relative_error of shapes (2, 3) and {shape}",
        )


def check_no_gradient(a6, results, what):
    for result in results:
        a6.true(
            not result.requires_grad,
            f"{what}: the result requires a gradient, because the input does; use x.detach()",
        )


@INT8
def test_a_parameter_without_its_gradient(implementation, a6):
    module = implementation(MODULE)
    weight = a6.random(3, 5).requires_grad_()
    check_no_gradient(a6, pair(a6, module.quantize_int8(weight), "quantize_int8"), "quantize_int8")
    error = module.relative_error(weight, (weight * 2).requires_grad_())
    a6.close(error, 1, 1e-6, 0, "relative_error of a parameter and twice its values")


@INT8
def test_int8_works_on_whole_tensors(implementation, a6):
    module = implementation(MODULE)
    small, large = a6.random(2, 8), a6.random(20, 20, 8)
    check_steps(a6, module.quantize_int8, small, large, "quantize_int8")


# a6.19


@INT4
def test_nibbles_by_hand(implementation, a6):
    module = implementation(MODULE)
    codes = torch.tensor([[1, 2, 3, 15, 9], [0, 15, 8, 0, 14]], dtype=torch.uint8)
    expected = torch.tensor([[0x21, 0xF3, 0x09], [0xF0, 0x08, 0x0E]])
    causes = {
        "the halves are swapped: column 2j goes into the LOW half of byte j": (
            torch.tensor([[0x12, 0x3F, 0x90], [0x0F, 0x80, 0xE0]])
        ),
        "column 2j and its neighbor 2j + 1 share a byte, not column j and one half a row away": (
            torch.tensor([[0xF1, 0x92, 0x03], [0x00, 0xEF, 0x08]])
        ),
        "with an odd number of columns, the last high half is 0": lambda got: bool(
            (got & 15 == expected & 15).all()
        ),
    }
    got = module.pack_nibbles(codes)
    check_codes(a6, got, expected, "pack_nibbles of 5 columns", causes, torch.uint8)
    for columns in (5, 6):
        got = module.unpack_nibbles(expected.to(torch.uint8), columns)
        right = torch.nn.functional.pad(codes, (0, columns - 5))
        causes = {
            "the halves are swapped: column 2j is in the LOW half of byte j": (
                torch.tensor([[2, 1, 15, 3, 0, 9], [15, 0, 0, 8, 0, 14]])[:, :columns]
            ),
            "cut the result to num_columns": lambda got: got.shape == (2, 6),
        }
        what = f"unpack_nibbles of 3 bytes to {columns} columns"
        check_codes(a6, got, right, what, causes, torch.uint8)


def four_bits(a6, got, what):
    """Return the parts of an Int4Weight; fail if the result is something else."""
    a6.true(got is not None, f"{what} returned None; is `return` missing?")
    for name in ("packed", "scales", "zeros", "num_columns", "group_size"):
        a6.true(hasattr(got, name), f"{what}: expected an Int4Weight, got {a6.shown(got)}")
    return got


def stored_codes(packed, columns):
    """Unpack without the code under test."""
    rows = [[byte >> shift & 15 for byte in row for shift in (0, 4)] for row in packed.tolist()]
    return torch.tensor(rows)[:, :columns]


@INT4
def test_int4_by_hand(implementation, a6):
    module = implementation(MODULE)
    weight = torch.tensor([[7, -3.5, 0.5, 1.5, 2.0]])
    got = four_bits(a6, module.quantize_int4(weight, 4), "quantize_int4")
    causes = {
        "one scale for the whole row: each group of 4 columns has its own": torch.ones(1, 1),
        "divide the largest magnitude by 7": lambda got: abs(float(got[0, 0]) - 7 / 8) < 1e-3,
        "the last, shorter group is missing": torch.ones(1, 1),
    }
    a6.tensor(got.scales, torch.tensor([[1, 2 / 7]]), "the scales of groups of 4 and 1", causes)
    codes = stored_codes(got.packed, 5)
    causes = {
        "a half is rounded to the even neighbor": torch.tensor([[15, 4, 9, 10, 15]]),
        "store code + 8": torch.tensor([[7, 12, 0, 2, 7]]),
        "the last column belongs to group 4 // 4 = 1, with its own scale": (
            torch.tensor([[15, 4, 8, 10, 10]])
        ),
    }
    check_codes(a6, codes, [[15, 4, 8, 10, 15]], "the stored codes", causes, torch.int64)
    check_codes(a6, got.packed, [[0x4F, 0xA8, 0x0F]], "packed", dtype=torch.uint8)
    a6.true(got.zeros is None, f"zeros is {a6.shown(got.zeros)}; None without a zero point")
    a6.expect((got.num_columns, got.group_size), (5, 4), "num_columns and group_size")


@INT4
def test_a_zero_point_by_hand(implementation, a6):
    module = implementation(MODULE)
    weight = torch.tensor([[-2.5, 12.5, 3.0], [9, 12, 15], [-15, -9, -1]])
    got = four_bits(a6, module.quantize_int4(weight, 3, symmetric=False), "quantize_int4")
    causes = {
        "the range of [9, 12, 15] must contain 0, so it is 0 to 15: low is at most 0": lambda got: (
            abs(float(got[1, 0]) - 0.4) < 1e-3
        ),
        "the range of [-15, -9, -1] must contain 0: high is at least 0": lambda got: (
            abs(float(got[2, 0]) - 14 / 15) < 1e-3
        ),
        "divide by 15: 16 codes have 15 steps": lambda got: abs(float(got[0, 0]) - 15 / 16) < 1e-3,
    }
    a6.tensor(got.scales, torch.ones(3, 1), "the scales with a zero point", causes)
    a6.true(got.zeros is not None, "zeros is None; with a zero point, each group has one")
    causes = {
        "the sign is wrong: zero = round(-low / scale)": lambda got: bool((got[0] > 15).any()),
        "zero is rounded (2.5 to the even 2), not stored as a float": lambda got: (
            got.is_floating_point()
        ),
        "2.5 is rounded to the even neighbor, 2": torch.tensor([[3], [0], [15]]),
    }
    check_codes(a6, got.zeros, [[2], [0], [15]], "the zero points", causes, torch.uint8)
    expected = torch.tensor([[0, 14, 5], [9, 12, 15], [0, 6, 14]])
    causes = {
        "round the quotient first, then add the zero point": lambda got: bool(
            (got[1:] == expected[1:]).all()
        ),
        "add the zero point, do not subtract it": lambda got: bool((got[1] == expected[1]).all()),
    }
    codes = stored_codes(got.packed, 3)
    check_codes(a6, codes, expected, "the stored codes", causes, torch.int64)


@INT4
@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_and_error_of_groups(implementation, a6, symmetric):
    """0 is restored as 0, and no weight moves by more than its rounding."""
    module = implementation(MODULE)
    for number, group in enumerate((1, 5, 8, 100)):
        weight = a6.random(9, 20, seed=number) + torch.linspace(-3, 3, 9)[:, None]
        weight[:, ::4] = 0
        weight[4, 5:15] = 0
        got = four_bits(a6, module.quantize_int4(weight, group, symmetric), "quantize_int4")
        restored = module.dequantize_int4(got)
        what = f"groups of {group}, {'symmetric' if symmetric else 'with a zero point'}"
        a6.true(
            bool((restored[weight == 0] == 0).all()),
            f"{what}: a weight of 0 is restored as {a6.shown(restored[weight == 0].tolist()[:4])}; "
            "0 must have a code of its own, and a group of zeros must not divide by 0",
        )
        column = torch.arange(20) // group
        steps = (restored - weight).abs() / got.scales[:, column].clamp(min=1e-30)
        allowed = 0.501 if symmetric else 1.001  # at an end of the range, the zero point's rounding
        a6.true(
            float(steps.max()) <= allowed,
            f"{what}: a weight moved by {float(steps.max()):.2f} scales, more than rounding does: "
            "has each column the scale and the zero of group column // group_size?",
        )


@INT4
def test_four_bits_restored(implementation, a6):
    """dequantize_int4 against a loop over single weights, from parts that it did not make."""
    module = implementation(MODULE)
    some = torch.tensor([[3, 0, 15], [8, 1, 0]], dtype=torch.uint8)
    for columns, zeros in itertools.product((1, 5, 8, 9), (None, some)):
        groups = -(-columns // 3)
        codes = torch.randint(16, (2, columns), generator=torch.Generator().manual_seed(columns))
        filled = torch.nn.functional.pad(codes, (0, columns % 2)).unflatten(1, (-1, 2))
        packed = (filled[..., 0] + 16 * filled[..., 1]).to(torch.uint8)
        scales = torch.tensor([[0.5, 2.0, 1.0], [3.0, 0.25, 7.0]])[:, :groups].contiguous()
        offsets = None if zeros is None else zeros[:, :groups].contiguous()
        given = module.Int4Weight(packed, scales, offsets, columns, 3)
        expected = torch.empty(2, columns)
        for row in range(2):
            for column in range(columns):
                zero = 8 if offsets is None else int(offsets[row, column // 3])
                code = int(codes[row, column]) - zero
                expected[row, column] = code * scales[row, column // 3]
        causes = {
            "3 - 8 in uint8 is 251: convert to floats before you subtract": lambda got: (
                float(got.max()) > 200
            ),
            "subtract 8, or the zero point of the group": lambda got, right=expected: (
                bool((got >= 0).all()) and not bool((right >= 0).all())
            ),
        }
        what = f"dequantize_int4 of {columns} columns in groups of 3"
        a6.tensor(module.dequantize_int4(given), expected, what, causes, atol=0)


@INT4
def test_a_parameter_in_four_bits(implementation, a6):
    weight = a6.random(3, 5).requires_grad_()
    for symmetric in (True, False):
        got = four_bits(
            a6, implementation(MODULE).quantize_int4(weight, 4, symmetric), "the result"
        )
        check_no_gradient(a6, [got.scales], f"scales of quantize_int4, symmetric={symmetric}")


@INT4
def test_int4_refusals(implementation, a6):
    module = implementation(MODULE)
    for size in (0, -1):
        a6.raises(
            ValueError,
            lambda size=size: module.quantize_int4(torch.ones(2, 4), size),
            f"quantize_int4 with group_size {size}",
            [str(size)],
        )
    for symmetric in (True, False):
        for bad in (math.nan, math.inf):
            weight = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, bad]])
            a6.raises(
                ValueError,
                lambda w=weight, s=symmetric: module.quantize_int4(w, 2, s),
                f"quantize_int4 of {bad}, symmetric={symmetric}",
            )


@INT4
def test_int4_works_on_whole_tensors(implementation, a6):
    module = implementation(MODULE)
    small, large = a6.random(2, 8), a6.random(60, 80)
    for symmetric in (True, False):

        def both(x, symmetric=symmetric):
            module.dequantize_int4(module.quantize_int4(x, 4, symmetric))

        check_steps(a6, both, small, large, "quantize_int4 and dequantize_int4")


def layer_of(a6, d_in, d_out, bias=False, seed=0):
    from transformer_lm.layers import Linear

    with torch.random.fork_rng(devices=[]):
        layer = Linear(d_in, d_out, bias)
    with torch.no_grad():
        layer.weight.copy_(a6.random(d_out, d_in, seed=seed))
        if bias:
            layer.bias.copy_(a6.random(d_out, seed=seed + 1))
    return layer


def num_bytes(module):
    return sum(x.numel() * x.element_size() for x in module.state_dict().values())


@INT4
def test_what_a_quantized_layer_keeps(implementation, a6):
    module = implementation(MODULE)
    check_what_is_kept(a6, module, "int8", True, 30 * 40 + 4 * 30)
    check_what_is_kept(a6, module, "int4", True, 30 * 20 + 4 * 30 * 5)
    check_what_is_kept(a6, module, "int4", False, 30 * 20 + 5 * 30 * 5)


def check_what_is_kept(a6, module, kind, symmetric, most):
    layer = layer_of(a6, 40, 30, bias=True)
    before = layer.weight.detach().clone()
    quantized = module.QuantizedLinear(layer, kind, 8, symmetric)
    what = f"QuantizedLinear of [30, 40], {kind}"
    a6.expect([n for n, _ in quantized.named_parameters()], [], f"{what}: its parameters")
    found = num_bytes(quantized)
    a6.true(
        found >= 30 * 20,
        f"{what}: its state_dict has {found:,} bytes; register codes, scales and bias as buffers, "
        "so that they are saved and moved with the model",
    )
    most += 4 * 30  # the bias
    a6.true(
        found <= most + 64,
        f"{what}: its state_dict has {found:,} bytes, expected at most {most + 64:,}: codes "
        "(two to a byte for int4), scales and bias, and no weight in floats",
    )
    kept = sum(
        value.numel() * value.element_size()
        for value in vars(quantized).values()
        if isinstance(value, torch.Tensor)
    )
    a6.true(kept == 0, f"{what}: it keeps {kept:,} bytes of tensors that are not buffers")
    a6.true(torch.equal(layer.weight, before), f"{what} changed the weight of the layer it is from")


@INT4
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantized_layer_computes_with_its_weight(implementation, a6, kind):
    module = implementation(MODULE)
    for bias in (False, True):
        check_layer(a6, module, kind, bias)


def check_layer(a6, module, kind, bias):
    layer = layer_of(a6, 12, 6, bias, seed=5)
    quantized = module.QuantizedLinear(layer, kind, 5, False)
    weight = quantized.dequantized()
    if kind == "int8":
        right = module.dequantize_int8(*module.quantize_int8(layer.weight.detach()))
    else:
        right = module.dequantize_int4(module.quantize_int4(layer.weight.detach(), 5, False))
    a6.tensor(weight, right, f"dequantized() of an {kind} layer, groups of 5, with zero points")
    x = a6.random(2, 3, 12, seed=7)
    product = x.double() @ right.double().T
    expected = product if layer.bias is None else product + layer.bias.detach().double()
    causes = {
        "the bias is missing": product,
        "the weight in floats was used; compute with dequantized()": (
            x.double() @ layer.weight.detach().double().T
            + (0 if layer.bias is None else layer.bias.detach().double())
        ),
    }
    got = quantized(x)
    a6.tensor(got, expected, f"an {kind} layer of x", causes, rtol=1e-4, atol=1e-4)
    narrow = quantized(x.bfloat16())
    a6.true(
        narrow.dtype == torch.bfloat16,
        f"an {kind} layer of x in bfloat16 returns {narrow.dtype}; convert weight and bias to the "
        "type of x",
    )
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    a6.tensor(quantized(x), expected, f"the same after the {kind} layer's source was set to 0",
              {"the new layer shares memory with the old one: clone": lambda got: True},
              rtol=1e-4, atol=1e-4)  # fmt: skip


@INT4
def test_an_unknown_kind(implementation, a6):
    module = implementation(MODULE)
    layer = layer_of(a6, 4, 4)
    for kind in ("int2", "int16", "", "INT8"):
        a6.raises(
            ValueError,
            lambda kind=kind: module.QuantizedLinear(layer, kind),
            f"the kind {kind!r}",
            [kind],
        )


def linear_names(model):
    from transformer_lm.layers import Linear

    return {name for name, part in model.named_modules() if isinstance(part, Linear)}


@INT4
@pytest.mark.parametrize(("tied", "kind"), [(True, "int4"), (False, "int8")])
def test_which_layers_of_a_model(implementation, a6, tied, kind):
    module = implementation(MODULE)
    model = a6.tiny_model(tie_embeddings=tied)
    expected = linear_names(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    quantized = module.quantize_model(model, kind, 4)
    a6.true(quantized is not None, "quantize_model returned None; is `return` missing?")
    a6.true(quantized is not model, "quantize_model returns the model itself; expected a copy")
    layer = model.blocks[0].feed_forward.down
    a6.tensor(
        quantized.blocks[0].feed_forward.down.dequantized(),
        module.QuantizedLinear(layer, kind, 4).dequantized(),
        f"a weight of a model in {kind} with group_size=4",
        {"pass group_size and symmetric on to the layers": lambda got: kind == "int4"},
    )
    got = {n for n, part in quantized.named_modules() if isinstance(part, module.QuantizedLinear)}
    missing, extra = sorted(expected - got), sorted(got - expected)
    head = "output_head" in missing
    a6.true(
        not missing,
        f"quantize_model leaves {len(missing)} Linear layers in floats: {missing[:3]}"
        + ("; an output head of its own (tie_embeddings=False) is quantized, too" if head else ""),
    )
    a6.true(not extra, f"quantize_model made layers that the model does not have: {extra[:3]}")
    floats = {name for name, _ in quantized.named_parameters()}
    wanted = {n for n in before if n.rpartition(".")[0] not in expected}
    a6.expect(sorted(floats), sorted(wanted), "the parameters that stay in floats")
    after = dict(model.named_parameters())
    changed = [n for n in before if n not in after or not torch.equal(after[n], before[n])]
    a6.true(
        not changed and linear_names(model) == expected,
        f"quantize_model changed the model itself ({changed[:2] or 'its layers'}): copy it first",
    )
    with torch.no_grad():
        ids = torch.arange(11)[None]
        got, same = quantized(ids).detach(), model(ids)
        for weight in model.parameters():
            weight.zero_()
        again = quantized(ids)
    a6.true(
        torch.equal(got, again),
        "the copy changes if the model's weights are set to 0: it shares memory with the model",
    )
    error = float((got - same).norm() / same.norm())
    most = {"int8": 0.15, "int4": 0.8}[kind]
    a6.true(
        0 < error < most, f"the logits of the {kind} model differ by {error:.1%}, expected less "
        f"than {most:.0%} and more than 0"
    )  # fmt: skip


# a6.20


def block_of(**places):
    values = [0.0] * 32
    for place, value in places.items():
        values[int(place[1:])] = value
    return torch.tensor([values])


def check_bytes(a6, got, expected, what, causes=None):
    right = torch.tensor([list(expected)])
    causes = {cause: torch.tensor([list(wrong)]) if isinstance(wrong, bytes) else wrong
              for cause, wrong in (causes or {}).items()}  # fmt: skip
    a6.tensor(got, right, what, causes, dtype=torch.uint8, rtol=0, atol=0)


@GGUF
def test_q8_0_by_hand(implementation, a6):
    values = block_of(_0=127, _1=-63.5, _2=0.5, _3=1.5, _4=-2.5)
    rest = bytes(27)
    causes = {
        "a half is rounded away from 0 here, not to the even neighbor": (
            bytes([0, 0x3C, 127, 0xC0, 0, 2, 0xFE]) + rest
        ),
        "a half is rounded away from 0, also below 0": (
            bytes([0, 0x3C, 127, 0xC1, 1, 2, 0xFE]) + rest
        ),
        "the low byte of the scale comes first": (
            bytes([0x3C, 0, 127, 0xC0, 1, 2, 0xFD]) + rest
        ),
        "the scale comes before the codes": bytes([127, 0xC0, 1, 2, 0xFD]) + rest + b"\0\x3c",
        "codes are in two's complement, without an offset": (
            lambda got: got.shape == (1, 34) and int(got[0, 33]) == 128
        ),
        "the scale is a float16, two bytes": lambda got: got.shape[-1] == 36,
    }  # fmt: skip
    expected = bytes([0, 0x3C, 127, 0xC0, 1, 2, 0xFD]) + rest
    got = implementation(MODULE).q8_0_bytes(values)
    check_bytes(a6, got, expected, "q8_0_bytes of 127, -63.5, 0.5, 1.5, -2.5, 0, ...", causes)


@GGUF
def test_q8_0_just_below_a_half(implementation, a6):
    """x + 0.5 is rounded to 1 in float32."""
    below = 0.49999997
    got = implementation(MODULE).q8_0_bytes(block_of(_0=127, _1=below, _2=-below))
    expected = bytes([0, 0x3C, 127, 0, 0]) + bytes(29)
    causes = {
        "0.49999997 + 0.5 is 1 in float32: floor(x + 0.5) is not the nearest whole number": (
            bytes([0, 0x3C, 127, 1, 0xFF]) + bytes(29)
        ),
        "0.49999997 + 0.5 is 1 in float32": lambda got: int(got[0, 3]) != 0,
    }
    check_bytes(a6, got, expected, "q8_0_bytes of 127, 0.49999997, -0.49999997, 0, ...", causes)


@GGUF
def test_a_scale_that_rounds_to_the_largest_float16(implementation, a6):
    module = implementation(MODULE)
    for name, value, codes in (
        ("q8_0_bytes", 127.0 * 65510, bytes([127]) + bytes(31)),
        ("q4_0_bytes", -8.0 * 65510, bytes([0x80] + [0x88] * 15)),
    ):
        what = f"{name} of {value:,.0f}, 0, ..., whose d is 65510"
        try:
            got = getattr(module, name)(block_of(_0=value))
        except ValueError as error:
            raise a6.GradedFailure(
                a6.message_of(
                    f"{what}: refused",
                    {
                        "expected": "the bytes ff 7b for d, which is 65504 in float16",
                        "got": f"ValueError: {error}",
                        "likely": "d was compared with 65504 before it was rounded to float16",
                    },
                )
            ) from error
        check_bytes(a6, got, bytes([0xFF, 0x7B]) + codes, what)


@GGUF
def test_q4_0_by_hand(implementation, a6):
    values = block_of(_0=-8, _1=2.5, _16=3)
    rest = bytes([0x88] * 14)
    causes = {
        "the halves are swapped: value i is in the LOW half of byte i, value i + 16 in the high": (
            bytes([0, 0x3C, 0x0B, 0xB8]) + rest
        ),
        "value i shares its byte with value i + 16, not with its neighbor": (
            bytes([0, 0x3C, 0xB0] + [0x88] * 7 + [0x8B] + [0x88] * 7)
        ),
        "the sign of d: the value of the largest magnitude is divided by -8": lambda got: (
            got.shape == (1, 18) and int(got[0, 1]) == 0xBC
        ),
        "d is the value of the largest magnitude divided by -8, not by 7": lambda got: (
            got.shape == (1, 18) and int(got[0, 1]) not in (0x3C, 0xBC)
        ),
        "2.5 + 8.5 is cut to 11; 2.5 is not rounded to the even neighbor": (
            bytes([0, 0x3C, 0xB0, 0x8A]) + rest
        ),
    }
    got = implementation(MODULE).q4_0_bytes(values)
    expected = bytes([0, 0x3C, 0xB0, 0x8B]) + rest
    check_bytes(a6, got, expected, "q4_0_bytes of -8, 2.5, 0, ..., with 3 as value 16", causes)


@GGUF
def test_q4_0_of_a_positive_largest_value(implementation, a6):
    """d is negative; of two values with the largest magnitude, the first counts; 8.5 + 8 is 16."""
    values = block_of(_3=8, _5=-8, _20=-4)
    got = implementation(MODULE).q4_0_bytes(values)
    expected = q4_0_block(values[0].tolist())
    other = q4_0_block((-values[0]).tolist())
    causes = {
        "m keeps its sign: 8 / -8 = -1": lambda got: int(got[0, 1]) == 0x3C,
        "of several values with the largest magnitude, the FIRST counts": other,
        "a code is at most 15: 8 + 8.5 would be 16, whose low half is 0": lambda got: (
            int(got[0, 7]) & 15 == 0
        ),
    }
    check_bytes(a6, got, expected, "q4_0_bytes of 8, ..., -8 (the first is positive)", causes)


@GGUF
@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_blocks_of_random_values(implementation, a6, name):
    """Against a program that packs one block at a time with Python's struct."""
    function = getattr(implementation(MODULE), f"{name}_bytes")
    block = {"q8_0": q8_0_block, "q4_0": q4_0_block}[name]
    for number, size in enumerate((1.0, 1e-3, 200.0, 3e-7)):
        values = a6.random(2, 3, 64, seed=number) * size
        rows = [[b"".join(block(row[i : i + 32]) for i in (0, 32)) for row in rows]
                for rows in values.tolist()]  # fmt: skip
        expected = torch.tensor([[list(row) for row in each] for each in rows])
        what = f"{name}_bytes of normal numbers of size {size:g}, [2, 3, 64]"
        got = function(values)
        causes = {
            "codes are computed with d before it is rounded to float16": lambda got, e=expected: (
                got.shape == e.shape and bool((got == e)[..., :2].all())
            ),
            "two blocks per row: the result has the axes of the values, and the bytes of both": (
                lambda got, e=expected: got.numel() == e.numel() and got.shape != e.shape
            ),
        }
        a6.tensor(got, expected, what, causes, dtype=torch.uint8, rtol=0, atol=0)


@GGUF
def test_blocks_of_zeros(implementation, a6):
    module = implementation(MODULE)
    zeros = torch.zeros(1, 32)
    causes = {"a block of zeros divides by 0: take 0 for 1 / d": lambda got: int(got[0, 2]) != 0}
    check_bytes(a6, module.q8_0_bytes(zeros), bytes(34), "q8_0_bytes of zeros", causes)
    causes = {
        "d is 0 / -8 = -0.0, 00 80 in float16": bytes(2) + bytes([0x88] * 16),
        "0 has the code 8": lambda got: int(got[0, 2]) != 0x88,
    }
    expected = bytes([0, 0x80] + [0x88] * 16)
    check_bytes(a6, module.q4_0_bytes(zeros), expected, "q4_0_bytes of zeros", causes)


@GGUF
def test_other_types_and_layouts(implementation, a6):
    module = implementation(MODULE)
    for name in ("q8_0_bytes", "q4_0_bytes"):
        check_layouts(a6, getattr(module, name), name)


def check_layouts(a6, function, name):
    values = a6.random(64, 4, seed=1, dtype=torch.bfloat16)
    expected = function(values.T.contiguous().float())
    for x, what in ((values.T, "a transposed bfloat16 tensor"), (values.T.double(), "float64")):
        a6.tensor(function(x), expected, f"{name} of {what}", dtype=torch.uint8, rtol=0, atol=0)
    got = function(values.T.clone().requires_grad_())
    a6.tensor(got, expected, f"{name} of a parameter", dtype=torch.uint8, rtol=0, atol=0)
    got = function(torch.ones(32))
    a6.true(got.ndim == 1, f"{name} of [32] has shape {tuple(got.shape)}, expected one axis")


@GGUF
@pytest.mark.parametrize("name", ["q8_0_bytes", "q4_0_bytes"])
def test_block_refusals(implementation, a6, name):
    function = getattr(implementation(MODULE), name)
    for columns in (1, 31, 33, 48):
        a6.raises(
            ValueError,
            lambda columns=columns: function(torch.ones(2, columns)),
            f"{name} of {columns} columns",
            [str(columns)],
        )
    for bad in (math.nan, math.inf):
        values = torch.ones(2, 64)
        values[1, 40] = bad
        a6.raises(ValueError, lambda values=values: function(values), f"{name} of {bad}")
    largest = {"q8_0_bytes": 127.0, "q4_0_bytes": -8.0}[name]
    values = block_of(_0=largest * 65504)
    d = function(values)[0, :2].tolist()
    a6.expect(d, [0xFF, 0x7B], f"the bytes of d = 65504 in {name}, the largest float16")
    a6.raises(
        ValueError,
        lambda: function(values * 1.01),
        f"{name} with a d of 66159, which is infinity in float16",
    )


@GGUF
def test_blocks_work_on_whole_tensors(implementation, a6):
    module = implementation(MODULE)
    for name in ("q8_0_bytes", "q4_0_bytes"):
        check_steps(a6, getattr(module, name), a6.random(1, 32), a6.random(8, 512), name)
