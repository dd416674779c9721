"""Whatever a file holds, it opens or is one ValueError."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.gguf_container import read_gguf

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small file."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(16)
    writer.add_token_list(["a", "é", "c"])
    writer.add_token_merges(["a b"])
    writer.add_tensor("one", VALUES)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "m.gguf"
    path.write_bytes(content)
    return path


def test_metadata_and_tensors(whole: bytes, tmp_path: Path) -> None:
    file = read_gguf(written(tmp_path, whole))
    assert file.named("general.architecture") == "llama"
    assert file.named("tokenizer.ggml.tokens") == ["a", "é", "c"]
    assert file.named("nothing", 7) == 7
    with pytest.raises(ValueError, match="the metadata lacks nothing"):
        file.named("nothing")
    tensor = file.tensors["one"]
    assert (tensor.type, tensor.shape) == ("F32", (2, 3))
    assert tensor.data.tobytes() == VALUES.tobytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 a zip", "not a GGUF file"),
        (b"GGUF", "damaged, cut short"),
        (b"GGUF\x63\0\0\0" + bytes(16), "version 99"),
    ],
)
def test_what_is_no_gguf(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as error:
        read_gguf(written(tmp_path, content))
    assert "\n" not in str(error.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            read_gguf(path)


def test_a_file_cut_short_anywhere(whole: bytes, tmp_path: Path) -> None:
    end = whole.index(VALUES.tobytes()) + VALUES.nbytes
    for length in range(4, end):
        with pytest.raises(ValueError, match=r"m\.gguf: .*(damaged|not a GGUF)"):
            read_gguf(written(tmp_path, whole[:length]))


@settings(max_examples=200)
@given(place=st.integers(4), byte=st.integers(0, 255))
def test_a_changed_byte_is_a_file_or_one_error(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    content = bytearray(whole)
    content[4 + place % (len(whole) - 4)] = byte
    try:
        read_gguf(written(tmp_path_factory.getbasetemp(), bytes(content)))
    except ValueError as error:
        assert "\n" not in str(error)


def test_without_the_package(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="install it with `pip install gguf`"):
        read_gguf(written(tmp_path, whole))
