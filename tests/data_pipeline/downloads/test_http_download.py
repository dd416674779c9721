"""Downloads from a server that stalls, breaks off, redirects and lies."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from unreliable_server import (
    Handler,
    Server,
    announcing,
    honest,
    ignoring_range,
    serving,
    status,
    upto,
)

from data_pipeline.downloads import http_download
from data_pipeline.downloads.http_download import BLOCK_BYTES, Patience, Wanted, download
from lm_core.user_error import UserError

CONTENT = random.Random(0).randbytes(5 * BLOCK_BYTES)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RIGHT = Wanted(SHA256, len(CONTENT))
HALF = 2 * BLOCK_BYTES
PATIENCE = Patience(timeout=0.3, attempts=3, first_wait=1.0, longest_wait=5.0)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the code under test would have waited."""
    seconds: list[float] = []
    monkeypatch.setattr(http_download, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def fetch(server: Server, folder: Path, wanted: Wanted = RIGHT, **patience: float) -> list[str]:
    """Download to folder/file; return the lines that were said."""
    lines: list[str] = []
    path = folder / "file"
    chosen = PATIENCE._replace(**patience)
    found = download([f"{server.url}/it"], path, wanted, chosen, lines.append)
    assert path.read_bytes() == CONTENT
    assert found == SHA256
    assert [p.name for p in folder.iterdir()] == ["file"]
    return lines


def test_an_honest_server_is_asked_once(tmp_path: Path, waits: list[float]) -> None:
    with serving(CONTENT, honest) as server:
        assert fetch(server, tmp_path) == []
    assert [asked["Accept-Encoding"] for asked in server.asked] == ["identity"]
    assert "Range" not in server.asked[0]
    assert waits == []


@pytest.mark.parametrize("wanted", [RIGHT, Wanted()], ids=["known", "unknown"])
def test_a_connection_that_is_cut_is_continued(
    tmp_path: Path, waits: list[float], wanted: Wanted
) -> None:
    with serving(CONTENT, upto(HALF), upto(2 * HALF), honest) as server:
        lines = fetch(server, tmp_path, wanted)
    got = [asked.get("Range") for asked in server.asked]
    assert got == [None, f"bytes={HALF}-", f"bytes={2 * HALF}-"]
    assert server.asked[1]["If-Range"] == server.etag
    assert waits == [1.0, 1.0], "bytes that came make the server worth the first wait again"
    assert "broken one" in lines[0]
    assert lines[0].endswith("trying again in 1 s")


def test_a_server_that_stalls_is_left_and_asked_again(tmp_path: Path, waits: list[float]) -> None:
    with serving(CONTENT, upto(HALF, stall=0.6), honest) as server:
        lines = fetch(server, tmp_path, timeout=0.2)
    assert server.asked[1]["Range"] == f"bytes={HALF}-"
    assert "no byte for 0.2 s" in lines[0]


def test_a_stopped_download_continues_in_the_next_command(
    tmp_path: Path, waits: list[float]
) -> None:
    with serving(CONTENT, upto(HALF), status(503)) as server:
        message = f"status 503 .* after 3 attempts; {HALF:,} bytes are kept, and the same command"
        with pytest.raises(UserError, match=message):
            fetch(server, tmp_path)
        assert waits == [1.0, 1.0, 2.0]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file.part", "file.part.json"]
        server.script[:] = [honest]
        fetch(server, tmp_path)
    assert server.asked[-1]["Range"] == f"bytes={HALF}-"


def test_the_part_of_another_file_is_not_continued(tmp_path: Path, waits: list[float]) -> None:
    """The file on the server changes; without a checksum, only If-Range can tell."""
    with serving(CONTENT[::-1], upto(HALF), honest) as server:

        def change(handler: Handler) -> None:
            server.content, server.etag = CONTENT, '"two"'
            honest(handler)

        server.script[1] = change
        fetch(server, tmp_path, Wanted())
    assert server.asked[1]["Range"] == f"bytes={HALF}-"


def test_a_part_is_not_continued_if_nothing_can_tell_whether_it_belongs(
    tmp_path: Path, waits: list[float]
) -> None:
    with serving(CONTENT, upto(HALF), honest) as server:
        server.etag = ""
        fetch(server, tmp_path, Wanted())
        assert "Range" not in server.asked[1]
        (tmp_path / "file").rename(tmp_path / "file.part")
        (tmp_path / "file.part").write_bytes(CONTENT[:HALF])
        (tmp_path / "file.part.json").write_text("damaged")
        fetch(server, tmp_path)  # the checksum can tell
        assert server.asked[2]["Range"] == f"bytes={HALF}-"
        (tmp_path / "file.part").write_bytes(CONTENT[:HALF])
        origin = {"url": "http://127.0.0.1/other", "validator": '"one"'}
        (tmp_path / "file.part.json").write_text(json.dumps(origin))
        (tmp_path / "file").unlink()
        fetch(server, tmp_path, Wanted())
        assert "Range" not in server.asked[3]


def test_a_complete_part_needs_no_byte(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    with serving(CONTENT, honest) as server:
        fetch(server, tmp_path)
        assert server.asked == []
        (tmp_path / "file").rename(tmp_path / "file.part")
        fetch(server, tmp_path, Wanted(SHA256))  # its size is not known: status 416
        assert len(server.asked) == 1


def test_a_server_that_ignores_range_sends_all_of_it(tmp_path: Path, waits: list[float]) -> None:
    with serving(CONTENT, upto(HALF), ignoring_range) as server:
        fetch(server, tmp_path)
    assert "Range" in server.asked[1]


def test_a_wrong_range_is_thrown_away(tmp_path: Path, waits: list[float]) -> None:
    def wrong_place(handler: Handler) -> None:
        size = len(CONTENT)
        handler.head(206, Content_Range=f"bytes 1-{size - 1}/{size}", Content_Length=size - 1)

    with serving(CONTENT, upto(HALF), wrong_place, honest) as server:
        lines = fetch(server, tmp_path)
    assert f"not for the bytes from {HALF:,}" in lines[1]
    assert "Range" not in server.asked[2]


def test_redirects_are_followed_but_not_for_ever(tmp_path: Path, waits: list[float]) -> None:
    with serving(CONTENT, status(302, Location="/there"), honest) as server:
        fetch(server, tmp_path)
        assert [asked["path"] for asked in server.asked] == ["/it", "/there"]
        (tmp_path / "file").unlink()
        server.script[:] = [status(302, Location="/round")]
        with pytest.raises(UserError, match="30 redirects"):
            fetch(server, tmp_path)
    assert waits == []


def test_the_server_s_wish_to_wait_is_heard_up_to_a_limit(
    tmp_path: Path, waits: list[float]
) -> None:
    script = [status(503, Retry_After=3), status(429, Retry_After=999), honest]
    with serving(CONTENT, *script) as server:
        lines = fetch(server, tmp_path)
    assert waits == [3.0, 5.0]
    assert lines[0] == "file: status 503 Service Unavailable; trying again in 3 s"


@pytest.mark.parametrize(
    ("answer", "wanted", "message"),
    [
        (status(404), RIGHT, "/it: status 404 Not Found$"),
        (announcing(7, b"x" * 7), RIGHT, r"expected 40,960 bytes, the server has 7$"),
        (announcing(7, b"x" * 7), Wanted("0" * 64), "expected SHA-256 0{64}, found .*not kept$"),
        (honest, Wanted(SHA256, 9), "expected 9 bytes, the server has 40,960$"),
        (status(416, Content_Range="bytes */0"), RIGHT, "/it: status 416 .*Range.*$"),
        (
            lambda handler: handler.head(200, Content_Encoding="gzip", Content_Length=0),
            RIGHT,
            r"the server packs the file \(gzip\), unasked$",
        ),
    ],
    ids=["404", "short", "checksum", "long", "416", "packed"],
)
def test_what_no_attempt_can_mend_ends_at_once(
    tmp_path: Path,
    waits: list[float],
    answer: Callable[[Handler], None],
    wanted: Wanted,
    message: str,
) -> None:
    with serving(CONTENT, answer) as server, pytest.raises(UserError, match=message):
        fetch(server, tmp_path, wanted)
    assert len(server.asked) == 1
    assert waits == []
    assert list(tmp_path.iterdir()) == []


def without_length(handler: Handler) -> None:
    handler.head(200)
    handler.wfile.write(CONTENT)


def web_page(handler: Handler) -> None:
    handler.head(200, Content_Type="Text/HTML; charset=utf-8", Content_Length=len(CONTENT))
    handler.wfile.write(CONTENT)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (without_length, "/it: the server does not say how long the file is, and no checksum is "),
        (web_page, r"/it: the server sends a web page \(text/html\), and no checksum is known"),
        (announcing(0, b""), "/it: the server sends an empty file, and no checksum is known"),
    ],
    ids=["without length", "web page", "empty"],
)
def test_what_could_be_another_file_is_refused_if_no_checksum_is_known(
    tmp_path: Path, waits: list[float], answer: Callable[[Handler], None], message: str
) -> None:
    with serving(CONTENT, answer) as server, pytest.raises(UserError, match=message):
        fetch(server, tmp_path, Wanted())
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [without_length, web_page])
def test_a_checksum_says_enough(
    tmp_path: Path, waits: list[float], answer: Callable[[Handler], None]
) -> None:
    with serving(CONTENT, answer) as server:
        assert fetch(server, tmp_path, Wanted(SHA256)) == []


