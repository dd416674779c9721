"""A loss far above its running mean stops the run, and other losses do not."""

import statistics

import pytest
import torch

from lm_core.formats.checkpoint_files import list_checkpoints
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.user_error import UserError
from training.batching import Batch
from training.engine.divergence import DivergedError, check_jump, running_loss_after
from training.runs.training_settings import TrainingSettings
from training.training_loop import TrainingRun, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig


def running_over(losses) -> list[float] | None:
    running = None
    for loss in losses:
        running = running_loss_after(loss, running)
    return running


def test_mean_and_variance_follow_the_losses():
    torch.manual_seed(0)
    losses = (3 + 0.5 * torch.randn(5000)).tolist()
    seen = [running_over(losses[:n]) for n in range(4000, 5000, 50)]
    assert statistics.mean(mean for mean, _ in seen) == pytest.approx(3, abs=0.1)
    assert statistics.mean(variance for _, variance in seen) == pytest.approx(0.25, rel=0.2)
    assert running_over([2.0]) == [2.0, 0.0]
    assert running_over([2.0, 4.0]) == pytest.approx([2.1, 0.95 * 0.05 * 4])


def test_the_message_names_step_loss_mean_and_deviation():
    message = (
        r"loss jumped to 9 at step 250: 12 times its standard deviation of 0.5 above its running "
        r"mean of 3;"
    )
    with pytest.raises(DivergedError, match=message) as error:
        check_jump(250, 9.0, [3.0, 0.25], 10)
    assert error.value.step == 250 and isinstance(error.value, UserError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("loss", "running", "most"),
    [
        (7.9, [3.0, 0.25], 10),  # 9.8 deviations
        (0.1, [3.0, 0.25], 10),  # only a rise counts
        (9.0, [3.0, 0.25], 0),  # switched off
        (9.0, None, 10),
        (0.19, [0.0, 1e-12], 10),  # a deviation below 0.02 counts as 0.02
    ],
)
def test_other_losses_are_let_through(loss, running, most):
    check_jump(250, loss, running, most)


def test_a_jump_of_a_loss_that_hardly_varies():
    with pytest.raises(DivergedError):
        check_jump(250, 0.21, [0.0, 1e-12], 10)


def make_run(folder, jump_at: int = 0, **changes) -> TrainingRun:
    shape = {"vocab_size": 5, "context_length": 3, "d_model": 4, "num_layers": 1, "d_ff": 4}
    torch.manual_seed(0)
    tokens = torch.zeros(1, 3, dtype=torch.int64)

    def loss(model: TransformerLM, batch: Batch) -> torch.Tensor:
        factor = 1 if int(batch["step"]) != jump_at else 20
        return factor * (1 + 0 * model(batch["token_ids"]).sum())

    settings = {"steps": 130, "batch_size": 1, "learning_rate": 1e-2, "precision": "float32"}
    return TrainingRun(
        model=TransformerLM(ModelConfig(num_heads=1, num_kv_heads=1, **shape)),
        loss_of_batch=loss,
        batch_at=lambda step: Batch({"token_ids": tokens, "step": torch.tensor(step + 1)}, 3),
        validate=None,
        settings=TrainingSettings(**settings | {"checkpoint_every": 30} | changes),
        checkpoint_folder=folder / "checkpoints",
        metric_log=MetricLog(folder / "metrics.jsonl", "pretrain"),
        fingerprint="f",
    )


def test_a_run_stops_before_it_saves(tmp_path):
    with pytest.raises(DivergedError, match="jumped to 20 at step 120"):
        train(make_run(tmp_path, jump_at=120))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")][-1] == "step_000090"
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 119
    # The mean is part of the checkpoint: the resumed run stops at the same step.
    with pytest.raises(DivergedError, match="jumped to 20 at step 120"):
        train(make_run(tmp_path, jump_at=120))
    assert train(make_run(tmp_path, jump_at=120, stop_at_deviations=0)).resumed_from == 90


@pytest.mark.parametrize(
    ("jump_at", "changes"), [(100, {}), (120, {"warmup_steps": 125}), (40, {})], ids=str
)
def test_the_beginning_of_a_run_is_exempt(tmp_path, jump_at, changes):
    assert train(make_run(tmp_path, jump_at, **changes)).step == 130


def test_the_settings_may_change_before_a_resume():
    settings = TrainingSettings(steps=3, batch_size=2, learning_rate=1.0)
    changed = {"stop_at_deviations": 0.0, "activation_checkpointing": True}
    assert settings.model_copy(update=changed).deciding() == settings.deciding()
    assert settings.model_copy(update={"micro_batches": 2}).deciding() != settings.deciding()
