"""The Unicode tables that cut a text into words: those of the installed `regex` module.

A letter of a newer Unicode version is punctuation in an older one, so a text with such a character
may get other ids on another machine. Our tokenizer.json files record the tables in a place that
`tokenizers` ignores, and reading one with other tables gives a warning.

What this leaves out: files of other programs, which do not record them.
"""

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import regex

KEY = "made_with"  # a key of `model` in a tokenizer.json
# A character that was added in each version.
FIRST_WITH = {
    "17.0": 0x10940,
    "16.0": 0x105C0,
    "15.1": 0x2EBF0,
    "15.0": 0x11F00,
    "14.0": 0x10570,
    "13.0": 0x10E80,
    "12.1": 0x32FF,
    "12.0": 0x10FE0,
    "11.0": 0x10D00,
}


class UnicodeTablesWarning(UserWarning):
    """A tokenizer was made with other Unicode tables than the installed ones."""


@cache
def unicode_tables() -> dict[str, str]:
    """Return {"regex": the version of the package, "unicode": that of its tables}."""
    found = [name for name, code in FIRST_WITH.items() if regex.match(r"\P{Cn}", chr(code))]
    try:
        package = version("regex")
    except PackageNotFoundError:  # copied, not installed
        package = str(regex.__version__)
    return {"regex": package, "unicode": found[0] if found else "before 11.0"}


def say_where_tables_differ(path: Path, made_with: Any) -> None:
    """Warn if a file was made with another Unicode version than the installed one."""
    here = unicode_tables()
    there = made_with.get("unicode") if isinstance(made_with, dict) else None
    if there is None or there == here["unicode"]:
        return
    warnings.warn(
        f"{path}: made with Unicode {there}, but the installed `regex` module has Unicode "
        f"{here['unicode']}: text with characters that only one of them has may get other ids; "
        f"for the same ids, install regex=={made_with.get('regex')} (here: {here['regex']})",
        UnicodeTablesWarning,
        stacklevel=2,
    )
