"""The contents of a GGUF file: metadata by name, then tensors, each with its own type.

Every count and length is checked against the size of the file before it is used, so a damaged file
costs one error line and no memory. What this leaves out: the meaning of metadata and tensors, files
in big-endian byte order, and arrays of arrays. Source: docs/gguf.md of the project ggml.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_core.user_error import UserError

MAGIC, MOST_AXES, LENGTH = b"GGUF", 4, struct.Struct("<Q").unpack_from
# The struct format of a value, by the number of its kind; "s" is a text.
KINDS, LIST = dict(enumerate("BbHhIif?s")) | {10: "Q", 11: "q", 12: "d"}, 9
TYPES = (  # of tensors, by number; "-" is not in use
    "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS"
    " IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4"
)
# The values in a block and its bytes, for the types that are read; of others, only the name is.
BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2)}
BLOCKS |= {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20)}


class GGUFTensor(NamedTuple):
    """A tensor's type, its shape in torch's order, and its bytes: none for a type not in BLOCKS."""

    type: str
    shape: tuple[int, ...]
    data: np.ndarray


class GGUFFile(NamedTuple):
    """The contents of a file: metadata and tensors, both by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def named(self, key: str, default: Any = None) -> Any:
        """Return a value of the metadata; raise ValueError if there is neither it nor a default."""
        if default is None and key not in self.metadata:
            raise UserError(f"the metadata lacks {key}")
        return self.metadata.get(key, default)


def read_gguf(path: Path) -> GGUFFile:
    """Read the metadata and map the tensors into memory; raise UserError for an incomplete file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path}: not a GGUF file: it does not begin with GGUF; fetch it again")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        found = _Reader(content).file()
        parts = found.metadata.get("split.count", 1)
        if not isinstance(parts, int) or parts > 1:
            raise UserError(
                f"expected a whole file, found one of {parts!r} parts; join the parts "
                "with llama.cpp's gguf-split"
            )
    except UnicodeDecodeError:
        raise UserError(f"{path}: damaged: a text in it is not UTF-8; fetch it again") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return found


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place, self.part = content, len(MAGIC), "header"

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise UserError(f"damaged GGUF file: {problem}; fetch it again")

    def skip(self, size: int) -> int:
        """Return where the next `size` bytes begin; raise UserError if the file has fewer."""
        start, self.place = self.place, self.place + size
        if self.place > len(self.content):
            past = f"its {self.part} would extend beyond its {len(self.content):,} bytes"
            raise UserError(f"truncated or damaged GGUF file: {past}; fetch it again")
        return start

    def numbers(self, kind: str, count: int) -> list[Any]:
        start = self.skip(count * struct.calcsize(f"<{kind}"))
        return list(struct.unpack_from(f"<{count}{kind}", self.content, start))

    def number(self, kind: str) -> Any:
        return self.numbers(kind, 1)[0]

    def text(self) -> str:
        (size,) = LENGTH(self.content, self.skip(8))
        start = self.skip(size)
        return self.content[start : self.place].decode()

    def name(self, known: dict[str, Any]) -> str:
        name = self.text()
        good = name.isprintable() and name not in known
        self.check(good, f"its {self.part} has {name[:60]!r}, a duplicate or not a valid name")
        return name

    def value(self) -> Any:
        is_list = (number := self.number("I")) == LIST
        number, count = (self.number("I"), self.number("Q")) if is_list else (number, 1)
        self.check(number in KINDS, f"a value in its {self.part} is of kind {number}")
        kind = KINDS[number]
        found = [self.text() for _ in range(count)] if kind == "s" else self.numbers(kind, count)
        return found if is_list else found[0]

    def file(self) -> GGUFFile:
        version = self.number("I")
        if version not in (2, 3):
            what = f"version {version}" if version & 0xFFFF else "big-endian byte order"
            raise UserError(f"expected GGUF version 2 or 3, little-endian; found {what}")
        num_tensors, num_values = self.number("Q"), self.number("Q")
        self.part = "metadata"
        metadata: dict[str, Any] = {}
        for _ in range(num_values):
            name = self.name(metadata)
            metadata[name] = self.value()
        self.part = "list of tensors"
        places: dict[str, tuple[str, tuple[int, ...], int]] = {}
        for _ in range(num_tensors):
            name, axes = self.name(places), self.number("I")
            self.check(axes <= MOST_AXES, f"{name} has {axes:,} axes")
            shape = tuple(self.numbers("Q", axes)[::-1])
            kind = (TYPES.split()[(number := self.number("I")) :] or [f"number {number}"])[0]
            places[name] = (kind, shape, self.number("Q"))
        alignment = metadata.get("general.alignment", 32)
        self.check(isinstance(alignment, int) and alignment > 0, "its alignment is not a number")
        begin = -(-self.place // alignment) * alignment
        tensors = {}
        for name, (kind, shape, offset) in places.items():
            self.part, self.place = f"tensor {name}", begin + offset
            values, size = BLOCKS.get(kind, (1, 0))
            self.check(math.prod(shape[-1:]) % values == 0, f"{name} does not fill whole blocks")
            start = self.skip(math.prod(shape) // values * size)
            data = np.frombuffer(self.content, np.uint8, self.place - start, start)
            tensors[name] = GGUFTensor(kind, shape, data)
        return GGUFFile(metadata, tensors)
