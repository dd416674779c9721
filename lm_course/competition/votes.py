"""Votes: the number of the better verse of each match, from a person at the terminal or from a
file.

A vote belongs to the two verses that it compares. It is kept at once, so a bracket that was stopped
resumes there, and a vote is not used for other verses.

What this leaves out: several people who vote on one match.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lm_core.artifact_paths import read_json, write_json
from lm_core.user_error import UserError

QUESTION = "Which is better, 1 or 2 (b: show both again, q: stop and resume later)? "
ANSWERS = ("1", "2", "b", "q")


class VotingStopped(Exception):
    """The person stopped; the votes so far are kept."""


def read_votes_file(path: Path, num_matches: int) -> list[int]:
    """Return the votes of a file: 1 or 2 in a line for each match, in the order of the matches;
    empty lines, and what follows a `#`, do not count.

    Raises UserError for any other line, or if the file has another number of votes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of votes; give one with 1 or 2 in a line") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path}: expected a text file with 1 or 2 in a line") from None
    votes = []
    for number, line in enumerate(lines, start=1):
        vote = line.partition("#")[0].strip()
        if vote not in ("", "1", "2"):
            raise UserError(f"{path}: line {number} is {vote!r}; expected 1 or 2, a vote in a line")
        votes += [int(vote)] if vote else []
    if len(votes) != num_matches:
        raise UserError(
            f"{path}: votes: {len(votes)}, matches: {num_matches}; give one vote for each match, "
            "in their order"
        )
    return votes


@dataclass
class KeptVotes:
    """The votes of a competition, in a file.

    Attributes:
        path: the file: the hash of two verses -> 1 or 2.
        votes: its contents.
    """

    path: Path
    votes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "KeptVotes":
        """Read the file, if there is one; raise UserError if it is damaged."""
        if not path.exists():
            return cls(path)
        what = "the file of votes"
        votes = read_json(path, what, "lm compete best-verse", "remove it to vote again")
        if not isinstance(votes, dict) or not set(map(repr, votes.values())) <= {"1", "2"}:
            raise UserError(f"{path}: {what} does not hold votes; remove it to vote again")
        return cls(path, votes)

    @staticmethod
    def key(first: str, second: str) -> str:
        """Return the hash of two verses in this order."""
        return hashlib.sha256(json.dumps([first, second]).encode()).hexdigest()[:16]

    def vote_on(self, first: str, second: str, ask: Callable[[], int]) -> int:
        """Return the vote on two verses, which is asked for and kept if there is none."""
        key = self.key(first, second)
        if key not in self.votes:
            self.votes[key] = ask()
            write_json(self.path, self.votes)
        return self.votes[key]


def ask_at_terminal(place: str, first: str, second: str, read: Callable[[str], str] = input) -> int:
    """Show two verses without names, and return the person's answer.

    Args:
        place: the match, such as "match 1 of 2".
        first, second: the verses.
        read: asks a question, and returns the line that was typed.

    Raises:
        VotingStopped: the answer is q, or the end of input (Ctrl-D) at a terminal.
        UserError: the input has ended, and is not a terminal.
    """
    shows = True
    while True:
        if shows:
            print("\n".join(_shown(place, first, second)))
        try:
            answer = read(QUESTION).strip().lower()
        except EOFError:
            print()  # the line of the question ends
            if sys.stdin.isatty():
                raise VotingStopped from None
            raise UserError(
                f"{place}: the input is not a terminal and has ended without a vote; repeat the "
                "command at a terminal, or give votes with --votes FILE"
            ) from None
        if answer == "q":
            raise VotingStopped
        if answer in ("1", "2"):
            return int(answer)
        shows = answer == "b"
        if answer not in ANSWERS:
            print(f"expected one of {', '.join(ANSWERS)}")


def _shown(place: str, first: str, second: str) -> Iterator[str]:
    for number, verse in ((1, first), (2, second)):
        yield f"\n--- {place}, verse {number} ---\n"
        yield verse.strip("\n")
    yield ""
