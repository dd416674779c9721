"""Newton-Schulz against the SVD, Muon step by step against torch's, and state that survives."""

import pytest
import torch
from torch import nn

from training.optimizers import QUINTIC, AdamW, Muon, is_hidden_matrix, newton_schulz
from training.runs.optimizer_settings import OptimizerParts
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

SHAPES = {"wide": (4, 9), "tall": (9, 4), "square": (5, 5), "again": (4, 9), "row": (1, 6)}


def random_matrix(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_parameters(dtype=torch.float64) -> dict[str, nn.Parameter]:
    return {
        name: nn.Parameter(random_matrix(*shape, seed=number, dtype=dtype))
        for number, (name, shape) in enumerate(SHAPES.items())
    }


def set_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    for number, parameter in enumerate(parameters.values()):
        seed = 100 * step + number
        parameter.grad = random_matrix(*parameter.shape, seed=seed, dtype=parameter.dtype)


def polynomial(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    a, b, c = QUINTIC
    for _ in range(steps):
        x = a * x + b * x**3 + c * x**5
    return x


def by_svd(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The same polynomial of the singular values alone, which is what Newton-Schulz computes."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u @ torch.diag(polynomial(s / s.norm(), steps)) @ vt


@pytest.mark.parametrize("shape", [*SHAPES.values(), (1, 1), (64, 48)])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_newton_schulz_applies_the_quintic_to_singular_values(shape, steps):
    matrix = random_matrix(*shape) * 1e3  # float64: the size of the matrix plays no role
    torch.testing.assert_close(
        newton_schulz(matrix, steps), by_svd(matrix, steps), atol=1e-12, rtol=0
    )


def test_the_quintic_brings_singular_values_near_1():
    found = polynomial(torch.linspace(0.002, 1, 100_001, dtype=torch.float64))
    assert found.min() > 0.68 and found.max() < 1.21


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_newton_schulz_is_nearly_the_orthogonal_factor(dtype):
    """The singular values are between 0.68 and 1.21, and the directions are those of U V^T."""
    matrix = random_matrix(32, 80)  # its singular values are between 0.045 and 0.26 of the norm
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = newton_schulz(matrix.to(dtype))
    assert found.dtype == dtype
    inside = u.T @ found.double() @ vt.T  # diagonal, if the directions are kept
    rounding = 1e-12 if dtype == torch.float64 else 30 * torch.finfo(dtype).eps
    assert (inside - torch.diag(inside.diagonal())).abs().max() < rounding
    assert inside.diagonal().min() > 0.66 and inside.diagonal().max() < 1.23
    gram = found.double() @ found.double().T
    assert (gram - torch.eye(32, dtype=torch.float64)).abs().max() < 0.6


def test_newton_schulz_of_a_stack_is_that_of_each():
    stack = random_matrix(2, 3, 7, 4)
    found = newton_schulz(stack)
    for index in [(0, 0), (1, 2)]:
        torch.testing.assert_close(found[index], newton_schulz(stack[index]), atol=1e-14, rtol=0)


def test_newton_schulz_of_zero_is_zero_and_nan_stays():
    assert newton_schulz(torch.zeros(3, 4)).abs().sum() == 0
    assert newton_schulz(torch.full((3, 4), torch.nan)).isnan().all()


def test_the_first_step_by_hand():
    """A multiple of a rotation is made that rotation, times the quintic of its singular values.

    The mean is 0.05 g; the direction does not depend on its size. Decay takes 0.1 * 0.5 * w.
    """
    weight = nn.Parameter(torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[0.0, -7.0], [7.0, 0.0]], dtype=torch.float64)
    Muon([("w", weight)], weight_decay=0.5, dtype=torch.float64).step(0.1)
    size = 0.1 * polynomial(torch.tensor(0.5**0.5, dtype=torch.float64)).item()
    expected = torch.tensor([[1.9, size], [-size, 1.9]], dtype=torch.float64)
    torch.testing.assert_close(weight.data, expected)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("original", "original"), ("match_adamw", "match_rms_adamw")]
)
def test_twenty_steps_follow_torch(ours, theirs):
    """torch computes each matrix alone in bfloat16, and we those of a shape at once, so a rounding
    may fall differently: 1/128 of an entry of 20 updates, which are 0.1/20 at the end.
    """
    parameters, oracle_parameters = make_parameters(torch.float32), make_parameters(torch.float32)
    options = {"momentum": 0.9, "weight_decay": 0.3}
    muon = Muon(parameters.items(), shape_scale=ours, dtype=torch.bfloat16, **options)
    oracle = torch.optim.Muon(oracle_parameters.values(), adjust_lr_fn=theirs, **options)
    for step in range(1, 21):
        learning_rate = 0.1 / step
        set_gradients(parameters, step)
        set_gradients(oracle_parameters, step)
        muon.step(learning_rate)
        for group in oracle.param_groups:
            group["lr"] = learning_rate
        oracle.step()
        for name in parameters:
            torch.testing.assert_close(
                parameters[name], oracle_parameters[name], atol=1e-3, rtol=0, msg=name
            )


