"""a1.12 to a1.16 on drawn inputs: the space of each graded function."""

import random
from itertools import product, zip_longest

import numpy as np
from hypothesis import strategies as st
from text_strategies import (
    GPT2,
    GPT4,
    nearly,
    patterns,
    special_tokens,
    texts,
    texts_and_special_tokens,
    with_wrong,
    wrong_special_tokens,
)
from vocabulary_strategies import Vocabulary, rival_merges, vocabularies

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space

# The first and last bytes of the ranges that UTF-8 allows in some position.
EDGES = b"a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"

text_with_half_a_surrogate = st.sampled_from(["\ud800", "a\udfff b", "<s>\udc80"])


@st.composite
def with_texts(draw):
    """A vocabulary, a pattern and texts."""
    if draw(st.integers(0, 3)) == 2:
        return {**draw(rival_merges()), "pattern": draw(patterns)}
    drawn = draw(texts_and_special_tokens(number=3))
    if draw(st.integers(0, 9)) == 5:
        drawn["texts"].append(draw(text_with_half_a_surrogate))
    number = draw(near_constants(st.just(1), 2, 100))  # of texts
    drawn["texts"] += [f"{text} {i}" for i, text in enumerate(drawn["texts"][:1] * (number - 1))]
    how = draw(st.sampled_from(["at random", "neighbors"]))
    made = draw(vocabularies("".join(drawn["texts"]), drawn["special_tokens"], how))
    return {**made, "pattern": draw(patterns), "texts": drawn["texts"]}


@st.composite
def wrong_vocabularies(draw):
    """Mostly right; else one mistake that the handout names."""
    made = draw(vocabularies())
    vocab, merges = made["vocab"], made["merges"]
    mistake = draw(st.integers(0, 13)) - 5
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
    elif mistake == 6:  # a part that has an id, but that no merge makes
        largest = max(vocab)
        vocab |= {largest + 1: b"\0\0", largest + 2: b"\0\0\0"}
        merges.append((b"\0\0", b"\0"))
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
    texts = [*texts, *texts[:1]]  # one of them twice
    return made.encode_batch(texts), made.encode_batch(text for text in texts)


def encode_to_array(module, vocab, merges, special_tokens, pattern, texts):
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    return [made.encode_to_array(text) for text in texts]


@st.composite
def with_ids(draw):
    """A vocabulary, and ids that a model may produce: of text, or any."""
    made = draw(vocabularies(draw(texts(long=False))))
    known = sorted(made["vocab"])
    ids_of = {token: token_id for token_id, token in made["vocab"].items()}
    start = draw(st.sampled_from(["", "", "\ufeff", "\ufeff\ufeff"]))
    text = (start + draw(texts(long=False))).encode("utf-8", "surrogatepass")
    of_text = st.just([ids_of[bytes([byte])] for byte in text])
    of_bytes = st.lists(st.sampled_from([ids_of[bytes([byte])] for byte in EDGES]), max_size=20)
    right = st.one_of(of_text, of_bytes, st.lists(st.sampled_from(known), max_size=40))
    if draw(st.integers(0, 9)) == 7:  # around the blocks that people join at once
        usual = st.sampled_from([1 << 10, 1 << 12, 1 << 16])
        size = draw(near_constants(usual, 2, 1 << 16))
        shift = draw(near_constants(st.integers(1, 9), 1, 40))
        right = st.just(
            ([known[0]] * shift + [ids_of[b"\xc3"], ids_of[b"\xa9"]] * size)[: 2 * size]
        )
    least_wrong = [[-1], [known[0], known[-1] + 100], [-3, known[0]], [known[0], 2**33]]
    wrong = st.sampled_from(least_wrong)
    return {**made, "ids": draw(with_wrong(right, wrong)), "kind": draw(st.integers(0, 3))}


# The largest ids of small types: one more is 0.
LARGEST_IDS = [
    {
        "vocab": Vocabulary(
            {**dict(enumerate([bytes([byte]) for byte in range(256)])), 256: b"ab", 65_535: b"<e>"}
        ),
        "merges": [(b"a", b"b")],
        "special_tokens": [],
        "ids": ids,
        "kind": 3,
    }
    for ids in ([97, 255, 97], [97, 65_535, 256])
]


