"""Rows of JSON lines and parquet files as pages; a bad row or row group costs only itself."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import page_rows, plain_text
from data_pipeline.sources.http_responses import TOO_LARGE
from data_pipeline.sources.page_rows import (
    DAMAGED_ROWS,
    NO_TEXT,
    NOT_JSON,
    NOT_UTF8,
    RowKeys,
    json_line_pages,
    parquet_pages,
)
from data_pipeline.sources.warc_files import LostPage, Page
from lm_core.user_error import UserError

LIMIT = 1000
KEYS = RowKeys()


def lines_of(tmp_path: Path, content: bytes, keys: RowKeys = KEYS, name: str = "a.jsonl") -> list:
    path = tmp_path / name
    path.write_bytes(content)
    return list(json_line_pages(path, name, LIMIT, keys))


def rows_of(path: Path, keys: RowKeys = KEYS) -> list:
    return list(parquet_pages(path, path.name, LIMIT, keys))


def written(path: Path, columns: dict, **settings) -> Path:
    pq.write_table(pa.table(columns), path, **settings)
    return path


def texts(pages: list) -> list[str]:
    return [page.payload.decode() for page in pages if isinstance(page, Page)]


def reasons(pages: list) -> list[str]:
    return [page.reason for page in pages if isinstance(page, LostPage)]


def test_the_first_key_that_a_line_has_is_its_text(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "content": "not this", "url": "http://x/1", "id": "i"},
        {"content": "twö", "source": "s", "id": "i"},
        {"html": "<p>three", "id": 3},
        {"text": None, "content": "four"},
    ]
    pages = lines_of(tmp_path, "\n\n".join(map(json.dumps, rows)).encode())
    assert pages == [
        Page("http://x/1", "text/plain", b"one", "utf-8"),
        Page("s", "text/plain", "twö".encode(), "utf-8"),
        Page("3", "text/html", b"<p>three", "utf-8"),
        Page("a.jsonl:7", "text/plain", b"four", "utf-8"),
    ]
    own = RowKeys(text_keys=["body"], html_keys=[], url_keys=[])
    assert lines_of(tmp_path, b'{"body": "b", "url": "u"}', own) == [
        Page("a.jsonl:1", "text/plain", b"b", "utf-8")
    ]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"no", NOT_JSON, "line 2: Expecting value: line 1 column 1 (char 0)"),
        (b'["text"]', NOT_JSON, "line 2 is a list"),
        (b"[" * 999, NOT_JSON, "line 2: "),
        (b'{"n": ' + b"1" * 900 + b"}", NO_TEXT, "line 2 has the keys n"),
        (b'{"text": "\xff"}', NOT_UTF8, "line 2, byte 11"),
        (b'{"text": 3, "\\ud800\\n": 1}', NO_TEXT, "line 2 has the keys text, \ufffd"),
        (b'{"text": "' + b"a" * 989 + b'"}', TOO_LARGE, "line 2 has 1,001 bytes"),
    ],
    ids=["word", "list", "nested", "number", "latin-1", "no-text", "long"],
)
def test_a_bad_line_costs_that_line(tmp_path: Path, line: bytes, reason: str, detail: str) -> None:
    good = b'\xef\xbb\xbf{"text": "good"}\n', b'\n{"text": "\\ud800 half"}\r\n{"text": ""}'
    pages = lines_of(tmp_path, line.join(good))
    assert texts(pages) == ["good", "\ufffd half", ""]
    [lost] = [page for page in pages if isinstance(page, LostPage)]
    assert (lost.url, lost.reason, lost.stored_bytes) == ("a.jsonl:2", reason, len(line))
    assert lost.detail.startswith(detail)
    assert pages.index(lost) == 1


def test_a_line_of_the_largest_size_is_whole_and_a_huge_one_is_never_in_memory(
    tmp_path: Path,
) -> None:
    fits = b'{"text": "' + b"a" * 988 + b'"}'
    huge = b'{"text": "' + b"b" * 30_000_000 + b'"}'
    packed = gzip.compress(b"\n".join([fits, huge, fits]), 1)
    tracemalloc.start()
    pages = lines_of(tmp_path, packed, name="a.jsonl.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(text) for text in texts(pages)] == [988, 988]
    assert reasons(pages) == [TOO_LARGE]
    assert peak < 3_000_000


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8),
    st.integers(1, 9),
    st.integers(1, 12),
)
def test_blocks_of_any_size_give_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], block: int, limit: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(b"\n".join([b"first", *lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "BLOCK_BYTES", block)
        found = list(page_rows._lines(path, limit))
    expected = [(line if len(line) <= limit else None, len(line)) for line in [b"first", *lines]]
    while expected and expected[-1][1] == 0:
        expected.pop()
    while found and found[-1][1] == 0:
        found.pop()
    assert found == expected


def test_a_file_that_is_not_json_lines_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_rows, "ROWS_TO_JUDGE", 3)
    good = b'{"text": "t"}\n'
    assert reasons(lines_of(tmp_path, b"no\n" * 2 + good + b"no\n" * 9)) == [NOT_JSON] * 11
    message = r"a.jsonl: not JSON lines: no object in the first 3 \(line 1: Expecting"
    with pytest.raises(UserError, match=message):
        lines_of(tmp_path, b'{\n"text":\n"t"\n}\n' + good)


def test_rows_without_text_are_counted_but_a_file_of_them_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_rows, "ROWS_TO_JUDGE", 3)
    bad, good = b'{"body": "b", "id": 1}\n', b'{"text": "t"}\n'
    assert reasons(lines_of(tmp_path, bad * 2 + good + bad * 9)) == [NO_TEXT] * 11
    message = (
        r"a.jsonl: no text there: expected a key or column named text or content or html, found "
        r"body, id, x; set pages.text_keys or pages.html_keys, as in --set 'pages.text_keys="
        r'\["NAME"\]\''
    )
    for content in (bad + b'{"x": 1}\n', bad + b'{"x": 1}\n' + bad + good):
        with pytest.raises(UserError, match=message):
            lines_of(tmp_path, content)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_rows_before_a_cut_are_kept(tmp_path: Path, packing: str) -> None:
    content = b"".join(b'{"text": "%d %s"}\n' % (n, str(n**50).encode()) for n in range(9999))
    packed = pa.compress(content, codec=packing, asbytes=True)
    path = tmp_path / ("a.jsonl.gz" if packing == "gzip" else "a.jsonl.zst")
    path.write_bytes(packed[: len(packed) // 2])
    pages = json_line_pages(path, "a", LIMIT, KEYS)
    found = []
    with pytest.raises(UserError, match=f"{path.name}: cannot be read .*; fetch the file again"):
        for page in pages:
            found.append(page)
    assert [int(text.split()[0]) for text in texts(found)] == list(range(len(found)))
    assert len(found) > 4000


def test_a_parquet_file_is_read_in_batches(tmp_path: Path) -> None:
    numbers = range(200)
    columns = {"id": list(numbers), "other": ["o"] * 200, "text": [f"t{n}" for n in numbers]}
    path = written(tmp_path / "a.parquet", columns, row_group_size=70)
    assert rows_of(path) == [Page(str(n), "text/plain", b"t%d" % n, "utf-8") for n in numbers]
    without_id = [page.url for page in rows_of(path, RowKeys(url_keys=["url"]))]
    assert without_id == [f"a.parquet:{n + 1}" for n in numbers]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
     pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)  # fmt: skip
def test_text_of_every_type_and_rows_that_are_lost(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["é", None, "a" * 1001, "b"])
    column = (
        pa.array(column.to_pylist(), kind) if pa.types.is_string_view(kind) else (column.cast(kind))
    )
    pages = rows_of(written(tmp_path / "a.parquet", {"content": column}))
    assert texts(pages) == ["é", "b"]
    assert [page.url for page in pages] == [f"a.parquet:{n}" for n in range(1, 5)]
    assert [(page.reason, page.detail) for page in pages[1:3]] == [
        (NO_TEXT, "row 2 is null"),
        (TOO_LARGE, "row 3 has 1,001 bytes"),
    ]


def test_html_in_bytes_keeps_its_charset_and_text_in_bytes_must_be_utf_8(tmp_path: Path) -> None:
    pages = rows_of(written(tmp_path / "a.parquet", {"html": [b"<p>\xff"], "url": ["u"]}))
    assert pages == [Page("u", "text/html", b"<p>\xff", "")]
    pages = rows_of(written(tmp_path / "b.parquet", {"html": ["<p>é"], "text": [3]}))
    assert pages == [Page("b.parquet:1", "text/html", "<p>é".encode(), "utf-8")]
    pages = rows_of(written(tmp_path / "c.parquet", {"text": [b"a\xff", b"ok"]}))
    assert (texts(pages), reasons(pages)) == (["ok"], [NOT_UTF8])


def test_a_damaged_row_group_costs_that_row_group(tmp_path: Path) -> None:
    columns = {"text": [f"{n} {n**50}" for n in range(100)], "url": ["u"] * 100}
    path = written(tmp_path / "a.parquet", columns, row_group_size=20)
    column = pq.read_metadata(path).row_group(2).column(0)
    content = bytearray(path.read_bytes())
    place = column.dictionary_page_offset or column.data_page_offset
    content[place : place + 40] = b"\xff" * 40
    path.write_bytes(content)
    pages = rows_of(path)
    assert [int(t.split()[0]) for t in texts(pages)] == [*range(40), *range(60, 100)]
    [lost] = [page for page in pages if isinstance(page, LostPage)]
    assert (lost.url, lost.reason, pages.index(lost)) == ("a.parquet", DAMAGED_ROWS, 40)
    assert lost.detail.startswith("rows 41 to 60 (row group 3): ")


def test_a_changed_bit_is_found_if_the_file_has_checksums(tmp_path: Path) -> None:
    columns = {"text": ["first", "second"]}
    settings = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    path = written(tmp_path / "a.parquet", columns, write_statistics=False, **settings)
    path.write_bytes(path.read_bytes().replace(b"second", b"zecond"))
    assert reasons(rows_of(path)) == [DAMAGED_ROWS]


def test_a_parquet_file_without_footer_or_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"text": [[1]], "b": [2]})
    with pytest.raises(UserError, match=r"found text \(list<element: int64>\), b \(int64\); set"):
        rows_of(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"a.parquet: cannot be read as parquet \(Parquet magic"):
        rows_of(path)


def test_a_row_has_the_text_of_the_first_column_that_is_not_null(tmp_path: Path) -> None:
    columns = {
        "content": ["from content", None, "never", None],
        "text": [None, "from text", "first", None],
        "html": [None, None, b"<p>", b"<p>\xff"],
        "url": ["u", None, "", None],
        "id": [1, 2, 3, 4],
    }
    pages = rows_of(written(tmp_path / "a.parquet", columns))
    assert [(page.url, page.payload, page.content_type) for page in pages] == [
        ("u", b"from content", "text/plain"),
        ("2", b"from text", "text/plain"),
        ("3", b"first", "text/plain"),
        ("4", b"<p>\xff", "text/html"),
    ]


def test_a_url_that_is_not_utf_8_costs_nothing(tmp_path: Path) -> None:
    urls = pa.Array.from_buffers(
        pa.string(), 3, pa.array([b"a", b"b\xff", b"c"], pa.binary()).buffers()
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", "two", "three"], "url": urls}), path)
    pages = rows_of(path)
    assert texts(pages) == ["one", "two", "three"]
    assert [page.url for page in pages] == ["a", "b\ufffd", "c"]
