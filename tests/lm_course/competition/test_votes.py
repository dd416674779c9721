"""Votes: a file of them, the question at the terminal, and what is kept."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lm_core.user_error import UserError
from lm_course.competition.votes import (
    KeptVotes,
    VotingStopped,
    ask_at_terminal,
    read_votes_file,
)


def typed(*lines: str):
    """Return a function that reads these lines, as `input` does."""
    left: Iterator[str] = iter(lines)

    def read(question: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def test_a_file_of_votes(tmp_path: Path) -> None:
    path = tmp_path / "votes.txt"
    path.write_text("# mine\n1\n\n 2 # the second\n1\n")
    assert read_votes_file(path, 3) == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n", "votes: 1, matches: 2; give one vote for each match"),
        ("1\n2\n1\n", "votes: 3, matches: 2; give one vote for each match"),
        ("1\n3\n", "line 2 is '3'; expected 1 or 2"),
        ("1 2\n", "line 1 is '1 2'"),
        (b"\xff\n", "expected a text file"),
        (None, "no such file of votes"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "votes.txt"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message):
        read_votes_file(path, 2)


def test_both_verses_are_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask_at_terminal("match 1 of 2", "O sun", "O moon", typed("b", "2")) == 2
    printed = capsys.readouterr().out
    assert printed.count("O sun") == printed.count("O moon") == 2
    assert printed.count("--- match 1 of 2, verse 1 ---") == 2


def test_another_answer_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask_at_terminal("match 1 of 1", "O sun", "O moon", typed("3", "", " 1 ")) == 1
    printed = capsys.readouterr().out
    assert printed.count("O sun") == 1
    assert printed.count("expected one of 1, 2, b, q") == 2


@pytest.mark.parametrize(
    ("lines", "is_terminal"), [(("q",), False), (("b", "Q"), True), ((), True)]
)
def test_stopping(
    lines: tuple[str, ...], is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: is_terminal))
    with pytest.raises(VotingStopped):
        ask_at_terminal("match 1 of 1", "O sun", "O moon", typed(*lines))


@pytest.mark.parametrize("lines", [(), ("b",)])
def test_an_input_that_ends_without_a_terminal(
    lines: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UserError, match=r"match 1 of 1: .* ended without a vote.* --votes FILE"):
        ask_at_terminal("match 1 of 1", "O sun", "O moon", typed(*lines))


def test_a_vote_is_kept_at_once_for_its_two_verses(tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    kept = KeptVotes.read(path)
    assert kept.vote_on("O sun", "O moon", lambda: 2) == 2
    again = KeptVotes.read(path)
    assert again.vote_on("O sun", "O moon", lambda: pytest.fail("asked again")) == 2
    assert again.vote_on("O moon", "O sun", lambda: 1) == 1  # in the other order
    assert again.vote_on("O sun", "O stars", lambda: 1) == 1


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 3}', '{"a": true}'])
def test_a_damaged_file_of_kept_votes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "votes.json"
    path.write_text(text)
    with pytest.raises(UserError, match="remove it to vote again"):
        KeptVotes.read(path)