@pytest.mark.parametrize("shape_scale", ["original", "match_adamw"])
def test_twenty_steps_follow_the_formula_in_float64(shape_scale):
    """Without Newton-Schulz: momentum, Nesterov, decay and the scales, and the SVD."""
    parameters, expected = make_parameters(), make_parameters()
    muon = Muon(parameters.items(), 0.9, 0.3, shape_scale, torch.float64)
    means = {name: torch.zeros_like(p) for name, p in expected.items()}
    with torch.no_grad():
        for step in range(1, 21):
            set_gradients(parameters, step)
            set_gradients(expected, step)
            muon.step(0.1 / step)
            for name, weight in expected.items():
                rows, columns = weight.shape
                scale = {
                    "original": (rows / columns) ** 0.5 if rows > columns else 1.0,
                    "match_adamw": 0.2 * max(rows, columns) ** 0.5,
                }[shape_scale]
                means[name] = 0.9 * means[name] + 0.1 * weight.grad
                update = by_svd(0.9 * means[name] + 0.1 * weight.grad)
                weight *= 1 - 0.1 / step * 0.3
                weight -= 0.1 / step * scale * update
                torch.testing.assert_close(
                    parameters[name].data, weight.data, atol=1e-11, rtol=0, msg=name
                )


def test_the_update_has_the_promised_size():
    """The root of the mean square of an update's entries is about 0.2 for "match_adamw"; with
    "original", the rows have a length of about 1.
    """
    for shape in ((40, 160), (160, 40), (80, 80)):
        for scale in ("original", "match_adamw"):
            weight = nn.Parameter(torch.zeros(shape))
            weight.grad = random_matrix(*shape, dtype=torch.float32)
            Muon([("w", weight)], shape_scale=scale).step(1.0)
            found = {
                "original": weight.norm(dim=1).mean().item(),
                "match_adamw": weight.square().mean().sqrt().item(),
            }
            expected = {"original": 1.0, "match_adamw": 0.2}
            assert found[scale] == pytest.approx(expected[scale], rel=0.25), (shape, scale)


def test_parameters_without_a_gradient_stay_and_so_does_their_mean():
    parameters = make_parameters()
    parameters["tall"].requires_grad_(False)
    muon = Muon(parameters.items())
    set_gradients(parameters, 1)
    muon.step(0.1)
    mean = muon.means["wide"].clone()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    set_gradients(parameters, 2)
    parameters["wide"].grad = None  # of the two matrices with this shape, one
    muon.step(0.1)
    moved = [name for name, p in parameters.items() if not torch.equal(p, before[name])]
    assert moved == ["square", "again", "row"]
    assert torch.equal(muon.means["wide"], mean)
    muon.zero_gradients()
    muon.step(0.1)
    Muon([]).step(0.1)


