"""How many tokens a prompt or an answer has: a number, a range or a lognormal distribution.

What this leaves out: lengths of real conversations; a file of prompts has them (request_texts.py).
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lm_core.user_error import UserError

EXPECTED = "expected a number (128), a range (64-512) or lognormal:MEAN,SIGMA (lognormal:256,0.8)"
MOST_TOKENS = 10_000_000  # more is a typing mistake


@dataclass(frozen=True)
class TokenLengths:
    """A distribution of lengths.

    Attributes:
        kind: "range" (all lengths equally likely; a number is a range of one) or "lognormal".
        low: of a range, in tokens; the mean of a lognormal distribution, in tokens.
        high: of a range, inclusive; sigma of a lognormal distribution, which has no unit.
    """

    kind: Literal["range", "lognormal"]
    low: float
    high: float

    @property
    def longest(self) -> int | None:
        """The largest length in tokens; None if there is no largest."""
        return int(self.high) if self.kind == "range" else None

    def draw(self, generator: np.random.Generator) -> int:
        """Return one length, at least 1."""
        if self.kind == "range":
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        # The mean of a lognormal distribution is exp(mu + sigma^2 / 2).
        mu = math.log(self.low) - self.high**2 / 2
        return max(1, min(MOST_TOKENS, round(generator.lognormal(mu, self.high))))


def parse_lengths(text: str, option: str) -> TokenLengths:
    """Return the distribution that an option names; raise ValueError if it names none."""
    text = text.strip()
    if found := re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", text):
        low, high = int(found[1]), int(found[2] or found[1])
        if low < 1:
            raise UserError(f"{option} {text}: a length is at least 1 token")
        if high < low:
            raise UserError(f"{option} {text}: the range ends before it begins")
        if high > MOST_TOKENS:
            raise UserError(f"{option} {text}: at most {MOST_TOKENS:,} tokens")
        return TokenLengths("range", low, high)
    if found := re.fullmatch(r"lognormal:\s*([\d.]+)\s*,\s*([\d.]+)", text):
        try:
            mean, sigma = float(found[1]), float(found[2])
        except ValueError:
            raise UserError(f"{option} {text}: {EXPECTED}") from None
        if not 1 <= mean <= MOST_TOKENS:
            raise UserError(f"{option} {text}: the mean is between 1 and {MOST_TOKENS:,} tokens")
        if sigma > 5:
            raise UserError(f"{option} {text}: SIGMA is the spread of the logarithm, at most 5")
        return TokenLengths("lognormal", mean, sigma)
    raise UserError(f"{option} {text}: {EXPECTED}")
