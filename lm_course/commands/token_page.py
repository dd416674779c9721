"""A text's tokens as one self-contained HTML page, light and dark; the id of each in its tooltip.

What this leaves out: scripts, and everything from the network.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm_core.artifact_paths import atomic_file

if TYPE_CHECKING:
    from tokenizer_bpe.inspection.token_display import Piece

# The backgrounds of tokens that follow each other, for dark letters; the terminal has them too.
LIGHT = ("#bfdbfe", "#bbf7d0", "#fde68a", "#fbcfe8")
DARK = ("#1e3a6e", "#14532d", "#713f12", "#701a4b")

STYLE = """
:root { --ink: #1c2024; --soft: #60646c; --line: #e0e1e6; --paper: #fcfcfd; --card: #fff;
  --mark: #5c6370; --special: #1c2024; --on-special: #fff; %(light)s }
@media (prefers-color-scheme: dark) {
  :root { --ink: #edeef0; --soft: #a0a4ab; --line: #2e3135; --paper: #111113; --card: #18191b;
    --mark: #b4b9c2; --special: #edeef0; --on-special: #111113; %(dark)s }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 22px; margin: 0 0 4px; }
p { margin: 0 0 20px; color: var(--soft); overflow-wrap: anywhere; }
.text { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; font: 15px/1.9 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.text span { border-radius: 3px; padding: 2px 0; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
.text span:hover { outline: 2px solid var(--ink); }
.text i { font-style: normal; color: var(--mark); direction: ltr; unicode-bidi: isolate; }
.special { background: var(--special); color: var(--on-special); font-weight: 600; }
%(backgrounds)s
"""


def write_token_page(pieces: Sequence["Piece"], path: Path, tokenizer_name: str) -> None:
    """Write the page at `path`, whole or not at all."""
    from tokenizer_bpe.inspection.token_display import text_counts

    counts = text_counts(pieces)
    title = "A text and its tokens"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{_style()}</style></head>\n<body><main>\n"
        f"<h1>{title}</h1>\n<p>{counts.line}<br>{html.escape(tokenizer_name)}; point at a token "
        "for its id</p>\n"
        f'<div class="text">{"".join(map(_span, range(len(pieces)), pieces))}</div>\n'
        "</main></body></html>\n"
    )
    with atomic_file(path, "w") as file:
        file.write(page)


def _style() -> str:
    return STYLE % {
        "light": " ".join(f"--t{number}: {colour};" for number, colour in enumerate(LIGHT)),
        "dark": " ".join(f"--t{number}: {colour};" for number, colour in enumerate(DARK)),
        "backgrounds": "\n".join(
            f".t{number} {{ background: var(--t{number}); }}" for number in range(len(LIGHT))
        ),
    }


def _span(position: int, piece: "Piece") -> str:
    """One token; a line may break before one that begins with a mark, such as that for a space."""
    from tokenizer_bpe.inspection.token_display import NEWLINE_MARK, visible_parts

    parts = visible_parts(piece.token)
    content = ""
    for part in parts:
        content += f"<i>{html.escape(part.text)}</i>" if part.is_mark else html.escape(part.text)
        content += "\n" if part.is_mark and part.text == NEWLINE_MARK else ""
    name = "special" if piece.is_special else f"t{position % len(LIGHT)}"
    may_break = "<wbr>" if parts and parts[0].is_mark else ""
    return f'{may_break}<span class="{name}" title="id {piece.token_id}">{content}</span>'
