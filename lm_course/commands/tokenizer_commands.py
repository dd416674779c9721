"""`lm tokenizer encode`, `decode`, `inspect`, `merges` and `compare`: use a tokenizer and look
inside it.

`register` adds the commands to `lm tokenizer`. What this leaves out: training (a step of a recipe),
and computing what is shown (`tokenizer_bpe.inspection`); this file prints it.
"""

import codecs
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lm_core.progress import progress_bar
from lm_core.user_error import UserError
from lm_course.commands.plain_console import plain_console
from lm_course.commands.token_page import LIGHT, write_token_page
from lm_course.commands.tokenizer_choice import (
    RANKS_SUFFIX,
    chosen_bpe,
    chosen_tokenizer,
    held_out_text,
    tokenizer_path,
)

if TYPE_CHECKING:
    from tokenizer_bpe.inspection.token_display import Piece, WordHistory
    from tokenizer_bpe.inspection.tokenizer_comparison import Figures
    from tokenizer_bpe.tokenizer import Tokenizer

READ_BYTES = 1 << 16
IDS_AT_ONCE = 4096
LINE_END = "\n"
BORDER = "│"  # between tokens, if there are no colours
TOKEN_STYLES = tuple(Style(color="#1c2024", bgcolor=colour) for colour in LIGHT)
# In a terminal with 16 colours, those above would all become white.
PLAIN_STYLES = tuple(
    Style(color="black", bgcolor=c) for c in ("cyan", "green", "yellow", "magenta")
)
SPECIAL_STYLE = Style(bold=True, reverse=True)
MARK_STYLE = Style(color="#5c6370")
MADE_STYLE = Style(bold=True, color="green")

TextArgument = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The text; by default it is read from stdin.")
]
TextFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Read the text from this UTF-8 file.")
]
TokenizerPath = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="A tokenizer.json, a folder or a run that holds one, or a .tiktoken file; "
        "by default the tokenizer of runs/demo.",
    ),
]
PatternName = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="gpt2|gpt4|o200k",
        help="The word pattern of a .tiktoken file, which does not name it; by default that of "
        "the encoding with the file's name, such as o200k_base, or else gpt2.",
    ),
]


def register(tokenizer_app: typer.Typer) -> None:
    """Add the five commands."""
    tokenizer_app.command("encode")(encode)
    tokenizer_app.command("decode")(decode)
    tokenizer_app.command("inspect")(inspect)
    tokenizer_app.command("merges")(merges)
    tokenizer_app.command("compare")(compare)


def encode(
    text: TextArgument = None,
    file: TextFile = None,
    tokenizer: TokenizerPath = None,
    pattern: PatternName = None,
) -> None:
    """Print the token ids of a text, separated by spaces."""
    ids = _ids_of(chosen_tokenizer(tokenizer, pattern), text, file)
    separator = ""
    while batch := list(islice(ids, IDS_AT_ONCE)):
        sys.stdout.write(separator + " ".join(map(str, batch)))
        separator = " "
    sys.stdout.write(LINE_END)
    sys.stdout.flush()  # a closed pipe is noticed here, where `lm` can handle it


def _ids_of(tokenizer: "Tokenizer", text: str | None, file: Path | None) -> Iterator[int]:
    """Yield the ids of TEXT, FILE or standard input; large files are encoded by compiled code."""
    from tokenizer_bpe.compiled.lesson_or_compiled import encode_file, takes_compiled

    num_bytes = file.stat().st_size if text is None and file is not None and file.is_file() else 0
    if file is not None and takes_compiled(num_bytes, tokenizer.pattern):
        return (token_id for part in encode_file(tokenizer, file) for token_id in part.tolist())
    return tokenizer.encode_iterable(_texts(text, file))


def decode(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="IDS", help="Token ids; by default from stdin.")
    ] = None,
    tokenizer: TokenizerPath = None,
    pattern: PatternName = None,
) -> None:
    """Print the text of token ids and nothing else: the reverse of `encode`.

    Ids may be written as 1 2 3, as 1,2,3 or as a list, "[1, 2, 3]".
    """
    # The shell may pass several as one argument, as in `lm tokenizer decode "$ids"`.
    words = _words(_decoded(sys.stdin.buffer, "stdin") if ids is None else [" ".join(ids)])
    last = ""
    for piece in chosen_tokenizer(tokenizer, pattern).decode_stream(map(_id, words)):
        sys.stdout.write(piece)
        last = piece
    if sys.stdout.isatty() and not last.endswith(LINE_END):
        sys.stdout.write(LINE_END)  # the shell's prompt then starts a new line
    sys.stdout.flush()


