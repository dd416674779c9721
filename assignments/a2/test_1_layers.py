"""a2.1 to a2.5: softmax, SiLU and GELU, linear and embedding, norms, feed-forward."""

import math

import pytest
import torch
from torch.nn import functional

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.comparisons import check_true
from lm_course.grading.tensor_comparisons import one_rounding

MODULE = "transformer_lm.layers"


# a2.1


@pytest.mark.task("a2.1")
def test_softmax_by_hand(implementation, a2):
    x = torch.tensor([0.0, math.log(2), math.log(3)])
    causes = {
        "these are the exponentials: divide them by their sum": torch.tensor([1.0, 2, 3]),
        "this is the logarithm of the softmax": torch.log(torch.tensor([1.0, 2, 3]) / 6),
        "you divide by the largest exponential: divide by the sum": torch.tensor([1, 2, 3]) / 3,
    }
    got = implementation(MODULE).softmax(x, 0)
    a2.check(got, torch.tensor([1, 2, 3]) / 6, "softmax of [0, ln 2, ln 3]", causes)


@pytest.mark.task("a2.1")
@pytest.mark.parametrize("dim", [0, -1])
def test_softmax_along_a_dimension(implementation, a2, dim):
    x = a2.random(2, 3, 4)
    causes = {
        f"`dim` is ignored: this is the softmax along axis {other}": a2.softmax(x, other)
        for other in range(3)
    }
    causes["this is the softmax over all values at once"] = (
        x.double().exp() / x.double().exp().sum()
    )
    got = implementation(MODULE).softmax(x, dim)
    a2.check(got, a2.softmax(x, dim), f"softmax of a [2, 3, 4] tensor with dim={dim}", causes)


@pytest.mark.task("a2.1")
def test_softmax_of_large_logits(implementation, a2):
    x = torch.tensor([[1000.0, 1001], [-1001, -1000], [0, 88], [3e38, -3e38]])
    hint = "exp(1000) is infinite: subtract the largest value of each row before exp"
    causes = {hint: lambda got: bool(got.isnan().any())}
    got = implementation(MODULE).softmax(x, dim=-1)
    a2.check(got, a2.softmax(x, -1), "softmax of large logits", causes)


@pytest.mark.task("a2.1")
def test_softmax_of_rows_far_apart(implementation, a2):
    x = torch.tensor([[0.0, 1], [1000, 1001]])
    hint = (
        "the largest value of the whole tensor was subtracted, and exp(-1000) is 0: subtract the "
        "largest value of each slice"
    )
    causes = {hint: lambda got: not bool(got[0].isfinite().all())}
    got = implementation(MODULE).softmax(x, dim=-1)
    a2.check(got, a2.softmax(x, -1), "softmax of [[0, 1], [1000, 1001]]", causes)


@pytest.mark.task("a2.1")
def test_softmax_gives_minus_infinity_no_weight(implementation, a2):
    x = torch.tensor([[0.0, -math.inf, 1], [-math.inf, -5, -math.inf]])
    got = implementation(MODULE).softmax(x, dim=1)
    a2.check(got, a2.softmax(x, 1), "softmax of rows with -inf in them")


# a2.2


@pytest.mark.task("a2.2")
def test_silu_by_hand(implementation, a2):
    x = torch.tensor([0.0, math.log(3), -math.log(3)])
    expected = torch.tensor([0, 0.75 * math.log(3), -0.25 * math.log(3)])
    causes = {
        "this is the sigmoid: multiply it by x": torch.tensor([0.5, 0.75, 0.25]),
        "this is ReLU": functional.relu(x),
    }
    a2.check(implementation(MODULE).silu(x), expected, "silu of [0, ln 3, -ln 3]", causes)


@pytest.mark.task("a2.2")
def test_gelu_by_formula(implementation, a2):
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    inner = x + 0.044715 * x**3
    causes = {
        "this is the exact GELU, with erf: use GPT-2's approximation with tanh": (
            functional.gelu(x)
        ),
        "this is x sigmoid(1.702 x), another approximation": x * torch.sigmoid(1.702 * x),
        "the factor sqrt(2 / pi) inside tanh is missing": 0.5 * x * (1 + torch.tanh(inner)),
        "0.044715 multiplies x cubed, not x squared": 0.5
        * x
        * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2))),
        "this is SiLU": functional.silu(x),
        "the factor 0.5 is missing": 2 * functional.gelu(x, approximate="tanh"),
    }
    expected = functional.gelu(x, approximate="tanh")
    got = implementation(MODULE).gelu(x)
    a2.check(got, expected, "gelu from -4 to 4", causes, dtype=torch.float64, rtol=1e-9, atol=1e-12)


