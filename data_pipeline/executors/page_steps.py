"""The steps for one page: text, language, quality, harmful text, personal data.

`PAGE_STEPS` lists them in order. A step is a name, the section of the settings that it reads, and
`start`, which a worker calls once with the settings: it loads what the step needs, and returns the
function of a page. That function changes the page's text, adds scores, or returns the reason for
dropping the page. To add a step, write such a function and add a row.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.classifier_training.model_files import load_classifier
from data_pipeline.executors.page_time_limit import PageTooSlow, time_limit
from data_pipeline.language_id import (
    LanguageIdentifier,
    LanguageSettings,
    failed_language_rule,
    language_model_path,
)
from data_pipeline.main_content.resiliparse_text import Extractor, page_text
from data_pipeline.personal_data import mask_personal_data
from data_pipeline.quality_classifier import (
    ClassifierSettings,
    HarmfulSettings,
    failed_harmful_rule,
    failed_quality_rule,
    harmful_probability,
)
from data_pipeline.rule_sets.rule_verdicts import (
    RuleSettings,
    broken_rules,
    measure_rules,
    text_of_kept_lines,
)
from data_pipeline.sources.http_responses import TOO_LARGE
from data_pipeline.sources.warc_files import LostPage, Page
from lm_core.formats.documents import Document
from lm_core.settings import Settings

TOO_SLOW = "too slow"
FAILED = "error"  # followed by the name of the error's class
EXAMPLE_CHARACTERS = 300


@dataclass
class PageText:
    """A page on its way through the steps.

    Attributes:
        page: as it was read.
        text: "" before the first step.
        language: ISO 639-1, "" before it is known.
        scores: what the steps have measured.
        measures: what each quality rule has measured.
    """

    page: Page
    text: str = ""
    language: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)


Judge = Callable[[PageText], str | None]  # the reason for dropping the page, or nothing


@dataclass(frozen=True)
class PageStep:
    """A step that looks at one page.

    Attributes:
        name: in counts.json.
        settings_key: the field of DocumentSettings that `start` gets; "" for none.
        start: called once in each worker; returns the function of a page.
        is_on: whether its section asks for the step.
        decided_by: the field of its section that decides which pages are dropped; "" for several.
    """

    name: str
    settings_key: str
    start: Callable[[Any], Judge]
    is_on: Callable[[Any], bool] = lambda settings: True
    decided_by: str = ""

    @property
    def setting(self) -> str:
        """Name for the user of what decides which pages are dropped."""
        return ".".join(filter(None, ["documents", self.settings_key, self.decided_by]))

    def section(self, settings: Settings) -> Any:
        """Return the step's section of a DocumentSettings."""
        return getattr(settings, self.settings_key) if self.settings_key else None


def _start_extraction(extractor: Extractor) -> Judge:
    def extract(page: PageText) -> str | None:
        text = page_text(page.page, extractor)
        page.text = text or ""
        if text:
            return None
        return "not a text format" if text is None else "no text found"

    return extract


def _start_language(settings: LanguageSettings) -> Judge:
    identifier = LanguageIdentifier(language_model_path())

    def identify(page: PageText) -> str | None:
        language = identifier.identify(page.text, settings.max_characters)
        page.language = language.code
        page.scores["language_confidence"] = language.confidence
        return failed_language_rule(language, settings)

    return identify


def _start_quality(settings: RuleSettings) -> Judge:
    def judge(page: PageText) -> str | None:
        page.measures = measure_rules(page.text, settings, settings.measured_sets)
        broken = broken_rules(page.measures, settings)
        page.text = text_of_kept_lines(page.text, settings)
        return broken[0] if broken else None

    return judge


def _start_classifier(settings: ClassifierSettings) -> Judge:
    model = load_classifier(Path(settings.model).expanduser(), [settings.keep_label])

    return lambda page: failed_quality_rule(model, page.text, settings)


def _start_harmful(settings: HarmfulSettings) -> Judge:
    for kind in settings.kinds:
        harmful_probability("", kind)  # loads the model: one that cannot be read is named at once
    return lambda page: failed_harmful_rule(page.text, settings)


def _start_masks(_: None) -> Judge:
    def mask(page: PageText) -> None:
        page.text, masks = mask_personal_data(page.text)
        page.scores["masks"] = float(sum(masks.values()))

    return mask


PAGE_STEPS = (
    PageStep("extract text", "extractor", _start_extraction),
    PageStep("identify language", "language", _start_language, decided_by="languages"),
    PageStep("quality rules", "quality", _start_quality),
    PageStep(
        "quality classifier",
        "quality_classifier",
        _start_classifier,
        lambda settings: bool(settings.model),
        "threshold",
    ),
    PageStep(
        "harmful text",
        "harmful",
        _start_harmful,
        lambda settings: bool(settings.kinds),
        "max_probability",
    ),
    PageStep("mask personal data", "", _start_masks),
)


