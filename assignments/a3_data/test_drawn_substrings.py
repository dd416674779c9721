"""a3_data.15 and a3_data.16 on drawn inputs: the space of each graded function."""

import numpy as np
from hypothesis import strategies as st
from substring_oracle import prefixes_of, sorted_suffixes, spans_of

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "data_pipeline.substring_dedup."
numbers = st.one_of(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0, 2**40, 3, 9]))


def plain(result):
    return str(result.dtype), result.shape, result.tolist()


@st.composite
def ids(draw):
    drawn = draw(st.lists(st.one_of(numbers, st.just(-4)), max_size=30))
    kind = draw(st.integers(0, 4))
    if kind == 1:
        drawn = drawn * draw(st.integers(2, 4))
    elif kind == 2:
        drawn = drawn[:1] * draw(st.integers(1, 40))
    if size := draw(near_constants(st.just(0), 2, 400)):
        drawn = ((drawn or [1, 2]) * size)[:size]
    return np.array(drawn, dtype=np.int64)


def suffix_inputs(drawn):
    return {"ids": drawn, "suffixes": np.array(sorted_suffixes(drawn.tolist()), dtype=np.int64)}


def array_of(numbers):
    return np.array(numbers, dtype=np.int64)


@st.composite
def documents(draw):
    made = []
    for _ in range(draw(st.integers(0, 5))):
        each = draw(st.lists(numbers, max_size=14))
        if made and draw(st.booleans()):
            each = draw(st.sampled_from(made))
            place = draw(st.integers(0, len(each)))
            each = each[place:] + draw(st.lists(numbers, max_size=3)) + each[:place]
        made.append(each)
    if size := draw(near_constants(st.just(0), 2, 300)):
        made.append((draw(st.lists(numbers, min_size=1, max_size=7)) * size)[:size])
    if made and draw(st.integers(0, 9)) == 1:
        made[-1] = [*made[-1], -1]
    return made


def call_spans(module, documents, min_tokens, as_arrays):
    each = [array_of(document) for document in documents] if as_arrays else documents
    found = module.repeated_spans(each, min_tokens)
    return [[(int(start), int(end)) for start, end in of] for of in found]


def right_spans(documents, min_tokens, as_arrays):
    if min_tokens < 1:
        raise ValueError(f"{min_tokens}")
    for document in documents:
        if document and min(document) < 0:
            raise ValueError(f"{min(document)}")
    return spans_of(documents, min_tokens)


word = st.sampled_from(["a", "b", "c", "a", "b", "A", "a.", "東", "京都", "한국", "é", "e\u0301"])
blank = st.sampled_from([" ", " ", "\n\n", "\t", "\u3000", ""])
one_text = st.lists(st.tuples(word, blank), max_size=12).map(
    lambda pairs: "".join(word + blank for word, blank in pairs)
)


@st.composite
def texts(draw):
    made = []
    for _ in range(draw(st.integers(0, 4))):
        each = draw(st.sampled_from(["", " ", "\n"])) + draw(one_text)
        if made and draw(st.booleans()):
            each = draw(st.sampled_from(["", "c ", " "])) + made[-1] + each
        made.append(each)
    if size := draw(near_constants(st.just(0), 2, 300)):
        made.append("a b c d " * size)
    return made


SPACES = [
    Space(
        "a3_data.15",
        f"{NAME}suffix_array",
        arguments({"ids": ids()}),
        view=plain,
        oracle=lambda ids: array_of(sorted_suffixes(ids.tolist())),
        draws=60,
    ),
    Space(
        "a3_data.15",
        f"{NAME}longest_common_prefixes",
        ids().map(suffix_inputs),
        view=plain,
        oracle=lambda ids, suffixes: array_of(prefixes_of(ids.tolist(), suffixes.tolist())),
        draws=60,
    ),
    Space(
        "a3_data.16",
        f"{NAME}repeated_spans",
        arguments(
            {
                "documents": documents(),
                "min_tokens": near_constants(st.sampled_from([2, 1, 3, 2, 4, 7, 0]), 0, 300),
                "as_arrays": st.booleans(),
            }
        ),
        call=call_spans,
        oracle=right_spans,
        draws=70,
    ),
    Space(
        "a3_data.16",
        f"{NAME}drop_repeated_spans",
        arguments({"texts": texts(), "min_words": st.integers(1, 4)}),
        draws=60,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
