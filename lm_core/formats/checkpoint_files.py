"""A checkpoint folder: the files that `transformers` loads, and those that a resume also needs.

    step_000600/
      model.safetensors  config.json         weights and shape, in Hugging Face's names
      tokenizer.json  tokenizer_config.json  companions, given by the caller
      training_state.safetensors  .json      optimizer, random generators, step, fingerprint

Weights are serialized in memory and written through `atomic_folder`, so a full disk or a killed
process leaves no partial checkpoint. Weights in several files, as large models have them, can be
read. What this leaves out: writing several files, and any knowledge of a model's layout.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_core.artifact_paths import atomic_folder, read_json, write_json
from lm_core.user_error import UserError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"
CONFIG = "config.json"
STATE_TENSORS = "training_state.safetensors"
STATE = "training_state.json"
NAME = re.compile(r"step_(\d{6,})")
FETCH_AGAIN = "fetch or import it again"  # for a folder that was not written by our training


@dataclass
class TrainingState:
    """The state that a resume needs besides the weights.

    Attributes:
        step: how many optimizer steps these weights have had.
        fingerprint: hash of the inputs and settings of the run; a different hash means a different
            run.
        optimizer: the optimizer's tensors by name.
        random: the random generators' state (lm_core.random_state).
        extra: anything that JSON can hold, such as the measured precision and the tokens seen.
    """

    step: int
    fingerprint: str
    optimizer: dict[str, "Tensor"]
    random: dict[str, "Tensor"]
    extra: dict[str, Any] = field(default_factory=dict)


def checkpoint_name(step: int) -> str:
    """Return "step_000600" for 600."""
    return f"step_{step:06}"


def checkpoint_step(folder: Path) -> int:
    """Return 600 for "step_000600"."""
    match = NAME.fullmatch(folder.name)
    assert match, f"{folder.name} is not a checkpoint's name"
    return int(match[1])


def write_checkpoint(
    folder: Path,
    tensors: dict[str, "Tensor"],
    config: dict[str, Any],
    companion_files: dict[str, bytes],
    training_state: TrainingState | None,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: such as runs/demo/checkpoints/pretrain/step_000600.
        tensors: weights by Hugging Face name; no two may share memory.
        config: the contents of config.json.
        companion_files: further files by name, such as tokenizer.json.
        training_state: None for an export that is never resumed.
    """
    from safetensors.torch import save

    with atomic_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        write_json(temporary / CONFIG, config)
        for name, content in companion_files.items():
            (temporary / name).write_bytes(content)
        if training_state is not None:
            state = training_state
            groups = {"optimizer": state.optimizer, "random": state.random}
            flat = {f"{g}/{name}": t for g, group in groups.items() for name, t in group.items()}
            (temporary / STATE_TENSORS).write_bytes(save(flat))
            described = {
                "format_version": FORMAT_VERSION,
                "step": state.step,
                "fingerprint": state.fingerprint,
                "extra": state.extra,
            }
            write_json(temporary / STATE, described)


def read_checkpoint(folder: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the weights by name, on the CPU, and config.json.

    Raises:
        ValueError: the folder is not a checkpoint, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; `lm pretrain RECIPE` makes one")
    config = read_json(
        folder / CONFIG, "the checkpoint's config", "lm pretrain RECIPE", foreign_step(folder)
    )
    if (folder / WEIGHTS).exists():
        return _load_tensors(folder / WEIGHTS), config
    if (folder / WEIGHTS_INDEX).exists():
        return _load_parts(folder), config
    if any(folder.glob("pytorch_model*.bin")):
        raise UserError(
            f"{folder}: its weights are pickled ({PICKLED_WEIGHTS}), and reading those runs code; "
            "use a copy with model.safetensors"
        )
    raise UserError(f"{folder / WEIGHTS}: no such file; the checkpoint is incomplete")


def foreign_step(folder: Path) -> str:
    """Return what to do about a damaged folder; "" for our own checkpoint, which is trained again.

    To delete somebody's download, or to train in its place, would be bad advice.
    """
    return "" if NAME.fullmatch(folder.name) else FETCH_AGAIN


def _load_parts(folder: Path) -> dict[str, "Tensor"]:
    """Return all tensors of the files that the index names, also those that it does not list."""
    index = read_json(folder / WEIGHTS_INDEX, "the index of the weights", "lm import", FETCH_AGAIN)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{folder / WEIGHTS_INDEX}: weight_map must give every tensor's file")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(f"{folder / WEIGHTS_INDEX}: {name!r} is not a file in this folder")
        part = _load_tensors(folder / name)
        wrong = [tensor for tensor in part if places.get(tensor, name) != name]
        if wrong:
            raise UserError(
                f"{folder / name}: holds {wrong[0]}, which {WEIGHTS_INDEX} places in "
                f"{places[wrong[0]]}; do the two belong together?"
            )
        tensors |= part
    lacking = sorted(places.keys() - tensors.keys())
    if lacking:
        raise UserError(
            f"{folder / places[lacking[0]]}: lacks {lacking[0]}, which {WEIGHTS_INDEX} places there"
        )
    return tensors


def read_training_state(folder: Path) -> TrainingState:
    """Return the training_state that was given to `write_checkpoint`.

    Raises:
        ValueError: it is missing (an export), damaged, or in a newer format.
    """
    described = read_json(folder / STATE, "the training state", "lm pretrain RECIPE")
    if described.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / STATE}: format version {described.get('format_version')}, but this code "
            f"reads {FORMAT_VERSION}; "
            "train again with `--force`"
        )
    groups: dict[str, dict[str, Tensor]] = {"optimizer": {}, "random": {}}
    for name, tensor in _load_tensors(folder / STATE_TENSORS).items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    return TrainingState(
        described["step"], described["fingerprint"], **groups, extra=described["extra"]
    )


def _load_tensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the checkpoint is incomplete") from None
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        step = foreign_step(path.parent) or "delete this checkpoint folder"
        raise UserError(f"{path}: damaged ({error}); {step}") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of one stage, sorted by step."""
    found = [path for path in folder.glob("step_*") if NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step)


def latest_checkpoint(folder: Path, make_it: str = "lm pretrain RECIPE") -> Path:
    """Return the checkpoint with the highest step; raise ValueError if there is none."""
    found = list_checkpoints(folder)
    if not found:
        raise UserError(f"{folder}: no checkpoint there; make one with `{make_it}`")
    return found[-1]
