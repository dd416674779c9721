"""Documents are read back from parquet unchanged and in order; anything else in the folder is an
error that names a command.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_core.formats.documents import (
    Document,
    document_id,
    read_counts,
    read_documents,
    write_documents,
)


def counts(kept: int) -> list[dict]:
    return [{"step": "extract text", "documents_in": 3, "documents_out": kept, "dropped": {}}]


def sample(number: int) -> Document:
    text = f"Page {number}: naïve 🦉\n\nsecond line\x00"
    return Document(document_id(text), text, "pydoc", f"pydoc://{number}", "en", {"language": 0.9})


@pytest.mark.parametrize("rows_per_file", [1, 2, 3, 100])
def test_round_trip(tmp_path: Path, rows_per_file: int) -> None:
    documents = [sample(number) for number in range(3)]
    assert write_documents(tmp_path / "documents", iter(documents), counts(3), rows_per_file) == 3
    assert list(read_documents(tmp_path / "documents")) == documents
    assert read_counts(tmp_path / "documents") == counts(3)


def test_a_hand_computed_id() -> None:
    # printf 'abc' | sha256sum
    assert document_id("abc") == "ba7816bf8f01cfea"


def test_missing_and_empty_folders_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no documents there; make them with `lm data build"):
        list(read_documents(tmp_path / "documents"))
    write_documents(tmp_path / "documents", [], counts(0))
    with pytest.raises(ValueError, match="holds no document"):
        list(read_documents(tmp_path / "documents"))


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    write_documents(folder, [sample(1)], counts(1))
    part = folder / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00000.parquet: cannot be read as documents"):
        list(read_documents(folder))
    pq.write_table(pa.table({"text": ["a"]}), part)
    with pytest.raises(ValueError, match=r"columns are \['text'\]"):
        list(read_documents(folder))


def test_a_failure_half_way_keeps_the_old_documents(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    write_documents(folder, [sample(1)], counts(1))

    def failing():
        yield sample(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_documents(folder, failing(), counts(1), rows_per_file=1)
    assert [document.url for document in read_documents(folder)] == ["pydoc://1"]


def test_a_filter_that_forgets_its_row_of_counts_writes_nothing(tmp_path: Path) -> None:
    """Else the report and later steps would say what the step before it kept."""
    with pytest.raises(AssertionError, match=r"2 documents, 3 in the last row of counts: append"):
        write_documents(tmp_path / "documents", [sample(1), sample(2)], counts(3))
    with pytest.raises(AssertionError, match="0 documents, None in the last row"):
        write_documents(tmp_path / "documents", [], [])
    with pytest.raises(AssertionError, match="1 documents, None in the last row"):
        write_documents(tmp_path / "documents", [sample(1)], [{"step": "filter"}])
    assert list(tmp_path.iterdir()) == []
