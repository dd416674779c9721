"""The page's files, the key that they do not need, several models, and the attention of a head."""

import json
import re

import pytest
import torch

from inference.chat_page.attention_weights import attention_weights
from inference.chat_page.page_routes import FILES, FOLDER
from inference.server.app import ServerSettings
from lm_core.user_error import UserError

CHAT = [{"role": "user", "content": "Hi"}]
ATTENTION = "/inside/attention"


@pytest.fixture(scope="module")
def two(serve_module, make_served):
    return serve_module(second=make_served(name="second", context_length=256))


@pytest.fixture(scope="module")
def locked(serve_module):
    return serve_module(limits=ServerSettings(api_key="sésame"))


def test_the_files_and_their_types(scripted):
    page = scripted.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    assert {path.removeprefix("page/") for path in linked} == FILES.keys() - {"index.html"}
    for path in linked:
        assert scripted.client.get(f"/{path}").status_code == 200, path
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for file in FOLDER.iterdir():
        response = scripted.client.get(f"/page/{file.name}")
        assert response.content == file.read_bytes()
        assert response.headers["content-type"].startswith(kinds.get(file.suffix, "text/html"))
        for name in re.findall(r'^import .* from "\./([^"]+)";$', file.read_text(), re.M):
            assert name in FILES, f"{file.name} imports {name}"


@pytest.mark.parametrize("path", ["/", "/page/main.js"])
def test_headers(scripted, path):
    response = scripted.client.get(path)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    same = {"If-None-Match": response.headers["etag"]}
    again = scripted.client.get(path, headers=same)
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers
    assert scripted.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert scripted.client.head(path).status_code == 200
    assert scripted.client.post(path).status_code == 405


@pytest.mark.parametrize(
    "path", ["..%2Fpage_routes.py", "%2e%2e/page_routes.py", "../__init__.py", "none.js", "%00", ""]
)
def test_no_other_file_is_sent(scripted, path):
    response = scripted.client.get(f"/page/{path}")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"


def test_no_address_of_others_and_no_html_from_text():
    for name, file in FILES.items():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", text), f"{name}: an address?"
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ):
            assert forbidden not in text, f"{name}: {forbidden}"
        if name.endswith(".html"):
            assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?! type=\"module\" src)", text)


def test_the_page_needs_no_key_but_what_it_asks_for_does(locked):
    for path in ("/", "/page/main.js", "/page/none.js"):
        assert locked.client.get(path).status_code in (200, 404)
    for path in ("/inside/models", "/v1/models", "/page", "/pages/main.js"):
        assert locked.client.get(path).status_code == 401, path
    assert locked.client.post(ATTENTION, json={}).status_code == 401


def test_what_the_page_asks_of_each_model(two):
    weights = two.answerer.model.engine.model.parameters()
    count = sum(each.numel() for each in weights)  # the same in both
    assert two.client.get("/inside/models").json() == {
        "most_attention_tokens": 512,
        "data": [
            {
                "id": name,
                "can_chat": True,
                "context_length": context,
                "num_parameters": count,
                "num_layers": 2,
                "num_heads": 4,
            }
            for name, context in (("tiny", 1024), ("second", 256))
        ],
    }  # fmt: skip


def test_a_model_that_cannot_chat(two):
    engine = two.answerer.model.engine
    assert two.answerer.model.can_chat
    start = engine.tokenizer.special_tokens.pop("<|im_start|>")
    try:
        assert not two.answerer.model.can_chat
    finally:
        engine.tokenizer.special_tokens["<|im_start|>"] = start


def test_several_models_by_name(two):
    listed = two.client.get("/v1/models").json()["data"]
    assert [(each["id"], each["max_model_len"]) for each in listed] == [
        ("tiny", 1024),
        ("second", 256),
    ]
    assert two.client.get("/v1/models/second").json()["max_model_len"] == 256
    for name, answered in ((None, "tiny"), ("tiny", "tiny"), ("second", "second")):
        asked = {} if name is None else {"model": name}
        assert two.complete("say Hi=>", **asked)["model"] == answered
        assert two.chat("say Hi", **asked)["model"] == answered
        length = two.post("/tokenize", prompt="x", **asked).json()["max_model_len"]
        assert length == {"tiny": 1024, "second": 256}[answered]
        body = two.post("/v1/embeddings", input="x", **asked).json()
        assert body["model"] == answered
    for path in ("/v1/completions", "/v1/embeddings", "/tokenize", ATTENTION):
        fields = {"prompt": "x", "input": "x", "layer": 0, "head": 0}
        known = {"/v1/embeddings": ["input"], ATTENTION: ["prompt", "layer", "head"]}
        sent = {key: fields[key] for key in known.get(path, ["prompt"])}
        response = two.post(path, model="third", **sent)
        assert response.status_code == 404
        message = response.json()["error"]["message"]
        assert message == "the model 'third' is not served here; this server has 'tiny', 'second'"


