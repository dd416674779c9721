"""a3_data.17 on drawn inputs: the space of each graded function."""

import numpy as np
from hypothesis import strategies as st
from text_strategies import few_forms, one_in, texts

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments

NAME = "data_pipeline.decontamination."
FORMS = ["a", "b", "c", "A", "b,", "C.", "é", "E\u0301", "ﬁ", "FI", "ß", "ss", "東", "京都",
         "a\u00adb", "½", "—", "\ufffd", "a\ud800b"]  # fmt: skip
blanks = st.sampled_from([" ", " ", " ", "\n", "  ", "\u00a0", "-"])


def plain(result):
    return str(result.dtype), result.shape, result.tolist()


@st.composite
def sentences(draw, most=14):
    words = draw(st.lists(st.sampled_from(FORMS), max_size=most))
    text = "".join(word + draw(blanks) for word in words)
    if size := draw(near_constants(st.just(0), 2, 3000)):
        text = ("a b c b " + text) * (1 + size // 4)
    return text


@st.composite
def searches(draw):
    """A few sets, and documents of which some contain a part of an item."""
    names = ["set", "second"][: draw(st.integers(1, 2))]
    sets = {name: draw(st.lists(sentences(), max_size=4)) for name in names}
    items = [item for each in sets.values() for item in each]
    documents = [draw(sentences())]
    for item in items[:2]:
        start, end = sorted(draw(st.integers(0, len(item))) for _ in range(2))
        part = draw(st.sampled_from([item, item[start:end], item[::-1]]))
        part = draw(st.sampled_from([part, part.upper(), part.replace(" ", "; ")]))
        documents.append(draw(sentences(4)) + part + draw(sentences(4)))
    ngram_words = draw(st.sampled_from([1, 2, 2, 3, 3, 4, 6]))
    return {
        "sets": draw(one_in(15, st.just({}), st.just(sets))),
        "documents": documents,
        "ngram_words": ngram_words,
        "min_item_words": draw(st.integers(1, ngram_words)),
    }


def call_index(module, sets, documents, ngram_words, min_item_words):
    """Return the words and n-grams of the items, and the hits of each document."""
    settings = module.DecontaminationSettings(
        ngram_words=ngram_words, min_item_words=min_item_words
    )
    index = module.EvaluationIndex(sets, settings)
    lengths = {name: [len(each) for each in items] for name, items in index.ngrams.items()}
    words = {name: [list(each) for each in items] for name, items in index.words.items()}
    numbers: dict[int, int] = {}  # an n-gram's hash -> its number in the order of appearance
    hits = [
        [(numbers.setdefault(int(n), len(numbers)), int(start), int(end))
         for n, start, end in index.contaminations(text)]
        for text in documents
    ]  # fmt: skip
    of_items = {
        name: [[int(each) in numbers for each in item] for item in items]
        for name, items in index.ngrams.items()
    }
    return words, lengths, hits, of_items


def hits_from(module, numbers):
    return [module.Hit(*each) for each in numbers]


hit_numbers = st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(1, 12)).map(
    lambda each: (each[0], each[1], each[1] + each[2])
)


def common_ngrams(module, documents, max_documents):
    return module.common_ngrams(
        iter([hits_from(module, each) for each in documents]), max_documents
    )


@st.composite
def documents_to_cut(draw):
    text = "".join(
        draw(st.lists(st.sampled_from(["word", " ", "x", "\n", ". ", "é"]), max_size=24))
    )
    size = max(1, len(text))
    drawn = draw(st.lists(hit_numbers, max_size=4))
    hits = [(n, start % size, min(start % size + end - start, size)) for n, start, end in drawn]
    return {
        "text": text,
        "hits": [
            (n, start % size, min(start % size + end - start, size)) for n, start, end in hits
        ],
        "common": draw(st.sets(st.integers(0, 5), max_size=2)),
        "action": draw(st.sampled_from(["cut", "cut", "cut", "drop"])),
        "cut_characters": draw(near_constants(st.integers(0, 6), 0, 500)),
        "max_pieces": draw(st.sampled_from([1, 2, 3, 10])),
        "min_piece_characters": draw(near_constants(st.integers(1, 5), 1, 500)),
    }


def clean_pieces(module, text, hits, common, **settings):
    settings = module.DecontaminationSettings(**settings)
    return module.clean_pieces(text, hits_from(module, hits), common, settings)


SPACES = [
    Space(
        "a3_data.17",
        f"{NAME}normalized_words",
        arguments({"text": st.one_of(texts(), sentences(), few_forms)}),
        draws=70,
    ),
    Space(
        "a3_data.17",
        f"{NAME}ngram_hashes",
        arguments(
            {
                "word_hashes": st.lists(
                    st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)), max_size=12
                ).map(lambda each: np.array(each, dtype=np.uint64)),
                "length": near_constants(st.integers(1, 14), 1, 500),
            }
        ),
        view=plain,
    ),
    Space(
        "a3_data.17", f"{NAME}EvaluationIndex.__init__", searches(), call=call_index, draws=50
    ),
    Space(
        "a3_data.17", f"{NAME}EvaluationIndex.contaminations", searches(), call=call_index, draws=50
    ),
    Space(
        "a3_data.17",
        f"{NAME}common_ngrams",
        arguments(
            {
                "documents": st.lists(st.lists(hit_numbers, max_size=6), max_size=8),
                "max_documents": near_constants(st.integers(1, 4), 1, 500),
            }
        ),
        call=common_ngrams,
    ),
    Space(
        "a3_data.17", f"{NAME}clean_pieces", documents_to_cut(), call=clean_pieces, draws=70
    ),
]  # fmt: skip

test_as_the_reference, test_contracts = drawn_checks(SPACES)
