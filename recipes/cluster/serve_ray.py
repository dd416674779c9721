"""`lm serve` on several machines: replicas of the engine behind Ray Serve.

    pip install '.[ray]'
    python recipes/cluster/serve_ray.py --model smollm2 --replicas 2
    python recipes/cluster/serve_ray.py --model /shared/model --replicas 1-8 --gpus 1 --address auto
    lm bench serve --url http://127.0.0.1:8000/v1 --concurrency 64

Each replica is a process with the whole server of `lm serve`: the same FastAPI application, an
engine and a cache of its own. Ray Serve starts the replicas on the machines of a cluster, restarts
those that die, and with `--replicas 1-8` starts more of them when more requests arrive. The header
X-Replica of a response names the replica that gave it. Without `--address`, a cluster of this
machine is started. Every machine needs this project, and the model under the same path.

With `--route load`, Ray draws two replicas for each request and takes the one with fewer requests.
With `--route session`, requests with the same header X-Session-Id get the same replica, as long as
it has room: the turns of a conversation, or all requests with the same long beginning, then find
their beginning in its cache. Requests without this header are spread evenly. It needs Ray's
`ConsistentHashRouter` (experimental in Ray 2.60, with which this was tried; older ones lack it).

What this leaves out:

- Routing by the text of a prompt. Ray's `PrefixCacheAffinityRouter` reads it from the arguments of
  a call between deployments. Here Ray's proxy calls the application, and a router sees the head of
  the HTTP request but not its body. Only an extra process in front of the engines, as in
  `ray.serve.llm`, would make the text visible; every token would pass through it.
- One model whose weights are split among several machines.
- `/metrics` is that of the replica that happens to answer; Ray has its own for all of them. Ray's
  proxy waits if all replicas have `--max-ongoing` requests, so clients get 503 from Ray
  (`--max-queued`) instead of 429.
"""

import argparse
import importlib
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from lm_core.user_error import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

SESSION_ROUTER = "ray.serve.experimental.consistent_hash_router"
TARGET_SHARE = 0.5  # of --max-ongoing: with more requests per replica, Ray starts another one


@dataclass(frozen=True)
class ReplicaSettings:
    """The model of a replica, and how it is computed.

    Attributes:
        path: a checkpoint folder, a model folder or a GGUF file, the same on every machine.
        name: what clients call the model.
        api_key: that clients must send; None for anybody.
        cache_tokens: room of one replica's cache; None for the default of `lm serve`.
        max_running: answers that one replica computes at the same time.
        weights: form of the weights, as for `lm serve`.
    """

    path: Path
    name: str
    api_key: str | None = None
    cache_tokens: int | None = None
    max_running: int = 16
    weights: str = "auto"


def build_app(settings: ReplicaSettings) -> "FastAPI":
    """Return the application of one replica; it loads the model."""
    from inference.engine.batch_engine import BatchEngine
    from inference.engine.batch_requests import BatchSettings
    from inference.server.app import ServerSettings, create_app
    from inference.server.served_model import ServedModel
    from lm_course.commands.model_commands import engine_at
    from lm_course.serving.cache_memory import cache_tokens, cached_model
    from lm_course.serving.warm_up import warm_up

    engine = engine_at(settings.path)
    block_size = BatchSettings().block_size
    cached = cached_model(engine.model, settings.weights)
    [room] = cache_tokens([cached], settings.cache_tokens, block_size)
    batch = BatchSettings(
        cache_tokens=room,
        max_tokens_per_step=max(BatchSettings().max_tokens_per_step, settings.max_running),
        max_running=settings.max_running,
        weights=settings.weights,
    )
    batched = BatchEngine(engine.model, batch, engine.drawable)
    warm_up(batched, settings.name)
    limits = ServerSettings(api_key=settings.api_key)
    return create_app([(ServedModel(engine, settings.name), batched)], limits)


