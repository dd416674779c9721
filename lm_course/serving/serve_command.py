"""`lm serve`: one model behind OpenAI's API, until Ctrl-C.

Everything that can be wrong (the model, the memory, the port) is found before the server answers
its first request. What this leaves out: TLS and several models, which a proxy in front provides.
"""

import errno
import socket
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from lm_core.user_error import UserError
from lm_course.commands.checkpoint_choice import CheckpointPath, ModelPath

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inference.engine.batch_requests import BatchSettings
    from inference.engine.engine import Engine
    from inference.server.app import ServerSettings

WEIGHTS = ("auto", "float32", "bfloat16", "int8", "int4")


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise ValueError if it cannot."""
    opened = None
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(socket.SOMAXCONN)
    except OSError as error:
        if opened is not None:
            opened.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use: end the other program, or name another port "
                "with --port"
            ) from None
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None
    return opened


def run_server(app: "FastAPI", opened: socket.socket, settings: "ServerSettings") -> None:
    """Serve until Ctrl-C or SIGTERM; running answers then get `shutdown_seconds`."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        uvicorn.Server(config).run(sockets=[opened])


Host = Annotated[str, typer.Option(help="The address; 0.0.0.0 lets other computers in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for any free port.")]
Name = Annotated[
    str | None, typer.Option(help="What clients call the model; by default its file's name.")
]
Key = Annotated[
    str | None, typer.Option(envvar="LM_API_KEY", help="Clients must send it; by default, none.")
]
CacheTokens = Annotated[
    int | None, typer.Option(min=1, help="Room of the cache in tokens, all requests together.")
]
BlockSize = Annotated[int, typer.Option(min=1, help="Tokens of a block of the cache.")]
MaxRunning = Annotated[int, typer.Option(min=1, help="Answers that are computed at the same time.")]
MaxRequests = Annotated[
    int, typer.Option(min=1, help="Answers computed or waiting; beyond, clients get 429.")
]
StepTokens = Annotated[int, typer.Option(min=1, help="Tokens that one step computes at most.")]
PrefixCaching = Annotated[bool, typer.Option(help="Share the computed beginnings of prompts.")]
Drafts = Annotated[
    int, typer.Option(min=0, help="Tokens guessed ahead from the text itself; 0 for none.")
]
Weights = Annotated[
    str, typer.Option(help="Form of the weights: auto, float32, bfloat16, int8 or int4.")
]
TimeLimit = Annotated[float, typer.Option(min=0.001, help="Seconds that a whole answer may take.")]
MaxBody = Annotated[float, typer.Option(min=0.001, help="Largest request, in megabytes.")]


def register(app: typer.Typer) -> None:
    """Add `lm serve`."""

    @app.command()
    def serve(
        checkpoint: CheckpointPath = None,
        model: ModelPath = None,
        host: Host = "127.0.0.1",
        port: Port = 8000,
        name: Name = None,
        api_key: Key = None,
        cache_tokens: CacheTokens = None,
        block_size: BlockSize = 16,
        max_running: MaxRunning = 16,
        max_requests: MaxRequests = 256,
        step_tokens: StepTokens = 512,
        prefix_caching: PrefixCaching = True,
        drafts: Drafts = 0,
        weights: Weights = "auto",
        time_limit: TimeLimit = 600.0,
        max_body_mb: MaxBody = 4.0,
    ) -> None:
        """Serve a model over HTTP, by OpenAI's API."""
        from inference.engine.batch_requests import BatchSettings
        from inference.server.app import ServerSettings
        from lm_course.commands.model_commands import chosen_model, engine_at
        from lm_course.serving.cache_memory import cache_tokens as checked

        if weights not in WEIGHTS:
            raise UserError(f"--weights {weights}: expected one of {', '.join(WEIGHTS)}")
        path = chosen_model(checkpoint, model)
        with closing(listening_socket(host, port)) as opened:  # before the model is read
            engine = engine_at(path)
            bytes_per_value = next(engine.model.parameters()).element_size()
            room = checked(engine.model.config, cache_tokens, bytes_per_value, block_size)
            batch = BatchSettings(
                block_size=block_size,
                cache_tokens=room,
                max_tokens_per_step=max(step_tokens, max_running),
                max_running=max_running,
                prefix_caching=prefix_caching,
                num_drafts=drafts,
                weights=weights,
            )
            limits = ServerSettings(
                api_key=api_key,
                max_requests=max_requests,
                max_body_bytes=int(max_body_mb * 1e6),
                time_limit_seconds=time_limit,
            )
            serve_engine(engine, name or path.stem, opened, batch, limits)


def serve_engine(
    engine: "Engine",
    name: str,
    opened: socket.socket,
    batch: "BatchSettings",
    limits: "ServerSettings",
) -> None:
    """Print where the model is served, and serve it until Ctrl-C."""
    from inference.engine.batch_engine import BatchEngine
    from inference.server.app import create_app
    from inference.server.served_model import ServedModel

    batched = BatchEngine(engine.model, batch, engine.drawable)
    app = create_app(ServedModel(engine, name), batched, limits)
    host, port = opened.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"{name}: {url}/v1 (OpenAI's API), room for {batch.cache_tokens:,} tokens")
    print("Ctrl-C ends it.", flush=True)
    run_server(app, opened, limits)