@pytest.mark.task("a2.2")
@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_activations_far_from_zero(implementation, a2, name):
    x = torch.tensor([-300.0, -60, 60, 300], requires_grad=True)
    got = getattr(implementation(MODULE), name)(x)
    expected = torch.tensor([0.0, 0, 60, 300])
    a2.check(got, expected, f"{name} of [-300, -60, 60, 300]")
    (gradient,) = torch.autograd.grad(got.sum(), x)
    causes = {"exp(300) is infinite: use torch.sigmoid": lambda g: bool(g.isnan().any())}
    what = f"the gradient of {name} at [-300, -60, 60, 300]"
    a2.check(gradient, torch.tensor([0.0, 0, 1, 1]), what, causes)


# a2.3


@pytest.mark.task("a2.3")
def test_linear_by_hand(implementation, a2):
    layer = implementation(MODULE).Linear(2, 3)
    a2.check_parameters(layer, {"weight": (3, 2)}, "Linear(2, 3)")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2], [3, 4], [5, 6]]))
    got = layer(torch.tensor([1.0, -1]))
    a2.check(got, torch.tensor([-1.0, -1, -1]), "Linear with [[1, 2], [3, 4], [5, 6]] of [1, -1]")


def check_start(weight, std, what, causes):
    """Fail unless new weights are normal with this deviation, cut off at three of it."""
    found = float(weight.detach().std())
    details = {"expected": f"{std:.4g} (2 % less, cut off)", "got": f"{found:.4g}"}
    for cause, wrong in causes.items():
        if abs(found / wrong - 1) < 0.04:
            details["likely"] = cause
    sentence = f"{what}: the standard deviation of new weights is wrong"
    check_true(0.95 < found / std < 1.01, sentence, details)
    largest = float(weight.detach().abs().max())
    check_true(
        largest <= 3.001 * std,
        f"{what}: new weights reach {largest / std:.2f} standard deviations: cut them off at 3 "
        "(the limits of trunc_normal_ are values)",
    )
    check_true(
        largest > 2.6 * std,
        f"{what}: no new weight is beyond {largest / std:.2f} standard deviations: draw from a "
        "normal distribution, cut off at 3",
    )
    mean = float(weight.detach().mean())
    check_true(abs(mean) < 0.05 * std, f"{what}: the mean of new weights is {mean:.2g}, expected 0")


@pytest.mark.task("a2.3")
@pytest.mark.parametrize(("d_in", "d_out"), [(200, 100), (64, 512)])
def test_linear_starts_at_random(implementation, d_in, d_out):
    torch.manual_seed(0)
    layer = implementation(MODULE).Linear(d_in, d_out, bias=True)
    std = math.sqrt(2 / (d_in + d_out))
    causes = {
        "2 / (d_in + d_out) is the variance, and trunc_normal_ takes the standard deviation": 2
        / (d_in + d_out),
        "this is sqrt(1 / d_in)": math.sqrt(1 / d_in),
        "this is sqrt(2 / d_in)": math.sqrt(2 / d_in),
        "this is PyTorch's own initialization, which is uniform": math.sqrt(1 / 3 / d_in),
        "this is 1": 1.0,
        "this is the standard deviation of an embedding": 0.5 / math.sqrt(d_out),
    }
    check_start(layer.weight, std, f"Linear({d_in}, {d_out})", causes)
    check_true(not layer.bias.detach().any(), "the bias of a new Linear must be 0")


@pytest.mark.task("a2.3")
def test_embedding_by_hand(implementation, a2):
    layer = implementation(MODULE).Embedding(4, 2)
    a2.check_parameters(layer, {"weight": (4, 2)}, "Embedding(4, 2)")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0], [1, 10], [2, 20], [3, 30]]))
    got = layer(torch.tensor([[3, 1], [0, 3]]))
    expected = torch.tensor([[[3.0, 30], [1, 10]], [[0, 0], [3, 30]]])
    a2.check(got, expected, "Embedding of ids [[3, 1], [0, 3]]")


