"""Text files of every kind to documents."""

import gzip
import lzma
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import plain_text
from data_pipeline.sources.plain_text import (
    bounded_texts,
    file_texts,
    text_files,
    write_text_documents,
)
from lm_core.formats.documents import document_id, read_counts, read_documents
from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def documents_of(tmp_path: Path, *paths: Path) -> list[str]:
    write_text_documents(paths, tmp_path / "documents")
    return [document.text for document in read_documents(tmp_path / "documents")]


def test_a_text_without_separators_is_one_document_unchanged(tmp_path: Path) -> None:
    text = "\n  First é\r\nline\n\n"
    path = written(tmp_path / "a.txt", text)
    assert documents_of(tmp_path, path) == [text]
    [document] = read_documents(tmp_path / "documents")
    assert (document.id, document.source, document.url) == (document_id(text), "a.txt", "")


def test_separators_and_the_line_ends_beside_them_go(tmp_path: Path) -> None:
    text = f"\n one\n{END_OF_TEXT}\r\ntwo\n\nlines {END_OF_TEXT}\n \n{END_OF_TEXT}three\n"
    path = written(tmp_path / "a.txt", text)
    assert documents_of(tmp_path, path) == ["\n one", "two\n\nlines ", "three\n"]
    assert read_counts(tmp_path / "documents") == [
        {
            "step": "read text",
            "documents_in": 4,
            "documents_out": 3,
            "bytes_in": 5 + 11 + 1 + 6,
            "bytes_out": 5 + 11 + 6,
            "dropped": {"empty": 1},
        }
    ]


@given(
    st.lists(st.sampled_from([*"a<|endoftx>é漢", END_OF_TEXT, END_OF_TEXT[:6]])).map("".join),
    st.integers(1, 20),
)
def test_blocks_of_any_size_give_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, text: str, block: int
) -> None:
    path = written(tmp_path_factory.mktemp("text") / "a.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "BLOCK_BYTES", block)
        assert list(file_texts(path)) == text.split(END_OF_TEXT)


def test_a_folder_is_read_in_the_order_of_names_and_packed_files_are_unpacked(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"second"))
    (folder / "a.txt.xz").write_bytes(lzma.compress(b"first"))
    (folder / "notes.md").write_text("not text for us")
    written(folder / "inner" / "c.txt", "\ufeffthird")
    assert documents_of(tmp_path, folder) == ["first", "second", "third"]
    other = tmp_path / "packed.gz"  # a file that is named may have any name
    other.write_bytes(gzip.compress(b"named"))
    assert documents_of(tmp_path, other, folder / "inner") == ["named", "third"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "gone.txt", "gone.txt: no such text file or folder; give another with --set text"),
        (b"ab\xffc", "a.txt", "not UTF-8: byte 0xff at offset 2; convert"),
        (b"aaaaaaaaaaa\xc3", "a.txt", "not UTF-8: byte 0xc3 at offset 11; convert"),
        (gzip.compress(b"a" * 9999)[:-12], "a.txt.gz", "cannot be read .*; fetch the file again"),
        (b"not packed", "a.gz", "cannot be read .*Not a gzipped file.*; fetch the file again"),
        (b"not packed", "a.xz", "cannot be read .*; fetch the file again"),
        (f"\n{END_OF_TEXT} ".encode(), "a.txt", "a.txt: no text there; give a file with text"),
    ],
    ids=["missing", "latin-1", "cut-character", "cut-gzip", "no-gzip", "no-xz", "only-separators"],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, name: str, message: str
) -> None:
    monkeypatch.setattr(plain_text, "BLOCK_BYTES", 3)
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        write_text_documents([path], tmp_path / "documents")
    assert [p.name for p in tmp_path.iterdir()] == ([] if content is None else [name])


def test_a_text_that_is_too_long_is_passed_over_and_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    parts = [b"first", b"a" * 30_000_000, "é".encode() * 50, "é".encode() * 51]
    path.write_bytes(gzip.compress(END_OF_TEXT.encode().join(parts), 1))
    tracemalloc.start()
    found = list(bounded_texts(path, 100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["first", 30_000_000, "é" * 50, 102]
    assert peak < 3_000_000


def test_zstd_is_read_and_a_packed_file_of_any_name(tmp_path: Path) -> None:
    packed = pa.compress("é".encode() * 9, codec="zstd", asbytes=True)
    (tmp_path / "a.txt.zst").write_bytes(packed)
    (tmp_path / "b").write_bytes(packed)
    assert documents_of(tmp_path, tmp_path / "a.txt.zst", tmp_path / "b") == ["é" * 9] * 2


def test_a_folder_without_text_and_a_document_that_parquet_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no text file in this folder; expected names that end in"):
        text_files([tmp_path])
    monkeypatch.setattr(plain_text, "LARGEST_DOCUMENT", 20)
    monkeypatch.setattr(plain_text, "BLOCK_BYTES", 4)
    fits = written(tmp_path / "a.txt", f"{'a' * 20}{END_OF_TEXT}é")
    assert list(file_texts(fits)) == ["a" * 20, "é"]
    with pytest.raises(UserError, match=r"a document of more than 20 bytes; separate documents"):
        list(file_texts(written(tmp_path / "b.txt", "ééé" * 40)))
