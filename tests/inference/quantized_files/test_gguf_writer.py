"""Package `gguf` and our own reader read the files of the writer."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from inference.quantized_files.gguf_writer import PackedTensor, write_gguf_file
from lm_core.formats.gguf_container import read_gguf

METADATA = {
    "general.architecture": "llama",
    "a.text": "Ünï\n",
    "a.bool": True,
    "a.int": 2**32 - 1,
    "a.float": 0.5,
    "a.texts": ["", "x", "é"],
    "a.types": [1, -2, 6],
    "a.empty": [],
    "a.decimals": [0.5, -2.0],
}


def test_every_kind_of_value_and_tensor(tmp_path: Path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 64)).astype(np.float32)
    q8_0 = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    tensors = {
        "odd": PackedTensor("F32", (5,), values[0, :5].copy().view(np.uint8)),
        "packed": PackedTensor("Q8_0", (3, 64), q8_0),
        "half": PackedTensor("F16", (2, 3, 32), values.astype(np.float16).view(np.uint8)),
    }
    path = tmp_path / "deep" / "m.gguf"
    write_gguf_file(path, METADATA, tensors)
    found = read_gguf(path)
    assert found.metadata == METADATA
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert all(fields[name] == value for name, value in METADATA.items() if value != [])
    for tensor in reader.tensors:
        ours = found.tensors[tensor.name]
        assert ours.type == tensor.tensor_type.name == tensors[tensor.name].type
        assert ours.shape == tuple(tensor.shape[::-1].tolist()) == tensors[tensor.name].shape
        np.testing.assert_array_equal(ours.data, tensors[tensor.name].data.reshape(-1))
        assert tensor.data_offset % 32 == 0
    np.testing.assert_array_equal(reader.tensors[0].data, values[0, :5])


def test_a_tensor_of_the_wrong_size_is_our_own_mistake(tmp_path: Path):
    wrong = {"x": PackedTensor("F32", (4,), np.zeros(12, np.uint8))}
    with pytest.raises(AssertionError, match="x has 12 bytes, not 16"):
        write_gguf_file(tmp_path / "m.gguf", METADATA, wrong)
    assert not list(tmp_path.iterdir())
