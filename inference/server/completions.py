"""The routes /v1/completions and /v1/chat/completions.

What this leaves out: how answers come about (answers.py) and are sent (completion_run.py).
"""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from inference.answering.constrained_decoding import schema_of_calls
from inference.engine.batch_requests import TokenConstraint
from inference.server.answers import Answerer, Question
from inference.server.api_fields import ChatFields, CompletionFields
from inference.server.completion_chat import ChatWriter
from inference.server.completion_run import respond
from inference.server.completion_text import TextWriter
from inference.server.served_model import ServedModel

router = APIRouter()
ANY_OBJECT: dict[str, Any] = {"type": "object"}


@router.post("/v1/completions")
async def completions(fields: CompletionFields, request: Request) -> Response:
    """Continue one or several texts."""
    answerer: Answerer = request.app.state.answerers.named(fields.model)
    model = answerer.model
    one = isinstance(fields.prompt, str) or isinstance(fields.prompt[0], int)
    prompts = [fields.prompt] if one else fields.prompt
    questions = [
        Question(
            ids := model.prompt_ids(prompt),
            model.sampling(fields),
            _limit(model, len(ids), fields.max_tokens),
            fields.n,
            fields.stop,
            fields.logprobs,
        )
        for prompt in prompts
    ]
    return await respond(TextWriter(model, fields), questions, fields, answerer, request)


@router.post("/v1/chat/completions")
async def chat_completions(fields: ChatFields, request: Request) -> Response:
    """Answer a conversation."""
    answerer: Answerer = request.app.state.answerers.named(fields.model)
    model = answerer.model
    ids = model.chat_ids(fields.messages, fields.offered_tools, fields.must_call)
    schema = _schema_of(fields)
    constraint = None  # reading a vocabulary and a schema takes a moment: beside the event loop
    if schema is not None:
        constraint = await asyncio.to_thread(_constraint_of, model, schema)
    question = Question(
        ids,
        model.sampling(fields),
        _limit(model, len(ids), fields.most_tokens),
        fields.n,
        fields.stop,
        (fields.top_logprobs or 0) if fields.logprobs else None,
        constraint,
    )
    return await respond(ChatWriter(model, fields), [question], fields, answerer, request)


def _limit(model: ServedModel, num_prompt: int, asked: int | None) -> int:
    """Return the most tokens of an answer: what was asked for, within the context."""
    room = model.config.context_length - num_prompt + 1
    return room if asked is None else min(asked, room)


def _schema_of(fields: ChatFields) -> dict[str, Any] | None:
    """Return the JSON schema that an answer must follow; None for free text."""
    wanted = fields.response_format
    if fields.must_call:
        return schema_of_calls([tool.as_json() for tool in fields.callable_tools])
    if wanted is None or wanted.type == "text":
        return None
    return ANY_OBJECT if wanted.json_schema is None else wanted.json_schema.json_schema


def _constraint_of(model: ServedModel, schema: dict[str, Any]) -> Callable[[], TokenConstraint]:
    """Return what makes the constraint of an answer; the first is made here, so that a wrong schema
    is refused before anything is computed.
    """
    first = [model.grammars.constraint(schema)]

    def make() -> TokenConstraint:
        return first.pop() if first else model.grammars.constraint(schema)

    return make
