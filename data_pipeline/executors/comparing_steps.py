"""The steps that compare documents with each other, or with evaluation sets.

`COMPARING_STEPS` lists them in order. A step is a name, the section of the settings that it reads,
and a function that gets all texts, which it may read several times, and yields for each what is
left of it, or None to drop it. The texts come from a file, so a step holds only what it makes of
them. To add a step, write such a function and add a row.

What this leaves out: repeated substrings are searched for in memory, all texts at once.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.decontamination import (
    DecontaminationSettings,
    clean_pieces,
    common_ngrams,
    contamination_report,
    index_of_files,
)
from data_pipeline.exact_dedup import (
    ExactDedupSettings,
    drop_repeated_lines,
    drop_repeated_paragraphs,
    first_of_each,
    repeated_lines,
)
from data_pipeline.executors.scratch_documents import ScratchDocuments, Texts
from data_pipeline.executors.step_counts import StepCount
from data_pipeline.minhash_dedup import MinHashSettings
from data_pipeline.out_of_core.lesson_or_out_of_core import near_duplicate_clusters
from data_pipeline.substring_dedup import SubstringDedupSettings, drop_repeated_spans
from lm_core.artifact_paths import remove_path
from lm_core.formats.documents import Document
from lm_core.settings import Settings

CLUSTERS_FILE = "clusters.json"
FEWEST_WORDS = "quality.min_words"  # of a text that lost a part
SHOWN_CLUSTERS, SHOWN_URLS = 10, 5  # in that file: the largest, and the first of each


class Surroundings(NamedTuple):
    """Settings and a folder that a step may use besides its texts and its section.

    Attributes:
        settings: all of DocumentSettings.
        scratch: an empty folder, which is removed after the step.
        reports: what the step found, by the name of a file for it; the step may add some.
    """

    settings: Settings
    scratch: Path
    reports: dict[str, Any]


@dataclass(frozen=True)
class ComparingStep:
    """A step that compares documents.

    Attributes:
        name: in counts.json.
        settings_key: the field of DocumentSettings that the function gets.
        reason: why documents are dropped.
        function: (texts, its section, surroundings) -> for each text, the text that is left, or
            None.
        is_on: whether its section asks for the step.
        decided_by: the setting that decides what is dropped, if it is in another section.
    """

    name: str
    settings_key: str
    reason: str
    function: Callable[[Texts, Any, Surroundings], Iterator[str | None]]
    is_on: Callable[[Any], bool] = lambda settings: True
    decided_by: str = ""

    @property
    def setting(self) -> str:
        """Name for the user of what decides which documents are dropped."""
        return f"documents.{self.decided_by or self.settings_key}"


def without_repeated_lines(
    texts: Texts, settings: ExactDedupSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield the texts without lines that many share; None for what is too short without them."""
    documents_of_line = repeated_lines(lambda: texts, settings)
    for text in texts:
        shortened, _ = drop_repeated_lines(text, documents_of_line, settings)
        yield _if_long_enough(shortened, text, surroundings)


