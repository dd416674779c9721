"""The learning-rate range test: train a few steps, each with a higher rate, and look at the loss.

Smith, 2017, section 3.3 (first in 2015), with a rate that grows by the same factor at every step,
as Gugger (2018) does it. While the rate is too low, the loss stays; then it falls; then it rises.
All groups of parameters keep the ratios of their rates, so a test with Muon moves both optimizers.

Two rates are read off the smoothed loss:

- steepest: where it falls fastest for each factor of the rate;
- a tenth of the divergence: where it has risen by half of what it had fallen, and by at least a
  tenth of the first loss, divided by 10.

The suggestion is their geometric mean, or the only one that was found. The rate just before the
divergence is far too high for a whole run, which stays at it for hundreds of steps and not for one.

What this leaves out: momentum, the length of the run (a longer one needs a lower rate), and noise:
read a mean of both rates as correct within a factor of 2 or 3. A sweep of short runs is more
reliable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lm_core.device import pick_device
from lm_core.formats.token_shards import TokenShards
from lm_core.progress import progress_bar
from lm_core.user_error import UserError
from training.activation_checkpointing import checkpoint_blocks
from training.engine.parallelism import LossOfBatch, OneProcess
from training.runs.pretraining import (
    BATCHES,
    PretrainSettings,
    losses_of,
    new_model,
)
from transformer_lm.model_config import ModelConfig

LOWEST, HIGHEST = 1e-5, 1.0  # learning rates
STEPS = 200  # from the lowest to the highest: 40 for each factor of 10
WEIGHT = 0.9  # of the smoothed loss before, in the smoothed loss
HALF_WIDTH = 5  # steps on both sides between which a slope is measured


@dataclass(frozen=True)
class RangeTest:
    """The losses of a range test.

    Attributes:
        rates: the learning rate of each step.
        losses: the loss of each step, before its update, in nats per token; all finite.
        smoothed: their exponential mean.
        diverged_at: the rate at which the smoothed loss had risen, or the loss was not finite; None
            if the highest rate was reached.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged_at: float | None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest; None if it never falls."""
        return steepest_rate(self.rates, self.smoothed)

    @property
    def tenth_of_divergence(self) -> float | None:
        """A tenth of the rate at which the loss diverged; None if it did not."""
        return None if self.diverged_at is None else self.diverged_at / 10

    @property
    def suggested(self) -> float | None:
        """The geometric mean of the two; the one that exists, if there is only one."""
        found = [rate for rate in (self.steepest, self.tenth_of_divergence) if rate is not None]
        return math.prod(found) ** (1 / len(found)) if found else None


def rates_between(lowest: float, highest: float, steps: int) -> list[float]:
    """Return rates that grow by the same factor from step to step."""
    return [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]


def steepest_rate(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """Return the rate in the middle of the steepest fall over 2 `HALF_WIDTH` steps.

    Args:
        rates: growing by equal factors, so that a step is always as wide in log space.
        smoothed: the smoothed losses.
    """
    falls = {
        smoothed[step + HALF_WIDTH] - smoothed[step - HALF_WIDTH]: rates[step]
        for step in range(HALF_WIDTH, len(smoothed) - HALF_WIDTH)
    }
    deepest = min(falls, default=0.0)
    return falls[deepest] if deepest < 0 else None


def has_diverged(smoothed: Sequence[float]) -> bool:
    """Return whether the last smoothed loss is half of the fall, and a tenth of the first loss,
    above the lowest.
    """
    lowest = min(smoothed)
    return smoothed[-1] - lowest > max((smoothed[0] - lowest) / 2, smoothed[0] / 10)


def find_learning_rate(
    settings: PretrainSettings,
    shards_folder: Path,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RangeTest:
    """Train a new model of the recipe with rates from `lowest` to `highest`; write no file.

    Args:
        settings: the section [pretrain]; its learning rates only give the ratio of Muon's to
            AdamW's. With precision "auto", a GPU computes in bfloat16 and a CPU in float32.
        shards_folder: the folder that `lm data shard` wrote.
        lowest, highest: the first and the last learning rate.
        steps: number of updates, if the loss does not diverge before.

    Raises:
        ValueError: the shards do not fit; or the first loss is not finite.
    """
    training, device = settings.training, pick_device(settings.device)
    shards = TokenShards.open(shards_folder, "train", None)
    config = ModelConfig(vocab_size=shards.vocab_size, **settings.model.model_dump())
    batches = BATCHES[settings.batches](
        shards, config.context_length, training.batch_size, training.seed
    )
    model = new_model(settings, config).to(device).train()
    if training.activation_checkpointing:
        checkpoint_blocks(model)
    optimizer = training.optimizer_of(model.named_parameters(), training.precision)
    is_narrow = {"auto": device.type == "cuda", "bfloat16": True, "float32": False}
    autocast = partial(
        torch.autocast, device.type, torch.bfloat16, enabled=is_narrow[training.precision]
    )
    losses_by_name = losses_of(settings)
    loss_of = LossOfBatch(
        losses_by_name["loss_of_batch"],
        losses_by_name["loss_sum_of_batch"],
        training.micro_batches,
        autocast,
    )
    process, rates, losses, smoothed, mean = OneProcess(), [], [], [], 0.0
    with progress_bar("find the learning rate", steps, "steps") as bar:
        for step, rate in enumerate(rates_between(lowest, highest, steps)):
            batch = batches.batch_at(step)
            batch.check_ids(config.vocab_size)
            loss = process.loss_and_gradients(model, loss_of, batch.to(device)).item()
            if not math.isfinite(loss):
                return _diverged(rates, losses, smoothed, rate)
            rates.append(rate)
            losses.append(loss)
            mean = WEIGHT * mean + (1 - WEIGHT) * loss
            smoothed.append(mean / (1 - WEIGHT ** (step + 1)))
            if has_diverged(smoothed):
                return RangeTest(rates, losses, smoothed, rate)
            process.clip_gradients(model.parameters(), training.max_grad_norm)
            optimizer.step(rate)
            optimizer.zero_gradients()
            bar.advance(1, f"rate {rate:.1e}, loss {smoothed[-1]:.2f}")
    return RangeTest(rates, losses, smoothed, None)


def _diverged(
    rates: list[float], losses: list[float], smoothed: list[float], rate: float
) -> RangeTest:
    if not rates:
        raise UserError(
            "the loss of the new model is not finite before the first update; set "
            'precision = "float32", and look at the shards'
        )
    return RangeTest(rates, losses, smoothed, rate)
