"""The count of each step, and examples of what it kept and dropped.

Examples are chosen by the smallest hashes of a seed and their number, so that they are spread over
the input, and are the same for any number of workers.
"""

import hashlib
import heapq
from typing import Any

from data_pipeline.executors.page_steps import EXAMPLE_CHARACTERS

NAMED_PAGES = 20  # in counts.json, for each step
EXAMPLES = 5  # kept, and dropped for each reason
SEED = b"examples of the documents"


class Examples:
    """The few texts of the smallest hashes among many."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, str, str]] = []

    def add(self, number: int, url: str, text: str) -> None:
        """Consider a text. `number` is its position, the same in every run."""
        digest = hashlib.blake2b(SEED + number.to_bytes(8, "little"), digest_size=8).digest()
        order = -int.from_bytes(digest, "little")  # the heap's first item is the largest hash
        if len(self.heap) < EXAMPLES:
            heapq.heappush(self.heap, (order, number, url, text[:EXAMPLE_CHARACTERS]))
        elif order > self.heap[0][0]:
            heapq.heapreplace(self.heap, (order, number, url, text[:EXAMPLE_CHARACTERS]))

    def listed(self) -> list[dict[str, str]]:
        """Return them in the order of their hashes."""
        return [{"url": url, "text": text} for _, _, url, text in sorted(self.heap, reverse=True)]


class StepCount:
    """The documents that a step kept and dropped, counted.

    Attributes:
        row: its row of counts.json, see lm_core/formats/documents.py.
        seconds: that it took, in all workers together.
    """

    def __init__(self, step: str) -> None:
        sizes = {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
        self.row: dict[str, Any] = {"step": step, **sizes, "dropped": {}}
        self.seconds = 0.0
        self.examples: dict[str, Examples] = {"": Examples()}  # "" for those that were kept

    def kept(self, bytes_in: int, bytes_out: int, url: str, text: str) -> None:
        """Count a document that the step kept; `text` is its start, for the examples."""
        self._count(bytes_in, "", url, text)
        self.row["documents_out"] += 1
        self.row["bytes_out"] += bytes_out

    def dropped(self, bytes_in: int, reason: str, url: str, text: str, problem: str = "") -> None:
        """Count a document that the step dropped. `problem` names it, if it could not be read."""
        self._count(bytes_in, reason, url, text)
        reasons = self.row["dropped"]
        reasons[reason] = reasons.get(reason, 0) + 1
        named = self.row.get("named", [])
        if problem and len(named) < NAMED_PAGES:
            self.row["named"] = [*named, problem]

    def _count(self, bytes_in: int, reason: str, url: str, text: str) -> None:
        self.row["documents_in"] += 1
        self.row["bytes_in"] += bytes_in
        examples = self.examples.setdefault(reason, Examples())
        examples.add(self.row["documents_in"], url, text)

    def shown_examples(self) -> dict[str, Any]:
        """Return the step's entry of examples.json."""
        dropped = {reason: e.listed() for reason, e in self.examples.items() if reason}
        return {"step": self.row["step"], "kept": self.examples[""].listed(), "dropped": dropped}
