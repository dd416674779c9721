"""Trains every entry: `lm run` in a process of its own, on a recipe that is written for it.

An entry is thus trained as any run is: it resumes, it is not trained again if it is finished, and
its recipe alone trains it once more. A budget of tokens becomes a number of steps. For a budget of
seconds, 30 steps of each entry are timed first, and the learning rate comes down over as many steps
as fit. The time of validation, of compilation and of the start does not count.

What this leaves out: entries at the same time, which would take time from each other.
"""

import hashlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import RunPaths, atomic_file, file_sha256, read_json
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import read_metrics
from lm_core.user_error import UserError
from lm_course.competition.bracket import number_of_rounds
from lm_course.competition.entries import Entry, prompts_of
from lm_course.competition.recipe_text import recipe_text
from lm_course.interrupts import Interrupts
from lm_course.locations import in_home
from lm_course.pipeline.step_failures import read_failure
from lm_course.pipeline.step_records import is_ready, read_record

STEPS = ["text", "tokenizer", "shards", "pretrain", "samples"]
TIMED_STEPS = 30
UNTIMED_STEPS = 5  # the first ones, in which memory is allocated and code compiled
VALIDATIONS = 20
INTERRUPTED = 130
LM = (sys.executable, "-m", "lm_course")
Run = Callable[[Sequence[str]], int]  # starts a command, and returns its exit status


@dataclass(frozen=True)
class Competition:
    """The settings that all entries share.

    Attributes:
        folder: where everything is written, relative to the home folder.
        seed: of the initial weights, the order of the data, the verses and the bracket.
        tokens: the budget, if it is one of tokens.
        seconds: the budget, if it is one of seconds.
    """

    folder: Path
    seed: int
    tokens: int | None = None
    seconds: float | None = None

    @property
    def root(self) -> Path:
        """Return the folder, relative to the current folder."""
        return in_home(self.folder)


@dataclass(frozen=True)
class EntryResult:
    """The result of an entry.

    Attributes:
        entry: the entry.
        root: the folder of its run.
        recipe: the recipe that trains it.
        steps: its number of updates.
        seconds_per_step: as timed beforehand; None with a budget of tokens.
        failure: why it has no result; empty if it has one.
        rows: its rows of metrics.jsonl.
        summary: its "parameters", and the "train_tokens" of its shards.
        verses: one for each round, without the prompt.
        hashes: SHA-256 of its "shards" and of its "weights".
    """

    entry: Entry
    root: Path
    recipe: Path
    steps: int = 0
    seconds_per_step: float | None = None
    failure: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    verses: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


def lm_in_new_process(arguments: Sequence[str]) -> int:
    """Run `lm` to its end, and return its exit status. Ctrl-C reaches it too, and SIGTERM is passed
    on: it saves a checkpoint first.
    """
    process = subprocess.Popen([*LM, *arguments])

    def terminate(number: int, frame: object) -> None:
        process.terminate()
        Interrupts.saved_after = "SIGTERM"
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def steps_for_tokens(entry: Entry, tokens: int) -> int:
    """Return how many updates of the entry read at most that many tokens."""
    steps = tokens // entry.tokens_per_step
    if steps < 1:
        raise UserError(
            f"{entry.source}: one step reads {entry.tokens_per_step:,} tokens, more than the "
            f"budget of {tokens:,}; give a larger budget"
        )
    return steps


def train_entries(entries: Sequence[Entry], competition: Competition, lm: Run) -> list[EntryResult]:
    """Train the entries one after another; one that fails does not stop the others.

    Args:
        entries: the entries.
        competition: the settings that they share.
        lm: runs `lm` with some arguments, and returns its exit status: `lm_in_new_process`.

    Raises:
        UserError: the budget is less than one step.
        KeyboardInterrupt: Ctrl-C came; the same call resumes.
    """
    if competition.tokens is not None:
        for entry in entries:
            steps_for_tokens(entry, competition.tokens)
    results: list[EntryResult] = []
    for number, entry in enumerate(entries, start=1):
        print(f"entry {number} of {len(entries)}: {entry.name}", flush=True)
        results.append(_trained(entry, competition, number_of_rounds(len(entries)), lm))
        _say_failure(results[-1])
    return _with_same_data(results)


def _trained(entry: Entry, competition: Competition, rounds: int, lm: Run) -> EntryResult:
    places = competition.root / "entries"
    root, recipe = places / entry.name, places / f"{entry.name}.toml"
    seconds_per_step = None
    if competition.seconds is not None:
        print(f"{TIMED_STEPS} steps, to measure their time:", flush=True)
        timing = _timing_recipe(entry, competition)
        failure = _failure_of(_lm_run(timing, entry, lm), timing.with_suffix(""), STEPS[:-1])
        if failure:
            return EntryResult(entry, root, recipe, failure=failure)
        seconds_per_step = _seconds_per_step(timing.with_suffix(""))
        steps = max(1, int(competition.seconds / seconds_per_step))
    else:
        steps = steps_for_tokens(entry, competition.tokens or 0)
    settings = _settings(entry, competition, "entries", steps, STEPS)
    settings["samples"] |= {
        "prompts": prompts_of(entry.sections["samples"], rounds),
        "questions": [],
    }
    settings["samples"]["sampling"] = settings["samples"].get("sampling", {}) | {
        "seed": competition.seed
    }
    _write(recipe, settings)
    result = EntryResult(entry, root, recipe, steps, seconds_per_step)
    failure = _failure_of(_lm_run(recipe, entry, lm), root, STEPS)
    return _filled(result, failure)


