"""Pages at the bounds of Gopher's rules, and slow oracles of its repeated n-grams."""

from collections.abc import Sequence

LINE = "the and of words that make a sentence here"  # 9 words, 4 of them stop words


def words_of(*counted: tuple[str, int]) -> str:
    """A page of one line: the and, then each word as often as its number says."""
    return " ".join(["the", "and", *(word for word, count in counted for _ in range(count))])


def lines_of(*counted: tuple[str, int]) -> str:
    return "\n".join(line for line, count in counted for _ in range(count))


ELLIPSIS_LINE = LINE + " and so on…"
# what is at the bound -> (a page that passes, one just beyond that does not, the rule's name)
BOUNDS = {
    "fewest-words": (words_of(("word", 48)), words_of(("word", 47)), "number of words"),
    "most-words": (words_of(("word", 99_998)), words_of(("word", 99_999)), "number of words"),
    "shortest-words": (
        words_of(("abc", 58)),
        words_of(("abc", 57), ("ab", 1)),
        "mean word length",
    ),
    "longest-words": (
        words_of(("q" * 17, 2), ("incredible", 56)),
        words_of(("q" * 17, 3), ("incredible", 55)),
        "mean word length",
    ),
    "hashes": (
        words_of(("#word", 10), ("word", 88)),
        words_of(("#word", 11), ("word", 87)),
        "symbols",
    ),
    "ellipses": (
        words_of(("word...", 6), ("word…", 4), ("word", 88)),
        words_of(("word...", 6), ("word…", 5), ("word", 87)),
        "symbols",
    ),
    "bullets": (
        lines_of(("- " + LINE, 7), ("• " + LINE, 2), (LINE, 1)),
        lines_of(("- " + LINE, 8), ("• " + LINE, 2)),
        "bullet lines",
    ),
    "ellipsis-lines": (
        lines_of((ELLIPSIS_LINE, 2), (LINE + "...", 1), (LINE, 7)),
        lines_of((ELLIPSIS_LINE, 3), (LINE + "...", 1), (LINE, 6)),
        "ellipsis lines",
    ),
    "letters": (
        words_of(("x2000", 78), ("12,34", 20)),
        words_of(("x2000", 77), ("12,34", 21)),
        "alphabetic words",
    ),
    "stop-words": (
        "The HAVE " + "page " * 60,
        "The the THE " + "page " * 60,
        "stop words",
    ),
}


def fillers(characters: int, width: int = 10) -> list[str]:
    """Different words with this many characters in all, of `width` or a few more."""
    count = characters // width
    words = [f"{number:0{width - 1}}f" for number in range(count)]
    words[-1] += "g" * (characters - count * width)
    return words


def repeated_ngrams(n: int, length: int, different: int, characters: int) -> str:
    """A page of one line and so many characters, without spaces: n-grams of `length` characters,
    so many `different` ones, each twice, and between them words that occur once.
    """
    between = fillers(characters - 2 * different * length)
    words: list[str] = []
    for number in range(2 * different):
        letter = chr(ord("a") + number % different)
        gram = [f"{letter}{place}" for place in range(n)]
        gram[-1] += "z" * (length - len("".join(gram)))
        words += [*gram, between.pop(0)]
    return " ".join(words + between)


def repeated_lines(count: int, gap: str, first: str) -> str:
    """Ten pieces of which `count` occurred before, all of one character; then a long one."""
    return gap.join(["x"] * (count + 1) + fillers(60 * (8 - count), 60) + [first])


def long_line_twice(length: int) -> str:
    """A hundred characters in lines of which one occurs twice."""
    return "\n".join([*["y" * length] * 2, *fillers(100 - 2 * length)])


def short_lines_twice(others: int) -> str:
    """Four paragraphs of three short lines, each twice, and other paragraphs of so many characters.
    With line breaks, the paragraphs have five characters, and the duplicates 20 in all.
    """
    paragraphs = ["\n".join("abcdefghijkl"[3 * i : 3 * i + 3]) for i in range(4)] * 2
    between = fillers(others, 3)
    pairs = [piece for each in zip(paragraphs, between, strict=False) for piece in each]
    return "\n\n".join(pairs + between[len(paragraphs) :])


# name of the rule -> (a page at its bound, a page just beyond it); all other rules hold
REPETITION_BOUNDS = {
    "duplicate lines": tuple(repeated_lines(count, "\n", "end") for count in (3, 4)),
    "duplicate paragraphs": tuple(
        repeated_lines(count, "\n\n", "\n".join(map(str, range(20, 50)))) for count in (3, 4)
    ),
    "duplicate line characters": (long_line_twice(20), long_line_twice(21)),
    "duplicate paragraph characters": (short_lines_twice(60), short_lines_twice(59)),
    **{
        f"top {n}-gram": tuple(
            repeated_ngrams(n, length, 1, characters) for characters in (1000, 999)
        )
        for n, length in [(2, 100), (3, 90), (4, 80)]
    },
    **{
        f"duplicate {n}-grams": tuple(
            repeated_ngrams(n, length, 10, characters) for characters in (5000, 4999)
        )
        for n, length in [(5, 75), (6, 70), (7, 65), (8, 60), (9, 55), (10, 50)]
    },
}


def covered(words: Sequence[str], starts: Sequence[int], n: int) -> float:
    places = {start + offset for start in starts for offset in range(n)}
    return sum(len(words[place]) for place in places) / max(len("".join(words)), 1)


def later_places(words: Sequence[str], n: int) -> list[int]:
    """Where an n-gram begins that also begins at an earlier place."""
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return [start for start, gram in enumerate(grams) if gram in grams[:start]]


def top_places(words: Sequence[str], n: int) -> list[int]:
    """Where the most frequent n-gram begins, the first of several; empty if none repeats."""
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    most = max(map(grams.count, grams), default=0)
    top = next((gram for gram in grams if grams.count(gram) == most), None)
    return [start for start, gram in enumerate(grams) if gram == top] if most > 1 else []


def duplicate_share(words: Sequence[str], n: int) -> float:
    return covered(words, later_places(words, n), n)


def top_share(words: Sequence[str], n: int) -> float:
    return covered(words, top_places(words, n), n)
