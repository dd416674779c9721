"""The page of a competition: curves, verses, bracket, and how to repeat the winner.

It is one self-contained file with the styles of the report. `competition.json` beside it has the
same figures.

What this leaves out: figures of its own; all come from the entries' runs and the votes.
"""

import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from inference.engine.sample_texts import seeded
from lm_core.artifact_paths import atomic_file, write_json
from lm_course.competition.bracket import Decided
from lm_course.competition.curves import training_and_validation, turn_of, validation_curves
from lm_course.competition.entries import prompts_of
from lm_course.competition.entry_runs import Competition, EntryResult, implementation_of
from lm_course.report import report_page

FOLDER = Path(__file__).parent
PAGE, FIGURES = "best_verse.html", "competition.json"
Rounds = Sequence[Sequence[Decided]]


def write_page(
    competition: Competition, results: Sequence[EntryResult], rounds: Rounds, winner: str
) -> Path:
    """Write competition.json and the page, and return the page's path.

    Args:
        competition: the budget and the seed.
        results: those of all entries, also of those that failed.
        rounds: the matches with their winners.
        winner: the entry that won the last match.
    """
    by_name = {result.entry.name: result for result in results}
    figures = {
        "budget": _budget(competition),
        "seed": competition.seed,
        "machine": _machine(),
        "entries": [_entry(result) for result in results],
        "rounds": [[_match(decided, by_name) for decided in matches] for matches in rounds],
        "winner": winner,
        "verse": verse_of(by_name[winner], len(rounds)),
        "again": _again(by_name[winner], len(rounds), competition.seed),
    }
    write_json(competition.root / FIGURES, figures)
    finished = [result for result in results if not result.failure]
    page = _template().render(
        **figures,
        style=report_page.FOLDER.joinpath("report.css").read_text(encoding="utf-8"),
        curves=validation_curves([(each.entry.name, each.rows) for each in finished]),
        plots=[training_and_validation(each.entry.name, each.rows) for each in finished],
        recipe_text=by_name[winner].recipe.read_text(encoding="utf-8"),
        validated=_validated(finished[0]),
        prompt=_prompt(by_name[winner], len(rounds)),
    )
    path = competition.root / PAGE
    with atomic_file(path, "w") as file:
        file.write(page)
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("competition_page.html.jinja")


def _budget(competition: Competition) -> str:
    if competition.seconds is not None:
        return f"{competition.seconds:g} seconds of updates"
    return f"{competition.tokens:,} tokens"


def _validated(result: EntryResult) -> str:
    """Return the text whose loss is measured, which is the same for all entries."""
    tokens = result.entry.sections["pretrain"].validation_tokens
    return "all validation text" if tokens is None else f"{tokens:,} tokens of validation text"


def _machine() -> str:
    import torch

    return (
        f"{platform.machine()}, threads: {torch.get_num_threads()} on {os.cpu_count()} processors, "
        f"PyTorch {torch.__version__}, Python {platform.python_version()}"
    )


def _entry(result: EntryResult) -> dict[str, Any]:
    entry = result.entry
    shown: dict[str, Any] = {
        "name": entry.name,
        "source": entry.source.as_posix(),
        "failure": result.failure,
    }
    if result.failure:
        return shown
    trained = [row for row in result.rows if "loss" in row]
    tokens = trained[-1]["tokens"]
    measured = [row for row in result.rows if row.get("validation_bits_per_byte") is not None]
    return shown | {
        "parameters": result.summary["parameters"],
        "steps": result.steps,
        "tokens": tokens,
        "epochs": tokens / result.summary["train_tokens"],
        "seconds": sum(entry.tokens_per_step / row["tokens_per_second"] for row in trained),
        "seconds_per_step": result.seconds_per_step,
        "training_loss": _last_training_loss(trained),
        "bits_per_byte": measured[-1]["validation_bits_per_byte"],
        "turn": asdict(turn_of(result.rows)) | {"turned": turn_of(result.rows).turned},
        "shards_sha256": result.hashes["shards"],
        "weights_sha256": result.hashes["weights"],
    }


def _last_training_loss(trained: Sequence[dict[str, Any]]) -> float:
    """Return the mean of the last twentieth of the updates, since a single batch is noisy."""
    last = [row["loss"] for row in trained[-max(1, len(trained) // 20) :]]
    return sum(last) / len(last)


def _prompt(result: EntryResult, round_number: int) -> str:
    return prompts_of(result.entry.sections["samples"], round_number)[-1]


def verse_of(result: EntryResult, round_number: int) -> str:
    """Return an entry's verse of a round, with its prompt."""
    return _prompt(result, round_number) + result.verses[round_number - 1]


def _match(decided: Decided, by_name: dict[str, EntryResult]) -> dict[str, Any]:
    match = decided.match
    names = [match.first] if match.second is None else [match.first, match.second]
    verses = [
        {"name": name, "text": verse_of(by_name[name], match.round), "won": name == decided.winner}
        for name in names
    ]
    return {"number": match.number, "bye": match.second is None, "verses": verses}


def _again(result: EntryResult, round_number: int, seed: int) -> dict[str, Any]:
    """Return what repeats a verse: the arguments of the two `lm` commands, and both as text."""
    entry, samples = result.entry, result.entry.sections["samples"]
    name = f"{entry.name}_again"
    chosen = implementation_of(entry)
    sampling = samples.sampling.model_copy(update={"seed": seed})
    sampling = seeded(sampling, "completion", round_number - 1)
    train = ["run", result.recipe.as_posix(), "--set", f"run.name={name}", *chosen]
    checkpoints = result.root.with_name(name) / "checkpoints" / "pretrain"
    options = {
        "--checkpoint": checkpoints.as_posix(),
        "--seed": sampling.seed,
        "--temperature": sampling.temperature,
        "--top-k": sampling.top_k,
        "--top-p": sampling.top_p,
        "--max-new-tokens": samples.max_new_tokens,
    }
    given = [str(part) for option in options.items() for part in option]
    draw = ["generate", _prompt(result, round_number), *given, *chosen]
    weights = checkpoints / f"step_{result.steps:06}" / "model.safetensors"
    lines = [f"lm {' '.join(map(_quoted, arguments))}" for arguments in (train, draw)]
    lines.append(f"sha256sum {_quoted(weights.as_posix())}")
    return {"train": train, "draw": draw, "weights": weights.as_posix(), "lines": lines}


def _quoted(argument: str) -> str:
    """Return an argument as bash and zsh read it, with a line end as `\\n`."""
    if "\n" not in argument:
        return shlex.quote(argument)
    inside = argument.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{inside}'"
