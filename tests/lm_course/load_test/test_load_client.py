"""One request: its times by a clock that jumps, its outcome, and how a client goes away."""

import json

import httpx
import pytest

from lm_course.load_test.load_client import EventDecoder, RequestRecord
from lm_course.load_test.load_plan import PlannedRequest

BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@pytest.fixture
def ask(fake):
    """Send one request to a server that answers with the given stream; return both."""

    def ask(answer, hang_up_after=None, time_limit=100.0, code_word=None, start=0.0, body=BODY):
        server = fake.FakeServer(lambda body, number: answer)
        record = RequestRecord(0, 0, planned=0.0)
        request = PlannedRequest(0, body, hang_up_after, code_word)

        async def work() -> None:
            await server.client(time_limit).answer(request, record, start)

        fake.run_virtually(work())
        return record, server

    return ask


def test_the_times_of_an_answer(fake, ask) -> None:
    record, server = ask(fake.answer_of("a", "b", "c", gap=2.0))
    assert record.outcome == "done"
    assert record.text == "abc"
    assert record.sent == 0
    assert record.pieces == pytest.approx([4, 6, 8]), "the first event has no text"
    assert record.ended == pytest.approx(8)
    assert (record.prompt_tokens, record.answer_tokens) == (7, 3)
    assert server.bodies == [
        {"model": "small", "stream": True, "stream_options": {"include_usage": True}, **BODY}
    ]
    assert server.paths == ["/v1/chat/completions"]


def test_times_count_from_the_start_of_the_level(fake, ask) -> None:
    record, _ = ask(fake.answer_of("a"), start=-10.0)
    assert record.sent == pytest.approx(10)
    assert record.pieces == pytest.approx([12])


def test_a_text_to_continue(ask, fake) -> None:
    events = [(1.0, {"choices": [{"index": 0, "text": "ab", "finish_reason": "length"}]})]
    record, server = ask([*events, (0.0, "[DONE]")], body={"prompt": "x", "max_tokens": 1})
    assert record.text == "ab"
    assert server.paths == ["/v1/completions"]
    assert record.answer_tokens is None
    assert record.counted_tokens == 1, "a server that does not count: its pieces"


def test_thoughts_and_calls_are_pieces_too(fake, ask) -> None:
    call = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    deltas = [{"reasoning_content": "hm"}, call]
    events = [(1.0, {"choices": [{"delta": delta}]}) for delta in deltas]
    record, _ = ask([*events, (0.0, fake.chunk("", "tool_calls")), (0.0, "[DONE]")])
    assert record.text == "hm{}"
    assert record.pieces == pytest.approx([1, 2])


def test_a_client_that_goes_away(fake, ask) -> None:
    record, server = ask(fake.answer_of("a", "b", "c", "d"), hang_up_after=2)
    assert record.outcome == "hung up"
    assert record.error is None
    assert record.text == "ab"
    assert record.ended == pytest.approx(3)
    assert server.closed_early == 1


def test_an_answer_that_ends_before_the_client_goes_away(fake, ask) -> None:
    record, server = ask(fake.answer_of("a"), hang_up_after=2)
    assert record.outcome == "done"
    assert server.closed_early == 0


def test_a_refusal(ask) -> None:
    error = {"error": {"message": "too many requests"}}
    record, _ = ask(httpx.Response(429, headers={"Retry-After": "3"}, json=error))
    assert (record.outcome, record.retry_after) == ("refused", 3.0)
    assert record.error == "HTTP 429: too many requests"
    record, _ = ask(httpx.Response(429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    assert (record.outcome, record.retry_after) == ("refused", 1.0)
    record, _ = ask(httpx.Response(503, headers={"Retry-After": "3"}))
    assert (record.outcome, record.error) == ("error", "HTTP 503")


def test_an_answer_that_takes_too_long(fake, ask) -> None:
    record, server = ask(fake.answer_of("a", "b", gap=4.0), time_limit=10.0)
    assert record.outcome == "time limit"
    assert record.pieces == pytest.approx([8])
    assert record.ended == pytest.approx(10)
    assert server.closed_early == 1


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ({"error": {"message": "out of\nblocks"}}, "error in the stream: out of blocks"),
        ("{", "an event of the stream is not JSON"),
        ("[]", "an event of the stream is not an object"),
        ({"choices": ["x"]}, "an event of the stream does not have OpenAI's form"),
        ({"choices": [{"delta": "x"}]}, "an event of the stream does not have OpenAI's form"),
        (
            {"choices": [{"delta": {"content": [1]}}]},
            "an event of the stream does not have OpenAI's form",
        ),
        ({"usage": [1]}, "an event of the stream does not have OpenAI's form"),
        (httpx.ReadError("gone"), "connection broken (ReadError)"),
        (httpx.RemoteProtocolError("cut"), "connection broken (RemoteProtocolError)"),
    ],
)
def test_a_stream_that_fails(fake, ask, last, error) -> None:
    record, _ = ask([(1.0, fake.chunk("a")), (1.0, last)])
    assert (record.outcome, record.error) == ("error", error)
    assert record.text == "a", "what came before is kept: it may hold a code word"


def test_a_stream_that_just_ends(fake, ask) -> None:
    record, _ = ask([(1.0, fake.chunk("a"))])
    assert record.error == "the stream ended in the middle of the answer"
    record, _ = ask([(1.0, fake.chunk("a", "stop"))])
    assert record.outcome == "done", "some servers send no [DONE]"


def test_no_connection(ask) -> None:
    record, _ = ask(httpx.ConnectError("refused"))
    assert (record.outcome, record.error) == ("error", "no connection")


def test_the_code_word_is_kept(fake, ask) -> None:
    record, _ = ask(fake.answer_of("a"), code_word="QXABCDEFGH")
    assert record.code_word == "QXABCDEFGH"


def test_events_from_bytes_in_any_pieces() -> None:
    text = (
        ': a comment\n\ndata: {"a": 1}\r\n\r\nevent: x\r\ndata:two\r\ndata: lines\r\n\r\n'
        "data: a\u2028b\u0085c\n\ndata: [DONE]\r\r\n"
    ).encode()
    expected = ['{"a": 1}', "two\nlines", "a\u2028b\u0085c", "[DONE]"]
    for size in (1, 2, 3, 7, len(text)):
        decoder = EventDecoder()
        parts = [text[place : place + size] for place in range(0, len(text), size)]
        assert [data for part in parts for data in decoder.push(part)] == expected, size
    assert json.loads(expected[0]) == {"a": 1}