# Every beginning of a character, right or wrong, and what may follow it.
BEGINNINGS = [
    byte
    for sequence in (
        *product(EDGES, EDGES, b"a"),
        *product(
            b"\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5", b"\x80\x8f\x90\x9f\xa0\xbf", b"\x80\xbfa", b"\xbfa"
        ),
    )
    # Python's decoder sees only at the third byte that a surrogate is no character
    if not (sequence[0] == 0xED and sequence[1] >= 0xA0)
    for byte in sequence
]
BYTE_BY_BYTE = {
    "vocab": Vocabulary(enumerate(bytes([byte]) for byte in range(256))),
    "merges": [],
    "special_tokens": [],
    "ids": BEGINNINGS,
    "kind": 2,
}


def as_kind(ids, kind):
    """A list, an array of the usual or of the smallest type, or a generator."""
    if kind == 2:
        return iter(ids)
    if kind == 0 or min(ids, default=0) < 0:
        return list(ids)
    smallest = np.min_scalar_type(max(ids, default=0))
    return np.array(ids, dtype=smallest if kind == 3 else np.int64)


def decode(module, vocab, merges, special_tokens, ids, kind):
    made = module.Tokenizer(vocab, merges, special_tokens)
    return made.decode(as_kind(ids, kind))


def decode_stream(module, vocab, merges, special_tokens, ids, kind):
    """The text; for a generator, also how much of it had come out after each number of ids."""
    made = module.Tokenizer(vocab, merges, special_tokens)
    if kind != 2:
        pieces = list(made.decode_stream(as_kind(ids, kind)))
        return "".join(pieces), "" in pieces
    taken, last = [], []

    def counted(ids, into):
        for token_id in ids:
            into.append(token_id)
            yield token_id

    first, second = (
        made.decode_stream(counted(*each)) for each in ((ids, taken), (reversed(ids), last))
    )
    so_far, text, beside = {}, "", []
    for piece in first:
        text += piece
        so_far[len(taken)] = len(text)
        beside += [next(second, "")]
    return text, so_far, "".join(beside + list(second))


@st.composite
def streams(draw):
    """A vocabulary, and a text that comes in pieces."""
    special = draw(special_tokens)
    text = draw(texts(*special, *nearly(special), max_pieces=200))
    made = draw(vocabularies(text, special))
    least, most = draw(st.sampled_from([(1, 1), (0, 3), (1, 40)]))
    if same := draw(near_constants(st.just(0), 1, 5000)):
        least = most = same
    generator = random.Random(draw(st.integers(0, 999)))
    pieces, begin = [], 0
    while begin < len(text):
        size = generator.randint(least, most)
        pieces.append(text[begin : begin + size])
        begin += size
    return {**made, "pattern": draw(st.sampled_from([GPT2, GPT4])), "pieces": pieces}


def encode_stream(module, vocab, merges, special_tokens, pattern, pieces):
    """Two streams of one tokenizer, which are read in turns."""
    made = module.Tokenizer(vocab, merges, special_tokens, pattern)
    streams = made.encode_iterable(iter(pieces)), made.encode_iterable(reversed(pieces))
    ids = list(zip_longest(*streams))
    return [token_id for token_id, _ in ids], [token_id for _, token_id in ids]


# The handout's list in which a pair waits until the current merge is done, in words of any length.
LETTERS = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"abc", b"a"), (b"a", b"bc")]
KNOWN = dict.fromkeys([*(bytes([byte]) for byte in range(256)), *(a + b for a, b in LETTERS)])
WAITING = {"vocab": Vocabulary(enumerate(KNOWN)), "merges": LETTERS}
WAITING |= {"special_tokens": [], "pattern": GPT2}

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
        examples=[
            {
                "vocab": Vocabulary(enumerate(bytes([byte]) for byte in range(256))),
                "merges": [],
                "special_tokens": ["long" * 80],
                "pattern": GPT2,
            }
        ],
    ),
    Space(
        "a1.13",
        "tokenizer_bpe.tokenizer.Tokenizer.encode",
        with_texts(),
        call=encode,
        examples=[
            *({**WAITING, "texts": ["abcabc" * times]} for times in (1, 60, 100, 400)),
            {**WAITING, "pattern": GPT4, "texts": [" bc abc" * 1500]},  # longer than a block
        ],
    ),
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
    Space(
        "a1.14",
        "tokenizer_bpe.tokenizer.Tokenizer.decode",
        with_ids(),
        call=decode,
        examples=LARGEST_IDS,
        told=r"(?<=token id )-?\d+",
    ),
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
        examples=[*LARGEST_IDS, BYTE_BY_BYTE],
        told=r"(?<=token id )-?\d+",
    ),
]

test_as_the_reference, test_contracts = drawn_checks(TOKENIZER)
