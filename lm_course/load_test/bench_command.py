"""`lm bench serve`: the options, checked; the test; its tables, files and exit status.

What this leaves out: the test itself (load_plan.py, load_run.py, load_client.py).
"""

import asyncio
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lm_core.user_error import UserError

if TYPE_CHECKING:
    from lm_course.load_test.full_run import LoadTest
    from lm_course.load_test.load_plan import Level

STOPPED = 130  # as shells count Ctrl-C
DEFAULT_REQUESTS = 100
DEFAULT_CLIENTS = "1,4,16"
APIS = ("chat", "completions")
SET_FIELDS = {"model", "stream", "stream_options", "messages", "prompt", "max_tokens"}

Url = Annotated[str, typer.Option(help="OpenAI's API of any server, usually up to /v1.")]
Name = Annotated[str | None, typer.Option(help="The model; by default the server's first.")]
Key = Annotated[str | None, typer.Option(envvar="LM_API_KEY", help="The server's API key.")]
Concurrency = Annotated[
    str | None,
    typer.Option(
        help="Clients that each send one request after the other; several numbers are tested in "
        f"turn. By default {DEFAULT_CLIENTS}."
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        help="Instead: requests per second, at random times (Poisson), however slow the server "
        "is; inf for all at once. Several numbers are tested in turn."
    ),
]
NumRequests = Annotated[
    int | None,
    typer.Option(min=1, help=f"Requests for each number; by default {DEFAULT_REQUESTS}."),
]
Seconds = Annotated[
    float | None, typer.Option(min=0.001, help="Instead: send requests for this long.")
]
Lengths = Annotated[str, typer.Option(help="A number, a range 64-512 or lognormal:MEAN,SIGMA.")]
AnswerLengths = Annotated[
    str, typer.Option(help="The limit of an answer, in the same forms; a model may end earlier.")
]
Shared = Annotated[
    int, typer.Option(min=0, help="Tokens of a beginning that all prompts share, in addition.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help='Prompts from a file: each line {"prompt": TEXT} or {"messages": [...]}, and '
        '"max_tokens" if it has its own limit.'
    ),
]
Api = Annotated[str, typer.Option(help="Send words as a chat, or as a text to continue: chat or "
                                  "completions.")]  # fmt: skip
Fields = Annotated[
    str, typer.Option(help='More fields of each request as JSON, such as {"temperature": 0}.')
]
HangUp = Annotated[
    float, typer.Option(min=0, max=1, help="Share of clients that leave while they are answered.")
]
Secrets = Annotated[
    bool,
    typer.Option(
        "--secrets",
        help="Check for answers with another request's code word and for lost blocks; exit "
        "status 1 if there are any.",
    ),
]
TimeLimit = Annotated[float, typer.Option(min=0.001, help="Seconds until a request is given up.")]
Seed = Annotated[
    int,
    typer.Option(
        min=0, help="Same seed, same requests; a server that caches prompts needs another one."
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="A folder for report.json, requests.jsonl and latency.png.")
]


def register(app: typer.Typer) -> None:
    """Add the group `bench`, with its command."""
    group = typer.Typer(no_args_is_help=True, help="Measure how fast a server answers.")
    group.callback()(lambda: None)  # so that `serve` remains a word of the command line
    group.command("serve")(serve)
    app.add_typer(group, name="bench")