def _filled(result: EntryResult, failure: str) -> EntryResult:
    """Return the result with what its run has written."""
    if failure:
        return EntryResult(**vars(result) | {"failure": failure})
    paths = RunPaths(result.root)
    samples = read_json(paths.samples, "the file of verses", "lm compete best-verse")
    weights = latest_checkpoint(result.root / "checkpoints" / "pretrain") / "model.safetensors"
    found = {
        "rows": read_metrics(paths.metrics, "pretrain"),
        "summary": {
            "parameters": _summary(paths, "pretrain")["parameters"],
            "train_tokens": _summary(paths, "shards")["train_tokens"],
        },
        "verses": [row["text"] for row in samples["completions"]],
        "hashes": {"shards": file_sha256(paths.shards), "weights": file_sha256(weights)},
    }
    return EntryResult(**vars(result) | found)


def _summary(paths: RunPaths, step: str) -> dict[str, Any]:
    record = read_record(paths, step)
    assert record is not None, f"{paths.root} is ready, but has no record of {step}"
    return record["summary"]


def _with_same_data(results: Sequence[EntryResult]) -> list[EntryResult]:
    """Return the results, with a failure in place of those for which a learner's files have made
    other tokens of the text than a recipe, or, if no recipe has a result, than most entries.
    """
    finished = [result for result in results if not result.failure]
    if not finished:
        return list(results)
    hashes = {result.entry.name: _validation_hash(result.root) for result in finished}
    numbers = Counter(hashes.values())
    recipes = [result for result in finished if result.entry.stand_ins is None]
    right = max(recipes or finished, key=lambda result: numbers[hashes[result.entry.name]])
    name = right.entry.name
    files = "its files" if recipes else f"its files, or those of {name},"
    reason = (
        f"its tokens of the validation text are not those of {name}: {files} split or encode "
        "the text differently; run their assignment's checks"
    )
    judged = []
    for result in results:
        if not result.failure and hashes[result.entry.name] != hashes[name]:
            result = EntryResult(
                result.entry, result.root, result.recipe, result.steps, failure=reason
            )
            _say_failure(result)
        judged.append(result)
    return judged


def _say_failure(result: EntryResult) -> None:
    if result.failure:
        print(f"{result.entry.name} has no result: {result.failure}", flush=True)


def _validation_hash(root: Path) -> str:
    files = sorted((root / "shards").glob("validation-*.bin"))
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def _settings(
    entry: Entry, competition: Competition, kind: str, steps: int, names: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the sections of a recipe that trains the entry for some steps."""
    settings = {
        name: each.model_dump(mode="json", exclude_unset=True)
        for name, each in entry.sections.items()
    }
    training = settings["pretrain"]["training"]
    warmup = round(training.get("warmup_steps", 0) * steps / training["steps"])
    training |= {
        "steps": steps,
        "warmup_steps": min(warmup, steps - 1),
        "validate_every": max(1, steps // VALIDATIONS),
        "seed": competition.seed,
    }
    run = {"name": entry.name, "folder": (competition.folder / kind).as_posix(), "steps": names}
    return {"run": run} | settings


def _timing_recipe(entry: Entry, competition: Competition) -> Path:
    settings = _settings(entry, competition, "timing", TIMED_STEPS, STEPS[:-1])
    del settings["samples"]
    settings["pretrain"]["validation_tokens"] = 2
    settings["pretrain"]["training"]["validate_every"] = TIMED_STEPS
    path = competition.root / "timing" / f"{entry.name}.toml"
    _write(path, settings)
    return path


def _seconds_per_step(root: Path) -> float:
    seconds = {r["step"]: r["seconds"] for r in read_metrics(RunPaths(root).metrics, "pretrain")}
    taken = seconds[TIMED_STEPS] - seconds[UNTIMED_STEPS]
    return taken / (TIMED_STEPS - UNTIMED_STEPS)


def _write(path: Path, settings: dict[str, dict[str, Any]]) -> None:
    with atomic_file(path, "w") as file:
        file.write(recipe_text(settings))


def implementation_of(entry: Entry) -> list[str]:
    """Return the options of `lm` that choose the entry's files."""
    return [] if entry.stand_ins is None else ["--impl", entry.stand_ins.as_posix()]


def _lm_run(recipe: Path, entry: Entry, lm: Run) -> int:
    chosen = implementation_of(entry) or ["--impl", "reference"]
    status = lm(["run", str(recipe), *chosen])
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return status


def _failure_of(status: int, root: Path, names: Sequence[str]) -> str:
    """Return why a run has no result; empty if it has one."""
    paths = RunPaths(root)
    for name in names:
        failure = read_failure(paths, name)
        if failure is not None and failure.outcome == "failed":
            return failure.reason
    if status == 0 and is_ready(paths, names[-1]):
        return ""
    with suppress(ValueError):
        return f"`lm run` was ended by {signal.Signals(-status).name}"
    return f"`lm run` ended with status {status}, before its last step"
