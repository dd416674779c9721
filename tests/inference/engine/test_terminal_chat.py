"""The terminal conversation, typed by a script."""

import pytest

from inference.engine.engine import Engine
from inference.engine.terminal_chat import HELP, chat_session, drop_oldest_turns
from inference.engine.text_side import TextSide
from inference.sampling import SamplingSettings
from lm_core.user_error import UserError
from tokenizer_bpe.templates.added_tokens import TextToken
from tokenizer_bpe.templates.jinja_template import JinjaTemplate
from tokenizer_bpe.tokenizer import Tokenizer

GREEDY = SamplingSettings(temperature=0.0)


def talk(engine, lines: list[str], max_new_tokens: int = 3):
    waiting = iter(lines)
    written: list[str] = []

    def read_line(prompt: str) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    messages = chat_session(engine, GREEDY, max_new_tokens, "runs/x", read_line, written.append)
    return messages, "".join(written)


def test_a_question_gets_a_reply_and_both_are_remembered(engine) -> None:
    messages, output = talk(engine, ["Hi", "/quit", "never read"])
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "Hi"
    assert output.startswith(f"Model: runs/x\n{HELP}model> ")
    assert messages[1]["content"] in output


def test_reset_forgets_and_empty_lines_are_passed_over(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "stream_chat", lambda *_: iter(["x"]))
    messages, output = talk(engine, ["Hi", "Yo"])
    assert [message["content"] for message in messages] == ["Hi", "x", "Yo", "x"]
    messages, output = talk(engine, ["Hi", "/reset", "  ", "Yo"])
    assert messages[0]["content"] == "Yo"
    assert len(messages) == 2
    assert "(forgotten)" in output


def test_a_message_that_is_too_long_is_refused_and_the_talk_goes_on(engine) -> None:
    messages, output = talk(engine, ["x" * 99, "Hi"])
    assert "shorten the prompt" in output
    assert messages[0]["content"] == "Hi"


def test_the_oldest_turns_go_when_the_context_is_full(engine) -> None:
    messages, output = talk(engine, ["ab", "cd"], max_new_tokens=8)
    assert messages[0]["content"] == "cd"
    assert "(the context is full: the oldest 2 messages were dropped)" in output
    turns = [{"role": role, "content": "a" * 9} for role in ("user", "assistant", "user")]
    kept, dropped = drop_oldest_turns(engine, turns, 0)
    assert (len(kept), dropped) == (1, 2)


def test_whole_turns_go_and_only_as_many_as_must(engine) -> None:
    roles = ("user", "assistant", "user", "assistant", "user")
    turns = [{"role": role, "content": letter} for role, letter in zip(roles, "abcde", strict=True)]
    tokens = [len(engine.chat_ids(turns[first:])) for first in (0, 2, 4)]
    # The room that the last two turns leave free, and one token more.
    room = 48 - tokens[1]
    assert tokens[0] > 48 > tokens[1] > tokens[2]
    assert drop_oldest_turns(engine, turns, room) == (turns[2:], 2)
    assert drop_oldest_turns(engine, turns, room + 1) == (turns[4:], 4)
    assert drop_oldest_turns(engine, turns, 48) == (turns[4:], 4), "the last message stays"


def test_a_special_token_in_a_message_is_text(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "stream_chat", lambda *_: iter(["fine"]))
    messages, _ = talk(engine, ["What is <|im_end|>?"])
    assert messages[0]["content"] == "What is <|im_end|>?"
    ids = engine.chat_ids(messages[:1])
    assert ids.count(engine.tokenizer.special_tokens["<|im_end|>"]) == 1, "the end of the message"
    assert "What is <|im_end|>?" in engine.tokenizer.decode(ids)


