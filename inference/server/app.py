"""The server: routes, limits, and the life of the engine's thread.

What this leaves out: TLS, users, and several models in one process (put a proxy in front).
"""

import base64
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pydantic
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from inference.answering.engine_thread import EngineThread
from inference.engine.batch_engine import BatchEngine
from inference.server.answers import Answerer
from inference.server.api_errors import ApiError, add_error_handlers
from inference.server.api_fields import EmbeddingFields, TokenizeFields
from inference.server.completions import router as completion_routes
from inference.server.metrics import Metrics
from inference.server.middleware import BodyLimit, KeyCheck, RefusalCount
from inference.server.served_model import ServedModel
from lm_core.settings import Settings

router = APIRouter()


class ServerSettings(Settings):
    """Limits of the server.

    Attributes:
        api_key: that clients must send; None for anybody.
        max_requests: answers that may be computed or wait at a time; beyond, clients get 429.
        max_body_bytes: of a request.
        time_limit_seconds: for a whole answer; None for none.
        shutdown_seconds: that running answers get at the end.
    """

    api_key: str | None = pydantic.Field(default=None, min_length=1)
    max_requests: int = pydantic.Field(default=256, gt=0)
    max_body_bytes: int = pydantic.Field(default=4 << 20, gt=0)
    time_limit_seconds: float | None = pydantic.Field(default=600.0, gt=0)
    shutdown_seconds: float = pydantic.Field(default=30.0, ge=0)


def create_app(
    model: ServedModel, engine: BatchEngine, settings: ServerSettings | None = None
) -> FastAPI:
    """Return the application; its engine runs while it does."""
    limits = ServerSettings() if settings is None else settings
    thread = EngineThread(engine, limits.max_requests)
    metrics = Metrics(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread.start()
        yield
        await thread.stop(limits.shutdown_seconds)

    app = FastAPI(title=model.name, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.answerer = Answerer(model, thread, metrics, limits.time_limit_seconds)
    app.state.started = int(time.time())
    add_error_handlers(app)
    app.include_router(completion_routes)
    app.include_router(router)
    app.add_middleware(BodyLimit, most=limits.max_body_bytes)
    app.add_middleware(KeyCheck, key=limits.api_key)
    app.add_middleware(RefusalCount, metrics=metrics)
    return app


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_model_entry(request)]}


@router.get("/v1/models/{name:path}")
async def one_model(name: str, request: Request) -> dict[str, Any]:
    """Describe the model, if this is its name."""
    request.app.state.answerer.model.check_name(name)
    return _model_entry(request)


def _model_entry(request: Request) -> dict[str, Any]:
    model: ServedModel = request.app.state.answerer.model
    return {
        "id": model.name,
        "object": "model",
        "created": request.app.state.started,
        "owned_by": "local",
        "max_model_len": model.config.context_length,
    }


@router.get("/health")
async def health(request: Request) -> Response:
    """Return 200 while the engine runs, else 503."""
    if request.app.state.answerer.thread.is_alive:
        return JSONResponse({"status": "ok"})
    raise ApiError(503, "the engine has stopped; see the server's log")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the server's numbers in Prometheus' text format."""
    text = request.app.state.answerer.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post("/tokenize")
async def tokenize(fields: TokenizeFields, request: Request) -> dict[str, Any]:
    """Return the ids of a text or conversation."""
    model: ServedModel = request.app.state.answerer.model
    model.check_name(fields.model)
    if fields.messages is not None:
        ids = model.chat_ids(fields.messages)
    else:
        ids = model.tokenizer.encode(fields.prompt)
    return {"count": len(ids), "tokens": ids, "max_model_len": model.config.context_length}


@router.post("/v1/embeddings")
async def embeddings(fields: EmbeddingFields, request: Request) -> dict[str, Any]:
    """Return the mean of the last hidden states of each text. A language model was not trained for
    this; models that were give better ones.
    """
    answerer: Answerer = request.app.state.answerer
    model = answerer.model
    model.check_name(fields.model)
    one = isinstance(fields.input, str) or isinstance(fields.input[0], int)
    texts = [fields.input] if one else fields.input
    every = [model.prompt_ids(text, "input") for text in texts]
    data = []
    for index, ids in enumerate(every):
        vector = await answerer.thread.call(lambda ids=ids: model.embedding(ids))
        data.append({"object": "embedding", "index": index, "embedding": _encoded(vector, fields)})
    count = sum(map(len, every))
    return {
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _encoded(vector: list[float], fields: EmbeddingFields) -> list[float] | str:
    if fields.encoding_format == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