@pytest.mark.task("a2.3")
def test_embedding_adds_the_gradients_of_equal_ids(implementation, a2):
    layer = implementation(MODULE).Embedding(5, 3)
    weights = torch.arange(12.0).view(4, 3)
    got = layer(torch.tensor([2, 0, 2, 2]))
    check_true(
        got.requires_grad, "the rows have no gradient: index the parameter itself, not its .data"
    )
    (got * weights).sum().backward()
    expected = torch.zeros(5, 3)
    expected[2], expected[0] = weights[0] + weights[2] + weights[3], weights[1]
    gradient = layer.weight.grad.to_dense()
    a2.check(gradient, expected, "the gradient of the rows of ids [2, 0, 2, 2]")


@pytest.mark.task("a2.3")
def test_embedding_looks_rows_up(implementation):
    layer = implementation(MODULE).Embedding(20_000, 8)
    ids = torch.arange(64)
    with torch.no_grad(), TensorCounter() as counter:
        layer(ids)
    check_true(
        counter.peak_bytes <= 4 * 8 * 64 * 2,
        f"64 rows of 8 are 2,048 bytes, but Embedding creates {counter.peak_bytes:,}: look up the "
        "rows instead of multiplying with a one-hot matrix",
    )


@pytest.mark.task("a2.3")
def test_embedding_starts_small(implementation):
    torch.manual_seed(0)
    layer = implementation(MODULE).Embedding(500, 64)
    causes = {
        "this is 1, PyTorch's own initialization": 1.0,
        "0.5 / sqrt(d_model) is the standard deviation, not the variance": 0.25,
        "this is 0.5 / d_model: the root is missing": 0.5 / 64,
        "this is 0.02, whatever the width": 0.02,
    }
    check_start(layer.weight, 0.0625, "Embedding(500, 64)", causes)


# a2.4


@pytest.mark.task("a2.4")
def test_rms_norm_by_hand(implementation, a2):
    layer = implementation(MODULE).RMSNorm(2, eps=0.0)
    a2.check_parameters(layer, {"weight": (2,)}, "RMSNorm(2)")
    x = torch.tensor([3.0, 4])
    root = math.sqrt(12.5)
    causes = {
        "you sum the squares: take their mean": x / 5,
        "you subtract the mean: RMSNorm does not": torch.tensor([-1.0, 1]),
        "the root is missing": x / 12.5,
    }
    a2.check(layer(x), x / root, "RMSNorm of [3, 4]: the mean square is 12.5", causes)


@pytest.mark.task("a2.4")
def test_rms_norm_by_formula(implementation, a2):
    module = implementation(MODULE)
    layer = module.RMSNorm(6)
    weight = a2.fill(layer, {"weight": (6,)}, "RMSNorm(6)")["weight"]
    for size in (1.0, 1e-2):  # in the second, eps counts
        x = size * a2.random(2, 3, 6)
        wide = x.double()
        square = wide.square().mean(-1, keepdim=True)
        causes = {
            "`weight` is not used: multiply by it": wide / (square + 1e-5).sqrt(),
            "eps goes inside the root": wide / (square.sqrt() + 1e-5) * weight,
            "eps is missing; by default it is 1e-5": wide / square.sqrt() * weight,
            "eps is 1e-6; by default it is 1e-5": a2.rms_norm(x, weight, 1e-6),
            "eps is 1e-8; by default it is 1e-5": a2.rms_norm(x, weight, 1e-8),
            "the mean is over all axes: take it over the last axis only": wide
            / (wide.square().mean() + 1e-5).sqrt()
            * weight,
            "you multiply by 1 + weight: multiply by weight, which starts at 1": a2.rms_norm(
                x, 1 + weight
            ),
        }
        what = f"RMSNorm of a [2, 3, 6] tensor of size {size:g}"
        a2.check(layer(x), a2.rms_norm(x, weight), what, causes)


@pytest.mark.task("a2.4")
@pytest.mark.parametrize("name", ["RMSNorm", "LayerNorm"])
def test_norms_start_as_plain_norms(implementation, a2, name):
    layer = getattr(implementation(MODULE), name)(8)
    shapes = {"weight": (8,)} | ({"bias": (8,)} if name == "LayerNorm" else {})
    a2.check_parameters(layer, shapes, f"{name}(8)")
    a2.check(layer.weight, torch.ones(8), f"the weight of a new {name}")
    if name == "LayerNorm":
        a2.check(layer.bias, torch.zeros(8), "the bias of a new LayerNorm")