def test_a_wrong_part_of_one_url_does_not_spoil_the_next(
    tmp_path: Path, waits: list[float]
) -> None:
    path = tmp_path / "file"
    with (
        serving(CONTENT[::-1], upto(HALF), status(404)) as wrong,
        serving(CONTENT, honest) as right,
    ):
        lines: list[str] = []
        download([f"{wrong.url}/a", f"{right.url}/b"], path, RIGHT, PATIENCE, lines.append)
    assert path.read_bytes() == CONTENT
    assert [asked.get("Range") for asked in right.asked] == [f"bytes={HALF}-", None]
    assert "it came in parts; starting again from its first byte" in lines[-1]


@pytest.mark.parametrize("kept", [HALF, len(CONTENT)], ids=["half", "complete"])
def test_a_damaged_part_is_downloaded_once_more(
    tmp_path: Path, waits: list[float], kept: int
) -> None:
    (tmp_path / "file.part").write_bytes(bytes(kept))
    with serving(CONTENT, honest) as server:
        fetch(server, tmp_path)
    assert "Range" not in server.asked[-1]


def test_wrong_bytes_that_come_in_parts_are_downloaded_twice_and_no_more(
    tmp_path: Path, waits: list[float]
) -> None:
    script = [upto(2 * HALF), honest, upto(HALF), upto(2 * HALF), honest]
    with (
        serving(CONTENT, *script) as server,
        pytest.raises(UserError, match=r"expected SHA-256 0{64}, found .*, which was not kept$"),
    ):
        fetch(server, tmp_path, Wanted("0" * 64))
    got = [asked.get("Range") for asked in server.asked]
    assert got == [None, f"bytes={2 * HALF}-", None, f"bytes={HALF}-", f"bytes={2 * HALF}-"]
    assert waits == [1.0, 1.0, 1.0], (
        "the second time, bytes that came are worth the first wait again"
    )


