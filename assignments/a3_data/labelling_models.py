"""A model with the methods of fastText's, whose probabilities depend on the line alone."""

import zlib
from collections.abc import Sequence

import numpy as np

PREFIX = "__label__"


class LineModel:
    """Gives each label a number that a line decides, from 0 to `largest`.

    Args:
        labels: without their prefix.
        largest: above 1, some numbers are as fastText returns them by rounding.
    """

    def __init__(self, labels: Sequence[str], largest: float = 1.0) -> None:
        self.words = list(labels)
        self.labels = [PREFIX + label for label in labels]
        self.largest = largest

    def get_labels(self) -> list[str]:
        return list(self.labels)

    def number(self, line: str, label: str) -> float:
        return zlib.crc32(f"{label}\n{line}".encode()) / 2**32 * self.largest

    def predict(
        self, text: str, k: int = 1, threshold: float = 0.0, on_unicode_error: str = "strict"
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the k most probable labels, or all for k = -1, with their probabilities."""
        if "\n" in text:
            raise ValueError("predict processes one line at a time (remove '\\n')")
        found = sorted(((self.number(text, each), each) for each in self.words), reverse=True)
        found = [each for each in found[: k if k >= 0 else None] if each[0] >= threshold]
        return tuple(PREFIX + label for _, label in found), np.array([p for p, _ in found])
