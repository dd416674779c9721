"""Rows come back as written; a bad row is named by file and line."""

import json

import pytest

from alignment.instruction_data.instruction_files import (
    PreferencePair,
    read_conversations,
    read_preferences,
)

ASKED = [{"role": "user", "content": "q"}]


def test_rows_as_written(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "a", "messages": ASKED}) + "\n\n")
    assert read_conversations(path) == [ASKED]
    row = {"id": "a", "prompt": ASKED, "chosen": "x", "rejected": "y"}
    path.write_text(json.dumps(row) + "\n")
    assert read_preferences(path) == [PreferencePair(ASKED, "x", "y")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows; make it with `lm data instructions RECIPE`"),
        ('{"messages": []}\n{"messages"', "line 2: not JSON"),
        ('{"messages": "hello"}', "line 1: messages must be a list, got 'hello'"),
        ("[1]", "line 1: messages must be a list, got None"),
        ("\n\n", "has no rows; make it with"),
        ('{"messages": ["hello"]}', "line 1: messages must contain messages, got 'hello'"),
    ],
)
def test_bad_rows(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_conversations(path)


def test_a_missing_file_names_the_command(tmp_path) -> None:
    with pytest.raises(
        ValueError, match="does not exist; make it with `lm data instructions RECIPE`"
    ):
        read_preferences(tmp_path / "none.jsonl")


def test_a_line_ends_at_a_newline_only(tmp_path) -> None:
    """U+2028 ends a line in str.splitlines, but not in JSON lines."""
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "a\u2028b"}]
    path.write_text(json.dumps({"messages": messages}, ensure_ascii=False), encoding="utf-8")
    assert read_conversations(path) == [messages]


def test_a_preference_needs_all_three(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": ASKED, "chosen": "yes"}))
    with pytest.raises(ValueError, match="line 1: rejected must be a str, got None"):
        read_preferences(path)
