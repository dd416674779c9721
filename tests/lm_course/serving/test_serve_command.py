"""`lm serve`: what is wrong is said in one line before anything is served; a model answers."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint
from typer.testing import CliRunner

from lm_core.user_error import UserError
from lm_course.cli import app
from lm_course.serving.serve_command import listening_socket, named_paths

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"), context_length=64)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code != 0
    return str(result.exception)


def test_a_port_in_use(checkpoint) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = refused("--checkpoint", str(checkpoint), "--port", str(port))
    assert f"port {port} of 127.0.0.1 is in use" in message
    assert "--port" in message


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(UserError, match=r"cannot listen at 192\.0\.2\.1:0"):
        listening_socket("192.0.2.1", 0)


def test_models_that_are_not_whole(checkpoint, tmp_path) -> None:
    assert "no such folder or file" in refused("--model", str(tmp_path / "missing"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "model.safetensors"):
        (broken / name).write_bytes((checkpoint / name).read_bytes())
    assert "tokenizer.json" in refused("--model", str(broken), "--port", "0")


def test_other_arguments(checkpoint) -> None:
    message = refused("--checkpoint", str(checkpoint), "--weights", "int3")
    assert "--weights int3: expected one of auto, float32" in message
    limit = str(10**13)
    message = refused("--checkpoint", str(checkpoint), "--port", "0", "--cache-tokens", limit)
    assert "--cache-tokens" in message


def test_a_model_answers_until_ctrl_c(checkpoint) -> None:
    command = [sys.executable, "-m", "lm_course", "serve", "--checkpoint", str(checkpoint)]
    environment = {**os.environ, "LM_API_KEY": "key of the test"}
    with subprocess.Popen(
        [*command, "--port", "0", "--name", "small"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            first = server.stdout.readline()
            found = re.fullmatch(
                r"small: (http://127\.0\.0\.1:\d+)/v1 .*room for 256 tokens\n", first
            )
            assert found, first
            assert f"open {found[1]} in a browser. Ctrl-C" in server.stdout.readline()
            request = urllib.request.Request(
                f"{found[1]}/v1/completions",
                json.dumps({"prompt": "a", "max_tokens": 3}).encode(),
                {"Content-Type": "application/json", "Authorization": "Bearer key of the test"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["usage"]["prompt_tokens"] == 1
        finally:
            server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert "Traceback" not in errors
    assert server.returncode == 0, errors


def test_names_of_several_models(checkpoint, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in checkpoint.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert list(named_paths([checkpoint], [other], [])) == ["step_000001", "other"]
    assert named_paths([other], [checkpoint], ["b", "a"]) == {"b": other, "a": checkpoint}
    with pytest.raises(UserError, match=r"both called 'step_000001'; give different names.*--name"):
        named_paths([checkpoint, checkpoint], [], [])
    with pytest.raises(UserError, match=r"both called 'a'"):
        named_paths([checkpoint, other], [], ["a", "a"])
    with pytest.raises(UserError, match="--name: 1 names for 2 models"):
        named_paths([checkpoint, other], [], ["a"])


def test_pieces_of_an_answer_do_not_wait_for_an_acknowledgement() -> None:
    """Nagle's algorithm is off in every connection."""

    async def option() -> int:
        connections: list[asyncio.StreamWriter] = []
        accepted = asyncio.Event()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            accepted.set()

        with closing(listening_socket("127.0.0.1", 0)) as opened:
            async with await asyncio.start_server(take, sock=opened):
                _, client = await asyncio.open_connection(*opened.getsockname())
                await accepted.wait()
                [writer] = connections
                found = writer.get_extra_info("socket")
                value = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                client.close()
                writer.close()
                return value

    assert asyncio.run(option()) != 0
