"""Embeddings and /tokenize."""

import base64
import json
import struct

import pytest
import torch

CHATS = [{"role": "user", "content": "Hi <|im_end|>"}]


def hidden_mean(served, ids):
    """By the model itself, through a hook on its last norm."""
    model = served.answerer.model.engine.model
    seen = []
    handle = model.final_norm.register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        model(torch.tensor([ids]))
    handle.remove()
    return seen[0][0].mean(0)


def test_an_embedding_is_the_mean_of_the_last_hidden_states(tiny):
    texts = ["Hello", "ünïcode", "x" * 100]
    body = tiny.post("/v1/embeddings", input=texts, model="tiny").json()
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    for text, entry in zip(texts, body["data"], strict=True):
        expected = hidden_mean(tiny, list(text.encode()))
        assert entry["embedding"] == pytest.approx(expected.tolist(), abs=1e-4)
    count = sum(len(text.encode()) for text in texts)
    assert body["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_inputs_in_all_forms_and_encodings(tiny):
    def vectors(**fields):
        response = tiny.post("/v1/embeddings", **fields)
        return [entry["embedding"] for entry in response.json()["data"]]

    ids = list(b"Hello")
    expected = vectors(input="Hello")
    for given in (["Hello"], ids, [ids]):
        assert vectors(input=given) == expected
    [packed] = vectors(input="Hello", encoding_format="base64")
    decoded = struct.unpack(f"<{len(expected[0])}f", base64.b64decode(packed))
    assert list(decoded) == pytest.approx(expected[0])


def test_embeddings_do_not_disturb_answers(tiny):
    fields = {"prompt": "Hi", "max_tokens": 8, "seed": 3}
    [alone] = tiny.complete(**fields)["choices"]
    asked = {**fields, "stream": True}
    with tiny.client.stream("POST", "/v1/completions", json=asked) as stream:
        assert tiny.post("/v1/embeddings", input=["a", "b"]).status_code == 200
        lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: {")]
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == alone["text"]


def test_tokens_of_texts_and_conversations(scripted):
    body = scripted.post("/tokenize", prompt="Hé<|im_end|>").json()
    end = scripted.tokenizer.special_tokens["<|im_end|>"]
    assert body == {"count": 4, "tokens": [72, 195, 169, end], "max_model_len": 1024}
    body = scripted.post("/tokenize", messages=CHATS).json()
    text = b"".join(scripted.tokenizer.vocab[i] for i in body["tokens"]).decode()
    assert text == "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert body["tokens"].count(end) == 1, "what the user wrote is text"
    assert body["count"] == len(body["tokens"])
    assert scripted.post("/tokenize", prompt="").json()["tokens"] == []
