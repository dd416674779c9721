"""The texts of requests: words, code words, lines of a file."""

import numpy as np
import pytest

from lm_core.user_error import UserError
from lm_course.load_test import request_texts as module
from lm_course.load_test.request_texts import (
    PromptLine,
    WordCost,
    body_of,
    code_words_in,
    draw_code_word,
    read_prompts,
)


def test_words_for_a_length() -> None:
    assert WordCost(per_word=2.0, around=10.0).words_for(30) == 10
    assert WordCost(per_word=2.0, around=10.0).words_for(5) == 1, "a prompt is never empty"


def test_code_words_are_found_wherever_they_are() -> None:
    word = draw_code_word(np.random.default_rng(0))
    assert len(word) == 10
    for text in (word, f"xx{word}yy", f'"{word.lower()}".', f"QX{word}", f"QXQX{word}"):
        assert word in code_words_in(text)
    assert code_words_in("QXabc defgh") == set()


def test_code_words_differ() -> None:
    words = {draw_code_word(np.random.default_rng((0, place))) for place in range(2000)}
    assert len(words) == 2000


def test_words_as_chat_and_as_text() -> None:
    chat = body_of("time year", "shared", True, None, "QXABCDEFGH")["messages"]
    assert chat[0] == {"role": "system", "content": "shared"}
    assert chat[1]["content"].startswith(module.TASK)
    assert "QXABCDEFGH" in chat[1]["content"]
    assert body_of("time", "shared", False, None, None) == {
        "prompt": f"shared\n\n{module.TASK} time"
    }
    assert body_of("time", "", True, None, None)["messages"][0]["role"] == "user"


def test_a_line_decides_which_api_it_needs() -> None:
    text = PromptLine("once", None, None)
    assert body_of("", "", True, text, None) == {"prompt": "once"}
    said = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    found = body_of("", "", False, PromptLine(None, said, None), "QXABCDEFGH")["messages"]
    assert found[0] == said[0]
    assert found[1]["content"].startswith("u\n\nThe code word is QXABCDEFGH")
    assert said[1]["content"] == "u", "the file's line is not changed"


def test_a_file_of_prompts(tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "a\u2028b", "max_tokens": 3}\n\n'
        '{"messages": [{"role": "user", "content": "hi"}]}\n',
        encoding="utf-8",
    )
    first, second = read_prompts(path)
    assert first == PromptLine("a\u2028b", None, 3)
    assert second.messages == ({"role": "user", "content": "hi"},)
    assert second.max_tokens is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "line 1: expected an object"),
        ("{}", 'either "prompt" or "messages"'),
        ('{"prompt": "a", "messages": []}', 'either "prompt" or "messages"'),
        ('{"prompt": ""}', "a text that is not empty"),
        ('{"prompt": "a", "max_token": 1}', "unknown key 'max_token'"),
        ('{"prompt": "a"}\n{"prompt": "a", "max_tokens": 0}', "line 2: max_tokens 0"),
        ('{"prompt": "a", "max_tokens": true}', "max_tokens True"),
        ('{"messages": [{"role": "user"}]}', "messages: expected objects"),
        ('{"messages": []}', "messages: expected objects"),
        ("\n", "no prompts"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_prompts(path)


def test_a_file_that_is_no_text(tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a text in UTF-8"):
        read_prompts(path)
