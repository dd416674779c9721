"""The funnel: pages -> text -> language -> quality -> personal data -> duplicates -> the
documents artifact.

Each step counts the documents in, the documents out and the reasons for dropping the rest, so that
you can see the cost of each rule. Steps that look at one page (`page_steps.py`) run in several
processes, here or on a Ray cluster; steps that compare documents (`comparing_steps.py`) run in this
one. Between two steps, the documents are in a file.

A page that is too large, takes too long, needs too much memory, kills its process or makes the code
fail is dropped and counted like any other; `counts.json` names the first few of them. If the code
fails on every page, the fault is in the code, and the error is raised.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from data_pipeline.decontamination import DecontaminationSettings, index_of_files
from data_pipeline.exact_dedup import ExactDedupSettings
from data_pipeline.executors.comparing_steps import (
    COMPARING_STEPS,
    comparing_steps_of,
    run_comparing_step,
)
from data_pipeline.executors.executor import Executor, Limits
from data_pipeline.executors.local_executor import LocalExecutor
from data_pipeline.executors.page_steps import (
    FAILED,
    PAGE_STEPS,
    PageOutcome,
    PageProcessor,
    lost_page,
    page_steps_of,
)
from data_pipeline.executors.ray_executor import RayExecutor
from data_pipeline.executors.scratch_documents import ScratchDocuments, scratch_folder
from data_pipeline.executors.step_counts import StepCount, finished_rows
from data_pipeline.language_id import LanguageSettings
from data_pipeline.main_content.resiliparse_text import Extractor
from data_pipeline.minhash_dedup import MinHashSettings
from data_pipeline.quality_classifier import ClassifierSettings, HarmfulSettings
from data_pipeline.rule_sets.rule_verdicts import RuleSettings, broken_rules
from data_pipeline.rule_sets.verdict_files import VERDICTS_FILE, Verdict, verdict_file
from data_pipeline.sources.page_files import PageFile, page_files, read_page_files
from data_pipeline.sources.page_rows import RowKeys
from data_pipeline.sources.warc_files import LostPage, Page
from data_pipeline.substring_dedup import SubstringDedupSettings
from lm_core.formats.documents import Document, document_id, write_documents
from lm_core.progress import progress_bar
from lm_core.settings import Settings
from lm_core.stand_ins import stand_in_files
from lm_core.user_error import UserError

BATCH_PAGES, BATCH_BYTES = 32, 4_000_000  # of a batch, at most, unless a page is larger
EXAMPLES_FILE = "examples.json"
EXECUTORS = {"local": LocalExecutor, "ray": RayExecutor}
OPTIONAL_STEPS = [step.name for step in (*PAGE_STEPS[1:], *COMPARING_STEPS)]  # all but extraction
Pages = Iterable[tuple[Page | LostPage, str]]  # each with the name of its file
SETTING_OF_STEP = {step.name: step.setting for step in (*PAGE_STEPS, *COMPARING_STEPS)}


class DocumentSettings(Settings):
    """Every threshold of `lm data build`.

    Attributes:
        extractor: what finds the main text of HTML: "lesson" (text_extraction.py) or
            "resiliparse".
        language: see LanguageSettings.
        quality: see RuleSettings.
        quality_classifier: see ClassifierSettings.
        harmful: see HarmfulSettings.
        exact_dedup: see ExactDedupSettings.
        minhash: see MinHashSettings.
        substring_dedup: see SubstringDedupSettings.
        decontamination: see DecontaminationSettings.
        max_page_bytes: a page with more bytes than this after unpacking is dropped as too
            large.
        max_page_seconds: a page that takes longer than this is dropped as too slow. A call to C
            code, which does not notice that, is ended after twice the time.
        max_worker_memory: bytes of data that a process may have; a page that needs more is
            dropped. Only Linux enforces it.
        num_processes: that process pages; does not change the output. With 0, they are processed
            by the process that reads them, which a page can stop or end.
        executor: "local" for processes of this machine, "ray" for those of a Ray cluster: the
            one at RAY_ADDRESS, or else one that is started on this machine.
        leave_out: names of steps, as in counts.json, that are left out; see `lm data ablate`.
    """

    extractor: Extractor = "lesson"
    language: LanguageSettings = LanguageSettings()
    quality: RuleSettings = RuleSettings()
    quality_classifier: ClassifierSettings = ClassifierSettings()
    harmful: HarmfulSettings = HarmfulSettings()
    exact_dedup: ExactDedupSettings = ExactDedupSettings()
    minhash: MinHashSettings = MinHashSettings()
    substring_dedup: SubstringDedupSettings = SubstringDedupSettings()
    decontamination: DecontaminationSettings = DecontaminationSettings()
    max_page_bytes: int = Field(default=10_000_000, ge=1)
    max_page_seconds: float = Field(default=30.0, gt=0)
    max_worker_memory: int = Field(default=4_000_000_000, ge=1)
    num_processes: int = Field(default=2, ge=0)
    executor: Literal["local", "ray"] = "local"
    leave_out: list[str] = Field(default_factory=list)
    without_effect: ClassVar[frozenset[str]] = frozenset({"num_processes", "executor"})

    @field_validator("leave_out")
    @classmethod
    def _are_steps(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in OPTIONAL_STEPS:
                raise UserError(f"no step {name!r}; expected some of {', '.join(OPTIONAL_STEPS)}")
        return names

    @field_validator("minhash")
    @classmethod
    def _bands_fit(cls, given: MinHashSettings) -> MinHashSettings:
        if given.num_bands and given.num_hashes % given.num_bands:
            raise UserError(f"num_bands: expected a divisor of num_hashes, {given.num_hashes}")
        return given


class BuiltDocuments(NamedTuple):
    """The rows of counts.json, and the seconds of each step by its name. Those of page steps are
    summed over all processes.
    """

    counts: list[dict[str, Any]]
    seconds: dict[str, float]


def executor_of(settings: DocumentSettings) -> Executor:
    """Return the executor that the settings name."""
    limits = Limits(2 * settings.max_page_seconds, settings.max_worker_memory)
    return EXECUTORS[settings.executor](settings.num_processes, limits)


def batches(pages: Pages) -> Iterator[list[tuple[Page | LostPage, str]]]:
    """Yield pages in batches, which end where the pages say and not where a worker is free."""
    batch: list[tuple[Page | LostPage, str]] = []
    size = 0
    for page, source in pages:
        batch.append((page, source))
        size += len(page.payload) if isinstance(page, Page) else 0
        if len(batch) == BATCH_PAGES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def process_pages(
    pages: Pages, settings: DocumentSettings, num_pages: int | None = None
) -> Iterator[PageOutcome]:
    """Yield the outcomes in the order of the pages.

    Files without any page raise here, in the process that reads them.
    """
    with progress_bar("extract and filter", num_pages, "pages") as bar:
        start = partial(PageProcessor, settings)
        results = executor_of(settings).map(start, batches(pages), lost_page)
        with closing(results):
            for outcomes in results:
                yield from outcomes
                bar.advance(len(outcomes))


def _with_verdicts(
    outcomes: Iterable[PageOutcome], path: Path, settings: RuleSettings
) -> Iterator[PageOutcome]:
    """Yield the outcomes, and write the verdict on each page that reached the quality rules."""
    with verdict_file(path, settings, settings.measured_sets) as add:
        for outcome in outcomes:
            if outcome.measures:
                broken = broken_rules(outcome.measures, settings)
                first = broken[0] if broken else None
                add(Verdict(outcome.url, outcome.source, outcome.language, first, outcome.measures))
            yield outcome


def _left_and_counted(
    outcomes: Iterable[PageOutcome], counts: Sequence[StepCount]
) -> Iterator[Document]:
    """Yield the documents that are left, and count for each page step."""
    for outcome in outcomes:
        passed = len(outcome.sizes) - 1
        for count, seconds in zip(counts, outcome.seconds, strict=False):
            count.seconds += seconds
        sizes, url, start, source = outcome.sizes, outcome.url, outcome.start, outcome.source
        for step, count in enumerate(counts[:passed]):
            count.kept(sizes[step], sizes[step + 1], url, start, source)
        if outcome.document is not None:
            yield outcome.document
        else:
            reason, problem = outcome.dropped_because, outcome.problem
            counts[passed].dropped(sizes[passed], reason, url, start, problem, source)


def check_not_empty(counts: Iterable[StepCount]) -> None:
    """Raise a UserError that names the first step that dropped everything, or a RuntimeError if the
    code failed on every page.
    """
    for row in (count.row for count in counts):
        if row["documents_out"] == 0:
            reasons = Counter(row["dropped"]).most_common(3)
            listed = ", ".join(f"{reason} ({number})" for reason, number in reasons)
            named = row.get("named", [""])[0]
            failures = sum(n for reason, n in row["dropped"].items() if reason.startswith(FAILED))
            if failures == row["documents_in"]:
                for path in stand_in_files("data_pipeline"):
                    if f"({path.name}, line" in named:
                        raise UserError(
                            f"{path}: your code fails on all {failures} pages; the first is {named}"
                        )
                raise RuntimeError(f"the code fails on all {failures} pages; the first is {named}")
            setting = f"change the setting {SETTING_OF_STEP[row['step']]}"
            advice = f"the first of them is {named}" if named else setting
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
) -> BuiltDocuments:
    """Read the pages of files and folders, and write their documents: see `build_from_pages`.

    Args:
        paths: files and folders, see `page_files`.
        out_folder, settings, num_pages: see `build_from_pages`.
        keys: of the rows of JSON lines and parquet files.

    Raises:
        ValueError: a file is missing, no file has a page, the language model is missing, or no
            document is left.
    """
    return build_from_files(page_files(paths), out_folder, settings, num_pages, keys)


def build_from_files(
    files: Iterable[PageFile],
    out_folder: Path,
    settings: DocumentSettings,
    num_pages: int | None = None,
    keys: RowKeys | None = None,
) -> BuiltDocuments:
    """Read the pages of files, which may be staged one by one, and write their documents.

    The arguments and errors are those of `build_documents`.
    """
    pages = read_page_files(files, settings.max_page_bytes, keys or RowKeys())
    return build_from_pages(pages, out_folder, settings, num_pages)


def build_from_pages(
    pages: Pages, out_folder: Path, settings: DocumentSettings, num_pages: int | None = None
) -> BuiltDocuments:
    """Write the documents artifact of pages, with `counts.json`, `examples.json`, the largest
    clusters of near duplicates, and the quality rules' verdicts on every page. The folder is
    written whole or not at all.

    Args:
        pages: each with the name of its file.
        out_folder: where to write.
        settings: every threshold.
        num_pages: if known, it is used to estimate the remaining time.

    Raises:
        ValueError: the language model is missing, an evaluation set cannot be read, or no document
            is left.
    """
    comparing = comparing_steps_of(settings)
    if any(step.name == "decontaminate" for step in comparing):
        index_of_files(settings.decontamination)  # a set that cannot be read is named at once
    sources: dict[str, int] = {}
    counts = [StepCount(step.name, sources) for step in page_steps_of(settings)]
    reports: dict[str, Any] = {}
    with scratch_folder(out_folder) as folder:
        documents = ScratchDocuments(folder / "pages.arrow")
        verdicts = folder / VERDICTS_FILE
        outcomes = process_pages(pages, settings, num_pages)
        outcomes = _with_verdicts(outcomes, verdicts, settings.quality)
        documents.write(_left_and_counted(outcomes, counts))
        check_not_empty(counts)
        with progress_bar("find duplicates", len(comparing), "steps") as bar:
            for step in comparing:
                documents, count = run_comparing_step(
                    step, documents, settings, folder, reports, sources
                )
                counts.append(count)
                bar.advance()
        check_not_empty(counts)
        rows = finished_rows(counts)
        finished = (replace(document, id=document_id(document.text)) for document in documents)
        reports[EXAMPLES_FILE] = [count.shown_examples() for count in counts]
        write_documents(out_folder, finished, rows, others=reports, files=[verdicts])
    return BuiltDocuments(rows, {count.row["step"]: count.seconds for count in counts})
