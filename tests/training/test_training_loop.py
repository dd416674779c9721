"""The loop: its log and checkpoints, and a resumed run that gives an uninterrupted one's
numbers.
"""

import math
from contextlib import nullcontext

import pytest
import torch

from lm_core.formats.checkpoint_files import list_checkpoints, read_training_state
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.user_error import UserError
from training import training_loop
from training.batching import Batch
from training.engine.divergence import DivergedError
from training.engine.fused_optimizer import FusedAdamW
from training.loss import cross_entropy
from training.optimizers import AdamW
from training.runs import optimizer_settings
from training.runs.pretraining import language_model_loss
from training.runs.training_settings import TrainingSettings
from training.training_loop import TrainingRun, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import load_model

CONFIG = ModelConfig(
    vocab_size=40,
    context_length=12,
    d_model=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    d_ff=24,
)
TIMES = {"seconds", "tokens_per_second"}


class Killed(Exception):
    pass


def batch_at(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    first = torch.randint(0, 40, (4, 1), generator=generator)
    tokens = (first + torch.arange(13)) % 40  # counting: a task that can be learned
    return Batch({"token_ids": tokens[:, :-1], "targets": tokens[:, 1:]}, 48)


def noisy_loss(model, batch: Batch) -> torch.Tensor:
    """Draw from torch's global generator, as dropout would."""
    keep = torch.rand(batch["targets"].shape) > 0.2
    return cross_entropy(model(batch["token_ids"]), batch["targets"], keep)


def noisy_validation(model) -> dict[str, float]:
    """Draw too; this must not advance the training's generator."""
    torch.rand(100)
    assert not torch.is_grad_enabled() and not model.training
    batch = batch_at(10**6)
    return {"validation_loss": cross_entropy(model(batch["token_ids"]), batch["targets"]).item()}


def make_run(folder, loss=noisy_loss, fingerprint: str = "f", **changes) -> TrainingRun:
    settings = {
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "checkpoint_every": 6,
        "validate_every": 5,
        "precision": "float32",
    }
    torch.manual_seed(0)
    return TrainingRun(
        model=TransformerLM(CONFIG),
        loss_of_batch=loss,
        batch_at=batch_at,
        validate=noisy_validation,
        settings=TrainingSettings(**(settings | changes)),
        checkpoint_folder=folder / "checkpoints",
        metric_log=MetricLog(folder / "metrics.jsonl", "pretrain"),
        fingerprint=fingerprint,
    )


def numbers(folder) -> list[dict]:
    """Return the rows without the times."""
    return [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def run_until_killed(run: TrainingRun, at_step: int, when: str) -> None:
    """Raise in the middle of one update: before its batch, or after its row is written."""
    if when == "before the update":

        def stopping_batch_at(step: int) -> Batch:
            if step == at_step - 1:
                raise Killed
            return batch_at(step)

        run.batch_at = stopping_batch_at
    else:
        append = run.metric_log.append

        def stopping_append(row: dict) -> None:
            append(row)
            if row["step"] == at_step:
                raise Killed

        run.metric_log.append = stopping_append
    with pytest.raises(Killed):
        train(run)


def test_learns_and_logs_every_step(tmp_path):
    summary = train(make_run(tmp_path, steps=60))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(61))
    assert [row["step"] for row in rows if "validation_loss" in row] == list(range(0, 61, 5))
    assert rows[0].keys() == {"stage", "step", "tokens", "seconds", "validation_loss"}
    assert rows[7].keys() == TIMES | {
        "stage",
        "step",
        "tokens",
        "loss",
        "learning_rate",
        "grad_norm",
    }
    assert [row["tokens"] for row in rows] == [48 * step for step in range(61)]
    torch.manual_seed(0)
    untrained = TransformerLM(CONFIG).eval()
    with torch.no_grad():  # row 0 is of the model as it was made
        assert rows[0]["validation_loss"] == noisy_validation(untrained)["validation_loss"]
    assert summary.validation_after["validation_loss"] < 2.5, "from ln 40 = 3.69; 2.17 when written"
    assert summary.validation_before["validation_loss"] == rows[0]["validation_loss"]
    assert (summary.step, summary.tokens, summary.loss) == (60, 60 * 48, rows[-1]["loss"])
    assert rows[3]["learning_rate"] == 1e-2 and rows[-1]["learning_rate"] == 0.0


def test_checkpoints_are_those_of_the_settings_and_load(tmp_path):
    run = make_run(tmp_path)
    train(run)
    found = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert found == ["step_000000", "step_000018", "step_000020"]
    last = load_model(tmp_path / "checkpoints" / "step_000020")
    ids = batch_at(3)["token_ids"]
    assert torch.equal(last(ids), run.model(ids))


@pytest.mark.parametrize("when", ["before the update", "after the row"])
@pytest.mark.parametrize("at_step", [1, 5, 6, 7, 13, 19])
def test_a_killed_run_gives_the_same_numbers(tmp_path, at_step, when):
    train(make_run(tmp_path / "straight"))
    run_until_killed(make_run(tmp_path / "stopped"), at_step, when)
    torch.rand(7)  # another process would not have this generator's state either
    summary = train(make_run(tmp_path / "stopped"))
    last_saved = (at_step - 1) // 6 * 6
    assert summary.resumed_from == last_saved
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "straight")
    models = [
        load_model(tmp_path / name / "checkpoints/step_000020") for name in ("straight", "stopped")
    ]
    for expected, found in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(expected, found)