def test_a_length_that_is_too_large_ends_after_some_attempts(
    tmp_path: Path, waits: list[float]
) -> None:
    message = r"no connection, or a broken one.*after 3 attempts"
    with (
        serving(CONTENT, announcing(len(CONTENT) + 9, CONTENT)) as server,
        pytest.raises(UserError, match=message),
    ):
        fetch(server, tmp_path, Wanted())
    assert not (tmp_path / "file").exists()
    assert len(server.asked) == 4  # the first one brought something


def test_more_bytes_than_known_without_a_length(tmp_path: Path, waits: list[float]) -> None:
    def endless(handler: Handler) -> None:
        handler.head(200)
        handler.wfile.write(CONTENT * 3)

    message = r"the server sends more than 40,960 bytes$"
    with serving(CONTENT, endless) as server, pytest.raises(UserError, match=message):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_url_is_tried_and_every_reason_is_named(
    tmp_path: Path, waits: list[float]
) -> None:
    path = tmp_path / "inner" / "file"
    with serving(CONTENT, status(404)) as first, serving(CONTENT, honest) as second:
        download([f"{first.url}/a", f"{second.url}/b"], path, RIGHT, PATIENCE)
        path.unlink()
        second.script[:] = [status(410)]
        with pytest.raises(
            UserError, match=r"/a: status 404 Not Found; http.*/b: status 410 Gone$"
        ):
            download([f"{first.url}/a", f"{second.url}/b"], path, RIGHT, PATIENCE)


def test_no_server_is_one_line(tmp_path: Path, waits: list[float]) -> None:
    with serving(CONTENT, honest) as server:
        pass
    with pytest.raises(UserError, match=r"no connection.*Connection refused.*after 3 attempts$"):
        fetch(server, tmp_path)
    assert waits == [1.0, 2.0]
    with pytest.raises(UserError, match=r"could not be downloaded: nowhere: .*"):
        download(["nowhere"], tmp_path / "file", RIGHT, PATIENCE)
