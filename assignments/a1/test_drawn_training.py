"""a1.2 to a1.10 on drawn inputs: the space of each graded function."""

import io
from pathlib import Path

from hypothesis import strategies as st
from text_strategies import (
    GPT2,
    file_of,
    patterns,
    special_tokens,
    texts,
    texts_and_special_tokens,
    with_wrong,
    wrong_special_tokens,
)
from vocabulary_strategies import counted_pairs, pairs, word_counts, words

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NOT_A_CORPUS = (None, "folder", b"", b"\xff", b"low \xc3", b"a\x80b")


@st.composite
def contents(draw, text, most=70_000):
    """The content of a file with this text; some with a byte order mark or \\r\\n, some wrong."""
    kind = draw(st.integers(0, 7))
    if kind == 5:
        return draw(st.sampled_from(NOT_A_CORPUS))
    text = text.replace("\n", "\r\n") if kind == 1 else text
    if size := draw(near_constants(st.just(0), 2, most)):
        text = (text or "a b\n") * (1 + size // max(1, len(text)))
        text = text[:size]
    return (b"\xef\xbb\xbf" if kind == 2 else b"") + text.encode()


# a1.2 to a1.4


@st.composite
def words_with_a_pair(draw):
    """A word, and a pair that it often contains."""
    word = draw(words)
    starts = range(len(word) - 1)
    place = draw(st.sampled_from(starts)) if starts and draw(st.booleans()) else None
    return {"word": word, "pair": draw(pairs) if place is None else word[place : place + 2]}


large_counts = near_constants(st.integers(1, 10**12), 1, 10**12)

PAIRS = [
    Space(
        "a1.2",
        "tokenizer_bpe.naive_training.count_pairs",
        arguments({"words": st.dictionaries(words, large_counts, max_size=8)}),
        view=dict,
    ),
    Space("a1.3", "tokenizer_bpe.naive_training.merge_pair", words_with_a_pair()),
    Space(
        "a1.4",
        "tokenizer_bpe.naive_training.best_pair",
        arguments({"pairs": counted_pairs()}),
        draws=150,
    ),
]


# a1.5 to a1.8


def count_words(module, source, special_tokens, pattern, as_text, how):
    if how == "file":
        with file_of(source, as_text) as path:
            counted = module.count_words(path, special_tokens, pattern)
            Path(path).write_bytes(source.replace(b"a", b"o"))  # of the same size
            return counted, module.count_words(path, special_tokens, pattern)
    passed = source if how == "list" else (text for text in source)
    return (module.count_words(passed, special_tokens, pattern),)


@st.composite
def sources_of_words(draw):
    drawn = draw(texts_and_special_tokens(number=5))
    how = draw(st.sampled_from(["file", "file", "list", "generator"]))
    source = draw(contents("".join(drawn["texts"]))) if how == "file" else drawn["texts"]
    return {
        "source": source,
        "special_tokens": drawn["special_tokens"],
        "pattern": draw(patterns),
        "as_text": draw(st.booleans()),
        "how": how,
    }


@st.composite
def files_to_cut(draw):
    """Documents of any length, with lengths around the sizes of blocks that people read; or
    separators everywhere, which show each position.
    """
    if draw(st.integers(0, 2)) == 1:
        count = draw(st.integers(1, 60))
        size = draw(st.one_of(st.integers(1, 700), st.integers(1, 20).map(count.__mul__)))
        content = (draw(st.sampled_from([b"|", b"|", b"|.", b"||."])) * size)[:size]
        return {"content": content, "num_chunks": count, "separator": b"|"}
    separator = draw(st.sampled_from([b"<|endoftext|>", b"<s>", b"\n\n", b"aab", b"\0"]))
    filler = draw(st.sampled_from([b"x", b"a", b"<", separator[:-1] or b"y", b"text "]))
    document = near_constants(
        st.one_of(
            st.integers(0, 200),
            st.sampled_from([1 << 10, 1 << 12, 1 << 13, 1 << 16]).flatmap(
                lambda size: st.integers(size - 20, size + 20)
            ),
        ),
        0,
        1 << 18,
    )
    sizes = draw(st.lists(document, max_size=5))
    content = separator.join((filler * (1 + size // len(filler)))[:size] for size in sizes)
    ending = draw(st.sampled_from([b"", separator, separator[:-1], b"end"]))
    count = draw(near_constants(st.integers(1, 12), 1, 300))
    return {"content": content + ending or b"x", "num_chunks": count, "separator": separator}


# Sizes and numbers of parts for which floats round size / count * share down to one less.
ROUNDED_DOWN = ((122, 14), (294, 18), (164, 20), (183, 21), (98, 22))

NOTHING_TO_COUNT = {"special_tokens": ["<s>", ""], "pattern": GPT2, "as_text": False}

WORDS = [
    Space(
        "a1.5",
        "tokenizer_bpe.pretokenization.pretokenize",
        arguments({"text": texts(), "pattern": patterns}),
    ),
    Space(
        "a1.6",
        "tokenizer_bpe.pretokenization.split_special_tokens",
        texts_and_special_tokens().map(
            lambda drawn: {"text": drawn["texts"][0], "special_tokens": drawn["special_tokens"]}
        ),
        examples=[
            *({"text": text, "special_tokens": ["<s>", "<s>"]} for text in ("", "a")),
            {"text": "a<s>\n<|im|>b", "special_tokens": ["<s>\n", "\n<|im|>"]},
        ],
    ),
    Space(
        "a1.7",
        "tokenizer_bpe.pretokenization.count_words",
        sources_of_words(),
        call=count_words,
        told=r"corpus\.txt",
        view=lambda value: tuple(map(dict, value)),
        examples=[
            {**NOTHING_TO_COUNT, "source": source, "how": how}
            for how, source in (("list", []), ("list", [""]), ("file", b""), ("file", b"a"))
        ],
    ),
    Space(
        "a1.8",
        "tokenizer_bpe.pretokenization.find_document_boundaries",
        files_to_cut(),
        call=lambda module, content, num_chunks, separator: module.find_document_boundaries(
            io.BytesIO(content), num_chunks, separator
        ),
        examples=[
            {"content": b"|" * size, "num_chunks": count, "separator": b"|"}
            for size, count in ROUNDED_DOWN
        ],
    ),
]


# a1.9 to a1.11


def train(module, content, vocab_size, special_tokens, pattern, as_text):
    with file_of(content, as_text) as path:
        return module.train_bpe(path, vocab_size, special_tokens, pattern)


def train_and_print(module, verbose, content, as_text, **rest):
    with file_of(content, as_text) as path:
        return module.train_bpe(path, **rest, **({"verbose": True} if verbose else {}))


def train_from_counts(module, counts, vocab_size, special_tokens):
    calls = []
    return module.train_bpe_from_counts(counts, vocab_size, special_tokens, calls.append), calls


vocab_sizes = near_constants(st.sampled_from([*range(261, 300), 255, 256]), 257, 1500)


@st.composite
def training_files(draw):
    drawn = draw(texts_and_special_tokens(number=3))
    return {
        "content": draw(contents("".join(drawn["texts"]), 5000)),
        "vocab_size": draw(vocab_sizes),
        "special_tokens": drawn["special_tokens"],
        "pattern": draw(patterns),
        "as_text": draw(st.booleans()),
    }


REFUSED = [
    {
        "content": content,
        "vocab_size": vocab_size,
        "special_tokens": [],
        "pattern": GPT2,
        "as_text": False,
    }
    for content in NOT_A_CORPUS
    for vocab_size in (256, 300)  # without room for a merge, too
]

TRAINING = [
    Space(
        "a1.9",
        "tokenizer_bpe.naive_training.train_bpe",
        st.builds(lambda drawn, on: {"verbose": on, **drawn}, training_files(), st.booleans()),
        call=train_and_print,
        draws=25,
        examples=[{"verbose": False, **each} for each in REFUSED],
    ),
    Space(
        "a1.10",
        "tokenizer_bpe.merge_training.train_bpe",
        training_files(),
        call=train,
        draws=20,
        examples=REFUSED,
    ),
    Space(
        "a1.10",
        "tokenizer_bpe.merge_training.train_bpe_from_counts",
        arguments(
            {
                "counts": word_counts(),
                "vocab_size": st.one_of(vocab_sizes, st.integers(300, 1900)),
                "special_tokens": with_wrong(special_tokens, wrong_special_tokens),
            }
        ),
        call=train_from_counts,
    ),
]

test_as_the_reference, test_contracts = drawn_checks([*PAIRS, *WORDS, *TRAINING])