@pytest.mark.task("a2.4")
@pytest.mark.parametrize("name", ["RMSNorm", "LayerNorm"])
def test_norms_compute_in_float32(implementation, a2, name):
    """Rounded once at the end, a bfloat16 is off by at most half of its last place."""
    layer = getattr(implementation(MODULE), name)(512)
    shapes = {"weight": (512,)} | ({"bias": (512,)} if name == "LayerNorm" else {})
    weights = a2.fill(layer, shapes, f"{name}(512)")
    x = (3 * a2.random(16, 512, seed=1) + 1).bfloat16()
    if name == "RMSNorm":
        expected = a2.rms_norm(x, weights["weight"])
        narrow = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        early = (
            x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
        ).bfloat16()
    else:
        expected = functional.layer_norm(x.double(), (512,), weights["weight"], weights["bias"])
        centred = x - x.mean(-1, keepdim=True)
        narrow = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
        early = functional.layer_norm(x.float(), (512,)).bfloat16()
    weight, bias = layer.weight.detach(), weights.get("bias", torch.zeros(512)).float()
    causes = {
        "computed in bfloat16: convert to x.float() first, and back to x's type at the end": (
            narrow * weight.bfloat16() + bias.bfloat16()
        ),
        "computed in bfloat16 (square and mean): convert to x.float() first": (
            narrow * weight + bias
        ).bfloat16(),
        "rounded before `weight` was applied: convert back to x's type last": (
            early * weight + bias
        ).bfloat16(),
        "rounded before `weight` was applied: convert back to x's type at the very end": (
            early * weight.bfloat16() + bias.bfloat16()
        ),
    }
    what = f"{name} of bfloat16, which must be right to one rounding,"
    a2.check(
        layer(x),
        expected,
        what,
        causes,
        dtype=torch.bfloat16,
        rtol=one_rounding(expected, torch.bfloat16),
        atol=1e-5,
    )


@pytest.mark.task("a2.4")
def test_rms_norm_of_float16_does_not_overflow(implementation, a2):
    layer = implementation(MODULE).RMSNorm(64)
    x = (400 * a2.random(4, 64)).half()
    causes = {
        "400^2 is more than a float16 holds (65,504): convert to x.float() before the square": (
            lambda got: bool((got == 0).sum() > 30)
        )
    }
    expected = a2.rms_norm(x, torch.ones(64))
    got = layer(x)
    a2.check(got, expected, "RMSNorm of float16", causes, dtype=torch.float16, rtol=1e-3)


@pytest.mark.task("a2.4")
def test_layer_norm_by_hand(implementation, a2):
    layer = implementation(MODULE).LayerNorm(2, eps=0.0)
    x = torch.tensor([3.0, 7])
    causes = {
        "the mean is not subtracted": x / 2,
        "the variance is the mean over n, not n - 1": torch.tensor([-1.0, 1]) / math.sqrt(2),
        "this is RMSNorm": x / math.sqrt(29),
    }
    a2.check(layer(x), torch.tensor([-1.0, 1]), "LayerNorm of [3, 7]: mean 5, variance 4", causes)


@pytest.mark.task("a2.4")
def test_layer_norm_by_formula(implementation, a2):
    layer = implementation(MODULE).LayerNorm(6)
    weights = a2.fill(layer, {"weight": (6,), "bias": (6,)}, "LayerNorm(6)")
    weight, bias = weights["weight"], weights["bias"]
    for size in (1.0, 1e-2):  # in the second, eps counts
        x = size * (a2.random(2, 3, 6) + 2)
        wide = x.double()
        centred = wide - wide.mean(-1, keepdim=True)
        sample = wide.var(-1, keepdim=True)
        causes = {
            "the variance is the mean over n, not n - 1 (torch.var divides by n - 1)": (
                centred / (sample + 1e-5).sqrt() * weight + bias
            ),
            "the bias is not added": functional.layer_norm(wide, (6,), weight),
            "eps goes inside the root, to the variance": (
                centred / (wide.std(-1, keepdim=True, correction=0) + 1e-5) * weight + bias
            ),
        }
        expected = functional.layer_norm(wide, (6,), weight, bias)
        what = f"LayerNorm of a [2, 3, 6] tensor of size {size:g}"
        a2.check(layer(x), expected, what, causes, rtol=1e-4)


