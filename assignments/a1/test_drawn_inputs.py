"""a1 on drawn inputs: the space of each graded function."""

import io
import json
import tempfile
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from text_strategies import (
    GPT2,
    GPT4,
    Vocabulary,
    counted_pairs,
    gpt2_files,
    nearly,
    pairs,
    patterns,
    printable,
    special_tokens,
    texts,
    texts_and_special_tokens,
    tokenizer_json_files,
    tokens,
    vocabularies,
    with_wrong,
    word_counts,
    words,
    wrong_special_tokens,
)

from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

text_with_half_a_surrogate = st.sampled_from(["\ud800", "a\udfff b", "<s>\udc80"])


@contextmanager
def file_of(content, as_text=False):
    """A file with this content, as a Path or a str; a path without a file for None, and a folder
    for "folder".
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.txt")
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        yield str(path) if as_text else path


NOT_A_CORPUS = (None, "folder", b"", b"\xff", b"low \xc3", b"a\x80b")


@st.composite
def contents(draw, text):
    """The content of a file with this text; some with a byte order mark or \\r\\n, some wrong."""
    kind = draw(st.integers(0, 7))
    if kind == 5:
        return draw(st.sampled_from(NOT_A_CORPUS))
    text = text.replace("\n", "\r\n") if kind == 1 else text
    return (b"\xef\xbb\xbf" if kind == 2 else b"") + text.encode()


# a1.2 to a1.4


@st.composite
def words_with_a_pair(draw):
    """A word, and a pair that it often contains."""
    word = draw(words)
    starts = range(len(word) - 1)
    place = draw(st.sampled_from(starts)) if starts and draw(st.booleans()) else None
    return {"word": word, "pair": draw(pairs) if place is None else word[place : place + 2]}


PAIRS = [
    Space(
        "a1.2",
        "tokenizer_bpe.naive_training.count_pairs",
        arguments({"words": st.dictionaries(words, st.integers(1, 10**12), max_size=8)}),
        view=dict,
    ),
    Space("a1.3", "tokenizer_bpe.naive_training.merge_pair", words_with_a_pair()),
    Space(
        "a1.4",
        "tokenizer_bpe.naive_training.best_pair",
        arguments({"pairs": counted_pairs()}),
    ),
]


# a1.5 to a1.8


def count_words(module, source, special_tokens, pattern, as_text, how):
    if how == "file":
        with file_of(source, as_text) as path:
            return module.count_words(path, special_tokens, pattern)
    passed = source if how == "list" else (text for text in source)
    return module.count_words(passed, special_tokens, pattern)


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
    """Documents of any length, with lengths around the sizes of blocks that people read."""
    separator = draw(st.sampled_from([b"<|endoftext|>", b"<s>", b"\n\n", b"aab", b"\0"]))
    filler = draw(st.sampled_from([b"x", b"a", b"<", separator[:-1] or b"y", b"text "]))
    document = st.one_of(
        st.integers(0, 200),
        st.sampled_from([1 << 10, 1 << 12, 1 << 13, 1 << 16]).flatmap(
            lambda size: st.integers(size - 20, size + 20)
        ),
    )
    sizes = draw(st.lists(document, max_size=5))
    content = separator.join((filler * (1 + size // len(filler)))[:size] for size in sizes)
    ending = draw(st.sampled_from([b"", separator, separator[:-1], b"end"]))
    count = draw(st.integers(1, 12))
    return {"content": content + ending or b"x", "num_chunks": count, "separator": separator}


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
    ),
    Space(
        "a1.7",
        "tokenizer_bpe.pretokenization.count_words",
        sources_of_words(),
        call=count_words,
        view=dict,
    ),
    Space(
        "a1.8",
        "tokenizer_bpe.pretokenization.find_document_boundaries",
        files_to_cut(),
        call=lambda module, content, num_chunks, separator: module.find_document_boundaries(
            io.BytesIO(content), num_chunks, separator
        ),
    ),
]


# a1.9 to a1.11


def train(module, content, vocab_size, special_tokens, pattern, as_text):
    with file_of(content, as_text) as path:
        return module.train_bpe(path, vocab_size, special_tokens, pattern)


def train_from_counts(module, counts, vocab_size, special_tokens):
    calls = []
    return module.train_bpe_from_counts(counts, vocab_size, special_tokens, calls.append), calls


vocab_sizes = st.sampled_from([*range(261, 300), 255, 256])


@st.composite
def training_files(draw):
    drawn = draw(texts_and_special_tokens(number=3))
    return {
        "content": draw(contents("".join(drawn["texts"]))),
        "vocab_size": draw(vocab_sizes),
        "special_tokens": drawn["special_tokens"],
        "pattern": draw(patterns),
        "as_text": draw(st.booleans()),
    }


REFUSED = [
    {"content": content, "vocab_size": 300, "special_tokens": [], "pattern": GPT2, "as_text": False}
    for content in NOT_A_CORPUS
]

TRAINING = [
    Space(
        "a1.9",
        "tokenizer_bpe.naive_training.train_bpe",
        training_files(),
        call=train,
        draws=25,
        examples=REFUSED,
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


# a1.12 to a1.16


@st.composite
def with_texts(draw):
    """A vocabulary, a pattern and texts."""
    drawn = draw(texts_and_special_tokens(number=3))
    if draw(st.integers(0, 9)) == 5:
        drawn["texts"].append(draw(text_with_half_a_surrogate))
    made = draw(vocabularies("".join(drawn["texts"]), drawn["special_tokens"]))
    return {**made, "pattern": draw(patterns), "texts": drawn["texts"]}


@st.composite
def wrong_vocabularies(draw):
    """Mostly right; else one mistake that the handout names."""
    made = draw(vocabularies())
    vocab, merges = made["vocab"], made["merges"]
    mistake = draw(st.integers(0, 11)) - 4
    if mistake == 0:
        vocab[-1] = b"negative"
    elif mistake == 1:
        byte = bytes([draw(st.integers(0, 255))])
        del vocab[next(token_id for token_id, token in vocab.items() if token == byte)]
    elif mistake == 2:
        merges.insert(draw(st.integers(0, len(merges))), (b"ab", b"no such token"))
    elif mistake == 3 and merges:
        result = b"".join(merges[-1])
        vocab = Vocabulary(
            (token_id, token) for token_id, token in vocab.items() if token != result
        )
    elif mistake == 4:
        made["special_tokens"] = draw(wrong_special_tokens)
    elif mistake == 5:
        made["special_tokens"] = None
    return {**made, "vocab": vocab, "pattern": draw(patterns)}


def attributes(module, vocab, merges, special_tokens, pattern):
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    values = dict(made.vocab), list(made.merges), dict(made.special_tokens)
    return *values, made.vocab_size, made.pattern


def byte_lengths(module, vocab, merges, special_tokens, pattern):
    return module.Tokenizer(vocab, merges, special_tokens, pattern).byte_lengths()


def encode(module, vocab, merges, special_tokens, pattern, texts):
    """A second tokenizer in between must not disturb the first."""
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    other = module.Tokenizer(vocab, [], None, r"\S+|\s+")
    return [(made.encode(text), other.encode(text), made.encode(text)) for text in texts]


def encode_batch(module, vocab, merges, special_tokens, pattern, texts):
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    return made.encode_batch(texts), made.encode_batch(text for text in texts)


def encode_to_array(module, vocab, merges, special_tokens, pattern, texts):
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    return [made.encode_to_array(text) for text in texts]


@st.composite
def with_ids(draw):
    """A vocabulary, and ids that a model may produce: of text, or any."""
    made = draw(vocabularies(draw(texts(long=False))))
    known = sorted(made["vocab"])
    right = st.lists(st.sampled_from(known), max_size=40)
    wrong = st.sampled_from([[-1], [known[0], known[-1] + 100], [-3, known[0]]])
    return {**made, "ids": draw(with_wrong(right, wrong)), "kind": draw(st.integers(0, 2))}


def as_kind(ids, kind):
    return [lambda: list(ids), lambda: np.array(ids, dtype=np.int64), lambda: iter(ids)][kind]()


def decode(module, vocab, merges, special_tokens, ids, kind):
    made = module.Tokenizer(vocab, merges, special_tokens)
    return made.decode(as_kind(ids, kind))


def decode_stream(module, vocab, merges, special_tokens, ids, kind):
    made = module.Tokenizer(vocab, merges, special_tokens)
    return list(made.decode_stream(as_kind(ids, kind)))


@st.composite
def streams(draw):
    """A vocabulary, and a text that comes in pieces."""
    special = draw(special_tokens)
    text = draw(texts(*special, *nearly(special), max_pieces=200))
    made = draw(vocabularies(text, special))
    size = draw(st.sampled_from([1, 2, 3, 7, 40]))
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    if draw(st.booleans()):
        pieces = [piece for each in pieces for piece in ("", each)]
    return {**made, "pattern": draw(st.sampled_from([GPT2, GPT4])), "pieces": pieces}


def encode_stream(module, vocab, merges, special_tokens, pattern, pieces):
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    return list(made.encode_iterable(iter(pieces)))


TOKENIZER = [
    Space(
        "a1.12",
        "tokenizer_bpe.tokenizer.Tokenizer",
        wrong_vocabularies(),
        call=attributes,
    ),
    Space(
        "a1.12",
        "tokenizer_bpe.tokenizer.Tokenizer.byte_lengths",
        wrong_vocabularies(),
        call=byte_lengths,
        draws=20,
    ),
    Space("a1.13", "tokenizer_bpe.tokenizer.Tokenizer.encode", with_texts(), call=encode),
    Space(
        "a1.13",
        "tokenizer_bpe.tokenizer.Tokenizer.encode_batch",
        with_texts(),
        call=encode_batch,
        draws=20,
    ),
    Space(
        "a1.13",
        "tokenizer_bpe.tokenizer.Tokenizer.encode_to_array",
        with_texts(),
        call=encode_to_array,
        draws=20,
    ),
    Space("a1.14", "tokenizer_bpe.tokenizer.Tokenizer.decode", with_ids(), call=decode),
    Space(
        "a1.15",
        "tokenizer_bpe.tokenizer.Tokenizer.encode_iterable",
        streams(),
        call=encode_stream,
    ),
    Space(
        "a1.16",
        "tokenizer_bpe.tokenizer.Tokenizer.decode_stream",
        with_ids(),
        call=decode_stream,
    ),
]


# a1.17 and a1.18


def made_tokenizer(vocab, merges, special_tokens, pattern):
    """The learner's tokenizer, or the reference's in its own process."""
    return import_module("tokenizer_bpe.tokenizer").Tokenizer(
        vocab, merges, special_tokens, pattern
    )


def merges_text(module, vocab, merges, special_tokens):
    return module.merges_text(made_tokenizer(vocab, merges, special_tokens, GPT2))


def tokenizer_json(module, vocab, merges, special_tokens, pattern):
    return module.tokenizer_json(made_tokenizer(vocab, merges, special_tokens, pattern))


def read_gpt2_files(module, vocab, merges):
    with file_of(vocab) as vocab_path, file_of(merges) as merges_path:
        read = module.read_gpt2_files(vocab_path, merges_path)
        return dict(read.vocab), [tuple(merge) for merge in read.merges]


def read_tokenizer_json(module, content):
    with file_of(content) as path:
        read = module.read_tokenizer_json(path)
        special = list(read.special_tokens)
        return dict(read.vocab), [tuple(merge) for merge in read.merges], special, read.pattern


FILES = [
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.to_printable",
        arguments({"token": st.one_of(tokens, st.binary(max_size=300))}),
    ),
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.from_printable",
        arguments(
            {
                "text": with_wrong(
                    st.binary(max_size=30).map(printable), texts(max_pieces=3, long=False)
                ),
                "where": st.just("vocab.json"),
            }
        ),
    ),
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.merges_text",
        vocabularies(),
        call=merges_text,
        draws=20,
    ),
    Space(
        "a1.17",
        "tokenizer_bpe.tokenizer_file.read_gpt2_files",
        gpt2_files(),
        call=read_gpt2_files,
    ),
    Space(
        "a1.18",
        "tokenizer_bpe.tokenizer_file.tokenizer_json",
        vocabularies().flatmap(
            lambda made: st.sampled_from([GPT2, GPT4]).map(lambda p: {**made, "pattern": p})
        ),
        call=tokenizer_json,
        view=json.loads,
    ),
    Space(
        "a1.18",
        "tokenizer_bpe.tokenizer_file.read_tokenizer_json",
        tokenizer_json_files(),
        call=read_tokenizer_json,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(
    [*PAIRS, *WORDS, *TRAINING, *TOKENIZER, *FILES]
)
