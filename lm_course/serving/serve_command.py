"""`lm serve`: one model or several behind OpenAI's API and a chat page, until Ctrl-C.

Everything that can be wrong (the models, the memory, the port) is found before the server answers
its first request. What this leaves out: TLS, which a proxy in front provides.
"""

import errno
import math
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from lm_core.user_error import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inference.engine.batch_requests import BatchSettings
    from inference.engine.engine import Engine
    from inference.server.app import ServerSettings


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise ValueError if it cannot."""
    opened = None
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without the protocol's name, asyncio leaves Nagle's algorithm on, and the second piece of
        # an answer waits 40 ms for the client to acknowledge the first.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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


Checkpoints = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        help="A checkpoint folder; by default the last in runs/demo. Give it several times, or "
        "together with --model, to serve several models.",
    ),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        help="A model of another program: a folder, a GGUF file, or the name smollm2; once or "
        "several times.",
    ),
]
Host = Annotated[str, typer.Option(help="The address; 0.0.0.0 lets other computers in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for any free port.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        help="What clients call the model; by default its file's name. Of several models, first "
        "those of --checkpoint, then those of --model, each in the order given.",
    ),
]
Key = Annotated[
    str | None, typer.Option(envvar="LM_API_KEY", help="Clients must send it; by default, none.")
]
CacheTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Room of each model's cache in tokens, all requests together."),
]
BlockSize = Annotated[int, typer.Option(min=1, help="Tokens of a block of the cache.")]
MaxRunning = Annotated[int, typer.Option(min=1, help="Answers that are computed at the same time.")]
MaxRequests = Annotated[
    int,
    typer.Option(min=1, help="Answers of a model computed or waiting; beyond, clients get 429."),
]
StepTokens = Annotated[int, typer.Option(min=1, help="Tokens that one step computes at most.")]
PrefixCaching = Annotated[bool, typer.Option(help="Share the computed beginnings of prompts.")]
Drafts = Annotated[
    int,
    typer.Option(min=0, help="Tokens guessed ahead from the text itself, such as 7; 0 for none."),
]
Weights = Annotated[
    str, typer.Option(help="Form of the weights: auto, float32, bfloat16, int8 or int4.")
]
CacheType = Annotated[
    str, typer.Option(help="Type of the keys and values: auto, float32, bfloat16 or int8.")
]
TimeLimit = Annotated[float, typer.Option(min=0.001, help="Seconds that a whole answer may take.")]
MaxBody = Annotated[float, typer.Option(min=0.001, help="Largest request, in megabytes.")]


def register(app: typer.Typer) -> None:
    """Add `lm serve`."""

    @app.command()
    def serve(
        checkpoint: Checkpoints = None,
        model: Models = None,
        host: Host = "127.0.0.1",
        port: Port = 8000,
        name: Names = None,
        api_key: Key = None,
        cache_tokens: CacheTokens = None,
        block_size: BlockSize = 16,
        max_running: MaxRunning = 16,
        max_requests: MaxRequests = 256,
        step_tokens: StepTokens = 512,
        prefix_caching: PrefixCaching = True,
        drafts: Drafts = 0,
        weights: Weights = "auto",
        cache_type: CacheType = "auto",
        time_limit: TimeLimit = 600.0,
        max_body_mb: MaxBody = 4.0,
    ) -> None:
        """Serve models over HTTP, by OpenAI's API, with a page to chat with them."""
        from inference.engine.batch_requests import BatchSettings
        from inference.server.app import ServerSettings
        from lm_course.commands.model_commands import engine_at
        from lm_course.serving.cache_memory import cache_tokens as checked
        from lm_course.serving.cache_memory import cached_model

        check_choices(weights, cache_type, max_body_mb)
        paths = named_paths(checkpoint or [], model or [], name or [])
        with closing(listening_socket(host, port)) as opened:  # before the models are read
            engines = {each: engine_at(path) for each, path in paths.items()}
            cached = [cached_model(each.model, weights, cache_type) for each in engines.values()]
            rooms = checked(cached, cache_tokens, block_size)
            batch = BatchSettings(
                block_size=block_size,
                max_tokens_per_step=max(step_tokens, max_running),
                max_running=max_running,
                prefix_caching=prefix_caching,
                num_drafts=drafts,
                weights=weights,
                cache=cache_type,
            )
            limits = ServerSettings(
                api_key=api_key,
                max_requests=max_requests,
                max_body_bytes=int(max_body_mb * 1e6),
                time_limit_seconds=time_limit,
            )
            serve_engines(engines, rooms, opened, batch, limits)


def check_choices(weights: str, cache_type: str, max_body_mb: float) -> None:
    """Raise ValueError for a value that the option's type lets through."""
    from inference.engine.forward_choice import AnyCacheKind, AnyWeightKind

    for option, given, kinds in (
        ("--weights", weights, AnyWeightKind),
        ("--cache-type", cache_type, AnyCacheKind),
    ):
        known = get_args(kinds)
        if given not in known:
            raise UserError(f"{option} {given}: expected one of {', '.join(known)}")
    if not math.isfinite(max_body_mb):
        raise UserError(f"--max-body-mb {max_body_mb}: expected a number of megabytes")


def named_paths(
    checkpoints: Sequence[Path], models: Sequence[Path], names: Sequence[str]
) -> dict[str, Path]:
    """Return the models to load, by the names that clients call them: first the checkpoints, then
    the models of other programs; the last checkpoint of runs/demo if there are none.

    Raises ValueError for a model that does not exist, and for names that are too few, too many or
    equal.
    """
    from lm_course.commands.model_commands import chosen_model

    paths = [chosen_model(each, None) for each in checkpoints]
    paths += [chosen_model(None, each) for each in models]
    paths = paths or [chosen_model(None, None)]
    if names and len(names) != len(paths):
        raise UserError(f"--name: {len(names)} names for {len(paths)} models; give one for each")
    named: dict[str, Path] = {}
    for name, path in zip(names or [path.stem for path in paths], paths, strict=True):
        if name in named:
            raise UserError(
                f"{named[name]} and {path} are both called {name!r}; give different names with "
                "--name, once for each model"
            )
        named[name] = path
    return named


def serve_engines(
    engines: Mapping[str, "Engine"],
    rooms: Sequence[int],
    opened: socket.socket,
    batch: "BatchSettings",
    limits: "ServerSettings",
) -> None:
    """Print where the models are served, and serve them until Ctrl-C.

    Args:
        engines: by the names that clients call them.
        rooms: tokens of the cache of each.
        opened: the socket.
        batch: settings of all, but for the size of the cache.
        limits: of the server.
    """
    from inference.engine.batch_engine import BatchEngine
    from inference.server.app import create_app
    from inference.server.served_model import ServedModel
    from lm_course.serving.warm_up import warm_up

    models = []
    for (name, engine), room in zip(engines.items(), rooms, strict=True):
        own = batch.model_copy(update={"cache_tokens": room})
        batched = BatchEngine(engine.model, own, engine.drawable)
        warm_up(batched, name)
        models.append((ServedModel(engine, name), batched))
    app = create_app(models, limits)
    host, port = opened.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    for name, room in zip(engines, rooms, strict=True):
        print(f"{name}: {url}/v1 (OpenAI's API), room for {room:,} tokens")
    print(f"To chat, open {url} in a browser. Ctrl-C ends the server.", flush=True)
    run_server(app, opened, limits)
