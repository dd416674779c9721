"""The record of a step's last success, and the test whether it still holds.

A step's fingerprint is the hash of its sections of the recipe, of the code that it uses, of the
outputs of the steps that it reads, and of the user's files that the sections name.
`runs/<name>/steps/<step>.json` records the fingerprint of the last successful run, and the hash of
what it wrote. What this leaves out: a file that is named in another file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths, file_sha256
from lm_core.settings import Settings
from lm_core.user_error import UserError
from lm_course.pipeline.plan import PlannedStep
from lm_course.pipeline.recipe import AnyRecipe
from lm_course.pipeline.step import StepContext
from lm_course.pipeline.step_failures import read_failure

RECORDED = {
    "step", "fingerprint", "outputs_sha256", "outputs_stat", "seconds", "python", "summary",
}  # fmt: skip


def fingerprint(
    step: PlannedStep, recipe: AnyRecipe, paths: RunPaths, code: Mapping[str, str]
) -> str:
    """Return the hash of everything that decides what this step writes.

    Args:
        step: the step.
        recipe: its settings.
        paths: the results that it reads.
        code: package -> hash of the code that the step uses.

    Raises:
        ValueError: a step that it needs has not been run.
    """
    inputs: dict[str, str | None] = {}
    for name in step.needs:
        check_input(step, name, paths)
        inputs[name] = read_record(paths, name)["outputs_sha256"]
    for name in step.uses:
        failure = read_failure(paths, name)
        found = is_ready(paths, name)
        inputs[name] = (
            read_record(paths, name)["outputs_sha256"] if found else failure and failure.reason
        )
    described = {
        "settings": {name: _deciding(recipe.sections[name]) for name in step.step.sections},
        "code": code,
        "inputs": inputs,
    }
    if step.reads_files:
        described["files"] = {str(path): _hash_if_there(path) for path in step.reads_files}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _deciding(section: Settings) -> dict[str, Any]:
    """Return the settings of a section that can change a result."""
    return section.model_dump(mode="json", exclude=set(section.without_effect))


def _hash_if_there(path: Path) -> str | None:
    """Return the hash of a file of the user's; None if there is none, which the step will say."""
    return _file_sha256(path) if path.is_file() else None


def check_input(step: PlannedStep, name: str, paths: RunPaths) -> None:
    """Raise UserError unless the step `name`, which `step` needs, still has its recorded result."""
    record = read_record(paths, name)
    failure = read_failure(paths, name)
    if failure is not None:
        how = (
            f"which failed ({failure.reason})"
            if failure.outcome == "failed"
            else (f"which was not run ({failure.reason})")
        )
        raise UserError(
            f"{paths.root}: {step.step.command} needs the step {name!r}, {how}; fix that, then run "
            "`lm run RECIPE`"
        )
    if record is None:
        raise UserError(
            f"{paths.root}: {step.step.command} needs the step {name!r}, which has not been run; "
            "run `lm run RECIPE`, or the steps one by one (`lm steps` lists them)"
        )
    if not _is_as_recorded(record, paths):
        raise UserError(
            f"{paths.root}: the files of the step {name!r} are not those that it finished "
            "with (was it started again and interrupted?); run it to its end first, or "
            "`lm run RECIPE`"
        )


def is_ready(paths: RunPaths, name: str) -> bool:
    """Return True if the step's last run succeeded and its files are those that it wrote."""
    record = read_record(paths, name)
    return (
        record is not None and read_failure(paths, name) is None and _is_as_recorded(record, paths)
    )


def _is_as_recorded(record: dict[str, Any], paths: RunPaths) -> bool:
    """Return True if every file that the step wrote still has the same contents."""
    files = [paths.root / name for name, _, _ in record["outputs_stat"]]
    if not all(path.is_file() for path in files):
        return False
    if record["outputs_stat"] == stat_signature(files, paths):
        return True
    return record["outputs_sha256"] == outputs_sha256(files, paths)


def read_record(paths: RunPaths, step: str) -> dict[str, Any] | None:
    """Return the record of this step's last success; None if there is none, or it is damaged."""
    try:
        record = json.loads(paths.step_record(step).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    whole = isinstance(record, dict) and record.keys() >= RECORDED
    return record if whole else None


def is_up_to_date(step: PlannedStep, context: StepContext) -> bool:
    """Return True if the step succeeded with this fingerprint and its outputs have not changed."""
    paths = RunPaths(context.root)
    record = read_record(paths, step.name)
    if record is None or record["fingerprint"] != context.fingerprint:
        return False
    outputs = step.output_paths
    if not all(path.exists() for path in outputs):
        return False
    if record["outputs_stat"] == stat_signature(outputs, paths):
        return True
    return record["outputs_sha256"] == outputs_sha256(outputs, paths)


def _all_files(outputs: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in outputs:
        files += [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path]
    return files


def stat_signature(outputs: list[Path], paths: RunPaths) -> list[list[Any]]:
    """Return names, sizes and times; if none of them changed, the contents count as unchanged."""
    rows = []
    for path in _all_files(outputs):
        status = path.stat()
        rows.append([_name(path, paths), status.st_size, status.st_mtime_ns])
    return rows


def outputs_sha256(outputs: list[Path], paths: RunPaths) -> str:
    digest = hashlib.sha256()
    for path in _all_files(outputs):
        name = _name(path, paths).encode("utf-8", "surrogateescape")
        digest.update(name + f"\0{_file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    """Return the hash of a file; a file of the user's folder that may not be read has none."""
    try:
        return file_sha256(path)
    except PermissionError:
        return "not readable"


def _name(path: Path, paths: RunPaths) -> str:
    """Return a name relative to the run, if the path is inside, so that a run can be moved."""
    inside = path.is_relative_to(paths.root)
    return path.relative_to(paths.root).as_posix() if inside else path.absolute().as_posix()