def without_repeated_paragraphs(
    texts: Texts, settings: ExactDedupSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield the texts without paragraphs that occurred before; None for what is too short then."""
    seen: set[int] = set()
    for text in texts:
        shortened, _ = drop_repeated_paragraphs(text, seen, settings)
        yield _if_long_enough(shortened, text, surroundings)


def _if_long_enough(shortened: str, text: str, surroundings: Surroundings) -> str | None:
    """Return the text, unless something was dropped from it and too few words are left for the
    quality rules.
    """
    settings = surroundings.settings
    if shortened == text or "quality rules" in settings.leave_out:
        return shortened or None
    return shortened if len(shortened.split()) >= settings.quality.min_words else None


def without_copies(
    texts: Texts, settings: ExactDedupSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield None for texts that occurred before."""
    return only(first_of_each(texts), texts)


def without_near_duplicates(
    texts: Texts, settings: MinHashSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield None for texts that are similar to an earlier one. Report the largest clusters."""
    num_processes = max(surroundings.settings.num_processes, 1)
    firsts = near_duplicate_clusters(texts, settings, surroundings.scratch, num_processes)
    surroundings.reports[CLUSTERS_FILE] = largest_clusters(firsts, texts.urls())
    return only(np.flatnonzero(firsts == np.arange(len(firsts))), texts)


def largest_clusters(firsts: np.ndarray, urls: Iterable[str]) -> list[dict[str, Any]]:
    """Return the number of documents of the largest clusters, and the URLs of the first few.

    Of two clusters of the same size, the one whose first document comes earlier is first. A
    document that is alone in its cluster does not count.

    Args:
        firsts: int64 [documents], the first document of each document's cluster.
        urls: of all documents, in the same order.

    >>> largest_clusters(np.array([0, 1, 2, 1, 1, 2]), "abcdef")
    [{'documents': 3, 'urls': ['b', 'd', 'e']}, {'documents': 2, 'urls': ['c', 'f']}]
    """
    sizes = np.bincount(firsts)
    largest = [f for f in np.argsort(-sizes, kind="stable")[:SHOWN_CLUSTERS] if sizes[f] > 1]
    shown = {first: np.flatnonzero(firsts == first)[:SHOWN_URLS].tolist() for first in largest}
    positions = {position for members in shown.values() for position in members}
    url_at = {position: url for position, url in enumerate(urls) if position in positions}
    return [
        {"documents": int(sizes[first]), "urls": [url_at[position] for position in members]}
        for first, members in shown.items()
    ]


def without_repeated_substrings(
    texts: Texts, settings: SubstringDedupSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield the texts without long spans of words that occurred before; None for what is too short
    then.
    """
    given = list(texts)
    for text, (shortened, _) in zip(
        given, drop_repeated_spans(given, settings.min_words), strict=True
    ):
        yield _if_long_enough(shortened, text, surroundings)


def without_evaluation_sets(
    texts: Texts, settings: DecontaminationSettings, surroundings: Surroundings
) -> Iterator[str | None]:
    """Yield None for texts that contain a part of an evaluation set, or what is left around it."""
    index = index_of_files(settings)
    hits = [index.contaminations(text) for text in texts]
    common = common_ngrams(hits, settings.max_documents_per_ngram)
    found = ((url, each) for url, each in zip(texts.urls(), hits, strict=True) if each)
    surroundings.reports["contamination.json"] = contamination_report(index, found, common)
    for text, each in zip(texts, hits, strict=True):
        yield "\n\n".join(clean_pieces(text, each, common, settings)) or None


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
        "drop repeated lines",
        "exact_dedup",
        "too short without them",
        without_repeated_lines,
        decided_by=FEWEST_WORDS,
    ),
    ComparingStep(
        "drop repeated paragraphs",
        "exact_dedup",
        "too short without them",
        without_repeated_paragraphs,
        lambda settings: settings.paragraphs,
        FEWEST_WORDS,
    ),
    ComparingStep("exact duplicates", "exact_dedup", "same text", without_copies),
    ComparingStep("near duplicates", "minhash", "similar text", without_near_duplicates),
    ComparingStep(
        "drop repeated substrings",
        "substring_dedup",
        "too short without them",
        without_repeated_substrings,
        lambda settings: settings.enabled,
        FEWEST_WORDS,
    ),
    ComparingStep(
        "decontaminate",
        "decontamination",
        "part of an evaluation set",
        without_evaluation_sets,
        lambda settings: bool(settings.evaluation_sets),
    ),
)


def comparing_steps_of(settings: Settings) -> list[ComparingStep]:
    """Return the steps that a DocumentSettings asks for, in order."""
    asked = [step for step in COMPARING_STEPS if step.is_on(getattr(settings, step.settings_key))]
    return [step for step in asked if step.name not in settings.leave_out]


def run_comparing_step(
    step: ComparingStep,
    documents: ScratchDocuments,
    settings: Settings,
    folder: Path,
    reports: dict[str, Any] | None = None,
    sources: dict[str, int] | None = None,
) -> tuple[ScratchDocuments, StepCount]:
    """Run a step on the documents of a file.

    Args:
        step: the step.
        documents: those before it; their file is deleted.
        settings: all of DocumentSettings.
        folder: where to write the file of those that are left.
        reports: the step may add what it found, by the name of a file; None to forget it.
        sources: see StepCount.

    Returns:
        The documents that are left, and the step's count.
    """
    started = time.perf_counter()
    count = StepCount(step.name, sources)
    left = ScratchDocuments(folder / f"{step.name}.arrow")
    surroundings = Surroundings(settings, folder / step.name, {} if reports is None else reports)
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
            count.dropped(size, reason, document.url, document.text, source=document.source)
            continue
        count.kept(size, len(text.encode("utf-8")), document.url, text, document.source)
        yield document if text == document.text else replace(document, text=text)
