"""The funnel: pages -> text -> language -> quality -> personal data -> duplicates -> the
documents artifact.

Each step counts the documents in, the documents out and the reasons for dropping the rest, so that
you can see the cost of each rule. Steps that look at one page run in several processes; steps that
compare documents run in this one.

A page that is too large, takes too long or makes the code fail is dropped and counted like any
other; `counts.json` names the first few of them. If the code fails on every page, the fault is in
the code, and the error is raised.

What this leaves out: inputs larger than memory (the text of all pages is in memory from the step
that compares lines).
"""

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from data_pipeline.exact_dedup import (
    ExactDedupSettings,
    documents_of_each_line,
    drop_repeated_lines,
    first_of_each,
)
from data_pipeline.executors.page_time_limit import PageTooSlow, time_limit
from data_pipeline.language_id import (
    LanguageIdentifier,
    LanguageSettings,
    failed_language_rule,
    language_model_path,
)
from data_pipeline.minhash_dedup import MinHashSettings, first_of_each_component
from data_pipeline.personal_data import mask_personal_data
from data_pipeline.quality_rules import QualitySettings, first_failed_rule
from data_pipeline.sources.http_responses import TOO_LARGE
from data_pipeline.sources.page_files import read_every_page
from data_pipeline.sources.page_rows import RowKeys
from data_pipeline.sources.warc_files import LostPage, Page
from data_pipeline.text_extraction import extract_text
from lm_core.formats.documents import Document, document_id, write_documents
from lm_core.progress import ProgressBar, progress_bar
from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_core.worker_pool import worker_pool

EXTRACT, LANGUAGE, QUALITY, PERSONAL_DATA, LINES, EXACT, NEAR = (
    "extract text",
    "identify language",
    "quality rules",
    "mask personal data",
    "drop repeated lines",
    "exact duplicates",
    "near duplicates",
)
PAGE_STEPS = (EXTRACT, LANGUAGE, QUALITY, PERSONAL_DATA)
TOO_SLOW = "too slow"
FAILED = "error"  # followed by the name of the error's class
NAMED_PAGES = 20  # in counts.json, for each step


class DocumentSettings(Settings):
    """Every threshold of `lm data build`.

    Attributes:
        language: see LanguageSettings.
        quality: see QualitySettings.
        exact_dedup: see ExactDedupSettings.
        minhash: see MinHashSettings.
        max_page_bytes: a page with more bytes than this after unpacking is dropped as too
            large.
        max_page_seconds: a page that takes longer than this is dropped as too slow.
        num_processes: that read pages; does not change the output.
    """

    language: LanguageSettings = LanguageSettings()
    quality: QualitySettings = QualitySettings()
    exact_dedup: ExactDedupSettings = ExactDedupSettings()
    minhash: MinHashSettings = MinHashSettings()
    max_page_bytes: int = Field(default=10_000_000, ge=1)
    max_page_seconds: float = Field(default=30.0, gt=0)
    num_processes: int = Field(default=2, ge=1)


@dataclass(frozen=True)
class PageOutcome:
    """Result of the one-page steps for a page.

    `sizes` holds the number of bytes into each step reached, and out of the last one. `problem`
    names a page that was lost for a reason other than its text.
    """

    document: Document | None
    sizes: tuple[int, ...]
    dropped_because: str = ""
    problem: str = ""


