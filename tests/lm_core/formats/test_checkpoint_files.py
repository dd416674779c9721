"""A checkpoint comes back bit for bit; a damaged or missing part is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lm_core.formats.checkpoint_files import (
    TrainingState,
    latest_checkpoint,
    list_checkpoints,
    read_checkpoint,
    read_training_state,
    write_checkpoint,
)
from lm_core.random_state import capture_random_state, restore_random_state


def write(folder: Path) -> tuple[dict[str, torch.Tensor], TrainingState]:
    tensors = {"a.weight": torch.randn(3, 2), "b": torch.randn(4).to(torch.bfloat16)}
    state = TrainingState(
        step=7,
        fingerprint="f",
        optimizer={"first_moment/a.weight": torch.randn(3, 2)},
        random=capture_random_state(),
        extra={"precision": "bfloat16", "tokens": 1234},
    )
    write_checkpoint(folder, tensors, {"hidden_size": 2}, {"tokenizer.json": b"{}"}, state)
    return tensors, state


def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    tensors, state = write(tmp_path / "step_000007")
    found, config = read_checkpoint(tmp_path / "step_000007")
    assert config == {"hidden_size": 2}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    restored = read_training_state(tmp_path / "step_000007")
    assert (restored.step, restored.fingerprint, restored.extra) == (7, "f", state.extra)
    for name, tensor in state.optimizer.items():
        assert torch.equal(restored.optimizer[name], tensor)
    expected = torch.rand(5)
    torch.rand(100)
    restore_random_state(restored.random)
    assert torch.equal(torch.rand(5), expected)
    assert (tmp_path / "step_000007" / "tokenizer.json").read_bytes() == b"{}"


def test_checkpoints_are_sorted_by_step_and_half_ones_are_not_seen(tmp_path: Path) -> None:
    for name in ("step_000100", "step_000020", "step_1000000", ".unfinished-step_000300"):
        (tmp_path / name).mkdir()
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step_000020", "step_000100", "step_1000000"]
    assert latest_checkpoint(tmp_path).name == "step_1000000"
    with pytest.raises(ValueError, match="no checkpoint there; make one with `lm sft RECIPE`"):
        latest_checkpoint(tmp_path / "sft", "lm sft RECIPE")


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "step_000007"
    with pytest.raises(ValueError, match="no such checkpoint folder"):
        read_checkpoint(folder)
    write(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"safetensors: damaged .*; delete this checkpoint"):
        read_checkpoint(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: no such file"):
        read_checkpoint(folder)


def test_an_export_without_training_state_cannot_be_resumed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "step_000001", {"a": torch.ones(1)}, {}, {}, None)
    with pytest.raises(ValueError, match="the training state does not exist"):
        read_training_state(tmp_path / "step_000001")


def write_parts(folder: Path) -> dict[str, torch.Tensor]:
    """Write two files and their index."""
    tensors = {"a": torch.randn(3), "b": torch.randn(2), "c": torch.randn(1)}
    folder.mkdir()
    save_file({"a": tensors["a"], "b": tensors["b"]}, folder / "model-1.safetensors")
    save_file({"c": tensors["c"]}, folder / "model-2.safetensors")
    places = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    write_index(folder, places)
    (folder / "config.json").write_text("{}")
    return tensors


def write_index(folder: Path, places: object) -> None:
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index)


def test_weights_in_several_files(tmp_path: Path) -> None:
    tensors = write_parts(tmp_path / "c")
    found, _ = read_checkpoint(tmp_path / "c")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_tensor_that_the_index_does_not_name_is_read_from_its_file(tmp_path: Path) -> None:
    """It may be a buffer that its model family ignores."""
    tensors = write_parts(tmp_path / "c")
    write_index(tmp_path / "c", {"a": ONE, "c": TWO})
    found, _ = read_checkpoint(tmp_path / "c")
    assert torch.equal(found["b"], tensors["b"])


ONE, TWO = "model-1.safetensors", "model-2.safetensors"
INDEXES = [
    ({"a": ONE, "b": ONE, "c": TWO, "d": TWO}, r"model-2\.safetensors: lacks d, which"),
    ({"a": ONE, "b": TWO, "c": TWO}, r"model-1\.safetensors: holds b, which .* in model-2"),
    ({"a": "model-9.safetensors"}, r"model-9\.safetensors: no such file"),
    ({"a": "../model-1.safetensors"}, "is not a file in this folder"),
    ({"a": 1}, "weight_map must give every tensor's file"),
    ([], "weight_map must give every tensor's file"),
]


@pytest.mark.parametrize(("places", "message"), INDEXES)
def test_an_index_that_does_not_fit_its_files(tmp_path: Path, places: object, message: str) -> None:
    write_parts(tmp_path / "c")
    write_index(tmp_path / "c", places)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "c")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="its weights are pickled"):
        read_checkpoint(tmp_path)
