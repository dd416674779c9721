"""The count of each step, and examples of what it kept and dropped.

Examples are chosen by the smallest hashes of a seed and their number, so that they are spread over
the input, and are the same for any number of workers.
"""

import hashlib
import heapq
from array import array
from typing import Any

from data_pipeline.executors.page_steps import EXAMPLE_CHARACTERS

NAMED_PAGES = 20  # in counts.json, for each step
NAMED_SOURCES = 20  # in counts.json; the others are summed
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

    Args:
        step: its name.
        sources: the files of a build, each with its number, shared by all its steps; those that
            the step meets are added. None counts nothing by file.

    Attributes:
        row: its row of counts.json, see lm_core/formats/documents.py.
        seconds: that it took, in all workers together.
        by_source: documents in and out of source 0, of source 1, and so on.
    """

    def __init__(self, step: str, sources: dict[str, int] | None = None) -> None:
        sizes = {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
        self.row: dict[str, Any] = {"step": step, **sizes, "dropped": {}}
        self.seconds = 0.0
        self.examples: dict[str, Examples] = {"": Examples()}  # "" for those that were kept
        self.sources = sources
        self.by_source = array("Q")

    def kept(self, bytes_in: int, bytes_out: int, url: str, text: str, source: str = "") -> None:
        """Count a document that the step kept; `text` is its start, for the examples."""
        self._count(bytes_in, "", url, text, source)
        self.row["documents_out"] += 1
        self.row["bytes_out"] += bytes_out

    def dropped(
        self, bytes_in: int, reason: str, url: str, text: str, problem: str = "", source: str = ""
    ) -> None:
        """Count a document that the step dropped. `problem` names it, if it could not be read."""
        self._count(bytes_in, reason, url, text, source)
        reasons = self.row["dropped"]
        reasons[reason] = reasons.get(reason, 0) + 1
        named = self.row.get("named", [])
        if problem and len(named) < NAMED_PAGES:
            self.row["named"] = [*named, problem]

    def _count(self, bytes_in: int, reason: str, url: str, text: str, source: str) -> None:
        if self.sources is not None:
            place = 2 * self.sources.setdefault(source, len(self.sources))
            self.by_source.extend([0] * (place + 2 - len(self.by_source)))
            self.by_source[place] += 1
            self.by_source[place + 1] += not reason
        self.row["documents_in"] += 1
        self.row["bytes_in"] += bytes_in
        examples = self.examples.setdefault(reason, Examples())
        examples.add(self.row["documents_in"], url, text)

    def of_source(self, number: int) -> tuple[int, int]:
        """Return the documents in and out of a source."""
        both = self.by_source[2 * number : 2 * number + 2]
        return (both[0], both[1]) if both else (0, 0)

    def shown_examples(self) -> dict[str, Any]:
        """Return the step's entry of examples.json."""
        dropped = {reason: e.listed() for reason, e in self.examples.items() if reason}
        return {"step": self.row["step"], "kept": self.examples[""].listed(), "dropped": dropped}


def finished_rows(counts: list[StepCount]) -> list[dict[str, Any]]:
    """Return the rows of counts.json, with "sources" if the build has more than one.

    The sources with the most documents are named, the largest first and then in order of reading;
    the others are summed.
    """
    sources = counts[0].sources or {}
    if len(sources) < 2:
        return [count.row for count in counts]
    names = list(sources)
    by_size = sorted(range(len(names)), key=lambda number: -counts[0].of_source(number)[0])
    rows = []
    for count in counts:
        shown: list[dict[str, Any]] = []
        left_in, left_out = count.row["documents_in"], count.row["documents_out"]
        for number in by_size[:NAMED_SOURCES]:
            given, kept = count.of_source(number)
            shown.append({"source": names[number], "documents_in": given, "documents_out": kept})
            left_in, left_out = left_in - given, left_out - kept
        if others := len(names) - len(shown):
            both = {"documents_in": left_in, "documents_out": left_out}
            shown.append({"source": "", "files": others, **both})
        rows.append({**count.row, "sources": shown})
    return rows
