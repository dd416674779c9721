"""A step of a recipe: what it reads, what it writes, what it does and what is said of it.

Modules of lm_course/data_steps and lm_course/model_steps define one each, under the name STEP. What
this leaves out: the order of the steps (`plan.py`), and when one is run (`recipe_runner.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths
from lm_core.formats.metric_log import MetricLog, MetricMirror
from lm_core.settings import Settings

# Where an artifact lies that is not a folder of its own name in the run: its files.
FILES = {
    "pages": ("pages.warc.gz",),
    "tokenizer": ("tokenizer.json", "merges.txt"),
    "evaluation": ("evaluation.json",),
    "samples": ("samples.json",),
    "report": ("report.html",),
}


class UndeclaredAccess(Exception):
    """A step asked for what it does not declare: a mistake in the step, not in what a user gave."""


@dataclass(frozen=True)
class StepContext:
    """What a running step is given. It is refused what its `Step` does not declare, because what a
    step reads decides when it is run again.

    Attributes:
        step: the step's name.
        root: the run's folder, for messages.
        sections: the sections of the recipe that it declares.
        inputs: artifact -> its files, of those that it reads; those of `may_read` that have no
            result are left out.
        outputs: artifact -> its files, of those that it writes.
        records: step -> what was kept of it ("summary", "seconds", "python", "line"), of the steps
            that wrote the inputs.
        failures: of the steps that it would have read and that have no result.
        fingerprint: of everything that decides the result; training resumes only under the same.
        code: module -> hash, of the code that decides the result.
        mirror: a second place for metrics rows, or None.
    """

    step: str
    root: Path
    sections: Mapping[str, Settings]
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, tuple[Path, ...]]
    records: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    failures: tuple[Any, ...] = ()  # of StepFailure
    fingerprint: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    mirror: MetricMirror | None = None

    @property
    def settings(self) -> Any:
        """The section of the step's own name."""
        return self.section(self.step)

    def section(self, name: str) -> Any:
        """A section of the recipe."""
        return self._declared(self.sections, name, "the section", "settings or reads_sections")

    def input(self, artifact: str) -> Path:
        """The artifact that the step reads: its file, its folder, or the first of its files."""
        return self.input_files(artifact)[0]

    def input_files(self, artifact: str) -> tuple[Path, ...]:
        """All files of an artifact that the step reads."""
        return self._declared(self.inputs, artifact, "the artifact", "reads, or may_read it")

    def output(self, artifact: str) -> Path:
        """Where the step writes an artifact: its file, its folder, or the first of its files."""
        return self._declared(self.outputs, artifact, "the artifact", "writes")[0]

    def summary(self, step: str) -> dict[str, Any]:
        """What another step returned when it wrote something that this one reads."""
        return self._declared(self.records, step, "the summary of", "reads")["summary"]

    def metrics(self) -> MetricLog:
        """The log that training writes a row to at every step."""
        return MetricLog(RunPaths(self.root).metrics, self.step, self.mirror)

    def _declared(self, given: Mapping[str, Any], name: str, what: str, where: str) -> Any:
        if name not in given:
            known = ", ".join(given) or "nothing"
            raise UndeclaredAccess(
                f"the step {self.step!r} asks for {what} {name!r}, which it does not declare "
                f"({where}); it declares {known}"
            )
        return given[name]


def _nothing(sections: Mapping[str, Settings]) -> dict[str, tuple[Path, ...]]:
    return {}


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: such as "pretrain"; a section of the recipe has the same name.
        command: the command that runs it alone, such as "lm pretrain".
        help: one line for `lm --help`.
        run: does the work and returns a summary (numbers and strings) for the report.
        describe: one line for people, made from the summary.
        settings: section of the recipe -> its class, of the sections that belong to this step.
        reads_sections: sections of other steps that decide the result as well.
        reads: the artifacts that it cannot do without.
        may_read: the artifacts that it reads where they are there.
        writes: the artifacts that it writes. One that a step before it writes as well is replaced
            for all steps after it: a filter reads "documents" and writes "documents".
        reads_all: it may read the results of all steps before it, whatever they write.
        users_own: artifact -> files that a person brought in its place, made from the declared
            sections: looked at, and never removed.
    """

    name: str
    command: str
    help: str
    run: Callable[[StepContext], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]
    settings: Mapping[str, type[Settings]] = field(default_factory=dict)
    reads_sections: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    reads_all: bool = False
    users_own: Callable[[Mapping[str, Settings]], dict[str, tuple[Path, ...]]] = _nothing

    @property
    def sections(self) -> tuple[str, ...]:
        """All sections of the recipe that decide the result."""
        return (*self.settings, *self.reads_sections)


def artifact_files(root: Path, artifact: str, replaced_by: str | None = None) -> tuple[Path, ...]:
    """Where an artifact lies in a run.

    Args:
        root: the run's folder.
        artifact: its name.
        replaced_by: the step that writes it, where a step before it does so too: that one's stays.
    """
    prefix = "" if replaced_by is None else f"{replaced_by}."
    names = [Path(name) for name in FILES.get(artifact, (artifact,))]
    return tuple(root / name.with_name(prefix + name.name) for name in names)
