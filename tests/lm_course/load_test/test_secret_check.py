"""Mixed up answers and lost blocks are found; whatever is in order is not."""

import httpx
import pytest

from lm_course.load_test import secret_check
from lm_course.load_test.load_client import RequestRecord
from lm_course.load_test.secret_check import check_secrets, mixed_up, read_numbers

MINE, OTHER, NOBODYS = "QXAAAAAAAA", "QXBBBBBBBB", "QXCCCCCCCC"
PAGE = """\
# HELP lm_cache_blocks Blocks of the cache
# TYPE lm_cache_blocks gauge
lm_cache_blocks {blocks}
# TYPE lm_cache_blocks_available gauge
lm_cache_blocks_available {free}
# TYPE lm_requests_running gauge
lm_requests_running {running}
# TYPE lm_requests_waiting gauge
lm_requests_waiting 0.0
"""


def record(number: int, code_word: str, text: str, outcome: str = "done") -> RequestRecord:
    return RequestRecord(1, number, 0.0, outcome=outcome, text=text, code_word=code_word)


def test_only_the_word_of_another_request_is_a_mix_up() -> None:
    records = [
        record(0, MINE, f"it is {MINE}"),
        record(1, OTHER, f"no: {NOBODYS}"),
        record(2, "QXDDDDDDDD", f"x{OTHER.lower()}y"),
        record(3, "QXEEEEEEEE", f"QX{MINE}", "hung up"),
        record(4, "QXFFFFFFFF", f"{MINE} cut", "time limit"),
    ]
    assert mixed_up(records) == ("1/2", "1/3", "1/4")


def check(fake, records, *pages):
    """The check, with a server that shows these pages one after the other."""
    asked = []

    def respond(request):
        assert str(request.url) == "http://server/metrics"
        asked.append(1)
        page = pages[min(len(asked), len(pages)) - 1]
        return httpx.Response(404) if page is None else httpx.Response(200, text=page)

    async def work():
        http = httpx.AsyncClient(
            transport=httpx.MockTransport(respond), base_url="http://server/v1"
        )
        return await check_secrets(http, records)

    return fake.run_virtually(work()), len(asked)


def test_a_server_in_order(fake) -> None:
    records = [record(0, MINE, MINE), record(1, OTHER, "what?"), record(2, "QXE", "", "hung up")]
    found, asked = check(fake, records, PAGE.format(blocks=8, free=8, running=0))
    assert not found.leaks
    assert asked == 1
    assert found.lines() == [
        "code words: 1 of 2 whole answers repeat their own; 0 of 3 hold another request's",
        "server at the end: 8 of 8 blocks free, 0 running, 0 waiting",
        "leak: none",
    ]
    assert found.as_json()["server"] == {"blocks": 8, "blocks_free": 8, "running": 0, "waiting": 0}


def test_a_check_that_could_see_nothing_says_so(fake) -> None:
    for outcome in ("done", "hung up"):
        records = [record(0, MINE, "else", outcome)]
        found, _ = check(fake, records, PAGE.format(blocks=8, free=8, running=0))
        assert not found.leaks
        assert found.lines()[-1].startswith("leak: none seen; but as no whole answer")
    found, _ = check(fake, records, PAGE.format(blocks=8, free=7, running=0))
    assert found.lines()[-1].startswith("leak: requests or blocks are left")


def test_a_request_that_is_just_ending_is_no_leak(fake) -> None:
    busy = PAGE.format(blocks=8, free=6, running=1)
    found, asked = check(fake, [], busy, busy, PAGE.format(blocks=8, free=8, running=0))
    assert not found.leaks
    assert asked == 3


@pytest.mark.parametrize(("free", "running"), [(7, 0), (8, 1)])
def test_what_is_left_is_a_leak(fake, free, running) -> None:
    found, asked = check(fake, [], PAGE.format(blocks=8, free=free, running=running))
    assert found.leaks
    assert asked == secret_check.LOOKS
    assert found.lines()[-1].startswith("leak: requests or blocks are left")


def test_a_mix_up_is_a_leak_of_any_server(fake) -> None:
    found, _ = check(fake, [record(0, MINE, OTHER), record(1, OTHER, OTHER)], None)
    assert found.leaks
    assert found.lines()[1:] == [
        "server at the end: its /metrics has no lm_cache_blocks; memory not checked",
        "leak: another request's code word in the answers (level/number) 1/0",
    ]


def test_numbers_of_other_pages() -> None:
    assert not read_numbers("vllm:num_requests_running 3\n").is_known
    assert not read_numbers("<html>not { metrics").is_known
    labels = PAGE.format(blocks=8, free=8, running=0).replace("running 0", 'running{model="a"} 1')
    labels += 'lm_requests_running{model="b"} 2\n'
    assert read_numbers(labels).running == 3, "of all models together"


def test_the_metrics_of_our_own_server_are_known(server_fixtures) -> None:
    served = server_fixtures.make()
    text = served.app.state.metrics.text().decode()
    found = read_numbers(text)
    assert found.is_known
    assert found.is_idle
    assert found.blocks == served.engine.pool.num_blocks
