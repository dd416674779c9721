"""Both routes: how long an answer is, where it stops, and how it is drawn."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from inference.engine.batch_requests import BatchSettings
from inference.sampling import SamplingSettings


def texts(answer):
    return [choice["text"] for choice in answer["choices"]]


@pytest.mark.parametrize(("most", "text", "reason"), [
    (1, "H", "length"), (4, "Hell", "length"), (5, "Hello", "length"), (6, "Hello", "stop"),
])  # fmt: skip
def test_max_tokens_counts_text_and_the_end(scripted, most, text, reason):
    """The token that ends the text is drawn, but is none of the answer."""
    answer = scripted.complete("say Hello=>", max_tokens=most)
    assert texts(answer) == [text]
    assert answer["choices"][0]["finish_reason"] == reason
    assert answer["usage"]["completion_tokens"] == len(text)


def test_sixteen_tokens_are_the_default_of_completions(scripted):
    assert texts(scripted.complete(f"say {'x' * 40}=>")) == ["x" * 16]


def test_a_chat_may_fill_the_context(scripted):
    answer = scripted.chat(f"say {'x' * 100}")
    assert answer["choices"][0]["message"]["content"] == "x" * 100
    for name in ("max_tokens", "max_completion_tokens"):
        answer = scripted.chat("say Hello", **{name: 3})
        assert answer["choices"][0]["message"]["content"] == "Hel"
        assert answer["choices"][0]["finish_reason"] == "length"
    assert scripted.chat("say Hello", max_tokens=3, max_completion_tokens=3)["usage"]
    answer = scripted.chat("say Hello", max_tokens=None, temperature=None, stop=None, n=None)
    assert answer["choices"][0]["message"]["content"] == "Hello", "null is the default"


def test_an_answer_ends_with_the_context(scripted):
    prompt = f"say {'y' * 980}=>"
    answer = scripted.complete(prompt, max_tokens=1000)
    size = answer["usage"]["completion_tokens"]
    assert texts(answer) == ["y" * size]
    assert len(prompt) + size == 1024 + 1, "the last token is never computed"
    assert answer["choices"][0]["finish_reason"] == "length"
    full = ("x" * 1100 + "say Hi=>")[-1024:]
    answer = scripted.complete(full, max_tokens=5)
    assert texts(answer) == ["H"] and answer["choices"][0]["finish_reason"] == "length"


@pytest.fixture(scope="module")
def with_merges(serve_module):
    return serve_module(merged=["EN", "D ", " t"])


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("END", "one EN two "),
        (["zzz", "END"], "one EN two "),
        (["two", "one EN tw"], ""),
        (["o", "END"], ""),
        (["!", "?"], "one EN two END three"),
        ([], "one EN two END three"),
    ],
)
def test_stop_strings(scripted, with_merges, merged, stop, text):
    """Cut into tokens in two ways; never a part of one is shown."""
    served = with_merges if merged else scripted
    fields = {"prompt": "say one EN two END three=>", "max_tokens": 60, "stop": stop}
    [choice] = served.complete(**fields)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")
    events = served.events("/v1/completions", **fields)
    shown = [event["choices"][0]["text"] for event in events]
    assert "".join(shown) == text
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    served.wait_until(lambda: served.is_idle)


def test_a_stop_string_ends_the_computing_of_its_sample_only(scripted):
    """The other sample, whose first letter differs, takes the later steps alone."""
    fields = {"prompt": "say \1-----=>", "n": 2, "seed": 2}
    [first, second] = texts(scripted.complete(**fields))
    assert first[0] != second[0] and len(first) == len(second) == 6
    fields |= {"stop": first[:2], "stream": True}
    requests, pool = scripted.engine.scheduler.running, scripted.engine.pool
    with ExitStack() as stack:
        both, either, alone = (
            stack.enter_context(scripted.gate(f"=>{second[:n]}")) for n in (1, 2, 3)
        )
        stream = stack.enter_context(scripted.client.stream("POST", "/v1/completions", json=fields))
        lines = (line[6:] for line in stream.iter_lines() if line.startswith("data: {"))
        choices = (json.loads(line)["choices"][0] for line in lines)
        assert both.reached.wait(30)
        num_available = pool.num_available
        assert len(requests) == 2
        both.opened.set()
        assert either.reached.wait(30)  # the step may have begun before the text was read
        seen = []
        while not seen or seen[-1]["finish_reason"] is None:
            seen.append(next(choices))
        assert seen[-1]["index"] == 0 and seen[-1]["finish_reason"] == "stop"
        either.opened.set()
        assert alone.reached.wait(30)
        assert len(requests) == 1
        assert pool.num_available == num_available + 1, "its only block is free"
        alone.opened.set()
        seen += choices
    found = ["".join(each["text"] for each in seen if each["index"] == n) for n in (0, 1)]
    assert found == ["", second]
    scripted.wait_until(lambda: scripted.is_idle)


def test_no_half_character_is_ever_shown(scripted):
    """An emoji is four tokens; if the limit cuts it, one replacement character stands for it."""
    fields = {"prompt": "say a😀b=>"}
    for most, text in ((6, "a😀b"), (5, "a😀"), (4, "a\ufffd"), (2, "a\ufffd"), (1, "a")):
        assert texts(scripted.complete(**fields, max_tokens=most)) == [text]
        events = scripted.events("/v1/completions", **fields, max_tokens=most)
        shown = [event["choices"][0]["text"] for event in events]
        assert "".join(shown) == text
        assert all("\ufffd" not in each for each in shown[:-1])


def test_the_same_seed_gives_the_same_answer_whatever_else_runs(scripted):
    fields = {"prompt": "say \1\1\1\1\1\1\1\1=>", "seed": 5}
    alone = texts(scripted.complete(**fields))
    assert texts(scripted.complete(**fields)) == alone
    others = {"prompt": ["say \1\1\1\1=>"] * 8, "n": 4}
    with scripted.gate("say \1\1\1\1=>") as gate:
        response = scripted.client.build_request("POST", "/v1/completions", json=others)
        with ThreadPoolExecutor() as pool:
            beside = pool.submit(scripted.client.send, response)
            assert gate.reached.wait(30)
            mine = pool.submit(scripted.complete, **fields)
            scripted.wait_until(lambda: scripted.thread.num_requests == 33)
            gate.opened.set()
            assert texts(mine.result(30)) == alone
            assert len(set(texts(beside.result(30).json()))) > 8
    assert texts(scripted.complete(**{**fields, "seed": 6})) != alone
    drawn = {texts(scripted.complete("say \1\1\1\1\1\1\1\1=>"))[0] for _ in range(3)}
    assert len(drawn) == 3, "without a seed, answers differ"


def test_all_settings_of_draws_reach_the_engine(random_model, monkeypatch):
    seen = []
    submit = random_model.engine.submit

    def spied(*args, **fields):
        seen.append(fields["sampling"])
        return submit(*args, **fields)

    monkeypatch.setattr(random_model.engine, "submit", spied)
    asked = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.01, "repetition_penalty": 1.3,
        "presence_penalty": 0.4, "frequency_penalty": -0.2, "seed": 11,
    }  # fmt: skip
    random_model.complete("Hi", max_tokens=2, logit_bias={"65": -3, "66": 2.5}, **asked)
    random_model.chat("Hi", max_tokens=2, logit_bias={"65": -3, "66": 2.5}, **asked)
    expected = SamplingSettings(**asked, logit_bias={65: -3, 66: 2.5})
    assert seen == [expected, expected]
    random_model.complete("Hi", max_tokens=2)
    assert seen[-1].temperature == 1, "OpenAI's default"


def test_bias_and_penalties_change_the_answer(random_model):
    only = {"max_tokens": 6, "temperature": 0, "logit_bias": {"65": 100}}
    assert texts(random_model.complete("Hi", **only)) == ["AAAAAA"]
    tied = {"max_tokens": 6, "temperature": 0, "logit_bias": {"65": 60, "66": 60}}
    [same] = texts(random_model.complete("Hi", **tied))
    [other] = texts(random_model.complete("Hi", **tied, frequency_penalty=2, presence_penalty=2))
    assert set(other) == {"A", "B"} and other != same


def test_requests_share_the_beginning_of_a_prompt(serve):
    """One reads the blocks that the other computed, and samples share their prompt."""
    served = serve(batch=BatchSettings(block_size=4, cache_tokens=256))
    long = f"{'context ' * 10}say \1\1\1\1=>"
    served.complete(long, seed=1)
    before = served.forward.num_steps
    answer = served.complete(long, n=3, seed=1)
    assert served.forward.num_steps - before <= 6
    assert len(set(texts(answer))) == 3
    assert answer["usage"]["prompt_tokens"] == len(long), "once, though there are three answers"
    assert answer["usage"]["completion_tokens"] == 12
    served.wait_until(lambda: served.is_idle)
