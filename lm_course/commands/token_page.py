"""A text's tokens as one self-contained HTML page, light and dark, with each id in a tooltip.

What this leaves out: scripts, and anything from the network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_core.artifact_paths import atomic_file

if TYPE_CHECKING:
    from tokenizer_bpe.inspection.token_display import Piece

# The backgrounds of successive tokens, for dark letters; the terminal uses them too.
LIGHT = ("#bfdbfe", "#bbf7d0", "#fde68a", "#fbcfe8")
DARK = ("#1e3a6e", "#14532d", "#713f12", "#701a4b")


def write_token_page(pieces: Sequence["Piece"], path: Path, tokenizer_name: str) -> None:
    """Write the page at `path`, whole or not at all."""
    import jinja2

    from tokenizer_bpe.inspection.token_display import NEWLINE_MARK, text_counts

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("token_page.html.jinja").render(
        light=LIGHT,
        dark=DARK,
        counts=text_counts(pieces).line,
        tokenizer_name=tokenizer_name,
        newline_mark=NEWLINE_MARK,
        tokens=[_token(position, piece) for position, piece in enumerate(pieces)],
    )
    with atomic_file(path, "w") as file:
        file.write(page)


def _token(position: int, piece: "Piece") -> dict[str, Any]:
    """Return a token as the template needs it. A line may break before a token that begins with a
    mark, such as the one for a space.
    """
    from tokenizer_bpe.inspection.token_display import visible_parts

    parts = visible_parts(piece.token)
    return {
        "token_id": piece.token_id,
        "kind": "special" if piece.is_special else f"t{position % len(LIGHT)}",
        "parts": parts,
        "may_break": bool(parts) and parts[0].is_mark,
    }
