"""A sweep of tiny real runs: each trained once, all of them in the table."""

import numpy as np
import pytest

from lm_core.formats.token_shards import ShardWriter
from scaling_laws.small_runs.runs_csv import read_runs_csv
from scaling_laws.small_runs.sweep import SweepSettings, SweepSize, planned_run, run_sweep
from training.runs import finished_runs
from training.runs.pretraining import pretrain
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters

SIZES = [
    SweepSize(d_model=width, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=2 * width)
    for width in (8, 16)
]
SETTINGS = SweepSettings(
    sizes=SIZES,
    token_budgets=[640, 320, 1280],
    context_length=16,
    batch_size=2,
    precision="float32",
    device="cpu",
)


@pytest.fixture
def shards(tmp_path):
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "shards", "h" * 64, 32, np.ones(32, dtype=np.int32)) as writer:
        for split, documents in (("train", 20), ("validation", 2)):
            for _ in range(documents):
                writer.add(split, np.arange(100) * int(generator.integers(1, 4)) % 32)
    return tmp_path / "shards"


def test_every_size_meets_every_budget_and_more_tokens_help(shards, tmp_path) -> None:
    runs = run_sweep(shards, tmp_path / "scaling", SETTINGS).runs
    assert read_runs_csv(tmp_path / "scaling" / "runs.csv") == [
        type(run)(run.parameters, run.tokens, float(f"{run.loss:.9g}")) for run in runs
    ]
    sizes = [
        count_parameters(ModelConfig(vocab_size=32, context_length=16, **size.model_dump()))
        for size in SIZES
    ]
    assert [(run.parameters, run.tokens) for run in runs] == [
        (size, tokens) for size in sizes for tokens in (320, 640, 1280)
    ]
    assert runs[2].loss < runs[0].loss
    assert not list((tmp_path / "scaling").rglob("step_*")), "finished runs keep no checkpoint"


def test_finished_runs_are_not_trained_again_and_other_code_is(shards, tmp_path, trained) -> None:
    first = run_sweep(shards, tmp_path / "scaling", SETTINGS, code={"training": "1"})
    assert len(trained) == 6
    next((tmp_path / "scaling" / "finished").iterdir()).unlink()
    assert run_sweep(shards, tmp_path / "scaling", SETTINGS, code={"training": "1"}) == first
    assert len(trained) == 7
    run_sweep(shards, tmp_path / "scaling", SETTINGS, code={"training": "2"})
    assert len(trained) == 13


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """Record the steps of every run that is actually trained."""
    steps: list[int] = []

    def counting(planned, *given, **named):
        steps.append(planned.training.steps)
        return pretrain(planned, *given, **named)

    monkeypatch.setattr(finished_runs, "pretrain", counting)
    return steps


ONE_SIZE = SETTINGS.model_copy(update={"sizes": SIZES[:1], "token_budgets": [320, 640]})


def test_other_settings_and_other_shards_train_again(shards, tmp_path, trained) -> None:
    run_sweep(shards, tmp_path / "scaling", ONE_SIZE)
    seeded = ONE_SIZE.model_copy(update={"seed": 1})
    other = run_sweep(shards, tmp_path / "scaling", seeded).runs
    assert trained == [10, 20] * 2
    # As many tokens as before, so that the manifest is the same: only the ids differ.
    path = shards / "train-00000.bin"
    ids = np.fromfile(path, dtype="<u2")
    ((ids + 1) % 32).astype("<u2").tofile(path)
    again = run_sweep(shards, tmp_path / "scaling", seeded).runs
    assert trained == [10, 20] * 3
    assert [run.loss for run in again] != [run.loss for run in other]


def test_more_budgets_train_only_what_is_new(shards, tmp_path, trained) -> None:
    first = run_sweep(shards, tmp_path / "scaling", ONE_SIZE).runs
    more = ONE_SIZE.model_copy(update={"token_budgets": [320, 480, 640]})
    runs = run_sweep(shards, tmp_path / "scaling", more).runs
    assert trained == [10, 20, 15]
    assert [runs[0], runs[2]] == first


def test_a_sweep_that_was_stopped_goes_on_with_the_run_that_it_was_in(
    shards, tmp_path, monkeypatch
) -> None:
    straight = run_sweep(shards, tmp_path / "straight", ONE_SIZE)
    started = []

    def stopped_in_the_second(*given, **named):
        started.append(1)
        if len(started) == 2:
            raise KeyboardInterrupt
        return pretrain(*given, **named)

    monkeypatch.setattr(finished_runs, "pretrain", stopped_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(shards, tmp_path / "stopped", ONE_SIZE)
    assert not (tmp_path / "stopped" / "runs.csv").exists()
    assert run_sweep(shards, tmp_path / "stopped", ONE_SIZE) == straight
    assert len(started) == 3


@pytest.mark.parametrize("kv_heads", [(2, 4), (1, 1)])
def test_every_part_of_the_shape_makes_another_run(shards, tmp_path, trained, kv_heads) -> None:
    heads = [
        SIZES[0].model_copy(update={"num_heads": n, "num_kv_heads": kv})
        for n, kv in zip((2, 4), kv_heads, strict=True)
    ]
    both = ONE_SIZE.model_copy(update={"sizes": heads, "token_budgets": [320]})
    first = run_sweep(shards, tmp_path / "scaling", both).runs
    if kv_heads == (2, 4):
        assert first[0].parameters == first[1].parameters, "they are two runs all the same"
    assert first[0].loss != first[1].loss
    assert run_sweep(shards, tmp_path / "scaling", both).runs == first
    assert len(trained) == 2


def test_budgets_of_equally_many_steps_are_one_run(shards, tmp_path, trained) -> None:
    rounded = ONE_SIZE.model_copy(update={"token_budgets": [320, 351]})
    assert [run.tokens for run in run_sweep(shards, tmp_path / "scaling", rounded).runs] == [320]
    assert trained == [10]


def test_each_run_has_a_schedule_of_its_own_length() -> None:
    planned = [planned_run(SETTINGS, SIZES[0], tokens).training for tokens in (320, 1280)]
    assert [training.steps for training in planned] == [10, 40]
    assert [training.warmup_steps for training in planned] == [1, 4]
    wide = planned_run(SETTINGS, SIZES[1], 320).training
    assert wide.learning_rate == pytest.approx(planned[0].learning_rate / 2), "as 1 / width"
    assert wide.min_learning_rate == pytest.approx(wide.learning_rate / 10)


@pytest.mark.parametrize(
    ("budget", "message"),
    [(63, "less than two steps of 32"), (10**6, "more than the 2,000 training tokens")],
)
def test_budgets_that_cannot_be(shards, tmp_path, budget: int, message: str) -> None:
    chosen = SETTINGS.model_copy(update={"token_budgets": [budget]})
    with pytest.raises(ValueError, match=message):
        run_sweep(shards, tmp_path / "scaling", chosen)
