"""The console of the commands that show other people's texts: hints, tokens, file names."""

from rich.console import Console


def plain_console() -> Console:
    """Plain text without colour where there is no terminal; nothing in it is markup or an emoji's
    name.
    """
    return Console(highlight=False, markup=False, emoji=False)