@pytest.mark.task("a2.4")
def test_layer_norm_far_from_zero(implementation, a2):
    """The squares are near a million, where adjacent float32 numbers are 0.06 apart."""
    layer = implementation(MODULE).LayerNorm(64)
    weights = a2.fill(layer, {"weight": (64,), "bias": (64,)}, "LayerNorm(64)")
    x = a2.random(8, 64, seed=1) + 1000
    expected = functional.layer_norm(x.double(), (64,), weights["weight"], weights["bias"])
    squares = x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2
    scaled = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(squares + 1e-5)
    hint = "mean(x^2) - mean(x)^2 is a difference of two large numbers: square x - mean(x) instead"
    causes = {
        hint: scaled * layer.weight.detach() + layer.bias.detach(),
        f"{hint} (the result is not finite)": lambda y: not bool(y.isfinite().all()),
    }
    what = "LayerNorm of 1,000 + noise of size 1"
    a2.check(layer(x), expected, what, causes, rtol=1e-3, atol=1e-3)


# a2.5


@pytest.mark.task("a2.5")
def test_swiglu_by_hand(implementation, a2):
    layer = implementation(MODULE).SwiGLU(1, 2)
    a2.check_parameters(
        layer, {"gate.weight": (2, 1), "up.weight": (2, 1), "down.weight": (1, 2)}, "SwiGLU(1, 2)"
    )
    with torch.no_grad():
        layer.gate.weight.copy_(torch.tensor([[math.log(3)], [0.0]]))
        layer.up.weight.copy_(torch.tensor([[4.0], [5]]))
        layer.down.weight.copy_(torch.tensor([[2.0, 7]]))
    expected = torch.tensor([2 * 0.75 * math.log(3) * 4])
    silu_4 = functional.silu(torch.tensor([4.0]))
    causes = {
        "you apply SiLU to up(x): apply it to gate(x)": 2 * math.log(3) * silu_4,
        "this is the sigmoid of gate(x); SiLU is x sigmoid(x)": torch.tensor(
            [2 * 0.75 * 4 + 7 * 2.5]
        ),
        "the up projection is not used: multiply by up(x)": torch.tensor([2 * 0.75 * math.log(3)]),
    }
    a2.check(layer(torch.ones(1)), expected, "SwiGLU of 1 (the handout's example)", causes)


@pytest.mark.task("a2.5")
@pytest.mark.parametrize("bias", [True], ids=["with-biases"])
@pytest.mark.parametrize("name", ["SwiGLU", "GELUMLP"])
def test_feed_forward_by_formula(implementation, a2, name, bias):
    layer = getattr(implementation(MODULE), name)(6, 10, bias)
    shapes = a2.linear_shapes("up", 6, 10, bias) | a2.linear_shapes("down", 10, 6, bias)
    if name == "SwiGLU":
        shapes |= a2.linear_shapes("gate", 6, 10, bias)
    weights = a2.fill(layer, shapes, f"{name}(6, 10, bias={bias})")
    x = a2.random(2, 3, 6)

    def apply(key, y):
        return functional.linear(y.double(), weights[f"{key}.weight"], weights.get(f"{key}.bias"))

    up = apply("up", x)
    if name == "SwiGLU":
        gate = apply("gate", x)
        expected = apply("down", functional.silu(gate) * up)
        causes = {
            "you apply SiLU to up(x): apply it to gate(x)": apply(
                "down", gate * functional.silu(up)
            ),
            "you add gate and up: multiply them": apply("down", functional.silu(gate) + up),
            "this is the sigmoid of gate(x)": apply("down", torch.sigmoid(gate) * up),
            "this is GELU instead of SiLU": apply(
                "down", functional.gelu(gate, approximate="tanh") * up
            ),
        }
    else:
        expected = apply("down", functional.gelu(up, approximate="tanh"))
        causes = {
            "this is SiLU instead of GELU": apply("down", functional.silu(up)),
            "this is ReLU instead of GELU": apply("down", functional.relu(up)),
            "the activation between the two matrices is missing": apply("down", up),
            "this is the exact GELU: use your gelu of a2.2": apply("down", functional.gelu(up)),
        }
    a2.check(layer(x), expected, f"{name} of a [2, 3, 6] tensor", causes, rtol=1e-5, atol=1e-5)
