"""a1 on drawn inputs: the space of each graded function. So far a1.2 to a1.4 have one."""

from hypothesis import strategies as st

from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

# Tokens with every byte, 0 and 255 among them, and many that begin alike.
alike = st.lists(st.sampled_from([b"a", b"b", b"\0", b"\xff"]), min_size=1, max_size=9).map(
    b"".join
)
tokens = st.one_of(alike, st.binary(min_size=1, max_size=6))
words = st.lists(tokens, max_size=40).map(tuple)
pairs = st.tuples(tokens, tokens)


@st.composite
def words_with_a_pair(draw):
    """A word, and a pair that it often contains."""
    word = draw(words)
    starts = range(len(word) - 1)
    place = draw(st.sampled_from(starts)) if starts and draw(st.booleans()) else None
    return {"word": word, "pair": draw(pairs) if place is None else word[place : place + 2]}


@st.composite
def counted_pairs(draw):
    """Pairs and counts, with many ties; some pairs differ only in how a token ends."""
    found = draw(st.dictionaries(pairs, st.integers(1, 2), min_size=1, max_size=12))
    left, right = draw(pairs)
    endings = st.sampled_from([b"", b"\0", b"a", b"\xff", b"\0\0"])
    for _ in range(draw(st.integers(0, 4))):
        found[left + draw(endings), right + draw(endings)] = 2
    return found


SPACES = [
    Space(
        "a1.2",
        "tokenizer_bpe.naive_training.count_pairs",
        arguments({"words": st.dictionaries(words, st.integers(1, 10**12), max_size=8)}),
        view=dict,
    ),
    Space("a1.3", "tokenizer_bpe.naive_training.merge_pair", words_with_a_pair()),
    Space("a1.4", "tokenizer_bpe.naive_training.best_pair", arguments({"pairs": counted_pairs()})),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
