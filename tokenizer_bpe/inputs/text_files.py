"""Reading of a text file of any size in blocks that end where a word certainly ends.

This module is given, not a lesson; the lesson and the compiled code share it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lm_core.special_tokens import END_OF_TEXT
from lm_core.user_error import UserError

BLOCK_BYTES = 1 << 24

# Under GPT-2's and GPT-4's patterns a word ends before every space that follows a letter or digit,
# whatever comes next.
_WORD_CUT = re.compile(rb"(?<=[A-Za-z0-9])(?= )")


def check_text_file(path: Path) -> None:
    """Raise ValueError if the file does not exist or is empty."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a UTF-8 text file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; give one that contains text")


def decode_text(content: bytes, path: Path, offset: int) -> str:
    """Decode a part of a file that begins at `offset`.

    Raises ValueError, naming the byte, if it is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8: byte 0x{content[error.start]:02x} at offset "
            f"{offset + error.start}; convert the file to UTF-8 first"
        ) from None


def safe_separator(special_tokens: Sequence[str]) -> str | None:
    """Return a special token before which a text can be cut, preferably END_OF_TEXT; None if there
    is none.

    No other special token may span that place, because a cut would leave a part of it as text.
    """
    for token in sorted(special_tokens, key=lambda token: token != END_OF_TEXT):
        beginnings = tuple(token[:length] for length in range(1, len(token)))
        if not any(
            (token in other and token != other) or other.endswith(beginnings)
            for other in special_tokens
        ):
            return token
    return None


def text_file_blocks(
    path: Path, special_tokens: Sequence[str], cut_at_spaces: bool, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Yield the file in blocks of about `block_bytes`, with the offset of each.

    A block ends before a special token, or else before a space after a letter or digit. If a
    stretch of text has neither, the block is as long as that stretch.

    Args:
        path: path of a file that passed `check_text_file`.
        special_tokens: none of them spans the end of a block.
        cut_at_spaces: False for a pattern that may match across such a space.
        block_bytes: number of bytes to read at once.
    """
    separator = (safe_separator(special_tokens) or "").encode()
    marks = [re.escape(separator)] if separator else []
    if cut_at_spaces and not any(" " in token for token in special_tokens):
        marks.append(_WORD_CUT.pattern)
    cuts = re.compile(b"|".join(marks)) if marks else None
    offset, held = 0, bytearray()
    with path.open("rb") as file:
        while block := file.read(block_bytes):
            searched = max(0, len(held) - max(len(separator), 2))
            held += block
            cut = _last_match(cuts, held, searched) if cuts else 0
            if cut:
                yield offset, bytes(held[:cut])
                offset += cut
                del held[:cut]
    if held:
        yield offset, bytes(held)


def _last_match(pattern: re.Pattern[bytes], text: bytearray, start: int) -> int:
    """Return where the last match at or after `start` begins; 0 if there is none.

    It searches windows from the end, each twice as long as the last, so usually only a few bytes
    are read.
    """
    length = 1 << 12
    while True:
        begin = max(start, len(text) - length)
        last = 0
        for match in pattern.finditer(text, begin):
            last = match.start()
        if last or begin == start:
            return last
        length *= 2
