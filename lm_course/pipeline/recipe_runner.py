"""Run the steps of a recipe in order, but not if inputs, settings and code are unchanged.

If a step fails, the steps that need it do not run; the others do, and the report says what failed.

This works like make, with hashes in place of times; `step_records.py` says what is hashed. What
this leaves out: running steps in parallel, and deleting what no step needs any longer.
"""

import platform
import time
from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lm_core.artifact_paths import (
    RunPaths,
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
from lm_course.pipeline.step_records import (
    check_input,
    fingerprint,
    is_ready,
    is_up_to_date,
    outputs_sha256,
    read_record,
    stat_signature,
)

Code = dict[str, str] | UserError  # package -> hash


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
        "outputs_sha256": outputs_sha256(outputs, paths),
        "outputs_stat": stat_signature(outputs, paths),
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
