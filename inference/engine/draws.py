"""Draws as in `inference.sampling`, without work on tokens that cannot be drawn.

`sample` sorts the whole vocabulary for top-p, which takes longer than the forward pass of a small
model. Here the most likely tokens are looked at first; only if they do not hold the probability
that was asked for does the lesson's way follow. What this leaves out: penalties and constraints,
which change the logits before.
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from inference.sampling import SMALLEST_TEMPERATURE, SamplingSettings, sample, uniform

MOST_LIKELY = 256  # tokens that are looked at first


def draw(logits: Float[Tensor, " vocab"], settings: SamplingSettings, index: int) -> int:
    """Return the token that `sample` draws from one row; `index` is the number of tokens that the
    answer already has.

    Raises ValueError as `sample` does.
    """
    if logits.device.type == "cpu":
        if settings.temperature < SMALLEST_TEMPERATURE:
            return int(logits.float().numpy().argmax())  # of equal ones the first
        if settings.top_p < 1 and not settings.top_k and not settings.min_p:
            token = _draw_of_most_likely(logits.double(), settings, index)
            if token is not None:
                return token
    return sample(logits[None], [settings], [index])[0]


def _draw_of_most_likely(
    logits: Float[Tensor, " vocab"], settings: SamplingSettings, index: int
) -> int | None:
    """Return the token of top-p sampling if the most likely ones suffice, else None."""
    scaled = (logits - logits.max()) / settings.temperature
    powers = scaled.exp()
    total = powers.sum().item()
    if not total > 0 or len(logits) <= MOST_LIKELY:
        return None
    best = scaled.topk(MOST_LIKELY)
    # Of tokens that are as likely as the last one, some may be missing here.
    chosen = best.indices[best.values > best.values[-1]].numpy()
    chosen.sort()
    probabilities = powers.numpy()[chosen] / total
    order = np.argsort(-probabilities, kind="stable")  # of equal ones, the lowest id first
    before = np.cumsum(probabilities[order]) - probabilities[order]
    if not len(chosen) or before[-1] + probabilities[order[-1]] < settings.top_p:
        return None
    kept = np.sort(order[before < settings.top_p])
    powers_kept = probabilities[kept]
    sums = np.cumsum((powers_kept / powers_kept.sum()).astype(np.float32).astype(np.float64))
    number = uniform(settings.seed, index) * sums[-1]
    return int(chosen[kept[np.searchsorted(sums, number, side="right")]])