class PageProcessor:
    """The steps for one page. It holds the language model, so each process builds its own."""

    def __init__(self, settings: DocumentSettings) -> None:
        self.settings = settings
        self.identifier = LanguageIdentifier(language_model_path())

    def process(self, page: Page | LostPage, source: str) -> PageOutcome:
        """Run a page through PAGE_STEPS until one drops it, and catch errors that it causes."""
        if isinstance(page, LostPage):
            problem = f"{source}: {page.detail}"
            return PageOutcome(None, (page.stored_bytes,), page.reason, problem)
        sizes = [len(page.payload)]
        if sizes[0] > self.settings.max_page_bytes:
            problem = f"{source}: {page.url} has {sizes[0]:,} bytes"
            return PageOutcome(None, tuple(sizes), TOO_LARGE, problem)
        try:
            with time_limit(self.settings.max_page_seconds):
                return self._run_steps(page, source, sizes)
        except PageTooSlow:
            return PageOutcome(None, tuple(sizes), TOO_SLOW, f"{source}: {page.url}")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            words = " ".join(str(error).split())[:200]
            kind = type(error).__name__
            where = f"{Path(place.filename).name}, line {place.lineno}"
            problem = f"{source}: {page.url}: {kind}: {words} ({where})"
            return PageOutcome(None, tuple(sizes), f"{FAILED} ({kind})", problem)

    def _run_steps(self, page: Page, source: str, sizes: list[int]) -> PageOutcome:
        """Run the steps, and append to `sizes` the number of bytes that each step passes on."""
        text = extract_text(page.payload, page.content_type, page.charset)
        if not text:
            reason = "not a text format" if text is None else "no text found"
            return PageOutcome(None, tuple(sizes), reason)
        sizes.append(len(text.encode("utf-8")))
        language = self.identifier.identify(text, self.settings.language.max_characters)
        if reason := failed_language_rule(language, self.settings.language):
            return PageOutcome(None, tuple(sizes), reason)
        sizes.append(sizes[-1])
        if reason := first_failed_rule(text, self.settings.quality):
            return PageOutcome(None, tuple(sizes), reason)
        sizes.append(sizes[-1])
        text, masks = mask_personal_data(text)
        sizes.append(len(text.encode("utf-8")))
        scores = {"language_confidence": language.confidence, "masks": float(sum(masks.values()))}
        document = Document("", text, source, page.url, language.code, scores)
        return PageOutcome(document, tuple(sizes))


_processor: PageProcessor | None = None  # one per worker process, set once by _start_worker


def _start_worker(settings: DocumentSettings) -> None:
    global _processor
    _processor = PageProcessor(settings)


def _process_in_worker(page_and_source: tuple[Page | LostPage, str]) -> PageOutcome:
    assert _processor is not None, "the pool was started without _start_worker"
    return _processor.process(*page_and_source)


def process_pages(
    paths: Sequence[Path],
    settings: DocumentSettings,
    num_pages: int | None = None,
    keys: RowKeys | None = None,
) -> Iterator[PageOutcome]:
    """Yield the outcomes in the order of the pages.

    Files without any page raise here, in the process that reads them.
    """
    pages = read_every_page(paths, settings.max_page_bytes, keys or RowKeys())
    with progress_bar("extract and filter", num_pages, "pages") as bar:
        if settings.num_processes == 1:
            processor = PageProcessor(settings)
            for page, source in pages:
                yield processor.process(page, source)
                bar.advance()
            return
        with worker_pool(settings.num_processes, _start_worker, (settings,)) as pool:
            for outcome in pool.map(_process_in_worker, pages, chunksize=4):
                yield outcome
                bar.advance()


def _counts_of_page_steps(
    outcomes: Iterable[PageOutcome],
) -> tuple[list[Document], list[dict[str, Any]]]:
    """Return the documents that are left, and one row of counts for each of PAGE_STEPS."""
    documents = []
    rows = [_row(step) for step in PAGE_STEPS]
    for outcome in outcomes:
        passed = len(outcome.sizes) - 1
        for step, row in enumerate(rows[: passed + 1]):
            row["documents_in"] += 1
            row["bytes_in"] += outcome.sizes[step]
            if step < passed:
                row["documents_out"] += 1
                row["bytes_out"] += outcome.sizes[step + 1]
        if outcome.document is not None:
            documents.append(outcome.document)
        else:
            dropped = rows[passed]["dropped"]
            dropped[outcome.dropped_because] = dropped.get(outcome.dropped_because, 0) + 1
            if outcome.problem:
                named = rows[passed].setdefault("named", [])
                if len(named) < NAMED_PAGES:
                    named.append(outcome.problem)
    return documents, rows