def test_killed_three_times_and_in_bfloat16(tmp_path):
    train(make_run(tmp_path / "straight", precision="bfloat16"))
    for at_step in (4, 10, 17):
        run_until_killed(
            make_run(tmp_path / "stopped", precision="bfloat16"), at_step, "after the row"
        )
    train(make_run(tmp_path / "stopped", precision="bfloat16"))
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "straight")


def test_a_finished_run_is_not_run_again(tmp_path):
    first = train(make_run(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    run = make_run(tmp_path)
    run.batch_at = None
    second = train(run)
    assert second.resumed_from == 20
    assert vars(first) | {"resumed_from": 20} == vars(second)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_another_fingerprint_starts_anew_and_leaves_other_stages_rows(tmp_path):
    MetricLog(tmp_path / "metrics.jsonl", "other").append({"step": 3})
    train(make_run(tmp_path))
    summary = train(make_run(tmp_path, fingerprint="g", steps=8))
    assert summary.resumed_from is None
    rows = numbers(tmp_path)
    assert rows[0] == {"stage": "other", "step": 3}
    assert [row["step"] for row in rows[1:]] == list(range(9))
    found = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert found == ["step_000000", "step_000006", "step_000008"]


def test_the_precision_is_measured_once_and_kept(tmp_path, monkeypatch):
    measured = []

    def choose(run_once, device, repeats):
        run_once(torch.float32)
        run_once(torch.bfloat16)
        torch.rand(5)
        measured.append(device)
        return torch.bfloat16, 3.0

    monkeypatch.setattr(training_loop, "faster_dtype", choose)
    train(make_run(tmp_path / "straight", precision="auto"))
    run_until_killed(make_run(tmp_path / "stopped", precision="auto"), 9, "after the row")
    assert len(measured) == 2
    summary = train(make_run(tmp_path / "stopped", precision="auto"))
    assert len(measured) == 2, "a resume must not measure again, because the result could differ"
    assert (summary.precision, summary.bfloat16_advantage) == ("bfloat16", 3.0)
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "straight")
    train(make_run(tmp_path / "set", precision="bfloat16"))
    assert numbers(tmp_path / "set") == numbers(tmp_path / "straight"), "measuring leaves no trace"
    state = read_training_state(tmp_path / "stopped/checkpoints/step_000020")
    assert state.extra["precision"] == "bfloat16"


def test_bfloat16_reaches_the_loss_and_the_validation(tmp_path):
    dtypes = set()

    def loss(model, batch: Batch) -> torch.Tensor:
        logits = model(batch["token_ids"])
        dtypes.add(logits.dtype)
        return cross_entropy(logits, batch["targets"])

    run = make_run(tmp_path, loss, steps=4, warmup_steps=1, precision="bfloat16")
    run.validate = lambda model: dtypes.add(model(batch_at(0)["token_ids"]).dtype) or {"v": 0.0}
    train(run)
    assert dtypes == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


@pytest.mark.parametrize(("bad", "words"), [(math.nan, "NaN"), (math.inf, "infinite")])
def test_a_loss_that_is_no_number_names_the_step(tmp_path, bad, words):
    def loss(model, batch: Batch) -> torch.Tensor:
        good = noisy_loss(model, batch)
        return good * bad if torch.equal(batch["token_ids"], batch_at(6)["token_ids"]) else good

    with pytest.raises(ValueError, match=f"loss became {words} at step 7 .*lower learning_rate"):
        train(make_run(tmp_path, loss))
    assert [row["step"] for row in numbers(tmp_path)] == list(range(7))
    last = load_model(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert all(torch.isfinite(p).all() for p in last.parameters())


def test_an_update_that_ruins_the_weights_is_found_by_the_validation_after_it(tmp_path):
    """The update's own loss was still finite, and no update follows the last one."""
    rates = {"learning_rate": 1e38, "min_learning_rate": 1e38, "warmup_steps": 0}
    message = "the validation loss became NaN after step 1; lower learning_rate"
    with pytest.raises(DivergedError, match=message) as error:
        train(make_run(tmp_path, steps=1, **rates))
    assert error.value.step == 1
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_000000"]


def test_a_broken_model_to_begin_with_is_not_the_learning_rates_fault(tmp_path):
    run = make_run(tmp_path)
    with torch.no_grad():
        run.model.token_embedding.weight.fill_(math.nan)
    message = "the validation loss is NaN before the first step; the initial model"
    with pytest.raises(DivergedError, match=message):
        train(run)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The figures of an update are read when the next one has been begun."""
    monkeypatch.setattr(training_loop, "unread_updates", lambda device: 1)


def test_figures_that_are_read_later_are_the_same(tmp_path, monkeypatch):
    assert training_loop.unread_updates(torch.device("cpu")) == 0
    assert training_loop.unread_updates(torch.device("cuda", 1)) == 1
    train(make_run(tmp_path / "at once"))
    begun, read = [], []
    begin, end = training_loop._begin_update, training_loop._end_update
    monkeypatch.setattr(training_loop, "_begin_update", lambda *a: begun.append(a[2]) or begin(*a))
    monkeypatch.setattr(training_loop, "_end_update", lambda *a: read.append(len(begun)) or end(*a))
    monkeypatch.setattr(training_loop, "unread_updates", lambda device: 1)
    summary = train(make_run(tmp_path / "later"))
    assert begun == list(range(1, 21))
    # Before a validation (every 5) or a checkpoint (every 6) all are read, else all but the last.
    assert read == [2, 3, 4, 5, 5, 6, 8, 9, 10, 10, 12, 12, 14, 15, 15, 17, 18, 18, 20, 20]
    assert numbers(tmp_path / "later") == numbers(tmp_path / "at once")
    rows = read_metrics(tmp_path / "later" / "metrics.jsonl")
    assert all(row["tokens_per_second"] > 0 for row in rows[1:])
    assert summary.loss == rows[-1]["loss"]


@pytest.mark.parametrize("at_step", [5, 7, 13])
def test_a_killed_run_gives_the_same_numbers_when_figures_are_read_later(
    tmp_path, as_on_a_gpu, at_step
):
    train(make_run(tmp_path / "straight"))
    run_until_killed(make_run(tmp_path / "stopped"), at_step, "before the update")
    summary = train(make_run(tmp_path / "stopped"))
    assert summary.resumed_from == (at_step - 1) // 6 * 6
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "straight")


@pytest.mark.parametrize("at_step", [2, 6, 7, 18, 20])
def test_a_divergence_that_is_seen_later_names_its_step(tmp_path, as_on_a_gpu, at_step):
    def loss(model, batch: Batch) -> torch.Tensor:
        bad = torch.equal(batch["token_ids"], batch_at(at_step - 1)["token_ids"])
        return noisy_loss(model, batch) * (math.nan if bad else 1.0)

    with pytest.raises(DivergedError, match=f"loss became NaN at step {at_step} ") as error:
        train(make_run(tmp_path, loss))
    assert error.value.step == at_step
    assert [row["step"] for row in numbers(tmp_path)] == list(range(at_step))
    last = load_model(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert all(torch.isfinite(p).all() for p in last.parameters())


def test_ids_of_another_tokenizer_are_refused_before_they_reach_the_model(tmp_path):
    run = make_run(tmp_path)
    run.model.forward = None
    run.validate = None
    tokens = torch.tensor([[3, 40]])
    run.batch_at = lambda step: Batch({"token_ids": tokens, "targets": tokens}, 2)
    with pytest.raises(UserError, match="token id 40 is outside the model's vocabulary of 40"):
        train(run)


@pytest.mark.usefixtures("unchecked_types")
def test_an_update_never_waits_for_the_device(tmp_path, monkeypatch):
    """Reading a value of a tensor on "meta" is an error; on a GPU it would be a wait."""
    run = make_run(tmp_path, language_model_loss)
    run.device = torch.device("meta")
    run.model.to("meta")
    monkeypatch.setattr(training_loop, "_precision", lambda *given: nullcontext())  # knows no meta
    monkeypatch.setattr(training_loop, "QueuedFigures", lambda *given: given)
    optimizer = FusedAdamW(run.model.named_parameters())
    update = training_loop._begin_update(run, optimizer, 1, "float32")
    assert [figure.is_meta for figure in update.figures] == [True, True]
    assert update.num_tokens == 48 and optimizer.steps == 1 and optimizer.is_fused


def test_a_run_of_the_lessons_optimizer_is_continued(tmp_path, monkeypatch):
    """Its checkpoints are those of earlier versions; the numbers differ in the last digits only."""
    train(make_run(tmp_path / "straight"))
    with monkeypatch.context() as patch:
        patch.setattr(optimizer_settings, "FusedAdamW", AdamW)
        run_until_killed(make_run(tmp_path / "stopped"), 8, "after the row")
    summary = train(make_run(tmp_path / "stopped"))
    assert summary.resumed_from == 6
    losses = [[row["loss"] for row in numbers(tmp_path / n)[1:]] for n in ("straight", "stopped")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_gradients_are_clipped_to_the_setting(tmp_path):
    """AdamW's division almost hides the size of a gradient. The logged norm is the one before
    clipping, and the means contain the clipped gradient.
    """
    run = make_run(tmp_path, steps=1, warmup_steps=0, max_grad_norm=1e-3)
    train(run)
    state = read_training_state(tmp_path / "checkpoints/step_000001").optimizer
    means = torch.cat([t.flatten() for name, t in state.items() if name.startswith("mean/")])
    assert means.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-4)  # (1 - beta1) * gradient
    assert read_metrics(tmp_path / "metrics.jsonl")[1]["grad_norm"] > 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_learning_rate": 0.5}, "min_learning_rate = 0.5 is above"),
        ({"warmup_steps": 20}, "warmup_steps = 20 leaves none of the 20 steps"),
        ({"steps": 0}, "steps"),
        ({"precision": "float16"}, "precision"),
        ({"optimizer": "sgd"}, "optimizer"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        make_run(tmp_path, **change)


def test_how_often_to_save_and_look_does_not_decide_the_numbers():
    settings = TrainingSettings(steps=3, batch_size=1, learning_rate=1.0)
    looked_at_more = settings.model_copy(update={"validate_every": 1, "checkpoint_every": 1})
    assert settings.deciding() == looked_at_more.deciding()
    assert settings.deciding() != settings.model_copy(update={"seed": 1}).deciding()


def test_looking_more_often_changes_no_loss(tmp_path):
    """Validation draws random numbers here, which must not affect the training."""
    train(make_run(tmp_path / "seldom", validate_every=20))
    train(make_run(tmp_path / "often", validate_every=1))
    losses = [[row["loss"] for row in numbers(tmp_path / name)[1:]] for name in ("seldom", "often")]
    assert losses[0] == losses[1]