def page_steps_of(settings: Settings) -> list[PageStep]:
    """Return the steps that a DocumentSettings asks for, in order."""
    asked = [step for step in PAGE_STEPS if step.is_on(step.section(settings))]
    return [step for step in asked if step.name not in settings.leave_out]


@dataclass(frozen=True)
class PageOutcome:
    """Result of PAGE_STEPS for a page.

    Attributes:
        document: None if the page was dropped.
        sizes: the number of bytes into each step reached, and out of the last one.
        dropped_because: "" if it was not.
        problem: names a page that was lost for a reason other than its text.
        url: of the page.
        source: the name of its file.
        start: of its text, as the last step left it, for the examples.
        seconds: of each step reached.
        language: of its text, "" if the page was dropped before it was known.
        measures: of the quality rules; empty if the page was dropped before them.
    """

    document: Document | None
    sizes: tuple[int, ...]
    dropped_because: str = ""
    problem: str = ""
    url: str = ""
    source: str = ""
    start: str = ""
    seconds: tuple[float, ...] = ()
    language: str = ""
    measures: dict[str, float] = field(default_factory=dict)


def lost_page(page_and_source: tuple[Page | LostPage, str], reason: str) -> PageOutcome:
    """Return the outcome of a page that cost its workers."""
    page, source = page_and_source
    size = page.stored_bytes if isinstance(page, LostPage) else len(page.payload)
    return PageOutcome(None, (size,), reason, f"{source}: {page.url}", page.url, source)


class PageProcessor:
    """The steps for one page. It holds what the steps have loaded, so each process builds its own.

    Args:
        settings: a DocumentSettings.
    """

    def __init__(self, settings: Settings) -> None:
        self.max_bytes: int = settings.max_page_bytes
        self.max_seconds: float = settings.max_page_seconds
        steps = page_steps_of(settings)
        self.judges = [step.start(step.section(settings)) for step in steps]
        self.masks_examples = any(step.start is _start_masks for step in steps)

    def __call__(self, page_and_source: tuple[Page | LostPage, str]) -> PageOutcome:
        """Run a page through the steps until one drops it, and catch errors that it causes, except
        MemoryError.
        """
        page, source = page_and_source
        if isinstance(page, LostPage):
            problem = f"{source}: {page.detail}"
            return PageOutcome(None, (page.stored_bytes,), page.reason, problem, page.url, source)
        sizes, seconds = [len(page.payload)], []
        if sizes[0] > self.max_bytes:
            problem = f"{source}: {page.url} has {sizes[0]:,} bytes"
            return PageOutcome(None, tuple(sizes), TOO_LARGE, problem, page.url, source)
        state = PageText(page)
        reason = problem = ""
        try:
            with time_limit(self.max_seconds):
                reason = self._run_steps(state, sizes, seconds)
        except PageTooSlow:
            reason, problem = TOO_SLOW, f"{source}: {page.url}"
        except MemoryError:
            raise
        except Exception as error:
            kind = type(error).__name__
            reason, problem = f"{FAILED} ({kind})", f"{source}: {page.url}: {_described(error)}"
        start = self._start(state.text or _decoded_start(page.payload))
        document = None
        if not reason:
            scores = dict(state.scores)
            document = Document("", state.text, source, page.url, state.language, scores)
        return PageOutcome(
            document,
            tuple(sizes),
            reason,
            problem,
            page.url,
            source,
            start,
            tuple(seconds),
            state.language,
            state.measures,
        )

    def _start(self, text: str) -> str:
        """Return the start of a text for the examples, also of a page that was dropped before its
        personal data were masked.
        """
        if not self.masks_examples:
            return text[:EXAMPLE_CHARACTERS]
        try:
            masked, _ = mask_personal_data(text[: 2 * EXAMPLE_CHARACTERS])
        except Exception:  # counted for the pages that reach the step
            return ""
        return masked[:EXAMPLE_CHARACTERS]

    def _run_steps(self, state: PageText, sizes: list[int], seconds: list[float]) -> str:
        """Run the steps, and append to `sizes` the number of bytes that each step passes on, and to
        `seconds` what each took. Return the reason for dropping the page, or "".
        """
        for judge in self.judges:
            before, started = state.text, time.perf_counter()
            reason = judge(state)
            seconds.append(time.perf_counter() - started)
            if reason:
                return reason
            is_same = before is state.text
            sizes.append(sizes[-1] if is_same else len(state.text.encode("utf-8")))
        return ""


def _decoded_start(payload: bytes) -> str:
    return payload[: 4 * EXAMPLE_CHARACTERS].decode("utf-8", "replace")


def _described(error: Exception) -> str:
    """Return class, words and place of an error in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {words} ({Path(place.filename).name}, line {place.lineno})"
