"""Every command of `lm`, and every option and argument, says in its help what it is for."""

from collections.abc import Iterator
from typing import Annotated

import typer
from typer.main import get_command

from lm_course.cli import app


def commands(command: object, name: str = "lm") -> Iterator[tuple[str, object]]:
    """The command, then all below it, each with the words that one types."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {word}")


def without_help(app: typer.Typer) -> list[str]:
    """One line for each command, option and argument without a help text."""
    lines = []
    for name, command in commands(get_command(app)):
        if not (command.help or "").strip():
            lines.append(f"`{name}` has no help: give its function a docstring, or `help=`")
        for parameter in command.params:
            if not (getattr(parameter, "help", "") or "").strip():
                shown = "/".join(parameter.opts)
                lines.append(f"`{name}` has no help for {shown}: give it `help=`")
    return lines


def given_twice(app: typer.Typer) -> list[str]:
    """The commands that are registered more than once: only the last of them could be run."""
    names = [info.name or info.callback.__name__ for info in app.registered_commands]
    names += [info.name for info in app.registered_groups]
    below = [name for info in app.registered_groups for name in given_twice(info.typer_instance)]
    return [*sorted({name for name in names if names.count(name) > 1}), *below]


def test_everything_has_a_help_text() -> None:
    assert without_help(app) == []


def test_no_command_hides_another() -> None:
    assert given_twice(app) == []


def test_the_commands_are_found() -> None:
    names = [name for name, _ in commands(get_command(app))]
    assert {"lm", "lm run", "lm data", "lm data collect", "lm tokenizer inspect"} <= set(names)


def test_what_lacks_one_is_named() -> None:
    toy, group = typer.Typer(), typer.Typer()
    toy.add_typer(group, name="group", help="A group.")

    @toy.callback()
    def main() -> None:
        """The program."""

    @group.command()
    def silent(
        number: int,
        told: Annotated[int, typer.Option(help="It is told.")] = 0,
        flag: Annotated[bool, typer.Option("--flag")] = False,
    ) -> None:
        pass

    group.command("silent", help="It is not.")(lambda: None)
    assert given_twice(toy) == ["silent"]
    group.registered_commands.pop()
    assert without_help(toy) == [
        "`lm group silent` has no help: give its function a docstring, or `help=`",
        "`lm group silent` has no help for number: give it `help=`",
        "`lm group silent` has no help for --flag: give it `help=`",
    ]
