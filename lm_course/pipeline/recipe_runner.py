"""Run the steps of a recipe in order, but not if inputs, settings and code are unchanged.

If a step fails, the steps that need it do not run; the others do, and the report says what failed.

This works like make, with hashes in place of times. A step's fingerprint is the hash of its
sections of the recipe, of the code that it uses, and of the outputs of the steps that it reads.
`runs/<name>/steps/<step>.json` records the fingerprint of its last successful run. What this leaves
out: running steps in parallel, and deleting what no step needs any longer.
"""

import hashlib
import json
import platform
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lm_core.artifact_paths import (
    RunPaths,
    file_sha256,
    out_of_space,
    remove_path,
    remove_unfinished,
    write_json,
)
from lm_core.formats.metric_log import MetricMirror
from lm_core.progress import clock
from lm_core.user_error import UserError
from lm_course.error_lines import Explanation, show_traceback, shown
from lm_course.interrupts import Interrupts
from lm_course.pipeline.code_hash import code_hashes
from lm_course.pipeline.plan import PlannedStep
from lm_course.pipeline.recipe import AnyRecipe
from lm_course.pipeline.step import StepContext
from lm_course.pipeline.step_failures import (
    StepFailure,
    StepsFailed,
    forget_failure,
    keep_failure,
    keep_not_run,
    read_failure,
)

RECORDED = {
    "step", "fingerprint", "outputs_sha256", "outputs_stat", "seconds", "python", "summary",
}  # fmt: skip

Code = dict[str, str] | UserError  # package -> hash


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
        "settings": {
            name: recipe.sections[name].model_dump(mode="json") for name in step.step.sections
        },
        "code": code,
        "inputs": inputs,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


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
    if record["outputs_stat"] == _stat_signature(files, paths):
        return True
    return record["outputs_sha256"] == _outputs_sha256(files, paths)


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
    if record["outputs_stat"] == _stat_signature(outputs, paths):
        return True
    return record["outputs_sha256"] == _outputs_sha256(outputs, paths)


def run_step(step: PlannedStep, context: StepContext) -> dict[str, Any]:
    """Run one step, and return the record of its success."""
    started = time.monotonic()
    summary = step.step.run(context)
    paths, outputs = RunPaths(context.root), step.output_paths
    missing = [path for path in outputs if not path.exists()]
    assert not missing, f"step {step.name} ended without writing {missing}"
    record = {
        "step": step.name,
        "fingerprint": context.fingerprint,
        "outputs_sha256": _outputs_sha256(outputs, paths),
        "outputs_stat": _stat_signature(outputs, paths),
        # Training also counts the seconds before an interruption.
        "seconds": round(max(time.monotonic() - started, summary.get("seconds", 0)), 2),
        "python": platform.python_version(),
        "summary": summary,
        "line": step.step.describe(summary),
    }
    write_json(paths.step_record(step.name), record)
    forget_failure(paths, step.name)
    return record


def run_recipe(
    recipe: AnyRecipe,
    paths: RunPaths,
    steps: list[PlannedStep],
    force: Collection[str] = (),
    mirror: MetricMirror | None = None,
    console: Console | None = None,
) -> None:
    """Run `steps` in order, except those that are up to date and those that cannot run.

    Args:
        recipe: the settings; saved with all defaults as `settings.json` beside the artifacts.
        paths: the run's folder and files.
        steps: the steps to run, each after those that it needs.
        force: names of steps to run even if they are up to date.
        mirror: a second place for metrics rows, such as wandb; None for none.
        console: where to print what happens; standard output by default.

    Raises:
        UserError: a step needs one that has no result and is not among `steps`; nothing was run.
        StepsFailed: some steps failed; the others have been run.
        KeyboardInterrupt, or an OSError for a full disk: at once.
    """
    for step in steps:
        for name in set(step.needs) - {step.name for step in steps}:
            check_input(step, name, paths)
    _run_in_order(recipe, paths, steps, force, mirror, console or Console())


def _run_in_order(
    recipe: AnyRecipe,
    paths: RunPaths,
    steps: list[PlannedStep],
    force: Collection[str],
    mirror: MetricMirror | None,
    console: Console,
) -> None:
    remove_unfinished(paths.root)
    write_json(paths.settings, recipe.model_dump(mode="json"))
    started = time.monotonic()
    width = max(len(step.name) for step in steps)
    failures: list[StepFailure] = []
    explanation = None
    code = {step.name: _code_of(step) for step in steps}
    for number, step in enumerate(steps, start=1):
        label = f"{number:>{len(str(len(steps)))}}/{len(steps)} {step.name:<{width}}"
        try:
            text = _run_or_pass_over(
                step, recipe, paths, code[step.name], step.name in force, mirror
            )
        except BaseException as error:  # sys.exit(), or a panic in Rust
            Interrupts.saved_after = getattr(error, "signal_name", "")
            Interrupts.raise_if_seen()
            if isinstance(error, KeyboardInterrupt | BrokenPipeError) or out_of_space(error):
                raise
            show_traceback(error)
            failure, explanation = keep_failure(paths, step.name, error)
            failures.append(failure)
            text = f"[red]failed[/red]: {escape(failure.reason)}"
        else:
            failure = read_failure(paths, step.name)
            if failure is not None:
                failures.append(failure)
        if len(steps) == 1 and failures:  # the command's error line says it
            break
        _say(console, label, text)
    else:
        _say_the_end(console, recipe, len(steps), len(failures), time.monotonic() - started)
    if explanation is not None:
        raise _steps_failed(steps, failures, explanation, paths)


