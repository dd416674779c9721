"""Writing of a GGUF file: metadata, then tensors, in GGUF version 3.

The reader is lm_core/formats/gguf_container.py, which this file takes the numbers of types from.
What this leaves out: the meaning of the metadata (gguf_export.py), big-endian byte order, and files
in several parts. Source: docs/gguf.md of the project ggml.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from lm_core.artifact_paths import atomic_file
from lm_core.formats.gguf_container import BLOCKS, KINDS, LIST, MAGIC, TYPES

VERSION, ALIGNMENT = 3, 32
NUMBER_OF_KIND = {kind: number for number, kind in KINDS.items()}
KIND_OF = {bool: "?", int: "I", float: "f", str: "s"}  # the order matters: True is an int, too


class PackedTensor(NamedTuple):
    """A tensor to write.

    Attributes:
        type: its type in BLOCKS, such as "Q8_0".
        shape: in torch's order, the row last.
        data: its bytes, in any shape.
    """

    type: str
    shape: tuple[int, ...]
    data: UInt8[np.ndarray, "..."]


def write_gguf_file(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, PackedTensor]
) -> None:
    """Write the file atomically.

    Args:
        path: the file to create.
        metadata: name -> bool, int (written as uint32), float (float32), text, or a list of one of
            them (a list of int as int32, as llama.cpp expects for the types of tokens).
        tensors: name -> tensor, in the order in which they are written.
    """
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for name, value in metadata.items():
        header += [_text(name), _value(value)]
    offset = 0
    for name, tensor in tensors.items():
        values, size = BLOCKS[tensor.type]
        length = int(np.prod(tensor.shape)) // values * size
        assert tensor.data.nbytes == length, f"{name} has {tensor.data.nbytes} bytes, not {length}"
        axes = tensor.shape[::-1]
        kind = TYPES.split().index(tensor.type)
        header.append(
            _text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)
        )
        offset += _aligned(length)
    with atomic_file(path) as file:
        file.write(_padded(b"".join(header)))
        for tensor in tensors.values():
            file.write(_padded(np.ascontiguousarray(tensor.data).tobytes()))


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    """Return the number of the kind, and the value."""
    if not isinstance(value, list):
        kind = KIND_OF[type(value)]
        return struct.pack("<I", NUMBER_OF_KIND[kind]) + _content(kind, [value])
    kinds = {KIND_OF[type(each)] for each in value}
    assert len(kinds) <= 1, f"a list of several kinds: {kinds}"
    kind = kinds.pop() if kinds else "s"
    kind = "i" if kind == "I" else kind
    head = struct.pack("<IIQ", LIST, NUMBER_OF_KIND[kind], len(value))
    return head + _content(kind, value)


def _content(kind: str, values: list[Any]) -> bytes:
    if kind == "s":
        return b"".join(map(_text, values))
    return struct.pack(f"<{len(values)}{kind}", *values)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _padded(content: bytes) -> bytes:
    return content + bytes(_aligned(len(content)) - len(content))
