"""The settings that choose schedule and optimizer, and runs with those that are not the default."""

import pytest
import torch
from torch import nn

from lm_core.formats.checkpoint_files import read_training_state
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.settings import load_settings
from training.batching import Batch
from training.engine.fused_optimizer import FusedAdamW
from training.optimizers import Muon
from training.runs import optimizer_settings
from training.runs.optimizer_settings import Optimizer, OptimizerParts, OptimizerSettings
from training.runs.pretraining import PretrainSettings, language_model_loss
from training.runs.training_settings import TrainingSettings
from training.schedules import learning_rate_at, linear_decay_at, warmup_stable_decay_at
from training.training_loop import TrainingRun, TrainingState, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

ENDS = {"steps": 20, "learning_rate": 0.02, "min_learning_rate": 0.002, "warmup_steps": 3}


def settings_with(**changes) -> OptimizerSettings:
    return OptimizerSettings(**(ENDS | changes))


def test_the_default_is_what_it_was():
    settings = settings_with()
    assert [settings.learning_rate_at(step) for step in range(1, 22)] == [
        learning_rate_at(step, **ENDS) for step in range(1, 22)
    ]
    weight = nn.Parameter(torch.zeros(3, 3))
    optimizer = settings_with(beta1=0.8, weight_decay=0.4).optimizer_of([("w", weight)], "auto")
    assert type(optimizer) is FusedAdamW
    assert (optimizer.betas, optimizer.weight_decay) == ((0.8, 0.95), 0.4)


def test_every_schedule_is_that_of_the_lesson():
    def rates(**changes) -> list[float]:
        return [settings_with(**changes).learning_rate_at(step) for step in range(1, 22)]

    steps = range(1, 22)
    assert rates(schedule="linear") == [linear_decay_at(step, **ENDS) for step in steps]
    for share, shape, decay_steps in ((0.2, "1-sqrt", 4), (0.5, "linear", 10), (0.0, "1-sqrt", 0)):
        expected = [
            warmup_stable_decay_at(step, **ENDS, decay_steps=decay_steps, decay=shape)
            for step in steps
        ]
        assert rates(schedule="wsd", decay_share=share, decay_shape=shape) == expected


