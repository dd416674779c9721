"""Items of evaluation sets, and files that are refused because they would hide some."""

import gzip
import json
import re

import pytest

from data_pipeline.sources.evaluation_items import read_items
from lm_core.user_error import UserError

FIELDS = ["question", "choices", "answer"]


def test_the_fields_of_a_row_are_joined_in_the_order_of_the_setting(tmp_path):
    rows = [
        {"answer": "yes", "question": "Is it?", "other": "left out"},
        {"question": "Which?", "choices": ["this", 2, "that"], "answer": 1},
        {"answer": None},
    ]
    lines = b"\xef\xbb\xbf" + "\r\n\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "set.jsonl").write_bytes(lines)
    (tmp_path / "set.json.gz").write_bytes(gzip.compress(lines))
    expected = ["Is it? yes", "Which? this that", ""]
    assert read_items(tmp_path / "set.jsonl", "set", FIELDS) == expected
    assert read_items(tmp_path / "set.json.gz", "set", FIELDS) == expected


def test_the_paragraphs_of_a_text(tmp_path):
    (tmp_path / "set.txt").write_text(
        "\n\none\nstill one\n \t\ntwo\r\n\r\nthree<|endoftext|>four\n"
    )
    items = read_items(tmp_path / "set.txt", "set", FIELDS)
    assert [item.split() for item in items] == [
        ["one", "still", "one"],
        ["two"],
        ["three"],
        ["four"],
    ]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b'{"question": "x"}\n{"question": "\xff"}', "line 2: expected a JSON object in UTF-8"),
        (b'{"question": "x"}\n\n{"question": ', "line 3: expected a JSON object in UTF-8"),
        (b"[1, 2]", "line 1: expected one of the fields question, choices, answer, found a list"),
        (b'{"Question": "x"}', "found 'Question'; set decontamination.fields"),
        (b"{}", "found none"),
        (b"[" * 100_000, "line 1: expected a JSON object"),
    ],
)
def test_a_line_that_would_be_lost_is_refused(tmp_path, contents, words):
    (tmp_path / "set.jsonl").write_bytes(contents)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_items(tmp_path / "set.jsonl", "set", FIELDS)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "x"}' * 99)[:-20])
    for name, words in [
        ("missing.jsonl", "no such file, for the evaluation set quiz"),
        (".", "no such file"),
        ("latin.txt", "not UTF-8"),
        ("cut.jsonl.gz", "cannot be read"),
    ]:
        with pytest.raises(UserError, match=words):
            read_items(tmp_path / name, "quiz", FIELDS)
