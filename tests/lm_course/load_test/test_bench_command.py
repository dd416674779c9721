"""`lm bench serve`: its options, the sentence for each wrong one, its files, Ctrl-C."""

import gc
import json
import os
import signal
import threading

import httpx
import pytest
from typer.testing import CliRunner

from lm_course.cli import app
from lm_course.load_test import full_run
from lm_course.load_test.load_report import LoadReport


def bench(*arguments: str):
    return CliRunner().invoke(app, ["bench", "serve", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--concurrency", "1,x"], "--concurrency 'x': expected whole numbers above 0"),
        (["--concurrency", "0"], "--concurrency '0'"),
        (["--rate", "nan"], "--rate 'nan': expected numbers above 0, or inf"),
        (["--rate", "-1"], "--rate '-1'"),
        (["--rate", "inf", "--seconds", "3"], "give --num-requests, not --seconds"),
        (["--rate", "1", "--concurrency", "1"], "both given"),
        (["--num-requests", "3", "--seconds", "3"], "both given"),
        (["--seconds", "inf"], "--seconds inf"),
        (["--prompt-tokens", "lots"], "--prompt-tokens lots: expected a number"),
        (["--answer-tokens", "9-1"], "--answer-tokens 9-1: the range ends"),
        (["--api", "soap"], "--api soap: expected one of chat, completions"),
        (["--fields", "{"], "--fields {: not JSON"),
        (["--fields", '{"temperature": NaN}'], "NaN is not a JSON number"),
        (["--fields", '{"model": "other"}'], "'model' is set by this command"),
        (["--out", "README.md"], "--out README.md: a file has that name; name a folder"),
        (["--out", "README.md/report"], "--out README.md/report: Not a directory"),
        (["--fields", "[]"], "expected a JSON object"),
        (["--fields", '{"stream": false}'], "'stream' is set by this command"),
        (["--url", "nonsense"], "--url nonsense"),
        (["--url", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1: no server answers"),
    ],
)
def test_wrong_options(arguments, said) -> None:
    result = bench(*arguments)
    assert type(result.exception).__name__ == "UserError", result.output
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_missing_file(tmp_path) -> None:
    result = bench("--prompts", str(tmp_path / "none.jsonl"))
    assert isinstance(result.exception, FileNotFoundError), "`lm` prints it in one line"


def test_files_and_tables(tiny_url, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LM_API_KEY", "secret key")
    out = tmp_path / "out"
    limits = ["--num-requests", "4", "--prompt-tokens", "150", "--answer-tokens", "4"]
    result = bench(
        *("--url", tiny_url, "--concurrency", "1,2", *limits, "--secrets", "--out", str(out))
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(out) not in line)
    assert "leak: none" in result.stdout
    report = LoadReport.model_validate_json((out / "report.json").read_text())
    assert [level.done for level in report.levels] == [4, 4]
    assert report.settings["num_requests"] == 4
    assert report.secrets["mixed_up"] == []
    assert len((out / "requests.jsonl").read_text().splitlines()) == 8
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "secret key" not in "".join(path.read_text() for path in out.glob("*.json*"))


@pytest.fixture
def fake_http(fake, monkeypatch):
    """Let the command meet a fake server; waits are real, but there are none."""

    def install(respond):
        server = fake.FakeServer(respond)

        async def route(request):
            if request.url.path.endswith("/models"):
                return httpx.Response(200, json={"data": [{"id": "small"}]})
            if request.url.path == "/metrics" or b'"stream"' not in request.content:
                return httpx.Response(200, json={})
            return await server(request)

        def client(url, key, time_limit):
            return httpx.AsyncClient(transport=httpx.MockTransport(route), base_url=url)

        monkeypatch.setattr(full_run, "http_client", client)
        return server

    return install


def test_an_answer_with_the_word_of_another_request_is_status_1(fake, fake_http) -> None:
    def respond(body, number):
        said = body["messages"][-1]["content"]
        words.append(said[said.index("QX") :][:10])
        return fake.answer_of(words[0], gap=0.0)

    words: list[str] = []
    fake_http(respond)
    result = bench("--concurrency", "1", "--num-requests", "3", "--secrets")
    assert result.exit_code == 1
    assert "leak: another request's code word in the answers (level/number) 0/1, 0/2" in " ".join(
        result.stdout.split()
    )


def test_a_test_without_any_answer_is_status_1(fake, fake_http) -> None:
    fake_http(lambda body, number: httpx.Response(400, json={"error": {"message": "no [x]"}}))
    result = bench("--rate", "inf", "--num-requests", "3")
    assert result.exit_code == 1
    assert "rate inf/s: 3 x HTTP 400: no [x]" in result.stdout


def test_ctrl_c_prints_what_there_is(fake, fake_http) -> None:
    def respond(body, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return fake.answer_of("a", gap=0.0 if number < 2 else 1e6)

    fake_http(respond)
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    result = bench("--concurrency", "1", "--num-requests", "9")
    assert result.exit_code == 130, result.exception
    assert signal.getsignal(signal.SIGINT) is before
    row = next(line for line in result.stdout.splitlines() if line.strip().startswith("1 "))
    assert row.split()[1] == "2", "answers until then"
    assert "1 unfinished at Ctrl-C" in result.stdout


# asyncio leaves the coroutines behind; they go here, and not in the middle of another test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_ctrl_c_ends_at_once(fake, fake_http) -> None:
    def respond(body, number):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return fake.answer_of("a", gap=1e6)

    fake_http(respond)
    result = bench("--concurrency", "1", "--num-requests", "9")
    assert result.exit_code == 130
    assert "done" not in result.stdout
    del result
    gc.collect()


def test_the_prompts_of_a_file(fake, fake_http, tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "one", "max_tokens": 2}, {"messages": [{"role": "user", "content": "two"}]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    server = fake_http(lambda body, number: fake.answer_of("a", gap=0.0))
    result = bench("--prompts", str(path), "--num-requests", "2", "--concurrency", "1")
    assert result.exit_code == 0, result.exception
    assert server.paths == ["/v1/completions", "/v1/chat/completions"]
    assert server.bodies[0]["max_tokens"] == 2
