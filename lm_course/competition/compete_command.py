"""`lm compete best-verse`: train the entries, vote on their verses, write the page.

What this leaves out: the training (entry_runs.py) and the page (competition_page.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lm_core.user_error import UserError

if TYPE_CHECKING:
    from lm_course.competition.bracket import Match
    from lm_course.competition.entry_runs import Competition, EntryResult
    from training.runs.pretraining import PretrainSettings

FOLDER = Path("runs/best-verse")
KEPT_VOTES = "votes.json"


def register(app: typer.Typer) -> None:
    """Add the group `compete`, with its command."""
    group = typer.Typer(no_args_is_help=True, help="Let several models compete.")
    group.callback()(lambda: None)  # so that `best-verse` remains a word of the command line
    group.command("best-verse")(best_verse)
    app.add_typer(group, name="compete")


def best_verse(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENTRY]...",
            help="Names of files in recipes/best_verse, recipes, or folders with files of your "
            "own; by default all of recipes/best_verse.",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Each entry reads this many tokens; by default as many as the recipe "
            "shakespeare_best_verse, 1,536,000.",
            min=1,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Each entry has this much time for its updates, in place of --tokens."),
    ] = None,
    votes: Annotated[
        Path | None,
        typer.Option(
            help="A file with a line for each match: 1 or 2, the better verse; for use without a "
            "terminal."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The seed of weights, data order, verses and bracket.", min=0)
    ] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting of all entries."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where everything is written.")] = FOLDER,
) -> None:
    """Train several models under one budget, and vote on which writes the best verse."""
    from lm_course.competition import entry_runs
    from lm_course.competition.bracket import number_of_rounds
    from lm_course.competition.entries import check_text, default_entries, load_base, load_entries
    from lm_course.competition.entry_runs import Competition, train_entries
    from lm_course.competition.votes import read_votes_file
    from lm_course.interrupts import Interrupts
    from lm_course.locations import shown
    from lm_course.pipeline.run_lock import run_lock

    Interrupts.raise_if_seen()
    loaded = load_entries(entries or default_entries(), overrides)
    base = load_base(overrides)
    check_text(base, number_of_rounds(len(loaded)))
    tokens = _checked_budget(tokens, seconds, base.pretrain)
    given = None if votes is None else read_votes_file(votes, len(loaded) - 1)
    competition = Competition(folder, seed, tokens, seconds)
    with run_lock(competition.root, "--folder FOLDER"):
        results = train_entries(loaded, competition, entry_runs.lm_in_new_process)
        page = _vote_and_write(competition, results, given, votes)
    if page is not None:
        print(f"page: {shown(page)}")
    _raise_for_failures(results)


def _checked_budget(
    tokens: int | None, seconds: float | None, shared: "PretrainSettings"
) -> int | None:
    """Return the budget of tokens; None if there is one of seconds."""
    if tokens is not None and seconds is not None:
        raise UserError("--tokens and --seconds are both given; a competition has one budget")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UserError(f"--seconds {seconds:g}: expected a number above 0")
    if tokens is None and seconds is None:
        return shared.training.steps * shared.training.batch_size * shared.model.context_length
    return tokens


def _vote_and_write(
    competition: "Competition",
    results: Sequence["EntryResult"],
    given: list[int] | None,
    votes_file: Path | None,
) -> Path | None:
    """Let a person vote, write the page and return it; None if the person stopped."""
    from lm_course.competition.bracket import play
    from lm_course.competition.competition_page import verse_of, write_page
    from lm_course.competition.votes import KeptVotes, VotingStopped, ask_at_terminal

    by_name = {result.entry.name: result for result in results if not result.failure}
    if len(by_name) < 2:
        _raise_for_failures(results)
    num_matches = len(by_name) - 1
    if given is not None and len(given) != num_matches:
        raise UserError(
            f"{votes_file}: votes: {len(given)}, matches: {num_matches}, because "
            f"{_names_without_result(results)} has no result; vote again without --votes"
        )
    kept = KeptVotes.read(competition.root / KEPT_VOTES)
    counted = iter(range(1, num_matches + 1))

    def better(match: "Match") -> int:
        number = next(counted)
        first, second = (verse_of(by_name[n], match.round) for n in (match.first, match.second))
        if given is not None:
            kept.votes.pop(kept.key(first, second), None)
            return kept.vote_on(first, second, lambda: given[number - 1])
        place = f"match {number} of {num_matches}"
        return kept.vote_on(first, second, lambda: ask_at_terminal(place, first, second))

    try:
        rounds, winner = play(list(by_name), competition.seed, better)
    except VotingStopped:
        print("stopped; your votes are kept, and the same command asks for the others")
        return None
    print(f"{winner} wrote the best verse:\n\n{verse_of(by_name[winner], len(rounds)).strip()}\n")
    _print_table(results)
    return write_page(competition, results, rounds, winner)


def _print_table(results: Sequence["EntryResult"]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lm_course.competition.curves import turn_of

    table = Table(box=None, pad_edge=False)
    for column in ("entry", "steps", "lowest validation loss", "at step", "at the end"):
        table.add_column(column, justify="left" if column == "entry" else "right")
    for result in results:
        if not result.failure:
            turn = turn_of(result.rows)
            lowest, end = f"{turn.lowest:.3f}", f"{turn.end:.3f}"
            table.add_row(result.entry.name, f"{result.steps:,}", lowest, f"{turn.step:,}", end)
    Console().print(table)


def _names_without_result(results: Sequence["EntryResult"]) -> str:
    return ", ".join(result.entry.name for result in results if result.failure)


def _raise_for_failures(results: Sequence["EntryResult"]) -> None:
    """Raise StepsFailed if entries have no result, after everything else is done."""
    from lm_course.pipeline.step_failures import StepsFailed

    failed = [result for result in results if result.failure]
    if not failed:
        return
    reasons = "; ".join(f"{result.entry.name}: {result.failure}" for result in failed)
    line = f"{len(failed)} of {len(results)} entries have no result: {reasons}"
    if len(results) - len(failed) < 2:
        line += "; a bracket needs two"
    raise StepsFailed(line, 1)