def test_each_model_has_its_own_engine_and_numbers(two):
    def count(name):
        text = two.client.get("/metrics").text
        found = re.search(rf'^lm_answer_tokens_total{{model="{name}"}} (\S+)$', text, re.M)
        return float(found[1])

    before = count("tiny"), count("second")
    slow = {"prompt": "say slow=>", "stream": True}
    with two.gate("say slow=>s") as gate, two.client.stream("POST", "/v1/completions", json=slow):
        assert gate.reached.wait(30)
        # The first engine stands still; the second one answers.
        assert two.complete("say Hello=>", model="second")["choices"][0]["text"] == "Hello"
        gate.opened.set()
    two.wait_until(lambda: two.is_idle)
    assert count("second") == before[1] + 5
    assert count("tiny") > before[0]


def test_two_models_of_one_name(make_served):
    with pytest.raises(UserError, match=r"two models are called 'tiny'.*--name"):
        make_served(second=make_served())


def ids_of_chat(served):
    return served.post("/tokenize", messages=CHAT).json()["tokens"]


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 3)])
@pytest.mark.parametrize("kind", ["messages", "prompt"])
def test_the_attention_of_a_head(tiny, kind, layer, head):
    asked = {"messages": CHAT} if kind == "messages" else {"prompt": "Hi"}
    prompt = ids_of_chat(tiny) if kind == "messages" else list(b"Hi")
    body = tiny.post(ATTENTION, answer=[[72], [195], [169]], layer=layer, head=head, **asked).json()
    ids = [*prompt, 72, 195, 169]
    assert body["num_prompt"] == len(prompt)
    assert [bytes(each) for each in body["tokens"]] == [tiny.tokenizer.vocab[i] for i in ids]
    expected = attention_weights(tiny.answerer.model.engine.model, ids, layer, head)
    assert len(body["weights"]) == len(ids)
    for place, row in enumerate(body["weights"]):
        assert row == pytest.approx(expected[place, : place + 1].tolist(), abs=1e-5)
        assert sum(row) == pytest.approx(1, abs=1e-3)


def test_the_last_token_of_a_full_context_has_no_place(two):
    fields = {"prompt": "x" * 256, "layer": 0, "head": 0, "model": "second"}
    body = two.post(ATTENTION, answer=[[65]], **fields).json()
    assert len(body["tokens"]) == len(body["weights"]) == 256
    longest = two.post(ATTENTION, prompt="x" * 512, layer=0, head=0)
    assert longest.status_code == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer": 2}, "layer: 2, but the model has 2, from 0"),
        ({"head": 4}, "head: 4, but the model has 4, from 0"),
        ({"prompt": "x" * 500, "answer": [[65]] * 13}, "have 513 tokens; .* at most 512"),
        ({"answer": [[65], [1, 2]]}, r"answer.1: the model has no token b'\\x01\\x02'"),
        ({"answer": [[256]]}, "answer.0.0"),
        ({"prompt": None}, "give either prompt or messages"),
    ],
)
def test_what_is_refused(tiny, fields, message):
    response = tiny.post(ATTENTION, **{"prompt": "x", "layer": 0, "head": 0, **fields})
    assert response.status_code == 400
    assert re.search(message, response.json()["error"]["message"]), response.text


def test_attention_does_not_disturb_answers(tiny):
    fields = {"prompt": "Hi", "max_tokens": 8, "seed": 3}
    [alone] = tiny.complete(**fields)["choices"]
    with tiny.client.stream("POST", "/v1/completions", json={**fields, "stream": True}) as stream:
        assert tiny.post(ATTENTION, prompt="x", layer=0, head=0).status_code == 200
        lines = [line[6:] for line in stream.iter_lines() if line.startswith("data: {")]
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == alone["text"]


def test_ids_by_bytes_prefer_tokens_of_text(scripted):
    found = scripted.answerer.model.ids_by_bytes
    assert [found[bytes([byte])] for byte in range(256)] == list(range(256))
    end = scripted.tokenizer.special_tokens["<|im_end|>"]
    assert found[b"<|im_end|>"] == end
    assert torch.tensor(sorted(found.values())).unique().numel() == len(found)
