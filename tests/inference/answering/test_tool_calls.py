"""Calls are found in every cut of the text; what is not a call stays text."""

import json
import random

import pytest

from inference.answering.tool_calls import ToolCallFilter, read_call

CALL = '<tool_call>{"name": "f", "arguments": {"a": "</tool>"}}</tool_call>'
CASES = [
    ("no call", "no call", []),
    (CALL, "", [("f", {"a": "</tool>"})]),
    (f"a{CALL}b{CALL}c", "abc", [("f", {"a": "</tool>"})] * 2),
    (CALL * 3, "", [("f", {"a": "</tool>"})] * 3),
    ("<tool_call", "<tool_call", []),
    ("<<tool_call>x</tool_call>>", "<<tool_call>x</tool_call>>", []),
    ("a < b <tool_ <tool_call>", "a < b <tool_ <tool_call>", []),
    ("</tool_call>", "</tool_call>", []),
    (CALL[:-1], CALL[:-1], []),
    ('<tool_call>{"name": "f"}</tool_call>', "", [("f", {})]),
]


@pytest.mark.parametrize(("text", "shown", "calls"), CASES)
def test_in_every_cut(text, shown, calls):
    draw = random.Random(0)
    cuts = [list(text), [text]]
    for _ in range(40):
        first, second = sorted(draw.randint(0, len(text)) for _ in range(2))
        cuts.append([text[:first], text[first:second], text[second:]])
    for pieces in cuts:
        separate = ToolCallFilter()
        found = [separate.push(piece) for piece in pieces] + [separate.push("", ended=True)]
        assert "".join(each[0] for each in found) == shown
        made = [call for each in found for call in each[1]]
        assert [(call.name, json.loads(call.arguments)) for call in made] == calls


def test_text_is_shown_as_soon_as_it_is_certain():
    separate = ToolCallFilter()
    assert separate.push("a <") == ("a ", [])
    assert separate.push("b") == ("<b", [])
    assert separate.push("<tool_") == ("", [])
    assert separate.push("box>") == ("<tool_box>", [])
    _, [call] = separate.push(CALL)
    assert call.name == "f", "not held back until the end"


def test_a_forced_call_has_no_tags():
    for text, shown, names in (('{"name": "f", "arguments": {}}', "", ["f"]), ('{"na', '{"na', [])):
        separate = ToolCallFilter(forced=True)
        before = [separate.push(character) for character in text]
        assert before == [("", [])] * len(text)
        found, calls = separate.push("", ended=True)
        assert found == shown and [call.name for call in calls] == names


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"name": 1}', '{"name": "f", "arguments": 3}', "{'name': 'f'}",
        '{"name": "f", "arguments": {"x": NaN}}', '{"name": "f", "arguments": "{broken"}',
        '{"name": "f", "arguments": {"x": "\\ud800"}}', '{"name": "\\ud800"}', "[" * 100_000,
        '{"name": "f"} {"name": "g"}',
    ],
)  # fmt: skip
def test_what_is_no_call(text):
    assert read_call(text) is None


def test_arguments_are_json_of_an_object():
    for written in ('{"a": "é"}', '"{\\"a\\": \\"é\\"}"'):
        call = read_call(f'{{"name": "f", "arguments": {written}}}')
        assert call.arguments == '{"a": "é"}'
    assert read_call('\n{"name": "f", "parameters": {"a": 1}}\n').arguments == '{"a": 1}'
    assert call.as_json(2)["index"] == 2 and "index" not in call.as_json()
    assert call.as_json()["id"] != call.as_json()["id"]
