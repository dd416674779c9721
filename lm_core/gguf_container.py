"""A GGUF file opened with the package `gguf`, and one clear ValueError for each way in which it is
none. The format is llama.cpp's: metadata by name, then tensors, each with a type of its own. What
this leaves out: what metadata and tensors mean.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_core.user_error import UserError

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"


class GGUFTensor(NamedTuple):
    """A tensor as it lies in the file.

    Attributes:
        type: how its values are packed, such as "Q4_1".
        shape: as torch counts, the axis that lies together last.
        data: its bytes, of the file's memory map; one row is one run of the last axis.
    """

    type: str
    shape: tuple[int, ...]
    data: "np.ndarray"


class GGUFFile(NamedTuple):
    """What a file says: metadata and tensors, both by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def named(self, key: str, default: Any = None) -> Any:
        """A value of the metadata; ValueError where it is missing and there is no default."""
        if default is None and key not in self.metadata:
            raise UserError(f"the metadata lacks {key}")
        return self.metadata.get(key, default)


def read_gguf(path: Path) -> GGUFFile:
    """Read the metadata, and map the tensors into memory.

    Raises:
        ValueError: the package is missing, or the file is missing, of another format, cut short,
            one of several parts, or of the other byte order.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(
            f"{path}: reading GGUF needs the package gguf; install it with `pip install gguf`"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path}: not a GGUF file (it does not begin with {MAGIC.decode()})")
    try:
        reader = GGUFReader(path)
        found = GGUFFile(
            {name: field.contents() for name, field in reader.fields.items()},
            {
                tensor.name: GGUFTensor(
                    tensor.tensor_type.name,
                    tuple(reversed(tensor.shape.tolist())),
                    tensor.data.view("uint8"),
                )
                for tensor in reader.tensors
            },
        )
    # The package checks little by itself: it stumbles over what is not there.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: a GGUF file that is damaged, cut short, or of a newer version ({reason})"
        ) from None
    if reader.byte_order == "S":
        raise UserError(f"{path}: a GGUF file of the other byte order")
    parts = found.metadata.get("split.count", 1)
    if not isinstance(parts, int):
        raise UserError(f"{path}: split.count is {parts!r}, expected a number")
    if parts > 1:
        raise UserError(f"{path}: one of {parts} parts; join them with llama.cpp's gguf-split")
    return found
