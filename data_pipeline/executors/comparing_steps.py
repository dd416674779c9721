"""The steps that compare documents with each other: repeated lines, exact and near duplicates.

`COMPARING_STEPS` lists them in order. A step is a name, the section of the settings that it reads,
and a function that gets all texts, which it may read several times, and yields for each what is
left of it, or None to drop it. The texts come from a file, so a step holds only what it makes of
them. To add a step, write such a function and add a row.

What this leaves out: the table of lines and the sets of shingles are in memory.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.exact_dedup import (
    ExactDedupSettings,
    documents_of_each_line,
    drop_repeated_lines,
    first_of_each,
)
from data_pipeline.executors.scratch_documents import ScratchDocuments, Texts
from data_pipeline.executors.step_counts import StepCount
from data_pipeline.minhash_dedup import MinHashSettings, first_of_each_component
from lm_core.artifact_paths import remove_path
from lm_core.formats.documents import Document
from lm_core.settings import Settings


class Surroundings(NamedTuple):
    """What a step may use besides its texts and its section.

    Attributes:
        settings: all of DocumentSettings.
        scratch: an empty folder, which is removed after the step.
    """

    settings: Settings
    scratch: Path


@dataclass(frozen=True)
class ComparingStep:
    """A step that compares documents.

    Attributes:
        name: in counts.json.
        settings_key: the field of DocumentSettings that the function gets.
        reason: why documents are dropped.
        function: (texts, its section, surroundings) -> for each text, the text that is left, or
            None.
    """

    name: str
    settings_key: str
    reason: str
    function: Callable[[Iterable[str], Any, Surroundings], Iterator[str | None]]


def without_repeated_lines(
    texts: Iterable[str], settings: ExactDedupSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield the texts without lines that many share; None for what is too short without them."""
    documents_of_line = documents_of_each_line(texts)
    min_words = surroundings.settings.quality.min_words
    for text in texts:
        shortened, _ = drop_repeated_lines(text, documents_of_line, settings)
        yield shortened if len(shortened.split()) >= min_words else None


def without_copies(
    texts: Iterable[str], settings: ExactDedupSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield None for texts that occurred before."""
    return only(first_of_each(texts), texts)


def without_near_duplicates(
    texts: Iterable[str], settings: MinHashSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield None for texts that are similar to an earlier one."""
    return only(first_of_each_component(texts, settings), texts)


def only(positions: Iterable[int], texts: Iterable[str]) -> Iterator[str | None]:
    """Yield the texts at these positions, which rise, and None for all others.

    >>> list(only([0, 2], ["a", "b", "c"]))
    ['a', None, 'c']
    """
    left = iter(positions)
    wanted = next(left, None)
    for position, text in enumerate(texts):
        yield text if position == wanted else None
        if position == wanted:
            wanted = next(left, None)


COMPARING_STEPS = (
    ComparingStep(
        "drop repeated lines", "exact_dedup", "too short without them", without_repeated_lines
    ),
    ComparingStep("exact duplicates", "exact_dedup", "same text", without_copies),
    ComparingStep("near duplicates", "minhash", "similar text", without_near_duplicates),
)


def run_comparing_step(
    step: ComparingStep, documents: ScratchDocuments, settings: Settings, folder: Path
) -> tuple[ScratchDocuments, StepCount]:
    """Run a step on the documents of a file.

    Args:
        step: the step.
        documents: those before it; their file is deleted.
        settings: all of DocumentSettings.
        folder: where to write the file of those that are left.

    Returns:
        The documents that are left, and the step's count.
    """
    started = time.perf_counter()
    count = StepCount(step.name)
    left = ScratchDocuments(folder / f"{step.name}.arrow")
    surroundings = Surroundings(settings, folder / step.name)
    surroundings.scratch.mkdir()
    texts = Texts(documents)
    verdicts = step.function(texts, getattr(settings, step.settings_key), surroundings)
    left.write(_left(documents, verdicts, step.reason, count))
    documents.remove()
    remove_path(surroundings.scratch)
    count.seconds = time.perf_counter() - started
    return left, count


def _left(
    documents: Iterable[Document], verdicts: Iterator[str | None], reason: str, count: StepCount
) -> Iterator[Document]:
    for document, text in zip(documents, verdicts, strict=True):
        size = len(document.text.encode("utf-8"))
        if text is None:
            count.dropped(size, reason, document.url, document.text)
            continue
        count.kept(size, len(text.encode("utf-8")), document.url, text)
        yield document if text == document.text else replace(document, text=text)