def serve(
    url: Url = "http://127.0.0.1:8000/v1",
    model: Name = None,
    api_key: Key = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
    num_requests: NumRequests = None,
    seconds: Seconds = None,
    prompt_tokens: Lengths = "128",
    answer_tokens: AnswerLengths = "64",
    shared_prefix_tokens: Shared = 0,
    prompts: Prompts = None,
    api: Api = "chat",
    fields: Fields = "{}",
    hang_up: HangUp = 0.0,
    secrets: Secrets = False,
    time_limit: TimeLimit = 600.0,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Send many requests to a server of OpenAI's API, and measure how long clients wait."""
    given = dict(locals())
    from lm_course.load_test.full_run import LoadTest
    from lm_course.load_test.load_plan import LoadPlan
    from lm_course.load_test.request_texts import read_prompts
    from lm_course.load_test.token_lengths import parse_lengths

    if api not in APIS:
        raise UserError(f"--api {api}: expected one of {', '.join(APIS)}")
    levels = checked_levels(concurrency, rate, num_requests, seconds)
    plan = LoadPlan(
        seed=seed,
        prompt_tokens=parse_lengths(prompt_tokens, "--prompt-tokens"),
        answer_tokens=parse_lengths(answer_tokens, "--answer-tokens"),
        hang_up_share=hang_up,
        has_code_words=secrets,
        is_chat=api == "chat",
        lines=[] if prompts is None else read_prompts(prompts),
        fields=checked_fields(fields),
    )
    count = (num_requests or DEFAULT_REQUESTS) if seconds is None else None
    hidden = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    settings = {key: value for key, value in hidden.items() if key not in ("api_key", "out")}
    make_folder(out)  # before the test, whose figures would be lost
    test = LoadTest(
        url,
        model,
        api_key,
        plan,
        levels,
        count,
        seconds,
        shared_prefix_tokens,
        time_limit,
        settings,
    )
    run_and_report(test, out)


def make_folder(out: Path | None) -> None:
    """Make the folder of the report; raise ValueError if it cannot be made."""
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {out}: a file has that name; name a folder") from None
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None


def run_and_report(test: "LoadTest", out: Path | None) -> None:
    """Run a test, print and write what it found, and exit if it was stopped or has failed."""
    from lm_course.commands.plain_console import plain_console
    from lm_course.load_test.load_picture import draw_picture
    from lm_course.load_test.load_report import write_report
    from lm_course.load_test.report_table import print_report
    from lm_course.locations import shown

    stop = asyncio.Event()
    result = asyncio.run(test.run(stop, _ctrl_c_sets(stop), time.perf_counter))
    console = plain_console()
    print_report(result.report, console)
    for line in [] if result.secrets is None else result.secrets.lines():
        console.print(line, soft_wrap=True)
    if out is not None:
        write_report(out, result.report, result.records)
        draw_picture(out / "latency.png", result.runs, result.report.levels)
        console.print(f"report: {shown(out)}", soft_wrap=True)
    if result.secrets is not None and result.secrets.leaks:
        sys.exit(1)
    if result.report.was_stopped:
        print("lm: stopped; the figures are of what was done until then", file=sys.stderr)
        sys.exit(STOPPED)
    if not any(level.done or level.hung_up for level in result.report.levels):
        print("lm: no request was answered", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _ctrl_c_sets(stop: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C set `stop` of the running event loop; a second one ends the command at once."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def checked_levels(
    concurrency: str | None, rate: str | None, num_requests: int | None, seconds: float | None
) -> "list[Level]":
    """Return the loads to test; raise ValueError for what is wrong or given twice."""
    from lm_course.load_test.load_plan import Level

    if concurrency is not None and rate is not None:
        raise UserError("--concurrency and --rate are both given; a test is one of the two")
    if num_requests is not None and seconds is not None:
        raise UserError("--num-requests and --seconds are both given; a test has one limit")
    if seconds is not None and not math.isfinite(seconds):
        raise UserError(f"--seconds {seconds}: expected a number above 0")
    if rate is not None:
        rates = [_number(part, "--rate", float) for part in rate.split(",")]
        if math.inf in rates and seconds is not None:
            raise UserError("--rate inf: all requests at once; give --num-requests, not --seconds")
        return [Level(rate=each) for each in rates]
    clients = (concurrency or DEFAULT_CLIENTS).split(",")
    return [Level(clients=_number(part, "--concurrency", int)) for part in clients]


def _number(text: str, option: str, kind: type) -> Any:
    wanted = "whole numbers above 0, such as 1,4,16" if kind is int else "numbers above 0, or inf"
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not value > 0:  # also for NaN
        raise UserError(f"{option} {text.strip()!r}: expected {wanted}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def checked_fields(text: str) -> dict[str, Any]:
    """Return the fields that --fields gives; raise ValueError if they are none."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise UserError(f"--fields {text}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"--fields {text}: expected a JSON object")
    taken = sorted(found.keys() & SET_FIELDS)
    if taken:
        raise UserError(f"--fields: {taken[0]!r} is set by this command")
    return found