def test_only_matrices_and_known_scales_are_taken():
    with pytest.raises(ValueError, match="Muon takes matrices, but norm has 1 axes"):
        Muon([("norm", nn.Parameter(torch.zeros(3)))])
    with pytest.raises(ValueError, match="unknown shape_scale 'none'; expected one of original"):
        Muon([], shape_scale="none")


def test_the_default_type_on_a_cpu_is_float32():
    """The weights keep their own type; on a GPU the default is bfloat16 ("meta" stands for one)."""
    weight = nn.Parameter(random_matrix(8, 8, dtype=torch.bfloat16))
    assert Muon([("w", weight)]).dtype == torch.float32
    assert Muon([("w", nn.Parameter(weight.detach().to("meta")))]).dtype == torch.bfloat16
    weight.grad = weight.detach().clone()
    Muon([("w", weight)]).step(0.1)
    assert weight.dtype == torch.bfloat16 and weight.isfinite().all()


def make_model() -> TransformerLM:
    torch.manual_seed(0)
    shape = {"num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "d_ff": 24}
    return TransformerLM(
        ModelConfig(
            vocab_size=20, context_length=8, d_model=16, tie_embeddings=False, qk_norm=True, **shape
        )
    )


def make_both(model: nn.Module, dtype=None) -> OptimizerParts:
    named = list(model.named_parameters())
    hidden = [(name, p) for name, p in named if is_hidden_matrix(name, p)]
    others = [(name, p) for name, p in named if not is_hidden_matrix(name, p)]
    parts = {"muon": Muon(hidden, dtype=dtype), "adamw": AdamW(others)}
    return OptimizerParts(parts, {"muon": 7.0, "adamw": 1.0})


def backward(model: nn.Module, step: int) -> None:
    ids = torch.randint(0, 20, (2, 8), generator=torch.Generator().manual_seed(step))
    model(ids).logsumexp(-1).sum().backward()


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest():
    both = make_both(make_model())
    of_a_block = ["query", "key", "value", "output", "gate", "up", "down"]
    assert [name.split(".")[-2] for name in both.parts["muon"].parameters] == 2 * of_a_block
    others = {name for name in both.parts["adamw"].parameters if not name.startswith("blocks")}
    assert others == {"token_embedding.weight", "final_norm.weight", "output_head.weight"}
    vectors = [p for name, p in both.parts["adamw"].parameters.items() if name.startswith("blocks")]
    assert vectors and all(p.ndim == 1 for p in vectors)


def test_both_step_as_each_alone():
    """Muon with the learning rate times the ratio, AdamW with the learning rate."""
    together, alone = make_model(), make_model()
    both, parts = make_both(together), make_both(alone).parts
    for step in range(3):
        for model in (together, alone):
            model.zero_grad()
            backward(model, step)
        both.step(0.01)
        parts["muon"].step(0.07)
        parts["adamw"].step(0.01)
    for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    both.zero_gradients()
    assert all(p.grad is None for p in together.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_carries_means_step_count_and_type(dtype):
    straight, stopped = make_model(), make_model()
    first, second = make_both(straight, dtype), make_both(stopped, dtype)
    for step in range(6):
        if step == 3:  # a new process, which would choose another type
            saved = {name: tensor.clone() for name, tensor in second.state().items()}
            second = make_both(stopped, torch.float64)
            second.parts["muon"].means["blocks.0.attention.query.weight"].fill_(9)
            second.load_state(saved)
        for model, optimizer in ((straight, first), (stopped, second)):
            backward(model, step)
            optimizer.step(0.01)
            optimizer.zero_gradients()
    for ours, theirs in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_of_another_optimizer_or_model_is_refused():
    model = make_model()
    both = make_both(model)
    with pytest.raises(ValueError, match="another model"):
        both.load_state(AdamW(model.named_parameters()).state())
    with pytest.raises(ValueError, match="another model"):
        Muon(make_parameters().items()).load_state(both.parts["muon"].state())
