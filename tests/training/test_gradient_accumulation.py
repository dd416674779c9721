"""The gradient of micro-batches is that of the whole batch, in the lesson and in the loop."""

import pytest
import torch
from torch import nn

from lm_core.formats.checkpoint_files import read_training_state
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.user_error import UserError
from training.batching import Batch
from training.engine import parallelism
from training.gradient_accumulation import accumulate_gradients
from training.runs.pretraining import language_model_loss, language_model_loss_sum
from training.runs.training_settings import TrainingSettings
from training.training_loop import TrainingRun, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def make_batch(rows: int = 12) -> Part:
    torch.manual_seed(1)
    return (
        torch.rand(rows, 4, 5).double(),
        torch.randint(0, 3, (rows, 4)),
        torch.rand(rows, 4) > 0.4,
    )


def loss_sum(model: nn.Module, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    x, targets, mask = part
    losses = nn.functional.cross_entropy(model(x).mT, targets, reduction="none")
    return (losses * mask).sum(), mask.sum()


def parts_of(batch: Part, *sizes: int) -> list[Part]:
    return list(zip(*(tensor.split(list(sizes)) for tensor in batch), strict=True))


def whole(batch: Part) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model = make_model()
    total, count = loss_sum(model, batch)
    (total / count).backward()
    return total / count, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("sizes", [(12,), (6, 6), (1, 2, 9), (4, 4, 4), (1,) * 12])
@pytest.mark.parametrize("masked", ["all count", "some count", "a part without any", "first none"])
def test_the_gradient_is_the_whole_batchs(sizes, masked):
    x, targets, mask = make_batch()
    if masked == "all count":
        mask[:] = True
    elif masked == "a part without any":
        mask[-sizes[-1] :] = len(sizes) == 1
    elif masked == "first none":
        mask[: sizes[0]] = len(sizes) == 1
    batch = x, targets, mask
    expected_loss, expected = whole(batch)
    model = make_model()
    loss = accumulate_gradients(model, loss_sum, parts_of(batch, *sizes))
    assert loss.dtype == torch.float64 and not loss.requires_grad
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-13, atol=0)
    for parameter, right in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, right, rtol=1e-11, atol=1e-14)


def test_the_mean_of_means_is_another_gradient():
    """So that the test above can fail: with these masks, it is off by more than a tenth."""
    batch = make_batch()
    batch[2][:6, 1:] = False
    _, expected = whole(batch)
    model = make_model()
    for part in parts_of(batch, 6, 6):
        total, count = loss_sum(model, part)
        (total / count / 2).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    off = max((a - b).norm() / b.norm() for a, b in zip(gradients, expected, strict=True))
    assert off > 0.1


def test_a_number_on_the_cpu_and_frozen_and_unused_parameters():
    model = make_model()
    model.append(nn.Linear(2, 2))  # not used
    model[0].weight.requires_grad_(False)

    def counted(model: nn.Module, part: Part) -> tuple[torch.Tensor, int]:
        total, count = loss_sum(model[:3], part)
        return total, int(count)

    batch = make_batch()
    accumulate_gradients(model, counted, parts_of(batch, 5, 7))
    _, expected = whole(batch)
    assert model[0].weight.grad is None and model[3].weight.grad is None
    torch.testing.assert_close(model[2].bias.grad, expected[3], rtol=1e-11, atol=1e-14)


def test_sums_of_gradients_in_bfloat16_are_kept_in_float32():
    """Alone, each of 255 gradients of 1/256 would vanish next to one of 1."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    scales = [1.0] + [1 / 256] * 255

    def loss_sum_of(model: nn.Module, scale: float) -> tuple[torch.Tensor, int]:
        return (model(torch.ones(1, 1, dtype=torch.bfloat16)) * scale).sum(), 1

    accumulate_gradients(model, loss_sum_of, scales)
    assert model.weight.grad.dtype == torch.bfloat16
    assert model.weight.grad.item() == pytest.approx((1 + 255 / 256) / 256, rel=2**-8)


def test_gradients_of_an_earlier_batch_are_refused():
    model, batch = make_model(), make_batch()
    accumulate_gradients(model, loss_sum, [batch])
    with pytest.raises(UserError, match="have gradients already; clear them"):
        accumulate_gradients(model, loss_sum, [batch])


def test_a_batch_in_which_nothing_counts_is_refused():
    x, targets, mask = make_batch()
    with pytest.raises(UserError, match="no token of the batch counts"):
        accumulate_gradients(make_model(), loss_sum, parts_of((x, targets, mask & False), 6, 6))


# The loop.


def make_run(folder, micro_batches: int, **changes) -> TrainingRun:
    shape = {"vocab_size": 40, "context_length": 12, "d_model": 16, "num_layers": 2, "d_ff": 24}
    torch.manual_seed(0)

    def batch_at(step: int) -> Batch:
        tokens = torch.randint(0, 40, (5, 13), generator=torch.Generator().manual_seed(step))
        return Batch({"token_ids": tokens[:, :-1], "targets": tokens[:, 1:]}, 60)

    settings = {"steps": 4, "batch_size": 5, "learning_rate": 1e-2, "precision": "float32"}
    return TrainingRun(
        model=TransformerLM(ModelConfig(num_heads=2, num_kv_heads=1, **shape)),
        loss_of_batch=language_model_loss,
        loss_sum_of_batch=language_model_loss_sum,
        batch_at=batch_at,
        validate=None,
        settings=TrainingSettings(**settings | {"micro_batches": micro_batches} | changes),
        checkpoint_folder=folder / "checkpoints",
        metric_log=MetricLog(folder / "metrics.jsonl", "pretrain"),
        fingerprint="f",
    )


@pytest.mark.parametrize("micro_batches", [2, 3, 5])
def test_a_run_with_micro_batches_gives_the_same_numbers(tmp_path, micro_batches, monkeypatch):
    clipped = []
    clip = parallelism.clip_gradients
    monkeypatch.setattr(
        parallelism, "clip_gradients", lambda *given: clipped.append(1) or clip(*given)
    )
    train(make_run(tmp_path / "whole", 1, max_grad_norm=0.1))
    train(make_run(tmp_path / "parts", micro_batches, max_grad_norm=0.1))
    assert len(clipped) == 8, "one clip for each update"
    rows = [read_metrics(tmp_path / name / "metrics.jsonl")[1:] for name in ("whole", "parts")]
    for first, second in zip(*rows, strict=True):
        assert second["tokens"] == first["tokens"]
        for figure in ("loss", "grad_norm"):
            assert second[figure] == pytest.approx(first[figure], rel=1e-4)
    states = [
        read_training_state(tmp_path / name / "checkpoints/step_000004").optimizer
        for name in ("whole", "parts")
    ]
    for name in states[0]:
        if name.startswith("mean/"):  # AdamW's step would hide the size of a gradient
            torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-3, atol=1e-6)


def test_the_model_never_sees_more_than_a_micro_batch(tmp_path):
    run, sizes = make_run(tmp_path, 3, precision="auto"), set()
    run.model.register_forward_pre_hook(lambda module, given: sizes.add(len(given[0])))
    train(run)
    assert sizes == {2, 1}


def test_a_task_whose_batches_cannot_be_split_is_refused(tmp_path):
    run = make_run(tmp_path, 2)
    run.loss_sum_of_batch = None
    with pytest.raises(UserError, match="micro_batches = 2, but batches of train cannot be split"):
        train(run)
    with pytest.raises(ValueError, match="micro_batches = 6 is more than batch_size = 5"):
        make_run(tmp_path, 6)