def inspect(
    text: TextArgument = None,
    file: TextFile = None,
    tokenizer: TokenizerPath = None,
    pattern: PatternName = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Also write an HTML page.")
    ] = None,
) -> None:
    """Show the tokens of a text in colours, and count them.

    A space is shown as ␣, a newline as ⏎, a tab as ⇥, and a byte of an incomplete character as
    <e2>. Without colours, │ separates the tokens.
    """
    from tokenizer_bpe.inspection.token_display import text_counts, token_pieces

    chosen = chosen_tokenizer(tokenizer, pattern)
    if page is not None and page.is_dir():
        raise UserError(f"--html {page} is a folder; name a file, such as {page / 'tokens.html'}")
    pieces = token_pieces(chosen, "".join(_texts(text, file)))
    if page is not None:
        write_token_page(pieces, page, tokenizer_path(tokenizer).as_posix())
    console = plain_console()
    for line in token_lines(pieces, console):
        console.print(line)
    console.print(f"\n{text_counts(pieces).line}")
    if page is not None:
        console.print(f"wrote {page}", soft_wrap=True)


def merges(
    word: Annotated[str, typer.Argument(metavar="WORD", help="One word, or a text of several.")],
    tokenizer: TokenizerPath = None,
    pattern: PatternName = None,
) -> None:
    """Show how a word is built, merge by merge; the rank of the earliest merge is 0."""
    from tokenizer_bpe.inspection.token_display import merge_histories

    if not word:
        raise UserError('the word is empty; give one, such as " the" with the space before it')
    console = plain_console()
    for number, history in enumerate(merge_histories(chosen_tokenizer(tokenizer, pattern), word)):
        if number:
            console.print()
        _print_history(console, history)


def compare(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH_OR_NAME",
            help="A tokenizer.json, a folder or a run that holds one, or a .tiktoken file; "
            "by default the tokenizer of runs/demo.",
        ),
    ] = None,
    file: TextFile = None,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Read the validation documents of this run instead."),
    ] = None,
    pattern: PatternName = None,
) -> None:
    """Compare tokenizers: size, bytes per token, tokens per word, and speed."""
    from tokenizer_bpe.inspection import tokenizer_comparison

    files = [tokenizer_path(path, "in its place") for path in paths or [None]]
    # The pattern applies to the .tiktoken files among them, if there are any.
    ranks = [each.suffix == RANKS_SUFFIX for each in files]
    patterns = [pattern if its or not any(ranks) else None for its in ranks]
    tokenizers = [
        (str(given or each.parent), chosen_bpe(each, its_pattern))
        for given, each, its_pattern in zip(paths or [None], files, patterns, strict=True)
    ]
    if file is not None and held_out is not None:
        raise UserError("give --file or --held-out, not both")
    if held_out is not None:
        text = held_out_text(held_out, tokenizer_comparison.TEXT_BYTES)
        source = f"the validation documents of {held_out}"
    elif file is None:
        text, source = tokenizer_comparison.standard_library_text(), "Python's standard library"
    else:
        text, source = tokenizer_comparison.beginning_of(file), str(file)
    if not text:
        raise UserError(f"{source}: it has no text; use --file to name a file that does")
    turns = tokenizer_comparison.num_turns(len(tokenizers))
    with progress_bar("measure", turns, "turns") as bar:
        figures = tokenizer_comparison.compare_tokenizers(tokenizers, text, on_turn=bar.advance)
    _print_comparison(plain_console(), figures, f"{len(text.encode()):,} bytes of {source}")


