"""A quantized model is the same after a checkpoint folder, and a damaged folder is refused in one
line.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.quantized_files.quantized_checkpoint import (
    QuantizationSettings,
    load_quantized,
    save_quantized,
)

SETTINGS = {
    "int8": QuantizationSettings(kind="int8"),
    "int4": QuantizationSettings(kind="int4", group_size=16),
    "int4, zero points": QuantizationSettings(kind="int4", group_size=5, symmetric=False),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_logits_after_the_folder(model, name, dtype, tmp_path: Path):
    files = {"tokenizer.json": b"{}"}
    quantized = save_quantized(model.to(dtype), SETTINGS[name], tmp_path / "q", files)
    loaded = load_quantized(tmp_path / "q")
    assert loaded.config == model.config and (tmp_path / "q" / "tokenizer.json").is_file()
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids), quantized(ids), atol=0, rtol=0)
    size = (tmp_path / "q" / "model.safetensors").stat().st_size
    linear = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "blocks" in n)
    rest = sum(p.numel() for p in model.parameters()) - linear
    assert size < rest * dtype.itemsize + linear * 1.8 + 12_000


def test_a_folder_that_does_not_fit_is_refused(model, tmp_path: Path):
    folder = tmp_path / "q"
    save_quantized(model, SETTINGS["int4"], folder, {})
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors, described = load_file(weights), json.loads(config.read_text())

    def refused(words):
        with pytest.raises(ValueError, match=words) as error:
            load_quantized(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)

    scales = "blocks.0.attention.query.scales"
    broken = tensors[scales].clone()
    broken[0, 0] = float("nan")
    save_file(tensors | {scales: broken}, weights)
    refused(f"{scales} holds NaN")
    codes = "blocks.0.attention.query.codes"
    save_file(tensors | {codes: tensors[codes].float()}, weights)
    refused(f"{codes} holds torch.float32, expected torch.uint8")
    save_file({name: x for name, x in tensors.items() if name != scales}, weights)
    refused(f"{scales} is missing")
    save_file(tensors, weights)
    for changed, words in (
        ({"model_type": "llama"}, "model_type is 'llama', expected 'lm_course_quantized'"),
        ({"quantization": {"kind": "int3"}}, "kind"),
        ({"quantization": None}, "quantization must be an object, found None"),
        ({"quantization": {"kind": "int4", "group_size": 0}}, "group_size = 0"),
        ({"quantization": {"kind": "int8"}}, "is not known|has shape"),
    ):
        config.write_text(json.dumps(described | changed))
        refused(words)