def _row(step: str) -> dict[str, Any]:
    sizes = {"documents_in": 0, "documents_out": 0, "bytes_in": 0, "bytes_out": 0}
    return {"step": step, **sizes, "dropped": {}}


def _text_bytes(documents: Iterable[Document]) -> int:
    return sum(len(document.text.encode("utf-8")) for document in documents)


@contextmanager
def _comparing_step(
    documents: list[Document], step: str, counts: list[dict[str, Any]], bar: ProgressBar
) -> Iterator[list[Document]]:
    """Count a step that compares documents; the yielded list ends up as its output."""
    left: list[Document] = []
    row = _row(step)
    row |= {"documents_in": len(documents), "bytes_in": _text_bytes(documents)}
    yield left
    row |= {"documents_out": len(left), "bytes_out": _text_bytes(left)}
    if len(left) < len(documents):
        reason = {LINES: "too short without them", EXACT: "same text", NEAR: "similar text"}[step]
        row["dropped"] = {reason: len(documents) - len(left)}
    counts.append(row)
    bar.advance()


def deduplicate(
    documents: list[Document], settings: DocumentSettings, counts: list[dict[str, Any]]
) -> list[Document]:
    """Drop repeated lines, then exact and near duplicates; append a row of counts for each to
    `counts`.
    """
    with progress_bar("find duplicates", 3, "steps") as bar:
        lines = settings.exact_dedup
        with _comparing_step(documents, LINES, counts, bar) as shortened:
            documents_of_line = documents_of_each_line(d.text for d in documents)
            for document in documents:
                text, _ = drop_repeated_lines(document.text, documents_of_line, lines)
                if len(text.split()) >= settings.quality.min_words:
                    shortened.append(replace(document, text=text))
        with _comparing_step(shortened, EXACT, counts, bar) as distinct:
            distinct += [shortened[i] for i in first_of_each(d.text for d in shortened)]
        with _comparing_step(distinct, NEAR, counts, bar) as different:
            kept = first_of_each_component((d.text for d in distinct), settings.minhash)
            different += [distinct[i] for i in kept]
    return different


def check_not_empty(counts: list[dict[str, Any]]) -> None:
    """Raise a UserError that names the first step that dropped everything, or a RuntimeError if the
    code failed on every page.
    """
    for row in counts:
        if row["documents_out"] == 0:
            reasons = Counter(row["dropped"]).most_common(3)
            listed = ", ".join(f"{reason} ({number})" for reason, number in reasons)
            named = row.get("named", [""])[0]
            failures = sum(n for reason, n in row["dropped"].items() if reason.startswith(FAILED))
            if failures == row["documents_in"]:
                raise RuntimeError(f"the code fails on all {failures} pages; the first is {named}")
            advice = f"the first of them is {named}" if named else "relax its settings"
            raise UserError(
                f"no document is left: the step '{row['step']}' dropped all "
                f"{row['documents_in']} that reached it ({listed}); {advice}"
            )


def build_documents(
    paths: Sequence[Path],
    out_folder: Path,
    settings: DocumentSettings,
    num_pages: int | None = None,
    keys: RowKeys | None = None,
) -> list[dict[str, Any]]:
    """Read pages, write the documents artifact, and return its rows of counts (one per step, in
    order). The folder is written whole or not at all.

    Args:
        paths: files and folders, see `page_files`.
        out_folder: where to write.
        settings: every threshold.
        num_pages: if known, it is used to estimate the remaining time.
        keys: of the rows of JSON lines and parquet files.

    Raises:
        ValueError: a file is missing, no file has a page, the language model is missing, or no
            document is left.
    """
    documents, counts = _counts_of_page_steps(process_pages(paths, settings, num_pages, keys))
    check_not_empty(counts)
    documents = deduplicate(documents, settings, counts)
    check_not_empty(counts)
    finished = (replace(document, id=document_id(document.text)) for document in documents)
    write_documents(out_folder, finished, counts)
    return counts
