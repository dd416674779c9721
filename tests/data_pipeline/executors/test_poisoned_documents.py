"""Poisoned documents in `lm data build`: each costs itself, and the others come out unchanged."""

import multiprocessing
import os
import signal
import sys
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipeline.executors import document_building
from data_pipeline.executors.document_building import (
    DocumentSettings,
    build_documents,
    build_from_pages,
)
from data_pipeline.sources.warc_files import Page
from lm_core.formats.documents import read_documents
from lm_core.stand_ins import STAND_INS_VARIABLE

pytest.importorskip("fasttext")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory")
SETTINGS = DocumentSettings(
    num_processes=2, max_page_seconds=1.0, max_worker_memory=400_000_000, max_page_bytes=1_000_000
)
WORDS = ["bear", "boat", "captain", "doctor", "engine", "farmer", "garden", "hunter"]
SENTENCES = (
    "The {0} walked slowly along the river and thought of the long winter that was to come. "
    "Nobody had told the {0} that the bridge was closed, and so it had to turn back. "
    "In the evening the {0} sat by the fire with a cup of tea and a book about the {1}. "
    "There is no better place to be than here, said the {0}, and everybody agreed with that."
)
# A text extraction that hangs or fills the memory, which only the workers import. It waits
# with all signals blocked, like C code that never looks for one.
EXTRACTION = """
import ctypes, signal
def extract_text(payload, content_type, charset):
    if b"HANGS" in payload:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        ctypes.PyDLL(None).sleep(600)
    held = []
    while b"GROWS" in payload:
        held.append(bytearray(50_000_000))
    return payload.decode().removeprefix("<p>")
"""


def story(number: int) -> str:
    return SENTENCES.format(WORDS[number % 8], WORDS[number // 8 - 1] + "s")


def stories() -> list[tuple[Page, str]]:
    bodies = [f"<p>{story(number)}".encode() for number in range(24)]
    return [(Page(f"http://x/{n}", "text/html", b, "utf-8"), "a") for n, b in enumerate(bodies)]


def poisoned(word: str) -> tuple[Page, str]:
    return Page(f"http://x/{word}", "text/html", f"<p>{word} {story(5)}".encode(), "utf-8"), "a"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the documents of 24 stories, from this process."""
    folder = tmp_path_factory.mktemp("clean") / "documents"
    build_from_pages(stories(), folder, SETTINGS.model_copy(update={"num_processes": 0}))
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_page_that_hangs_or_fills_the_memory_is_lost_alone(clean, tmp_path, monkeypatch) -> None:
    (tmp_path / "data_pipeline").mkdir()
    (tmp_path / "data_pipeline" / "text_extraction.py").write_text(EXTRACTION)
    monkeypatch.setenv(STAND_INS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(document_building, "BATCH_PAGES", 8)
    pages = stories()
    for position, word in ((20, "GROWS"), (12, "HANGS")):
        pages.insert(position, poisoned(word))
    settings = SETTINGS.model_copy(update={"max_page_seconds": 0.8})
    counts, _ = build_from_pages(pages, tmp_path / "documents", settings)
    reasons = {"too slow": 1, "too much memory": 1}
    assert counts[0]["dropped"] == reasons
    assert counts[0]["named"] == ["a: http://x/HANGS", "a: http://x/GROWS"]
    there = files(tmp_path / "documents")
    assert there["part-00000.parquet"] == clean["part-00000.parquet"]
    assert not list(tmp_path.glob(".unfinished*"))


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(
    clean, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(document_building, "BATCH_PAGES", 1)
    killed = []  # one while it starts, and another as soon as one has taken its place

    def pages():
        for number, page in enumerate(stories()):
            alive = [child.pid for child in multiprocessing.active_children()]
            others = [pid for pid in alive if pid not in killed]
            if number >= 9 and len(killed) < 2 and others:
                os.kill(others[0], signal.SIGKILL)
                killed.append(others[0])
            yield page

    build_from_pages(pages(), tmp_path / "documents", SETTINGS)
    assert killed
    assert files(tmp_path / "documents") == clean


def warc_record(writer: WARCWriter, url: str, body: bytes, coding: str) -> None:
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Encoding", coding)]
    http = StatusAndHeaders("200 OK", headers if coding else headers[:1], protocol="HTTP/1.1")
    given = {"payload": BytesIO(body), "length": len(body), "http_headers": http}
    writer.write_record(writer.create_warc_record(url, "response", **given))


def test_bombs_and_deep_nesting_cost_their_record(tmp_path) -> None:
    """50 MB of blanks in a few kB of gzip and zstd, and 100,000 elements inside each other."""
    blanks = b" " * 50_000_000
    with (tmp_path / "a.warc.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        warc_record(writer, "http://x/0", f"<p>{story(0)}".encode(), "")
        for coding in ("gzip", "zstd"):
            body = pa.compress(blanks, coding, asbytes=True)
            assert len(body) < 60_000
            warc_record(writer, f"http://x/{coding}", body, coding)
        deep = "<i>" * 100_000 + story(1) + "</i>" * 100_000
        warc_record(writer, "http://x/deep", deep.encode(), "")
        warc_record(writer, "http://x/2", f"<p>{story(2)}".encode(), "")
    settings = SETTINGS.model_copy(update={"num_processes": 0, "max_page_seconds": 30.0})
    counts, _ = build_documents([tmp_path / "a.warc.gz"], tmp_path / "documents", settings)
    assert counts[0]["dropped"] == {"too large": 2}
    for named, coding in zip(counts[0]["named"], ("gzip", "zstd"), strict=True):
        assert f"(http://x/{coding}): more than 1,000,000 bytes when unpacked" in named
    assert [document.text for document in read_documents(tmp_path / "documents")] == [
        story(0),
        story(1),
        story(2),
    ]


@pytest.mark.parametrize("size", [3_000_000, pytest.param(10**9, marks=pytest.mark.slow)])
def test_a_huge_line_costs_itself(tmp_path, size) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "%s"}\n{"text": "' % story(0).encode())
        start = file.tell()
        file.seek(size, os.SEEK_CUR)  # a hole in the file
        file.write(b'"}\n{"text": "%s"}\n' % story(1).encode())
    settings = SETTINGS.model_copy(update={"num_processes": 0})
    counts, _ = build_documents([tmp_path / "a.jsonl"], tmp_path / "documents", settings)
    assert counts[0]["dropped"] == {"too large": 1}
    assert counts[0]["named"] == [f"a.jsonl: line 2 has {size + 12:,} bytes"], start
    assert counts[-1]["documents_out"] == 2
