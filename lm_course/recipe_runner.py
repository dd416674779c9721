"""Runs the steps of a recipe in order, and none whose inputs, settings and code are what they were.

Like make, with hashes for times: a step's fingerprint is the hash of its sections of the recipe, of
the code of the packages that it uses, and of the outputs of the steps before it.
`runs/<name>/steps/<step>.json` records the fingerprint under which it last ended well. What this
leaves out: running steps in parallel, and deleting what no step needs any more.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lm_core.artifact_paths import RunPaths, file_sha256, remove_path, remove_unfinished, write_json
from lm_core.metric_log import MetricMirror
from lm_core.progress import clock
from lm_core.user_error import UserError
from lm_course.code_hash import code_hash
from lm_course.recipe import Recipe


@dataclass(frozen=True)
class StepContext:
    """What a step is given: the recipe, where things lie, and its fingerprint (training resumes
    only under the same one).
    """

    recipe: Recipe
    paths: RunPaths
    fingerprint: str
    code: dict[str, str]
    mirror: MetricMirror | None = None


@dataclass(frozen=True)
class Step:
    """One row of the table in steps.py.

    Attributes:
        name: such as "pretrain".
        command: the command that runs this step alone, such as "lm pretrain".
        sections: the recipe's sections that decide the result.
        packages: the packages, or single modules, whose code decides the result.
        needs: the steps whose outputs it reads.
        outputs: what it writes (or, for WARC files of the user's, vouches for).
        run: does the work and returns a summary (numbers and strings) for the report.
        describe: one line for people, made from the summary.
        users_own: files among the outputs that a person brought: never removed.
    """

    name: str
    command: str
    sections: tuple[str, ...]
    packages: tuple[str, ...]
    needs: tuple[str, ...]
    outputs: Callable[[RunPaths, Recipe], list[Path]]
    run: Callable[[StepContext], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]
    users_own: Callable[[Recipe], list[Path]] = lambda recipe: []


def fingerprint(step: Step, recipe: Recipe, paths: RunPaths) -> str:
    """The hash of everything that decides what this step writes.

    Raises:
        ValueError: a step that it needs has not been run.
    """
    inputs = {}
    for name in step.needs:
        record = read_record(paths, name)
        if record is None:
            raise UserError(
                f"{paths.root}: {step.command} needs the step {name!r}, which has not been run; "
                "run `lm run RECIPE`, or the steps one by one (`lm steps` lists them)"
            )
        if not _is_as_recorded(record, paths):
            raise UserError(
                f"{paths.root}: the files of the step {name!r} are not those that it finished "
                "with (was it started again and interrupted?); run it to its end first, or "
                "`lm run RECIPE`"
            )
        inputs[name] = record["outputs_sha256"]
    described = {
        "settings": {name: getattr(recipe, name).model_dump(mode="json") for name in step.sections},
        "code": code_hashes(step),
        "inputs": inputs,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _is_as_recorded(record: dict[str, Any], paths: RunPaths) -> bool:
    """True where every file that the step wrote is there with the contents that it had."""
    files = [paths.root / name for name, _, _ in record["outputs_stat"]]
    if not all(path.is_file() for path in files):
        return False
    if record["outputs_stat"] == _stat_signature(files, paths):
        return True
    return record["outputs_sha256"] == _outputs_sha256(files, paths)


def code_hashes(step: Step) -> dict[str, str]:
    """Package -> hash of its code, for the packages that the step uses."""
    return {package: code_hash(package) for package in step.packages}


def read_record(paths: RunPaths, step: str) -> dict[str, Any] | None:
    """What was recorded when this step last ended well; None where it never did, or the record is
    damaged.
    """
    try:
        return json.loads(paths.step_record(step).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def is_up_to_date(step: Step, context: StepContext) -> bool:
    """True where the step ended well under this very fingerprint and its outputs are still what it
    wrote.
    """
    paths = context.paths
    record = read_record(paths, step.name)
    if record is None or record["fingerprint"] != context.fingerprint:
        return False
    outputs = step.outputs(paths, context.recipe)
    if not all(path.exists() for path in outputs):
        return False
    if record["outputs_stat"] == _stat_signature(outputs, paths):
        return True
    return record["outputs_sha256"] == _outputs_sha256(outputs, paths)


def run_step(step: Step, context: StepContext) -> dict[str, Any]:
    """Run one step and record that it ended well. Returns the record."""
    started = time.monotonic()
    summary = step.run(context)
    outputs = step.outputs(context.paths, context.recipe)
    missing = [path for path in outputs if not path.exists()]
    assert not missing, f"step {step.name} ended without writing {missing}"
    record = {
        "step": step.name,
        "fingerprint": context.fingerprint,
        "outputs_sha256": _outputs_sha256(outputs, context.paths),
        "outputs_stat": _stat_signature(outputs, context.paths),
        # Training counts the seconds before an interruption as well.
        "seconds": round(max(time.monotonic() - started, summary.get("seconds", 0)), 2),
        "python": platform.python_version(),
        "summary": summary,
    }
    write_json(context.paths.step_record(step.name), record)
    return record


def run_recipe(
    recipe: Recipe,
    paths: RunPaths,
    steps: list[Step],
    force: Collection[str] = (),
    mirror: MetricMirror | None = None,
    console: Console | None = None,
) -> None:
    """Run `steps` in order, passing over those that are up to date.

    Args:
        recipe: the settings; saved, resolved, as `settings.json` beside the artifacts.
        paths: where the run lies.
        steps: the steps to run, in an order in which each comes after those it needs.
        force: names of steps to run even where they are up to date.
        mirror: a second place for metrics rows, such as wandb; None for none.
        console: where to say what happens; standard output by default.
    """
    console = console or Console()
    remove_unfinished(paths.root)
    write_json(paths.settings, recipe.model_dump(mode="json"))
    started = time.monotonic()
    width = max(len(step.name) for step in steps)
    for number, step in enumerate(steps, start=1):
        context = StepContext(
            recipe, paths, fingerprint(step, recipe, paths), code_hashes(step), mirror
        )
        label = f"{number:>{len(str(len(steps)))}}/{len(steps)} {step.name:<{width}}"
        if step.name in force:
            _forget(step, context)
        elif is_up_to_date(step, context):
            console.print(f"{label}  [green]up to date[/green]", highlight=False)
            continue
        record = run_step(step, context)
        line = (
            f"{label}  {step.describe(record['summary'])}  [cyan]{clock(record['seconds'])}[/cyan]"
        )
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
    elapsed = clock(time.monotonic() - started)
    console.print(f"[bold]{recipe.run.name}[/bold]: done in {elapsed}", highlight=False)


def _forget(step: Step, context: StepContext) -> None:
    """Remove what a step left that is now run by force, so that nothing is resumed."""
    context.paths.step_record(step.name).unlink(missing_ok=True)
    for path in step.outputs(context.paths, context.recipe):
        if path not in step.users_own(context.recipe):
            remove_path(path)


def _all_files(outputs: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in outputs:
        files += [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path]
    return files


def _stat_signature(outputs: list[Path], paths: RunPaths) -> list[list[Any]]:
    """Names, sizes and times: when none of them moved, the contents are taken to be the same."""
    rows = []
    for path in _all_files(outputs):
        status = path.stat()
        rows.append([_name(path, paths), status.st_size, status.st_mtime_ns])
    return rows


def _outputs_sha256(outputs: list[Path], paths: RunPaths) -> str:
    digest = hashlib.sha256()
    for path in _all_files(outputs):
        digest.update(f"{_name(path, paths)}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _name(path: Path, paths: RunPaths) -> str:
    """Relative to the run where it lies inside, so that a run's folder can be moved."""
    inside = path.is_relative_to(paths.root)
    return path.relative_to(paths.root).as_posix() if inside else path.absolute().as_posix()
