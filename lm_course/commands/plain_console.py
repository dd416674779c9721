"""The console for text that must be shown verbatim: hints, tokens, file names."""

from rich.console import Console


def plain_console() -> Console:
    """Return a console that takes no text as markup or as the name of an emoji, and that prints no
    colours if there is no terminal.
    """
    return Console(highlight=False, markup=False, emoji=False)
