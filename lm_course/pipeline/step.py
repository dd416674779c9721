"""A step of a recipe: what it reads, what it writes, what it does and how it is described.

Each module in lm_course/data_steps and lm_course/model_steps defines one, under the name STEP. What
this leaves out: the order of the steps (`plan.py`), and when a step runs (`recipe_runner.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths
from lm_core.formats.metric_log import MetricLog, MetricMirror
from lm_core.settings import Settings

# The files of each artifact that is not simply a folder of its own name in the run.
FILES = {
    "pages": ("pages.warc.gz",),
    "tokenizer": ("tokenizer.json", "merges.txt"),
    "evaluation": ("evaluation.json",),
    "samples": ("samples.json",),
    "report": ("report.html",),
}


class UndeclaredAccess(Exception):
    """A step used something that it does not declare: a mistake in the step, not a user error."""


@dataclass(frozen=True)
class StepContext:
    """The settings, inputs and outputs of a running step. Access to anything that its `Step` does
    not declare is refused, because what a step reads decides when it runs again.

    Attributes:
        step: the step's name.
        root: the run's folder, for messages.
        sections: the sections of the recipe that it declares.
        inputs: artifact -> its files, for those that it reads; those of `may_read` that have no
            result are missing.
        outputs: artifact -> its files, for those that it writes.
        records: step -> its record ("summary", "seconds", "python", "line"), for the steps that
            wrote the inputs.
        failures: those of the steps that it would have read and that have no result.
        fingerprint: hash of everything that decides the result.
        code: package -> hash, for the code that decides the result; training resumes only if it is
            the same.
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
        """The section with the step's own name."""
        return self.section(self.step)

    def section(self, name: str) -> Any:
        """Return a section of the recipe."""
        return self._declared(self.sections, name, "the section", "settings or reads_sections")

    def input(self, artifact: str) -> Path:
        """Return an artifact that the step reads: its file, its folder, or its first file."""
        return self.input_files(artifact)[0]

    def input_files(self, artifact: str) -> tuple[Path, ...]:
        """Return all files of an artifact that the step reads."""
        return self._declared(self.inputs, artifact, "the artifact", "reads, or may_read it")

    def output(self, artifact: str) -> Path:
        """Return where the step writes an artifact: its file, its folder, or its first file."""
        return self._declared(self.outputs, artifact, "the artifact", "writes")[0]

    def summary(self, step: str) -> dict[str, Any]:
        """Return the summary of another step that wrote something this step reads."""
        return self._declared(self.records, step, "the summary of", "reads")["summary"]

    def metrics(self) -> MetricLog:
        """Return the log to which training writes a row at every training step."""
        return MetricLog(RunPaths(self.root).metrics, self.step, self.mirror)

    def _declared(self, given: Mapping[str, Any], name: str, what: str, where: str) -> Any:
        if name not in given:
            known = ", ".join(given) or "nothing"
            raise UndeclaredAccess(
                f"the step {self.step!r} uses {what} {name!r}, which it does not declare "
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
        command: the command that runs only this step, such as "lm pretrain".
        help: one line for `lm --help`.
        run: does the work and returns a summary (numbers and strings) for the report.
        describe: makes one line for people from the summary.
        settings: section of the recipe -> its class, for the sections that belong to this step.
        reads_sections: sections of other steps that also decide the result.
        reads: the artifacts that it needs.
        may_read: the artifacts that it reads if they exist.
        writes: the artifacts that it writes. If a step before it also writes one, all steps after
            it read the new version: a filter reads "documents" and writes "documents".
        reads_all: whether it may read the results of all steps before it.
        users_own: artifact -> the user's own files that replace it, found from the declared
            sections; they are checked, and never removed.
        reads_files: the user's own files that the sections name and that decide the result besides
            the artifacts, such as a classifier.
        only_looks: whether it only looks at what the user gave, as the sections say. The command of
            a step that needs it then runs it, too.
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
    reads_files: Callable[[Mapping[str, Settings]], tuple[Path, ...]] = lambda sections: ()
    only_looks: Callable[[Mapping[str, Settings]], bool] = lambda sections: False

    @property
    def sections(self) -> tuple[str, ...]:
        """All sections of the recipe that decide the result."""
        return (*self.settings, *self.reads_sections)


def artifact_files(root: Path, artifact: str, replaced_by: str | None = None) -> tuple[Path, ...]:
    """Return the files of an artifact in a run.

    Args:
        root: the run's folder.
        artifact: its name.
        replaced_by: the step that writes a new version, which does not overwrite the earlier one;
            None for the first version.
    """
    prefix = "" if replaced_by is None else f"{replaced_by}."
    names = [Path(name) for name in FILES.get(artifact, (artifact,))]
    return tuple(root / name.with_name(prefix + name.name) for name in names)
