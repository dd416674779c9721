"""a3_data.9 and a3_data.10 on drawn inputs: the space of each graded function."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from exact_oracle import BitFilter, text_hash, without_repeated_lines
from hypothesis import strategies as st
from text_strategies import one_in, texts

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "data_pipeline.exact_dedup."

# a3_data.9

LINES = [
    "", "", " ", "\t", "a", "a ", " a", "A", "x = 1", "}", "import sys", "\u00a0", "\x0b", "a\rb",
    "é", "e\u0301", "a line of exactly thirty chars", "a line of twenty-nine chars..",
    "  a line of exactly thirty chars\t", " " * 30 + "}",
    "a much longer line that many of the pages share",
]  # fmt: skip
lines = one_in(6, texts(), st.sampled_from(LINES))


@st.composite
def documents(draw):
    each = draw(st.lists(lines, max_size=14))
    if size := draw(near_constants(st.just(0), 2, 1000)):
        each = [f"line {number % 50}" for number in range(size)]
    return draw(st.sampled_from(["\n", "\n", "\n", "\r\n"])).join(each)


@st.composite
def counts_of_lines(draw):
    """A text, and counts of the lines in it around a limit."""
    text = draw(documents())
    limit = draw(near_constants(st.integers(1, 4), 1, 200))
    known = {line.strip() for line in text.split("\n")} - {""}
    each = {text_hash(line): limit + draw(st.integers(-1, 2)) for line in sorted(known)}
    return {
        "text": text,
        "documents_of_line": Counter({key: count for key, count in each.items() if count > 0}),
        "limit": limit,
        "shortest": draw(near_constants(st.sampled_from([0, 1, 5, 29, 30, 31]), 0, 300)),
    }


def drop_repeated_lines(module, text, documents_of_line, limit, shortest):
    settings = module.ExactDedupSettings(max_documents_per_line=limit, min_line_characters=shortest)
    return module.drop_repeated_lines(text, documents_of_line, settings)


@st.composite
def paragraphs(draw):
    """Texts with the same paragraphs, long and short, and gaps of several kinds."""
    piece = st.sampled_from(
        ["Yes.", "a paragraph that is long enough", " a paragraph that is long enough ", "x\ny",
         "a paragraph that is long enough\nwith a second line", "five5", "four", "é" * 30]
    )  # fmt: skip
    gap = st.sampled_from(["\n\n", "\n\n", "\n \t\n", "\n\n\n", "\n", "\n\n  ", "\r\n\r\n"])
    made = []
    for _ in range(draw(st.integers(1, 3))):
        text = draw(st.sampled_from(["", "", "\n", "\n\n", " "]))
        for _ in range(draw(st.integers(0, 6))):
            text += draw(st.one_of(piece, piece, texts())) + draw(gap)
        made.append(text.rstrip("\n") if draw(st.booleans()) else text)
    return {"texts": made, "shortest": draw(near_constants(st.sampled_from([1, 5, 30]), 1, 300))}


def drop_repeated_paragraphs(module, texts, shortest):
    settings = module.ExactDedupSettings(min_paragraph_characters=shortest)
    seen = {text_hash("a paragraph of a text before")}
    dropped = [module.drop_repeated_paragraphs(text, seen, settings) for text in texts]
    return dropped, sorted(seen)


@st.composite
def line_files(draw):
    """Names and bytes of files that share lines, in any order of the names."""
    line = st.sampled_from(
        [b"", b"a", b"b", b"c", b" a", b"a ", b"\xff", b"a\rb", b"a\r", b"\xc3\xa9", b"\x0c"]
    )  # fmt: skip
    end = st.sampled_from([b"\n", b"\n", b"\r\n"])
    contents = []
    for _ in range(draw(st.integers(0, 4))):
        parts = [draw(line) + draw(end) for _ in range(draw(st.integers(0, 5)))]
        content = b"".join(parts) + draw(st.sampled_from([b"", b"", b"a", b"e", b"\r"]))
        if size := draw(near_constants(st.just(0), 2, 20_000)):
            content = b"".join(b"%d\n" % number for number in range(size))[:size]
        contents.append(content)
    names = draw(st.permutations([f"{number}.txt" for number in range(len(contents))]))
    return dict(zip(names, contents, strict=True))


def deduplicate_lines(module, files, refused, as_text, memory, rate):
    with tempfile.TemporaryDirectory() as temporary:
        paths, folder = [], Path(temporary, "out", "deep")
        for name, content in files.items():
            paths.append(Path(temporary, "in", name))
            paths[-1].parent.mkdir(exist_ok=True)
            paths[-1].write_bytes(content)
        if refused == "twin" and paths:
            paths.append(Path(temporary, "twin", paths[0].name))
            paths[-1].parent.mkdir()
            paths[-1].write_bytes(b"another text of its own")
        if refused == "missing":
            paths.append(Path(temporary, "missing.txt"))
        if refused == "inside" and paths:
            folder = Path(temporary, "in")
        settings = module.ExactDedupSettings(
            memory=memory, bloom_capacity=50, bloom_false_positive_rate=rate
        )
        given = list(map(str, paths)) if as_text else paths
        count = module.deduplicate_lines(given, str(folder) if as_text else folder, settings)
        return {path.name: path.read_bytes() for path in folder.iterdir()}, count


def as_the_oracle(files, refused, as_text, memory, rate):
    if refused == "missing" or (refused and files):
        raise ValueError(refused)
    return without_repeated_lines(files)


EXACT = [
    Space("a3_data.9", f"{NAME}line_hashes", arguments({"text": documents()})),
    Space(
        "a3_data.9",
        f"{NAME}documents_of_each_line",
        arguments({"texts": st.lists(documents(), max_size=4)}),
        view=dict,
    ),
    Space(
        "a3_data.9",
        f"{NAME}drop_repeated_lines",
        counts_of_lines(),
        call=drop_repeated_lines,
        draws=60,
    ),
    Space(
        "a3_data.9",
        f"{NAME}drop_repeated_paragraphs",
        paragraphs(),
        call=drop_repeated_paragraphs,
        draws=50,
    ),
    Space(
        "a3_data.9",
        f"{NAME}first_of_each",
        arguments({"texts": st.lists(st.sampled_from([*LINES, "b", "c"]), max_size=12)}),
    ),
    Space(
        "a3_data.9",
        f"{NAME}deduplicate_lines",
        arguments(
            {
                "files": line_files(),
                "refused": one_in(8, st.sampled_from(["twin", "missing", "inside"]), st.just("")),
                "as_text": st.booleans(),
                "memory": st.sampled_from(["exact", "exact", "bloom"]),
                "rate": st.sampled_from([0.01, 0.9]),
            }
        ),
        call=deduplicate_lines,
        oracle=as_the_oracle,
        draws=60,
    ),
]


# a3_data.10

small_keys = st.integers(0, 30).map(lambda number: number * 0x9E3779B97F4A7C15 % 2**64)
any_key = st.one_of(small_keys, small_keys, st.integers(0, 2**64 - 1), st.just(2**64 - 1))
capacities = near_constants(st.one_of(st.integers(1, 60), st.just(0)), 1, 20_000)
rates = st.one_of(st.sampled_from([0.01, 0.5, 0.001, 0.9, 1e-9]), st.floats(1e-12, 0.999))


def size_of(module, capacity, rate):
    made = module.BloomFilter(capacity, rate)
    return int(made.num_bits), int(made.num_hashes), made.bits.shape, int(made.bits.sum())


def filled(module, capacity, rate, blocks, asked):
    """Two filters at once, of which one gets the hashes one by one."""
    made, other = module.BloomFilter(capacity, rate), module.BloomFilter(capacity, rate)
    answers = [
        made.add_all(np.array(block, dtype=np.uint64)).tolist() if len(block) != 1
        else [made.add(block[0])]
        for block in blocks
    ]  # fmt: skip
    return answers, [key in made for key in asked], made.bits.tolist(), int(other.bits.sum())


def filled_oracle(capacity, rate, blocks, asked):
    oracle = BitFilter(capacity, rate)
    answers = [oracle.add_all(block) for block in blocks]
    return answers, [oracle.holds(key) for key in asked], oracle.bits(), 0


BLOOM = [
    Space(
        "a3_data.10",
        f"{NAME}BloomFilter.__init__",
        arguments(
            {
                "capacity": capacities,
                "rate": one_in(8, st.sampled_from([0.0, 1.0, -0.5, 1.5]), rates),
            }
        ),
        call=size_of,
    ),
    Space(
        "a3_data.10",
        f"{NAME}BloomFilter.add_all",
        arguments(
            {
                "capacity": near_constants(st.integers(1, 40), 1, 5000),
                "rate": st.sampled_from([0.01, 0.3, 0.9, 1e-6]),
                "blocks": st.lists(st.lists(any_key, max_size=8), max_size=4),
                "asked": st.lists(any_key, max_size=4),
            }
        ),
        call=filled,
        oracle=filled_oracle,
        draws=50,
    ),
]

test_as_the_reference, test_contracts = drawn_checks([*EXACT, *BLOOM])
