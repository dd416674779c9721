"""Whatever a file holds, it opens or gives one ValueError."""

import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.formats.gguf_container import BLOCKS, TYPES, read_gguf
from lm_core.user_error import UserError

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a small file."""
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
        (b"GGUF", "damaged GGUF file: its header would extend beyond its 4 bytes; fetch it again"),
        (b"GGUF\x63\0\0\0" + bytes(16), "version 2 or 3, little-endian; found version 99"),
        (b"GGUF\0\0\0\x03" + bytes(16), "little-endian; found big-endian byte order"),
    ],
)
def test_a_file_that_is_not_gguf(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as error:
        read_gguf(written(tmp_path, content))
    assert "\n" not in str(error.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            read_gguf(path)


def test_every_kind_of_value_is_what_gguf_reads(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    numbers = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    for kind in numbers:
        getattr(writer, f"add_{kind}")(kind, 100)
    for kind in ("int8", "int16", "int32", "int64"):
        getattr(writer, f"add_{kind}")(f"less.{kind}", -100)
    for kind in ("float32", "float64"):
        getattr(writer, f"add_{kind}")(kind, -0.1)
    writer.add_bool("no", False)
    writer.add_string("text", "é\n")
    writer.add_string("nothing", "")
    for name, listed in {"words": ["a", "", "éé"], "numbers": [1, -2], "parts": [0.5, 1.5]}.items():
        writer.add_array(name, listed)
    writer.add_array("yes", [True, False])
    for name in gguf.GGMLQuantizationType:
        if name.name in BLOCKS:
            shape = (2, 64) if name != gguf.GGMLQuantizationType.F32 else (3, 2, 1, 4)
            packed = gguf.quants.quantize(np.ones(shape, np.float32), name)
            writer.add_tensor(name.name, packed, raw_dtype=name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs, ours = gguf.GGUFReader(tmp_path / "m.gguf"), read_gguf(tmp_path / "m.gguf")
    expected = {name: field.contents() for name, field in theirs.fields.items()}
    assert ours.metadata == {n: value for n, value in expected.items() if not n.startswith("GGUF.")}
    assert len(theirs.tensors) == len(BLOCKS) == len(ours.tensors)
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.type == tensor.tensor_type.name
        assert found.shape == tuple(reversed(tensor.shape.tolist()))
        assert found.data.tobytes() == tensor.data.tobytes()


def test_the_types_are_those_of_gguf() -> None:
    for kind in gguf.GGMLQuantizationType:
        assert kind.value >= len(TYPES.split()) or TYPES.split()[kind.value] == kind.name


def test_a_file_cut_short_anywhere(whole: bytes, tmp_path: Path) -> None:
    """The error is one line that says which part is incomplete, and what to do."""
    end = whole.index(VALUES.tobytes()) + VALUES.nbytes
    parts = []
    for length in range(4, end):
        with pytest.raises(UserError) as error:
            read_gguf(written(tmp_path, whole[:length]))
        said = str(error.value).removeprefix(f"{tmp_path / 'm.gguf'}: truncated or damaged ")
        parts.append(said.removeprefix("GGUF file: its ").partition(" would extend beyond")[0])
        assert said.endswith(f"beyond its {length:,} bytes; fetch it again"), said
    assert list(dict.fromkeys(parts)) == ["header", "metadata", "list of tensors", "tensor one"]
    assert read_gguf(written(tmp_path, whole[:end])).tensors.keys() == {"one"}


@pytest.mark.parametrize("number", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_count_that_the_file_does_not_have_takes_no_memory(
    whole: bytes, tmp_path: Path, number: int
) -> None:
    """Wherever it is: in lengths, counts, shapes and offsets."""
    refused = 0
    for place in range(4, len(whole) - 8):
        content = whole[:place] + number.to_bytes(8, "little") + whole[place + 8 :]
        path = written(tmp_path, content)
        tracemalloc.start()
        try:
            read_gguf(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000, place
    assert refused > 100


@settings(max_examples=200)
@given(place=st.integers(4), byte=st.integers(0, 255))
def test_a_changed_byte_is_a_file_or_one_error(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    content = bytearray(whole)
    content[4 + place % (len(whole) - 4)] = byte
    try:
        read_gguf(written(tmp_path_factory.getbasetemp(), bytes(content)))
    except UserError as error:
        assert "\n" not in str(error)


def test_what_is_there_twice_and_what_is_split(tmp_path: Path) -> None:
    key = b"\1\0\0\0\0\0\0\0a\0\0\0\0\7"  # "a": the number 7 in one byte
    head = b"GGUF\3\0\0\0" + bytes(8) + b"\2" + bytes(7)
    with pytest.raises(UserError, match="damaged GGUF file: its metadata has 'a', a duplicate or"):
        read_gguf(written(tmp_path, head + key + key))
    nested = b"\1\0\0\0\0\0\0\0b\x09\0\0\0\x09\0\0\0" + bytes(8)
    with pytest.raises(UserError, match="damaged GGUF file: a value in its metadata is of kind 9"):
        read_gguf(written(tmp_path, head + key + nested))
