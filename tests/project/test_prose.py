"""The wording that CONTRIBUTING.md ("Prose") asks for, where a pattern can tell, and the width of
lines. A sentence that reads badly for another reason is for people to find.
"""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
WIDTH = 100
SUFFIXES = (".md", ".py", ".toml", ".html")
LEFT_OUT = ("runs", "workspace", "build")  # what a user makes, beside hidden folders
TEXTS = sorted(
    path
    for folder in [PROJECT, *(f for f in PROJECT.iterdir() if f.is_dir())]
    if folder == PROJECT or not (folder.name.startswith(".") or folder.name in LEFT_OUT)
    for path in (folder.iterdir() if folder == PROJECT else folder.rglob("*"))
    if path.suffix in SUFFIXES or path.name == "Makefile"
    if "_independent" not in path.as_posix()  # written by others, from the handouts alone
)
MARKDOWN = [path for path in TEXTS if path.suffix == ".md"]
# A pattern, and what to write in its place.
PATTERNS = {
    r"(?<![Tt]here )\b(is|are) no (?!\w+er\b)": "is not a",
    r"\b(go|goes|going|went) on\b(?! the| a)": "continue, resume, still",
    r"\bno number any more\b": "NaN",
    r"\bsee there\b": "the name of the place",
    r"\bof the world\b": "what is meant",
    r"\bLeft out:": "What this leaves out:",
    r"(?m)^ *\"\"\"What (?!this leaves out|to do)[^?\n]*$": "a noun, or a verb in the imperative",
}


def prose(path: Path) -> str:
    """The text without what quotes others: tables and code blocks of Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        return text
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", text)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("|"))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_wording(pattern: str) -> None:
    found = []
    for path in TEXTS:
        if path == Path(__file__):
            continue
        matches = re.finditer(pattern, prose(path))
        found += [f"{path.relative_to(PROJECT)}: {match.group()}" for match in matches]
    assert found == [], f"write {PATTERNS[pattern]!r} in its place"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_prose_in_markdown_is_wrapped(path: Path) -> None:
    """Not headings, tables, code, or a line that is one long link or signature."""
    long = [
        line
        for line in prose(path).splitlines()
        if len(line) > WIDTH and not line.startswith(("#", "**a", "`")) and "](" not in line
    ]
    assert long == []