def _code_of(step: PlannedStep) -> Code:
    """Return the hashes of the step's code, or the error of a file that cannot be read, which is
    raised when the step's turn comes.

    This is asked before the first step runs, because all steps are imported by then: what somebody
    edits during the run is not what runs.
    """
    try:
        return code_hashes(step.step.run.__module__)
    except UserError as error:
        return error


def _run_or_pass_over(
    step: PlannedStep,
    recipe: AnyRecipe,
    paths: RunPaths,
    code: Code,
    forced: bool,
    mirror: MetricMirror | None,
) -> str:
    """Run the step unless it is up to date or cannot run; return what to print about it."""
    missing = [name for name in step.needs if read_failure(paths, name) is not None]
    if missing:
        return f"[yellow]not run[/yellow]: {keep_not_run(paths, step.name, missing).reason}"
    if isinstance(code, UserError):
        raise code
    context = context_for(step, recipe, paths, code, mirror)
    if forced:
        _forget(step, paths)
    elif is_up_to_date(step, context):
        forget_failure(paths, step.name)
        return "[green]up to date[/green]"
    record = run_step(step, context)
    described = escape(record["line"])
    return f"{described}  [cyan]{clock(record['seconds'])}[/cyan]"


def context_for(
    step: PlannedStep,
    recipe: AnyRecipe,
    paths: RunPaths,
    code: dict[str, str],
    mirror: MetricMirror | None,
) -> StepContext:
    """Return what the step may use, and nothing else."""
    ready = [name for name in (*step.needs, *step.uses) if is_ready(paths, name)]
    failures = [read_failure(paths, name) for name in step.uses]
    return StepContext(
        step=step.name,
        root=paths.root,
        sections={name: recipe.sections[name] for name in step.step.sections},
        inputs={a: files for a, files in step.inputs.items() if step.sources[a] in ready},
        outputs=step.outputs,
        records={name: read_record(paths, name) for name in ready},
        failures=tuple(failure for failure in failures if failure is not None),
        fingerprint=fingerprint(step, recipe, paths, code),
        code=code,
        mirror=mirror,
    )


def _say(console: Console, label: str, text: str) -> None:
    """Print a step's line; on a terminal, its text is wrapped in a column of its own."""
    if not console.is_terminal:
        console.print(f"{label}  {text}", highlight=False, soft_wrap=True)
        return
    line = Table.grid(padding=(0, 2))
    line.add_column(no_wrap=True)
    line.add_column()
    line.add_row(label, text)
    console.print(line, highlight=False)


def _say_the_end(
    console: Console, recipe: AnyRecipe, num_steps: int, num_failures: int, seconds: float
) -> None:
    missing = f"{num_failures} of {num_steps} steps have no result, after"
    ended = f"{missing if num_failures else 'done in'} {clock(seconds)}"
    console.print(f"[bold]{recipe.run.name}[/bold]: {ended}", highlight=False)


def _steps_failed(
    steps: list[PlannedStep], failures: list[StepFailure], last: Explanation, paths: RunPaths
) -> StepsFailed:
    """Return the error line and the exit status; if only one step ran, those of its failure."""
    failed = [failure for failure in failures if failure.outcome == "failed"]
    not_run = [failure.step for failure in failures if failure.outcome == "not run"]
    if len(steps) == 1:
        return StepsFailed(failed[0].reason, last.status)
    if len(failed) == 1:
        named = last.whose == "internal"
        line = failed[0].reason if named else f"step {failed[0].step} failed: {failed[0].reason}"
    else:
        line = f"{len(failed)} steps failed: {', '.join(failure.step for failure in failed)}"
    if not_run:
        line += f"; not run because of that: {', '.join(not_run)}"
    if len(failed) > 1:
        written = is_ready(paths, "report") and paths.report.exists()
        line += f"; {shown(paths.report if written else paths.root / 'errors')} says why"
    return StepsFailed(line, 1)


def _forget(step: PlannedStep, paths: RunPaths) -> None:
    """Remove the results of a step that is forced to run again, so that nothing is resumed."""
    paths.step_record(step.name).unlink(missing_ok=True)
    for path in step.output_paths:
        if path not in step.users_own:
            remove_path(path)


def _all_files(outputs: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in outputs:
        files += [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path]
    return files


def _stat_signature(outputs: list[Path], paths: RunPaths) -> list[list[Any]]:
    """Return names, sizes and times; if none of them changed, the contents count as unchanged."""
    rows = []
    for path in _all_files(outputs):
        status = path.stat()
        rows.append([_name(path, paths), status.st_size, status.st_mtime_ns])
    return rows


def _outputs_sha256(outputs: list[Path], paths: RunPaths) -> str:
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
