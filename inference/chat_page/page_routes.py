"""The routes of the chat page: its files at `/`, and what it asks for beside OpenAI's API.

The files are read once, when the server starts, and a path is looked up among them, so no path can
lead out of their folder. What this leaves out: the conversations, which only the browser keeps.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from inference.chat_page.attention_weights import attention_weights
from inference.server.answers import Answerer
from inference.server.api_errors import ApiError
from inference.server.api_fields import TokenizeFields
from inference.server.served_model import ServedModel

FOLDER = Path(__file__).parent / "page_files"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Scripts and styles from this server alone, no code in the page, and no HTML made from text.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, but sent only if it has changed
}
MOST_TOKENS = 512  # of a text whose attention is shown: 131,328 weights
TokenBytes = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(fail_fast=True)]
router = APIRouter()


class PageFile(NamedTuple):
    """A file as it is sent; `tag` changes with its content."""

    content: bytes
    media_type: str
    tag: str


def page_files(folder: Path = FOLDER) -> Mapping[str, PageFile]:
    """Return the files of the page by name."""
    return {
        path.name: PageFile(
            content := path.read_bytes(),
            TYPES[path.suffix],
            f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )
        for path in sorted(folder.iterdir())
        if path.suffix in TYPES
    }


FILES = page_files()


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Return the page."""
    return _sent(FILES["index.html"], request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page_file(name: str, request: Request) -> Response:
    """Return a file of the page."""
    if name not in FILES:
        raise ApiError(404, f"the page has no file {name!r}")
    return _sent(FILES[name], request)


def _sent(file: PageFile, request: Request) -> Response:
    headers = {**HEADERS, "ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@router.get("/inside/models")
async def inside_models(request: Request) -> dict[str, Any]:
    """List the models with what the page needs to know of each."""
    return {
        "data": [_described(each.model) for each in request.app.state.answerers],
        "most_attention_tokens": MOST_TOKENS,
    }


def _described(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "can_chat": model.can_chat,
        "context_length": model.config.context_length,
        "num_parameters": sum(each.numel() for each in model.engine.model.parameters()),
        "num_layers": model.config.num_layers,
        "num_heads": model.config.num_heads,
    }


class AttentionFields(TokenizeFields):
    """/inside/attention: a prompt or a conversation, and the tokens of its answer.

    Attributes:
        answer: the bytes of each token, as log-probabilities name them.
        layer, head: whose attention, counted from 0.
    """

    answer: Annotated[list[TokenBytes], Field(fail_fast=True)] = Field(default_factory=list)
    layer: int = Field(ge=0)
    head: int = Field(ge=0)


@router.post("/inside/attention")
async def inside_attention(fields: AttentionFields, request: Request) -> dict[str, Any]:
    """Return the tokens of a text, and for each the weights of those that it can see: row i has
    i + 1 numbers.
    """
    answerer: Answerer = request.app.state.answerers.named(fields.model)
    model = answerer.model
    for name, number, count in (
        ("layer", fields.layer, model.config.num_layers),
        ("head", fields.head, model.config.num_heads),
    ):
        if number >= count:
            raise ApiError(400, f"{name}: {number}, but the model has {count}, from 0", name)
    prompt, answer = _ids(model, fields)
    # The last token of an answer that fills the context has no place in it: no model ever reads it.
    ids = [*prompt, *answer][: model.config.context_length]
    if len(ids) > MOST_TOKENS:
        raise ApiError(
            400,
            f"prompt and answer have {len(ids)} tokens; attention is shown for texts of at most "
            f"{MOST_TOKENS}: start a new conversation, or ask for a shorter answer",
            code="too_many_tokens",
        )

    def rows() -> list[list[float]]:
        weights = attention_weights(model.engine.model, ids, fields.layer, fields.head)
        return [[round(w, 5) for w in row[: i + 1]] for i, row in enumerate(weights.tolist())]

    return {
        "model": model.name,
        "num_prompt": len(prompt),
        "tokens": [list(model.token_text(token_id)) for token_id in ids],
        "weights": await answerer.thread.call(rows),
    }


def _ids(model: ServedModel, fields: AttentionFields) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt and of the answer."""
    if fields.messages is not None:
        prompt = model.chat_ids(fields.messages)
    else:
        prompt = model.prompt_ids(fields.prompt)
    answer = []
    for place, token in enumerate(fields.answer):
        token_id = model.ids_by_bytes.get(bytes(token))
        if token_id is None:
            raise ApiError(400, f"answer.{place}: the model has no token {bytes(token)!r}")
        answer.append(token_id)
    return prompt, answer