class ReplicaApp:
    """An application as a replica runs it. Its responses have the header X-Replica, and it is told
    of a client that goes away in the way that ASGI defines, where Ray raises an exception.

    Args:
        app: an ASGI application.
        name: of the replica.
        gone: is raised when the client has gone away.
    """

    def __init__(self, app: Any, name: str, gone: type[Exception]) -> None:
        self.app, self.name, self.gone = app, name.encode(), gone

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        has_gone = False

        async def with_name(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-replica", self.name)]
            await send(message)

        async def with_disconnect() -> Any:
            nonlocal has_gone
            if not has_gone:
                try:
                    return await receive()
                except self.gone:
                    has_gone = True
            return {"type": "http.disconnect"}

        await self.app(scope, with_disconnect, with_name)


def replica_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of Ray's deployment."""
    few, most = options.replicas
    resources = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    found: dict[str, Any] = {
        "name": "lm",
        "ray_actor_options": resources,
        "max_ongoing_requests": options.max_ongoing,
        "max_queued_requests": options.max_queued,
    }
    if few == most:
        return found | {"num_replicas": few}
    target = max(1.0, TARGET_SHARE * options.max_ongoing)
    scaling = {"min_replicas": few, "max_replicas": most, "target_ongoing_requests": target}
    return found | {"autoscaling_config": scaling}


def import_ray() -> tuple[Any, Any]:
    """Return the modules ray and ray.serve; raise ValueError if they are not installed."""
    try:
        import ray
        from ray import serve
    except ImportError:
        raise UserError(
            "this needs Ray Serve, which is not installed: install it with pip install '.[ray]'"
        ) from None
    return ray, serve


def session_router() -> dict[str, Any]:
    """Return the option of Ray's deployment that keeps a session on one replica; raise ValueError
    if this version of Ray cannot do that.
    """
    try:
        importlib.import_module(SESSION_ROUTER)
    except ImportError:
        raise UserError(
            "--route session: this version of Ray has no ConsistentHashRouter; Ray 2.60 has it"
        ) from None
    from ray.serve.config import RequestRouterConfig

    name = f"{SESSION_ROUTER}.ConsistentHashRouter"
    return {"request_router_config": RequestRouterConfig(request_router_class=name)}


def replicas(text: str) -> tuple[int, int]:
    """Return the smallest and the largest number of replicas that "2" or "1-8" names."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    few, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= few <= most:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0 or a range like 1-8")
    return few, most


def above_zero(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return int(text)


RAW = argparse.RawDescriptionHelpFormatter  # keeps the lines of the text above


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"serve_ray.py: {message} (see --help)\n")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options; exit with status 2 for a wrong one."""
    from inference.engine.forward_choice import AnyWeightKind

    parser = _Parser(description=__doc__, formatter_class=RAW)
    parser.add_argument("--model", type=Path, help="a folder or a GGUF file; default: the demo's")
    parser.add_argument("--replicas", type=replicas, default=(2, 2), help="2, or 1-8 to scale")
    parser.add_argument("--cpus", type=above_zero, default=1, help="of one replica")
    parser.add_argument("--gpus", type=float, default=0, help="of one replica; 0.5 shares one")
    parser.add_argument("--name", help="what clients call the model; default: its file's name")
    key = os.environ.get("LM_API_KEY") or None
    parser.add_argument("--api-key", default=key, help="clients must send it; default: LM_API_KEY")
    parser.add_argument("--cache-tokens", type=above_zero, help="of one replica's cache")
    parser.add_argument("--max-running", type=above_zero, default=16, help="answers at a time")
    parser.add_argument("--max-ongoing", type=above_zero, default=64, help="requests of a replica")
    parser.add_argument("--max-queued", type=int, default=256, help="waiting; -1 for no limit")
    routes = {"choices": ("load", "session"), "default": "load"}
    parser.add_argument("--route", **routes, help="which replica answers: see above")
    parser.add_argument("--weights", choices=get_args(AnyWeightKind), default="auto")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other computers in")
    parser.add_argument("--port", type=above_zero, default=8000)
    parser.add_argument("--address", help="of a Ray cluster, or auto; default: this machine alone")
    return parser.parse_args(arguments)


def start(options: argparse.Namespace) -> str:
    """Start the replicas and return the URL of the API. They run until `serve.shutdown()`."""
    ray, serve = import_ray()
    from lm_course.commands.model_commands import chosen_model

    routing = session_router() if options.route == "session" else {}
    path = chosen_model(None, options.model).resolve()
    settings = ReplicaSettings(
        path,
        options.name or path.stem,
        options.api_key,
        options.cache_tokens,
        options.max_running,
        options.weights,
    )

    def app_of_replica() -> ReplicaApp:
        name = serve.get_replica_context().replica_id.unique_id
        return ReplicaApp(build_app(settings), name, ray.exceptions.TaskCancelledError)

    ray.init(address=options.address, ignore_reinit_error=True, include_dashboard=False)
    serve.start(http_options={"host": options.host, "port": options.port})
    deployment = serve.deployment(serve.ingress(app_of_replica)())
    chosen = deployment.options(**replica_options(options), **routing)
    serve.run(chosen.bind(), name="lm", route_prefix="/")
    return f"http://{options.host}:{options.port}/v1"


def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    options = parsed(arguments)
    try:
        url = start(options)
    except UserError as error:
        print(f"serve_ray.py: {error}", file=sys.stderr)
        sys.exit(2)
    _, serve = import_ray()
    few, most = options.replicas
    count = few if few == most else f"{few} to {most}"
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):  # Ray and shells in the background change them
        signal.signal(each, lambda number, frame: ended.set())
    print(f"{url} (OpenAI's API), replicas: {count}\nCtrl-C ends it.", flush=True)
    ended.wait()
    serve.shutdown()


if __name__ == "__main__":
    main()
