"""Checks of what a caller hands in; each raises a ValueError that says what is wrong."""

from collections.abc import Sequence
from pathlib import Path

BYTE_VALUES = 256


def check_special_tokens(special_tokens: Sequence[str]) -> None:
    """No special token is empty and none is named twice."""
    seen: set[str] = set()
    for token in special_tokens:
        if not token:
            raise ValueError("a special token is empty")
        if token in seen:
            raise ValueError(f"the special token {token!r} is named twice")
        seen.add(token)


def room_for_merges(vocab_size: int, special_tokens: Sequence[str]) -> int:
    """How many merges fit beside the bytes and the special tokens, which must fit themselves."""
    check_special_tokens(special_tokens)
    room = vocab_size - BYTE_VALUES - len(special_tokens)
    if room < 0:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(special_tokens)} special "
            f"tokens need {BYTE_VALUES + len(special_tokens)}"
        )
    return room


def check_text_file(path: Path) -> int:
    """The size of a file that must exist and hold something."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty")
    return size


def decode_file_text(content: bytes, path: Path | str) -> str:
    """The bytes of a file as text; a ValueError that names the file if they are not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def read_file_text(path: Path) -> str:
    """The text of a file that must exist and be UTF-8, line ends as they are."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    return decode_file_text(path.read_bytes(), path)
