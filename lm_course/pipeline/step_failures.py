"""The record of a step that failed, or that was not run because of another one.

`runs/<name>/steps/<step>.failed.json` has the reason, for the report and for later commands;
`runs/<name>/errors/<step>.txt` has the traceback. Both are removed when the step succeeds. The
record of an earlier success is kept: it has another fingerprint, so returning to the old settings
finds the old artifacts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lm_core.artifact_paths import RunPaths, write_json
from lm_course.error_lines import Explanation, explain, keep_traceback


@dataclass(frozen=True)
class StepFailure:
    """Why a step has no result.

    Attributes:
        step: its name.
        outcome: "failed", or "not run" because a step that it needs has no result.
        reason: one line.
        because: for a step that was not run, the steps that failed.
    """

    step: str
    outcome: Literal["failed", "not run"]
    reason: str
    because: Sequence[str] = ()


class StepsFailed(Exception):
    """Some steps failed. The message is the command's one line, `status` its exit status."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


def failure_path(paths: RunPaths, step: str) -> Path:
    return paths.step_record(step).with_suffix(".failed.json")


def traceback_path(paths: RunPaths, step: str) -> Path:
    return paths.root / "errors" / f"{step}.txt"


def read_failure(paths: RunPaths, step: str) -> StepFailure | None:
    """Return the record of this step's failure; None if its last run succeeded or it never ran."""
    try:
        return StepFailure(**json.loads(failure_path(paths, step).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError):
        return StepFailure(
            step, "failed", "the record of the failure is damaged; run the step again"
        )


def keep_failure(
    paths: RunPaths, step: str, error: BaseException
) -> tuple[StepFailure, Explanation]:
    """Write the record and the traceback of a step that raised `error`."""
    explanation = explain(error)
    file = traceback_path(paths, step)
    failure = StepFailure(step, "failed", explanation.line(step, file))
    keep_traceback(error, file, failure.reason)
    write_json(failure_path(paths, step), asdict(failure))
    return failure, explanation


def keep_not_run(paths: RunPaths, step: str, missing: list[str]) -> StepFailure:
    """Write the record of a step that was not run because `missing` have no result."""
    failed: dict[str, None] = {}  # in order, each once
    for name in missing:
        failure = read_failure(paths, name)
        assert failure is not None, f"{name} has no result, and there is no record of its failure"
        failed |= dict.fromkeys([name] if failure.outcome == "failed" else failure.because)
    reason = f"it needs {' and '.join(failed)}, which failed"
    failure = StepFailure(step, "not run", reason, list(failed))
    traceback_path(paths, step).unlink(missing_ok=True)
    write_json(failure_path(paths, step), asdict(failure))
    return failure


def forget_failure(paths: RunPaths, step: str) -> None:
    """Remove the record of a failure, because the step has succeeded."""
    failure_path(paths, step).unlink(missing_ok=True)
    file = traceback_path(paths, step)
    file.unlink(missing_ok=True)
    if file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()