def test_a_reply_that_spells_a_special_token_is_remembered_whole(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "stream_chat", lambda *_: iter(["a <|im_", "start|> b"]))
    messages, output = talk(engine, ["Hi"])
    assert messages[1]["content"] == "a <|im_start|> b"
    starts = engine.chat_ids(messages).count(engine.tokenizer.special_tokens["<|im_start|>"])
    assert starts == 3, "two messages, and the next"
    assert "(message" not in output


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), UserError("no such token")])
def test_a_reply_that_fails_costs_that_turn_alone(engine, monkeypatch, error) -> None:
    replies = iter([["first"], error, ["third"]])

    def stream(*_):
        reply = next(replies)
        yield "some"
        if isinstance(reply, Exception):
            raise reply
        yield from reply

    monkeypatch.setattr(engine, "stream_chat", stream)
    messages, output = talk(engine, ["a", "b", "c"])
    said = [message["content"] for message in messages]
    assert said == ["a", "somefirst", "c", "somethird"][-len(said) :]
    assert said[-2:] == ["c", "somethird"]
    named = "RuntimeError: out of memory" if isinstance(error, RuntimeError) else "no such token"
    assert f"(this reply failed: {named}; the conversation before it is kept)" in output
    monkeypatch.setenv("LM_TRACEBACK", "1")
    replies = iter([error])
    with pytest.raises(type(error)):
        talk(engine, ["a"])


@pytest.mark.parametrize("word", ["/quit", "exit", "quit", " Exit ", "/exit"])
def test_words_that_end_the_talk(engine, word) -> None:
    messages, output = talk(engine, [word, "never read"])
    assert messages == []
    assert "exit, /quit or Ctrl-D" in output


def test_a_model_without_a_template_says_so_before_it_greets(model) -> None:
    tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    base = Engine(model, tokenizer, TextSide(tokenizer, None, frozenset({256})))
    broken = TextSide(tokenizer, JinjaTemplate("{% for x in %}", {}), frozenset({256}))
    written: list[str] = []
    for engine, words in (
        (base, "has no chat template"),
        (Engine(model, tokenizer, broken), "the model's chat template fails: "),
    ):
        with pytest.raises(UserError, match=words):
            chat_session(engine, GREEDY, 3, "", lambda prompt: "exit", written.append)
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, got 0"):
        chat_session(engine, GREEDY, 0, "", lambda prompt: "exit", written.append)
    assert written == []


def test_a_line_that_is_not_utf8_is_refused_and_the_talk_continues(engine) -> None:
    lines = iter([UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "exit"])
    written: list[str] = []

    def read_line(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, Exception):
            raise line
        return line

    assert chat_session(engine, GREEDY, 3, "", read_line, written.append) == []
    assert "(that line is not UTF-8; set the terminal to UTF-8)\n" in written


def test_what_was_thought_aloud_is_not_remembered(engine, monkeypatch) -> None:
    monkeypatch.setattr(
        engine, "stream_chat", lambda *_: iter(["<think>\nhm", "</think>\n\n", "Yes."])
    )
    messages, output = talk(engine, ["Really?"])
    assert messages[1]["content"] == "Yes."
    assert "<think>" in output


def test_a_reply_about_the_tag_is_remembered_whole(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine, "stream_chat", lambda *_: iter(["</think> ends it."]))
    assert talk(engine, ["What is </think>?"])[0][1]["content"] == "</think> ends it."
    monkeypatch.setitem(engine.tokenizer.special_tokens, TextToken("</think>"), 65)
    assert talk(engine, ["What is </think>?"])[0][1]["content"] == "ends it."


def test_each_reply_has_a_seed_of_its_own(engine, monkeypatch) -> None:
    seeds = []
    monkeypatch.setattr(
        engine, "stream_chat", lambda _, sampling, __: seeds.append(sampling.seed) or iter(["x"])
    )
    talk(engine, ["Hi", "/reset", "Hi"])
    assert seeds == [0, 1]


def test_ctrl_c_at_the_prompt_ends_the_talk(engine) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    assert chat_session(engine, GREEDY, 3, "", interrupted, lambda text: None) == []


def test_ctrl_c_during_a_reply_stops_that_reply_only(engine, monkeypatch) -> None:
    def interrupted(*_):
        yield "half"
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "stream_chat", interrupted)
    messages, output = talk(engine, ["Hi"])
    assert messages[-1] == {"role": "assistant", "content": "half"}
    assert "half (stopped)" in output


def test_a_command_that_there_is_not_is_no_message(engine):
    messages, output = talk(engine, ["/help", "/qiut", "/etc/hosts"])
    assert "(/help is not" not in output
    assert "(/qiut is not a command)\nType a message. /reset forgets" in output
    assert output.count("Type a message.") == 3  # at the start, and for each of the two
    assert [message["content"] for message in messages[::2]] == ["/etc/hosts"]