RECIPE = """
[model]
context_length = 12
d_model = 16
num_layers = 1
num_heads = 2
num_kv_heads = 1
d_ff = 24
[training]
steps = 20
batch_size = 2
learning_rate = 1e-2
warmup_steps = 5
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('schedule = "step"', "training.schedule: input should be 'cosine', 'wsd' or 'linear'"),
        ('optimizer = "sgd"', "training.optimizer: input should be 'adamw' or 'muon'; found 'sgd'"),
        ('decay_shape = "sqrt"', "training.decay_shape: input should be '1-sqrt' or 'linear'"),
        ("muon_learning_rate = 0.0", "training.muon_learning_rate: input should be greater than 0"),
        ('schedule = "wsd"\ndecay_share = 0.9', "5 steps of warm-up and 18 of decay are more than"),
        ("muon_rate = 0.1", "unknown setting training.muon_rate; did you mean muon_learning_rate?"),
    ],
)
def test_a_wrong_choice_is_one_clear_line(tmp_path, line, words):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE + line)
    with pytest.raises(ValueError, match=r"recipe\.toml: ") as raised:
        load_settings(PretrainSettings, recipe)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_recipe_from_before_has_the_same_training(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    training = load_settings(PretrainSettings, recipe).training
    assert (training.schedule, training.optimizer) == ("cosine", "adamw")


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_muon_computes_in_the_type_that_the_precision_says(monkeypatch, faster):
    monkeypatch.setattr(optimizer_settings, "faster_dtype", lambda *given, **more: (faster, 1.5))
    named = [("blocks.0.up.weight", nn.Parameter(torch.zeros(4, 3)))]
    settings = settings_with(optimizer="muon", muon_learning_rate=0.1, weight_decay=0.7)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": faster}
    for precision, dtype in dtypes.items():
        optimizer = settings.optimizer_of(named, precision)
        assert isinstance(optimizer, OptimizerParts) and isinstance(optimizer, Optimizer)
        muon = optimizer.parts["muon"]
        assert isinstance(muon, Muon)
        assert (muon.dtype, muon.weight_decay) == (dtype, 0.7)
        assert optimizer.rates["muon"] == pytest.approx(5.0)
    on_gpu = [(name, nn.Parameter(p.detach().to("meta"))) for name, p in named]
    assert settings.optimizer_of(on_gpu, "auto").parts["muon"].dtype == torch.bfloat16


def test_the_choice_of_a_type_draws_no_random_number():
    named = [("blocks.0.up.weight", nn.Parameter(torch.zeros(4, 3)))]
    before = torch.get_rng_state()
    settings_with(optimizer="muon").optimizer_of(named, "auto")
    assert torch.equal(torch.get_rng_state(), before)


def batch_at(step: int) -> Batch:
    first = torch.randint(0, 40, (4, 1), generator=torch.Generator().manual_seed(step))
    tokens = (first + torch.arange(13)) % 40  # counting: a task that can be learned
    return Batch({"token_ids": tokens[:, :-1], "targets": tokens[:, 1:]}, 48)


def make_run(folder, **changes) -> TrainingRun:
    torch.manual_seed(0)
    shape = {"context_length": 12, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    settings = {"batch_size": 4, "checkpoint_every": 4, "precision": "float32"}
    return TrainingRun(
        model=TransformerLM(ModelConfig(vocab_size=40, num_kv_heads=1, **shape)),
        loss_of_batch=language_model_loss,
        batch_at=batch_at,
        validate=None,
        settings=TrainingSettings(**(ENDS | settings | changes)),
        checkpoint_folder=folder / "checkpoints",
        metric_log=MetricLog(folder / "metrics.jsonl", "pretrain"),
        fingerprint="same",
    )


def weights_of(run: TrainingRun) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear"])
@pytest.mark.parametrize("width_ratio", [1.0, 0.5])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_learns_and_resumes_exactly(tmp_path, optimizer, width_ratio, schedule):
    choice = {"optimizer": optimizer, "schedule": schedule, "width_ratio": width_ratio}
    straight = make_run(tmp_path / "straight", **choice)
    train(straight)
    rows = read_metrics(tmp_path / "straight" / "metrics.jsonl")[1:]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert [row["learning_rate"] for row in rows] == [
        straight.settings.learning_rate_at(step) for step in range(1, 21)
    ]

    class Killed(Exception):
        pass

    def until_step_10(step: int) -> Batch:
        if step == 10:
            raise Killed
        return batch_at(step)

    stopped = make_run(tmp_path / "stopped", **choice)
    stopped.batch_at = until_step_10
    with pytest.raises(Killed):
        train(stopped)
    resumed = make_run(tmp_path / "stopped", **choice)
    state: TrainingState = train(resumed)
    assert state.resumed_from == 8
    assert torch.equal(weights_of(resumed), weights_of(straight))


def test_a_checkpoint_of_muon_holds_both_states(tmp_path):
    train(make_run(tmp_path, optimizer="muon", steps=4))
    state = read_training_state(tmp_path / "checkpoints/step_000004").optimizer
    assert int(state["adamw/steps"]) == 4
    assert state["muon/mean/blocks.1.feed_forward.down.weight"].abs().sum() > 0
    assert state["adamw/square/token_embedding.weight"].abs().sum() > 0
    assert state["muon/dtype"].dtype == torch.float32


NAMED = [
    (name, nn.Parameter(torch.ones(shape)))
    for name, shape in {
        "token_embedding.weight": (5, 4),
        "position_embedding.weight": (3, 4),
        "blocks.0.attention.query.weight": (4, 4),
        "blocks.0.attention.query.bias": (4,),
        "blocks.0.feed_forward.down.weight": (4, 6),
        "final_norm.weight": (4,),
        "output_head.weight": (5, 4),
    }.items()
]
SUMMING = {
    "blocks.0.attention.query.weight", "blocks.0.feed_forward.down.weight", "output_head.weight",
}  # fmt: skip


def moved_by_one_step(named: list[tuple[str, nn.Parameter]], **changes) -> dict[str, float]:
    """The distance that the first entry of each parameter moves; AdamW's first step is its rate."""
    copies = [(name, nn.Parameter(parameter.detach().clone())) for name, parameter in named]
    optimizer = settings_with(**changes).optimizer_of(copies, "float32")
    for number, (_, parameter) in enumerate(copies, start=1):
        parameter.grad = torch.full_like(parameter, float(number))
    optimizer.step(0.01)
    optimizer.zero_gradients()
    assert all(parameter.grad is None for _, parameter in copies)
    return {name: 1 - parameter.detach().flatten()[0].item() for name, parameter in copies}


def test_the_rate_of_matrices_that_sum_is_divided_by_the_width_ratio():
    moved = moved_by_one_step(NAMED, width_ratio=4.0, weight_decay=0.0)
    assert moved == {
        name: pytest.approx(0.0025 if name in SUMMING else 0.01, rel=1e-3) for name, _ in NAMED
    }


def test_all_matrices_shrink_equally_fast_whatever_their_rate():
    plain = moved_by_one_step(NAMED, width_ratio=4.0, weight_decay=0.0)
    decayed = moved_by_one_step(NAMED, width_ratio=4.0, weight_decay=0.5)
    for name, parameter in NAMED:
        shrunk = 0.01 * 0.5 if parameter.ndim == 2 else 0.0
        assert decayed[name] - plain[name] == pytest.approx(shrunk, abs=1e-6), name


def test_without_a_head_the_embedding_is_the_head():
    moved = moved_by_one_step(NAMED[:-1], width_ratio=4.0, weight_decay=0.0)
    assert moved["token_embedding.weight"] == pytest.approx(0.0025, rel=1e-3)
    assert moved["position_embedding.weight"] == pytest.approx(0.01, rel=1e-3)


def test_with_muon_the_width_ratio_is_for_the_head_alone():
    one, four = (
        moved_by_one_step(NAMED, optimizer="muon", width_ratio=ratio, weight_decay=0.0)
        for ratio in (1.0, 4.0)
    )
    assert one.pop("output_head.weight") == pytest.approx(0.01, rel=1e-3)
    assert four.pop("output_head.weight") == pytest.approx(0.0025, rel=1e-3)
    assert four == one


def test_the_state_of_both_parts_is_saved_and_checked():
    optimizer = settings_with(width_ratio=2.0).optimizer_of(NAMED, "auto")
    assert isinstance(optimizer, Optimizer)
    state = optimizer.state()
    for name, _ in NAMED:
        part = "scaled" if name in SUMMING else "others"
        assert f"{part}/mean/{name}" in state
    with pytest.raises(ValueError, match="saved state belongs to another model"):
        optimizer.load_state({key: state[key] for key in state if "output_head" not in key})
