"""The server: routes, limits, and the life of the engine's thread.

What this leaves out: TLS and users (put a proxy in front).
"""

import asyncio
import base64
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pydantic
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from inference.answering.engine_thread import EngineThread
from inference.chat_page.page_routes import router as page_routes
from inference.engine.batch_engine import BatchEngine
from inference.server.answers import Answerer, Answerers
from inference.server.api_errors import ApiError, add_error_handlers
from inference.server.api_fields import EmbeddingFields, TokenizeFields
from inference.server.completions import router as completion_routes
from inference.server.metrics import Metrics, ModelMetrics
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
    models: Sequence[tuple[ServedModel, BatchEngine]], settings: ServerSettings | None = None
) -> FastAPI:
    """Return the application; the engines run while it does, each in its own thread.

    Args:
        models: with their engines; the first answers requests that name no model.
        settings: limits, which hold for each model by itself.

    Raises:
        ValueError: two models have the same name.
    """
    limits = ServerSettings() if settings is None else settings
    metrics = Metrics()
    answerers = Answerers(
        [
            Answerer(
                model,
                EngineThread(engine, limits.max_requests),
                ModelMetrics(metrics, model.name, engine),
                limits.time_limit_seconds,
            )
            for model, engine in models
        ]
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for answerer in answerers:
            answerer.thread.start()
        yield
        await asyncio.gather(*(each.thread.stop(limits.shutdown_seconds) for each in answerers))

    app = FastAPI(title="lm serve", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.answerers, app.state.metrics = answerers, metrics
    app.state.started = int(time.time())
    add_error_handlers(app)
    for routes in (completion_routes, page_routes, router):
        app.include_router(routes)
    app.add_middleware(BodyLimit, most=limits.max_body_bytes)
    app.add_middleware(KeyCheck, key=limits.api_key)
    app.add_middleware(RefusalCount, metrics=metrics)
    return app


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List the models."""
    served = [_model_entry(each.model, request) for each in request.app.state.answerers]
    return {"object": "list", "data": served}


@router.get("/v1/models/{name:path}")
async def one_model(name: str, request: Request) -> dict[str, Any]:
    """Describe the model of this name."""
    return _model_entry(request.app.state.answerers.named(name).model, request)


def _model_entry(model: ServedModel, request: Request) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": request.app.state.started,
        "owned_by": "local",
        "max_model_len": model.config.context_length,
    }


@router.get("/health")
async def health(request: Request) -> Response:
    """Return 200 while every engine runs, else 503."""
    if all(answerer.thread.is_alive for answerer in request.app.state.answerers):
        return JSONResponse({"status": "ok"})
    raise ApiError(503, "the engine has stopped; see the server's log")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the server's numbers in Prometheus' text format."""
    text = request.app.state.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post("/tokenize")
async def tokenize(fields: TokenizeFields, request: Request) -> dict[str, Any]:
    """Return the ids of a text or conversation."""
    model: ServedModel = request.app.state.answerers.named(fields.model).model
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
    answerer: Answerer = request.app.state.answerers.named(fields.model)
    model = answerer.model
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
