"""The `lm` commands in the documents parse, and the files that they link to exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from lm_course.cli import app

PROJECT = Path(__file__).parents[2]
READMES = sorted(
    path for path in PROJECT.glob("*/README.md") if (path.parent / "__init__.py").exists()
)
DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *READMES,
    *(PROJECT / "docs").glob("*.md"),
]


def shell_commands(text: str) -> list[str]:
    """Return the lines of ```sh blocks, without comments."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = [
        line.split("  #")[0].strip().removeprefix("$ ") for b in blocks for line in b.splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def lm_commands(text: str) -> list[list[str]]:
    commands = [shlex.split(line) for line in shell_commands(text)]
    return [words[1:] for words in commands if Path(words[0]).name == "lm"]


def check_command(words: list[str]) -> None:
    """Parse a command line with the real parser, without running it."""
    command, context = get_command(app), None
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no such command: lm {' '.join(words)}"
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, list(words))
    context.close()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_lm_commands_parse(path: Path) -> None:
    for words in lm_commands(path.read_text(encoding="utf-8")):
        check_command(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    for path in DOCUMENTS:
        for line in shell_commands(path.read_text(encoding="utf-8")):
            if line.startswith("make "):
                assert line.split()[1] in targets, f"{path.name}: {line}"


def test_ci_runs_what_the_readme_says() -> None:
    script = (PROJECT / ".ci" / "run").read_text()
    lines = [
        line for line in script.splitlines() if line and not line.startswith(("#", "set", "cd"))
    ]
    assert lines == ["make test"]
    assert "make test" in shell_commands((PROJECT / "README.md").read_text(encoding="utf-8"))


def test_a_wrong_command_is_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        check_command(["run", "--recipy", "x"])
    with pytest.raises(AssertionError, match="no such command"):
        check_command(["pretrian"])
