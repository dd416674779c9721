"""Text is printed verbatim, without colours if there is no terminal."""

import pytest

from lm_course.commands.plain_console import plain_console


def test_text_comes_out_as_it_is(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = "a[:key:] = [bold]12[/bold] 'x' :smile:"
    plain_console().print(text)
    assert capsys.readouterr().out == text + "\n"
