"""The steps of a run in order, and the steps whose results each of them reads.

If several steps write an artifact, a step reads the version of the last writer before it. So a
filter can be put between two steps without a change to either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_course.pipeline.step import Step, artifact_files


@dataclass(frozen=True)
class PlannedStep:
    """A step in its place among the others.

    Attributes:
        step: the step itself.
        sources: artifact -> the step that writes it, for all artifacts that this step reads.
        before: all steps before it, in order.
        inputs: artifact -> files.
        outputs: artifact -> files.
        users_own: the output files that belong to the user.
        reads_files: the user's own files that decide the result besides the inputs.
        only_looks: see Step.
    """

    step: Step
    sources: Mapping[str, str]
    before: tuple[str, ...]
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, tuple[Path, ...]]
    users_own: frozenset[Path] = frozenset()
    reads_files: tuple[Path, ...] = ()
    only_looks: bool = False

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def needs(self) -> list[str]:
        """The steps whose results this one cannot run without, each once, in order."""
        return list(dict.fromkeys(self.sources[artifact] for artifact in self.step.reads))

    @property
    def uses(self) -> list[str]:
        """The steps whose results it reads if they exist."""
        if self.step.reads_all:
            return list(self.before)
        found = dict.fromkeys(
            self.sources[artifact] for artifact in self.step.may_read if artifact in self.sources
        )
        return [name for name in found if name not in self.needs]

    @property
    def output_paths(self) -> list[Path]:
        return [path for files in self.outputs.values() for path in files]


def plan(steps: Sequence[Step], sections: Mapping[str, Settings], root: Path) -> list[PlannedStep]:
    """Find out what each step reads and writes.

    Args:
        steps: in the order in which they run.
        sections: the sections of the recipe.
        root: the run's folder.

    Raises:
        UserError: a step is listed twice, reads what no step before it writes, or writes a new
            version of something that no step after it reads.
    """
    writers: dict[str, str] = {}  # artifact -> the last step that writes it
    files: dict[str, tuple[Path, ...]] = {}
    planned: list[PlannedStep] = []
    for step in steps:
        if step.name in [done.name for done in planned]:
            raise UserError(f"run.steps: {step.name!r} is listed twice")
        for artifact in step.reads:
            if artifact not in writers:
                raise UserError(
                    f"run.steps: {step.name!r} reads {artifact}, which no step before it writes"
                )
        wanted = writers if step.reads_all else (*step.reads, *step.may_read)
        read = [artifact for artifact in wanted if artifact in writers]
        declared = {name: sections[name] for name in step.sections}
        own = step.users_own(declared)
        outputs = {
            artifact: own.get(artifact)
            or artifact_files(root, artifact, step.name if artifact in writers else None)
            for artifact in step.writes
        }
        planned.append(
            PlannedStep(
                step,
                sources={artifact: writers[artifact] for artifact in read},
                before=tuple(done.name for done in planned),
                inputs={artifact: files[artifact] for artifact in read},
                outputs=outputs,
                users_own=frozenset(path for paths in own.values() for path in paths),
                reads_files=step.reads_files(declared),
                only_looks=step.only_looks(declared),
            )
        )
        files |= outputs
        writers |= dict.fromkeys(step.writes, step.name)
    _refuse_new_versions_that_nobody_reads(planned)
    return planned


def _refuse_new_versions_that_nobody_reads(planned: Sequence[PlannedStep]) -> None:
    written: set[str] = set()
    for place, one in enumerate(planned):
        for artifact in one.step.writes:
            readers = [
                later
                for later in planned[place + 1 :]
                if later.sources.get(artifact) == one.name and not later.step.reads_all
            ]
            if artifact in written and not readers:
                raise UserError(
                    f"run.steps: {one.name!r} writes {artifact} again, but no step after it reads "
                    "them; move it before the steps that do"
                )
        written |= set(one.step.writes)


def steps_to_run(planned: Sequence[PlannedStep], names: Sequence[str]) -> list[PlannedStep]:
    """Return the named steps in their order, and the steps they need that only look at what the
    user gave: with your own pages, `lm data build` does not need `lm data collect` first.

    Raises UserError if the recipe has no such step.
    """
    by_name = {one.name: one for one in planned}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"no step {name!r} in this recipe; its steps are {', '.join(by_name)} (run.steps "
                "lists them)"
            )
    needed = {need for name in names for need in by_name[name].needs if by_name[need].only_looks}
    return [one for one in planned if one.name in {*names, *needed}]