def _texts(text: str | None, file: Path | None) -> Iterator[str]:
    """Yield the text to work on in parts: TEXT, or FILE, or else standard input."""
    if text is not None and file is not None:
        raise UserError("give TEXT or --file, not both")
    if text is not None:
        yield text
    elif file is not None:
        with file.open("rb") as stream:
            yield from _decoded(stream, str(file))
    else:
        if sys.stdin.isatty():
            print(
                "lm: reading from the terminal; Ctrl-D on an empty line ends the text",
                file=sys.stderr,
            )
        yield from _decoded(sys.stdin.buffer, "stdin")


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    """Decode UTF-8 as it comes in, line ends unchanged; ValueError names a byte that is invalid."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    read = getattr(stream, "read1", stream.read)  # read1 does not wait for a full block
    while True:
        block = read(READ_BYTES)
        held = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}: not UTF-8 at byte {offset - held + error.start}; convert it to UTF-8"
            ) from None
        if not block:
            return
        offset += len(block)


def _words(texts: Iterable[str]) -> Iterator[str]:
    """Yield the words between white space, commas and the brackets of a list, as they come in."""
    held = ""
    for text in texts:
        *whole, held = re.split(r"[\s,\[\]]+", held + text)
        yield from filter(None, whole)
    if held:
        yield held


def _id(word: str) -> int:
    if not (word.isascii() and word.isdecimal()):
        raise UserError(
            f"{word!r} is not a token id; ids are whole numbers separated by spaces or commas"
        )
    return int(word)


def token_lines(pieces: Iterable["Piece"], console: Console) -> Iterator[Text]:
    """Yield the tokens in lines as wide as the console. A line ends after a newline and before a
    token that does not fit. Without colours, a separator follows every token but the last, also at
    the end of a line.
    """
    from tokenizer_bpe.inspection.token_display import NEWLINE_MARK, visible_parts

    has_colours = console.color_system is not None and not console.no_color
    styles = PLAIN_STYLES if console.color_system in ("standard", "windows") else TOKEN_STYLES
    line, pieces = Text(), list(pieces)
    for number, piece in enumerate(pieces):
        parts = visible_parts(piece.token)
        border = "" if has_colours or number == len(pieces) - 1 else BORDER
        needed = cell_len("".join(part.text for part in parts) + border)
        if line and line.cell_len + needed > console.width:
            yield line
            line = Text()
        style = SPECIAL_STYLE if piece.is_special else styles[number % len(styles)]
        for position, (text, is_mark) in enumerate(parts):
            line.append(text, style + MARK_STYLE if is_mark else style)
            line.append(border if position == len(parts) - 1 else "")
            if is_mark and text == NEWLINE_MARK:
                yield line
                line = Text()
    if line:
        yield line


def _print_history(console: Console, history: "WordHistory") -> None:
    """Print a word, a line for each merge, and its ids."""
    from tokenizer_bpe.inspection.token_display import visible_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("rank", justify="right", no_wrap=True, min_width=5)
    table.add_column("tokens", overflow="fold")
    for rank, tokens, made in history.steps:
        row = Text()
        for place, token in enumerate(tokens):
            row.append(" " if place else "")
            row.append(visible_text(token), MADE_STYLE if place in made else "")
        table.add_row("" if rank is None else f"{rank}", row)
    ids = " ".join(map(str, history.ids)) + ("  (special)" if history.is_special else "")
    table.add_row(Text("ids", "dim"), Text(ids, "dim"))
    console.print(Text(visible_text(history.word.encode()), "bold"))
    console.print(table)


def _print_comparison(console: Console, figures: Sequence["Figures"], source: str) -> None:
    """Print three tables with one row per tokenizer; they fit a terminal of 60 columns."""
    from tokenizer_bpe.inspection.tokenizer_comparison import COMPILED, OURS

    peers = [name for name in figures[0].speeds if name not in (OURS, COMPILED)]
    size = _table("tokenizer", "vocabulary", "bytes per token", "tokens per word")
    words = _table("tokens per word", *figures[0].fertility)
    speed = _table("encoding, MB/s", "lesson", COMPILED, *peers)
    for each in figures:
        ratios = f"{each.bytes_per_token:.2f}", f"{each.tokens_per_word:.2f}"
        size.add_row(Text(each.name), f"{each.vocab_size:,}", *ratios)
        words.add_row(Text(each.name), *(f"{value:#.3g}" for value in each.fertility.values()))
        ours, compiled = float(each.speeds[OURS]), each.speeds[COMPILED]
        speed.add_row(
            Text(each.name),
            f"{ours:.2f}",
            compiled if isinstance(compiled, str) else f"{compiled:.2f}",
            *(_peer_speed(ours, each.speeds[name]) for name in peers),
        )
    notes = {
        f"Measured on {source}; words are separated by spaces.": size,
        "Tokens per word in six sentences with the same meaning in each language, and in Python "
        "code (py). Words are separated by spaces; Chinese was split into words by hand.": words,
        "Speeds were measured on this machine just now: the median of 5 runs on one thread, taken "
        "in turns, with nothing cached. In parentheses: the lesson's speed divided by this one, "
        "with the same vocabulary and the same ids.": speed,
    }
    for number, (note, table) in enumerate(notes.items()):
        if number:
            console.print()
        console.print(table)
        console.print(note, style="dim")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _peer_speed(ours: float, speed: float | str) -> str:
    """Return a peer's speed and the lesson's relative to it, or the reason why there is none."""
    return speed if isinstance(speed, str) else f"{speed:.2f} ({ours / speed:.2f}×)"
