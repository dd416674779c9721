"""/v1/completions: text, tokens and log-probabilities, whole and streamed."""

import pytest
import torch


def joined(events):
    return "".join(event["choices"][0]["text"] for event in events if event["choices"])


def test_whole_and_streamed_answers_are_the_same(scripted):
    whole = scripted.complete("say Hello, wörld ✓.=>", max_tokens=50)
    [choice] = whole["choices"]
    assert choice == {
        "index": 0, "text": "Hello, wörld ✓.", "logprobs": None, "finish_reason": "stop"
    }  # fmt: skip
    assert whole["object"] == "text_completion" and whole["model"] == "tiny"
    size = len("Hello, wörld ✓.".encode())
    prompt = len("say Hello, wörld ✓.=>".encode())
    assert whole["usage"] == {
        "prompt_tokens": prompt, "completion_tokens": size, "total_tokens": prompt + size
    }  # fmt: skip
    events = scripted.events("/v1/completions", prompt="say Hello, wörld ✓.=>", max_tokens=50)
    assert joined(events) == choice["text"]
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "stop"
    assert all(event["choices"][0]["finish_reason"] is None for event in events[:-1])
    assert len({event["id"] for event in events}) == 1
    assert "usage" not in events[0], "only on request"
    assert len(events) > 10, "not all at once"


@pytest.mark.parametrize("kind", ["tiny", "markov"])
def test_log_probabilities_are_those_of_the_model(tiny, random_model, kind):
    """Before temperature and filters. The chosen token is listed even if it is not likely."""
    served = tiny if kind == "tiny" else random_model
    prompt = [72, 105, 33]
    fields = {"max_tokens": 12, "seed": 4, "logprobs": 3, "temperature": 0.7, "top_k": 20}
    [choice] = served.complete(prompt, **fields)["choices"]
    found = choice["logprobs"]
    ids = ids_named(served, found["tokens"])
    assert len(ids) == 12
    for place, (token_id, row) in enumerate(zip(ids, expected(served, prompt, ids), strict=True)):
        assert found["token_logprobs"][place] == pytest.approx(row[token_id].item(), abs=1e-4)
        best = found["top_logprobs"][place]
        top = row.topk(3)
        assert list(best.values())[:3] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert ids_named(served, list(best))[:3] == top.indices.tolist(), "the best first"
        assert best[found["tokens"][place]] == found["token_logprobs"][place]
        assert len(best) == 3 + (token_id not in top.indices)


def expected(served, prompt_ids, answer_ids):
    """Log-probabilities [answer, vocab]."""
    ids = torch.tensor([*prompt_ids, *answer_ids])
    forward = served.engine.forward
    with torch.no_grad():
        logits = forward.model(ids[None])[0] if hasattr(forward, "model") else forward.table[ids]
    return logits.log_softmax(-1)[len(prompt_ids) - 1 : -1]


def ids_named(served, names):
    """The ids of tokens that are named by their text or by "bytes:"."""
    id_of = {token: token_id for token_id, token in served.tokenizer.vocab.items()}
    return [
        id_of[bytes.fromhex(name[6:].replace("\\x", "")) if name[:6] == "bytes:" else name.encode()]
        for name in names
    ]


@pytest.mark.parametrize("stop", [None, ["\t"], ["a", "b", "c", "d", "e"]])
def test_streamed_log_probabilities_add_up_to_the_whole_ones(random_model, stop):
    """Also where tokens show nothing at first: parts of characters, and of stop strings."""
    for seed in range(4):
        fields = {"prompt": "Hi", "max_tokens": 30, "seed": seed, "logprobs": 2, "stop": stop}
        [choice] = random_model.complete(**fields)["choices"]
        events = random_model.events("/v1/completions", **fields)
        assert joined(events) == choice["text"]
        for name, whole in choice["logprobs"].items():
            parts = [event["choices"][0]["logprobs"][name] for event in events]
            assert [each for part in parts for each in part] == whole, name


def test_offsets_are_places_in_the_text(scripted):
    [choice] = scripted.complete("say aé😀b=>", max_tokens=50, logprobs=0)["choices"]
    found = choice["logprobs"]
    assert found["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert found["tokens"][:3] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert found["top_logprobs"] == [{}] * 8


def test_tokens_of_a_stop_string_have_no_log_probabilities(scripted):
    """But they were computed, so they count."""
    fields = {"prompt": "say one, END two=>", "max_tokens": 50, "logprobs": 1}
    whole = scripted.complete(**fields, stop=", END")
    [choice] = whole["choices"]
    assert choice["text"] == "one" and choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"] == ["o", "n", "e"]
    assert whole["usage"]["completion_tokens"] == len("one, END")
    events = scripted.events("/v1/completions", **fields, stop=", END")
    sent = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
    assert sent == ["o", "n", "e"]


def test_prompts_in_all_forms(scripted):
    text = "say Hi=>"
    for prompt in (text, list(text.encode()), [text], [list(text.encode())]):
        [choice] = scripted.complete(prompt)["choices"]
        assert choice["text"] == "Hi"
    texts = [f"say {number}=>" for number in range(5)]
    found = scripted.complete(texts)
    assert [choice["text"] for choice in found["choices"]] == ["0", "1", "2", "3", "4"]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3, 4]
    assert found["usage"]["prompt_tokens"] == 5 * len(texts[0])
    assert found["usage"]["completion_tokens"] == 5
    lists = [list(text.encode()) for text in texts]
    assert scripted.complete(lists)["choices"] == found["choices"]


def test_several_prompts_with_several_samples_each_are_numbered_by_prompt(scripted):
    fields = {"prompt": ["say A\1\1\1=>", "say B\1\1\1=>"], "n": 3, "seed": 1}
    choices = scripted.complete(**fields)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3, 4, 5]
    assert [choice["text"][0] for choice in choices] == ["A", "A", "A", "B", "B", "B"]
    assert len({choice["text"] for choice in choices}) == 6, "samples differ"
    assert {choice["text"][1:] for choice in choices[:3]} == {c["text"][1:] for c in choices[3:]}
    events = scripted.events("/v1/completions", **fields)
    for index, choice in enumerate(choices):
        own = [event for event in events if event["choices"][0]["index"] == index]
        assert joined(own) == choice["text"]
        assert own[-1]["choices"][0]["finish_reason"] == "stop"


def test_samples_are_streamed_side_by_side(scripted):
    events = scripted.events("/v1/completions", prompt="say \1\1\1\1\1\1=>", n=2, seed=3)
    order = [event["choices"][0]["index"] for event in events]
    assert sorted(order) != order, "not one after the other"


def test_an_empty_prompt_begins_a_document(random_model):
    found = random_model.complete("", max_tokens=3, seed=1)
    assert found["usage"]["prompt_tokens"] == 1
    end = random_model.tokenizer.special_tokens["<|endoftext|>"]
    assert found["choices"] == random_model.complete([end], max_tokens=3, seed=1)["choices"]
