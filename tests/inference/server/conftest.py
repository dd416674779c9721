"""A server on a real port, and a model whose answers are known: it says what the prompt tells it.

`ScriptedForward` stands in for a model. It keeps token ids where a model keeps keys and values, so
what it reads of a conversation is what attention would read: mixed up blocks give a wrong answer.
The prompt "say Hello=>", or a message "say Hello", is answered with "Hello" and the end of the
text. "\\x01" in an answer is any letter, by the draw.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from inference.answering.engine_thread import EngineThread
from inference.engine.batch_engine import BatchEngine
from inference.engine.batch_requests import BatchSettings
from inference.engine.engine import Engine
from inference.engine.forward_pass import ChunkRows, PlainForwardPass
from inference.engine.text_side import TextSide
from inference.server.answers import Answerer
from inference.server.app import ServerSettings, create_app
from inference.server.served_model import ServedModel
from lm_core.random_state import seed_everything
from lm_core.special_tokens import MESSAGE_END, SPECIAL_TOKENS
from tokenizer_bpe.templates.jinja_template import JinjaTemplate
from tokenizer_bpe.tokenizer import Tokenizer
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

PATIENCE = 30.0  # seconds after which a wait has failed; nothing takes nearly as long
ANY_LETTER = 0x01
ORDERS = re.compile(rb"say (.*?)(?:<\|im_end\|>|=>)", re.DOTALL)
BEGINNINGS = (b"<|im_start|>assistant\n", b"=>")
TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call functions:
{%- for tool in tools %}
{{- '\\n' }}{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{- '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass
class Gate:
    """Holds the model when a conversation comes to contain `text`, until it is opened."""

    text: bytes
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


class ScriptedForward:
    """The forward pass of a model that does what it is told."""

    def __init__(self, tokenizer: Tokenizer, num_blocks: int, block_size: int) -> None:
        self.tokenizer, self.block_size = tokenizer, block_size
        self.stored = torch.full((num_blocks, block_size), -1)
        self.gates: list[Gate] = []
        self.error: Exception | None = None
        self.num_steps = 0
        self.longest_first = sorted(
            (
                (token, token_id)
                for token_id, token in tokenizer.vocab.items()
                if token_id not in tokenizer.special_tokens.values()
            ),
            key=lambda entry: -len(entry[0]),
        )

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.stored[target] = self.stored[source]

    def hidden(self, chunks: Sequence[ChunkRows]) -> torch.Tensor:
        self.num_steps += 1
        if self.error is not None:
            raise self.error
        rows = torch.full((sum(len(chunk.token_ids) for chunk in chunks), 1), -1.0)
        for chunk in chunks:
            for place, token_id in enumerate(chunk.token_ids, chunk.first):
                block = chunk.blocks[place // self.block_size]
                self.stored[block, place % self.block_size] = token_id
            ids = self.stored[list(chunk.blocks)].flatten()[: chunk.num_keys].tolist()
            assert -1 not in ids, "a place that nobody has written"
            text = b"".join(self.tokenizer.vocab[i] for i in ids)
            for gate in self.gates:
                if gate.text in text:
                    gate.reached.set()
                    assert gate.opened.wait(PATIENCE), "a test has left a gate closed"
            rows[chunk.rows.stop - 1] = self.next_id(text)
        return rows

    def next_id(self, text: bytes) -> int:
        """The id of the next token; the negative of 2 for any letter."""
        ends = (text.rfind(each) + len(each) for each in BEGINNINGS if each in text)
        place = max(ends, default=0)
        found = ORDERS.findall(text[:place])
        left = (found[-1] if found else b"")[len(text) - place :]
        if left[:1] == bytes([ANY_LETTER]):
            return -2
        fitting = (token_id for token, token_id in self.longest_first if left.startswith(token))
        return next(fitting) if left else self.tokenizer.special_tokens[MESSAGE_END]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(hidden), self.tokenizer.vocab_size), -30.0)
        for row, next_id in zip(logits, hidden[:, 0].int().tolist(), strict=True):
            if next_id == -2:
                row[ord("a") : ord("z") + 1] = 0
            else:
                row[next_id] = 0
        return logits


class MarkovForward:
    """A model whose next token depends on the last one only, at random: quick, and its
    distribution is known.
    """

    def __init__(self, vocab_size: int) -> None:
        self.table = torch.randn(vocab_size, vocab_size, generator=torch.manual_seed(0)) * 3

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        pass

    def hidden(self, chunks: Sequence[ChunkRows]) -> torch.Tensor:
        ids = [float(token_id) for chunk in chunks for token_id in chunk.token_ids]
        return torch.tensor(ids)[:, None]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.table[hidden[:, 0].long()]


@dataclass
class Served:
    """A running server, and what a test looks at from outside."""

    app: FastAPI
    engine: BatchEngine
    tokenizer: Tokenizer
    url: str = ""
    client: httpx.Client = None

    @property
    def forward(self) -> ScriptedForward:
        return self.engine.forward

    @property
    def thread(self) -> EngineThread:
        return self.answerer.thread

    @property
    def answerer(self) -> Answerer:
        return self.app.state.answerers.named(None)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.client.post(path, json=fields)

    def complete(self, prompt: Any, **fields: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", prompt=prompt, **fields)
        assert response.status_code == 200, response.text
        return response.json()

    def chat(self, said: str, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": said}]
        response = self.post("/v1/chat/completions", messages=messages, **fields)
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, path: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of a stream, whose last one is [DONE]."""
        response = self.post(path, stream=True, **fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return events_of(response.text)

    def chat_events(self, said: str, **fields: Any) -> list[dict[str, Any]]:
        messages = [{"role": "user", "content": said}]
        return self.events("/v1/chat/completions", messages=messages, **fields)

    @contextmanager
    def gate(self, text: str) -> Iterator[Gate]:
        """Hold the model at a text, inside the block or until the gate is opened."""
        gate = Gate(text.encode())
        self.forward.gates.append(gate)
        try:
            yield gate
        finally:
            gate.opened.set()
            self.forward.gates.remove(gate)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that another thread brings about."""
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.002)):
            if condition():
                return
            pause.wait(0.002)
        raise AssertionError("it never came about")

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, waits or holds a block."""
        pool = self.engine.pool
        return (
            not self.engine.has_work
            and self.thread.num_requests == 0
            and pool.num_available == pool.num_blocks
        )


def events_of(text: str) -> list[dict[str, Any]]:
    lines = text.split("\n\n")
    assert lines.pop() == "", "every event ends with an empty line"
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [httpx.Response(200, content=line[6:]).json() for line in lines]


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Run a server in a thread, on a free port; yield its address."""
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.002)):
        if server.started or not thread.is_alive():
            break
        pause.wait(0.002)
    assert server.started, "the server does not start"
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not stop"


def tiny_model(vocab_size: int, context_length: int) -> TransformerLM:
    seed_everything(0)
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48}
    model = TransformerLM(
        ModelConfig(vocab_size=vocab_size, context_length=context_length, **shape)
    ).eval()
    with torch.no_grad():  # larger weights, so that the likeliest token is not a coin toss
        for weight in model.parameters():
            weight.mul_(3)
    return model


def make(
    model: str = "scripted",
    template: bool = False,
    merged: Sequence[str] = (),
    context_length: int = 1024,
    batch: BatchSettings | None = None,
    limits: ServerSettings | None = None,
    name: str = "tiny",
    second: Served | None = None,
) -> Served:
    """Return an application that does not run yet.

    Args:
        model: "scripted" does what it is told, "markov" is random, "tiny" is a real one.
        template: whether its chats have a template with tools; else they are in our own format.
        merged: texts of two characters that are one token.
        name: what clients call the model.
        second: its model is served, too.
    """
    vocab = {byte: bytes([byte]) for byte in range(256)}
    for number, text in enumerate(merged):
        vocab[256 + number] = text.encode()
    merges = [(text.encode()[:1], text.encode()[1:]) for text in merged]
    tokenizer = Tokenizer(vocab, merges, SPECIAL_TOKENS)
    batch = BatchSettings() if batch is None else batch
    decoder = tiny_model(tokenizer.vocab_size, context_length)
    side = TextSide(tokenizer, JinjaTemplate(TEMPLATE, {}) if template else None)
    engine = Engine(decoder, tokenizer, side)
    forward = {
        "scripted": lambda: ScriptedForward(tokenizer, batch.num_blocks, batch.block_size),
        "markov": lambda: MarkovForward(tokenizer.vocab_size),
        "tiny": lambda: PlainForwardPass(decoder, batch.num_blocks, batch.block_size),
    }[model]()
    batched = BatchEngine(decoder, batch, engine.drawable, forward)
    models = [(ServedModel(engine, name), batched)]
    if second is not None:
        models.append((second.answerer.model, second.engine))
    return Served(create_app(models, limits), batched, tokenizer)


Serve = Callable[..., Served]


def serving() -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve(**options: Any) -> Served:
            served = make(**options)
            served.url = stack.enter_context(running(served.app))
            # Without trust_env, a proxy of the machine would be asked for 127.0.0.1.
            client = httpx.Client(base_url=served.url, timeout=PATIENCE, trust_env=False)
            served.client = stack.enter_context(client)
            return served

        yield serve


serve = pytest.fixture(serving, name="serve")
serve_module = pytest.fixture(serving, name="serve_module", scope="module")


@pytest.fixture(scope="module")
def scripted(serve_module: Serve) -> Served:
    """A server of the scripted model."""
    return serve_module()


@pytest.fixture(scope="module")
def random_model(serve_module: Serve) -> Served:
    """A server of a model that writes at random."""
    return serve_module(model="markov")


@pytest.fixture(scope="module")
def tiny(serve_module: Serve) -> Served:
    """A server of a real model with two layers and random weights."""
    return serve_module(model="tiny")


@pytest.fixture(scope="module")
def with_tools(serve_module: Serve) -> Served:
    """A server of the scripted model whose template has a place for tools."""
    return serve_module(template=True)


@pytest.fixture(scope="module")
def make_served() -> Serve:
    """Make an application that does not run."""
    return make
