"""recipes/cluster/serve_ray.py: its options, its sentence without Ray, two replicas with Ray."""

import asyncio
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from lm_core.user_error import UserError

PROJECT = Path(__file__).parents[3]
SCRIPT = PROJECT / "recipes" / "cluster" / "serve_ray.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("serve_ray", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"), context_length=64)


def test_a_fixed_number_of_replicas(script) -> None:
    options = script.parsed(["--replicas", "3", "--cpus", "4", "--gpus", "0.5"])
    assert script.replica_options(options) == {
        "name": "lm",
        "ray_actor_options": {"num_cpus": 4, "num_gpus": 0.5},
        "max_ongoing_requests": 64,
        "max_queued_requests": 256,
        "num_replicas": 3,
    }


def test_a_range_scales(script) -> None:
    options = script.parsed(["--replicas", "1-8", "--max-ongoing", "10"])
    found = script.replica_options(options)
    assert "num_replicas" not in found
    assert found["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 8,
        "target_ongoing_requests": 5.0,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replicas", "0"], "0: expected a number above 0 or a range like 1-8"),
        (["--replicas", "8-1"], "8-1: expected a number above 0"),
        (["--replicas", "two"], "two: expected"),
        (["--cpus", "-1"], "-1: expected a whole number above 0"),
        (["--weights", "int3"], "invalid choice: 'int3'"),
        (["--gpus", "many"], "many"),
    ],
)
def test_wrong_options(script, capsys, arguments, said) -> None:
    with pytest.raises(SystemExit) as ended:
        script.parsed(arguments)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1


def test_without_ray(script, capsys, monkeypatch, checkpoint) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as ended:
        script.main(["--model", str(checkpoint)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "serve_ray.py: this needs Ray Serve, which is not installed: install it with "
        "pip install '.[ray]'\n"
    )


def test_a_model_that_is_missing(script, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(script, "import_ray", lambda: (None, None))
    with pytest.raises(UserError, match="no such folder or file"):
        script.start(script.parsed(["--model", str(tmp_path / "missing")]))


def test_the_application_of_a_replica_answers(script, checkpoint, tmp_path) -> None:
    settings = script.ReplicaSettings(checkpoint, "small", cache_tokens=64, max_running=2)
    app = script.build_app(settings)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(script.ReplicaApp(app, "first", ValueError))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://replica") as client,
        ):
            return await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})

    response = asyncio.run(ask())
    assert response.json()["model"] == "small"
    assert response.headers["X-Replica"] == "first"
    [answerer] = app.state.answerers
    assert answerer.thread.engine.settings.max_running == 2


def test_a_client_that_goes_away_is_a_message_and_not_an_exception(script) -> None:
    received = []

    async def app(scope, receive, send) -> None:
        received.extend([await receive(), await receive(), await receive()])

    messages = [{"type": "http.request"}]

    async def receive():
        if not messages:
            raise KeyError("the request was cancelled")
        return messages.pop()

    asyncio.run(script.ReplicaApp(app, "first", KeyError)({"type": "http"}, receive, None))
    assert [message["type"] for message in received] == [
        "http.request",
        "http.disconnect",
        "http.disconnect",
    ]


def test_a_version_of_ray_without_sessions(script, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, script.SESSION_ROUTER, None)
    with pytest.raises(UserError, match="--route session: this version of Ray has no"):
        script.session_router()


@pytest.mark.slow
def test_two_replicas_share_the_work_and_each_session_stays_on_one(checkpoint) -> None:
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install '.[ray]'")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, str(SCRIPT), "--model", str(checkpoint), "--port", port]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [*command, "--replicas", "2", "--api-key", "key", "--route", "session"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            line = next(line for line in server.stdout if "OpenAI's API" in line)
            url = re.search(r"http://\S+/v1", line)[0]
            replicas: dict[str, set[str]] = {}
            with httpx.Client(trust_env=False, timeout=60) as client:
                assert client.get(f"{url}/models").status_code == 401
                client.headers["Authorization"] = "Bearer key"
                for number in range(60):
                    body = {"prompt": "a", "max_tokens": 2}
                    session = {"X-Session-Id": f"session {number % 20}"}
                    response = client.post(f"{url}/completions", json=body, headers=session)
                    assert response.json()["usage"]["prompt_tokens"] == 1
                    name = response.headers["X-Replica"]
                    replicas.setdefault(session["X-Session-Id"], set()).add(name)
            assert {len(names) for names in replicas.values()} == {1}
            assert len(set.union(*replicas.values())) == 2
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
