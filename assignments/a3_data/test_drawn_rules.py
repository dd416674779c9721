"""a3_data.3 and a3_data.4 on drawn inputs: the space of each graded function."""

from collections import Counter

from hypothesis import strategies as st
from rule_pages import BOUNDS, REPETITION_BOUNDS, duplicate_share, top_share

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within

NAME = "data_pipeline.quality_rules."
BLANKS = [" ", " ", " ", "\n", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\x0b", "\u3000", " \n \n"]
PARTS = [
    "the", "The", "be", "to", "of", "and", "that", "have", "with", "the,", "there", "word",
    "extraordinarily", "12", "3.5", "--", "x2", "한국어", "é", "ß", "١", "²", "#", "#a", "...",
    "....", "......", "…", "end...", "end…", "end.", "end!", "end?", "end:", "(end)",
    'end."', "end”", "-", "- a", "*", "•", "‣",
    "◦", "–", "·", "+", "lorem ipsum", "Lorem Ipsum", "{", "{}", "\U0001f600",
]  # fmt: skip
parts = st.sampled_from(PARTS)
words = st.one_of(parts, texts_of_code(parts)).map(lambda part: "".join(part.split()))
few_words = st.sampled_from(["a", "a", "b", "ab", "bb", "東"])  # joined, some n-grams look alike


def close(value):
    return Within(float(value), 1e-9, 1e-12)


def both_close(values):
    return [close(value) for value in values]


@st.composite
def lines(draw):
    """Lines as TextStatistics makes them: with text, without blanks around it."""
    line = st.lists(st.one_of(parts, texts_of_code(parts)), min_size=1, max_size=3)
    drawn = [" ".join(each).strip() for each in draw(st.lists(line, max_size=8))]
    return [each for each in drawn if each] * draw(near_constants(st.integers(1, 2), 1, 300))


@st.composite
def texts(draw):
    piece = st.one_of(parts, parts, st.sampled_from(BLANKS), texts_of_code(parts))
    return "".join(draw(st.lists(piece, max_size=16)))


@st.composite
def counts(draw):
    return Counter(draw(st.dictionaries(words.filter(bool), st.integers(1, 9), max_size=8)))


@st.composite
def pages(draw, bounds):
    """Pages at the bounds of the rules, changed a little, and lines drawn one by one."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        line = st.lists(parts, min_size=1, max_size=12).map(" ".join)
        page = "\n".join(draw(st.lists(line, max_size=10)))
        return " ".join([page] * draw(near_constants(st.integers(1, 4), 1, 40)))
    page = draw(st.sampled_from([side for each in bounds for side in each if len(side) < 9000]))
    if kind == 1:
        return page
    change = draw(st.one_of(parts, st.sampled_from(BLANKS)))
    place = draw(st.sampled_from([0, len(page), len(page) // 2]))
    return page[:place] + draw(st.sampled_from([" ", "\n", ""])) + change + page[place:]


def first_failed_rule(module, text, **settings):
    return module.first_failed_rule(text, module.QualitySettings(**settings))


tenths = st.integers(0, 10).map(lambda tenth: tenth / 10)
QUALITY = [
    Space(
        "a3_data.3",
        f"{NAME}mean_word_length",
        arguments({"words": st.lists(words, max_size=10)}),
        view=float,
    ),
    Space(
        "a3_data.3",
        f"{NAME}symbols_per_word",
        arguments({"text": texts(), "num_words": near_constants(st.integers(0, 6), 0, 10**6)}),
        view=float,
    ),
    *[
        Space("a3_data.3", f"{NAME}{share}_line_share", arguments({"lines": lines()}), view=float)
        for share in ("bullet", "ellipsis", "sentence")
    ],
    Space(
        "a3_data.3",
        f"{NAME}alphabetic_word_share",
        arguments({"word_counts": counts()}),
        view=float,
    ),
    Space(
        "a3_data.3",
        f"{NAME}stop_words_found",
        arguments({"lower_text": texts().map(str.lower)}),
    ),
    Space(
        "a3_data.3",
        f"{NAME}first_failed_rule",
        arguments(
            {
                "text": texts(),
                "min_words": st.integers(0, 5),
                "max_words": st.integers(3, 9),
                "min_mean_word_length": st.sampled_from([0.0, 1.0, 2.0, 3.0]),
                "max_mean_word_length": st.sampled_from([3.0, 5.0, 10.0]),
                "max_symbol_share": tenths,
                "max_bullet_line_share": tenths,
                "max_ellipsis_line_share": tenths,
                "min_alphabetic_share": tenths,
                "min_stop_words": st.integers(0, 3),
                "min_terminal_line_share": tenths,
                "max_curly_brackets_per_word": tenths,
            }
        ),
        call=first_failed_rule,
        draws=70,
    ),
    Space(
        "a3_data.3",
        f"{NAME}passes_gopher",
        arguments({"text": pages([each[:2] for each in BOUNDS.values()])}),
        draws=50,
    ),
]

repeated = st.lists(few_words, max_size=9).flatmap(
    lambda drawn: st.sampled_from([drawn, drawn + drawn, [*drawn, "x", *drawn, "y", *drawn[2:]]])
)
ngrams = arguments(
    {"words": st.one_of(repeated, repeated, st.lists(words, max_size=12),
                        st.lists(st.sampled_from("ab"), max_size=9)),
     "n": near_constants(st.integers(1, 6), 1, 40)}
)  # fmt: skip
REPETITION = [
    Space(
        "a3_data.4",
        f"{NAME}duplicate_shares",
        arguments({"pieces": st.one_of(repeated, lines())}),
        view=both_close,
    ),
    Space(
        "a3_data.4",
        f"{NAME}top_ngram_character_share",
        ngrams,
        view=close,
        oracle=top_share,
        draws=60,
    ),
    Space(
        "a3_data.4",
        f"{NAME}duplicate_ngram_character_share",
        ngrams,
        view=close,
        oracle=duplicate_share,
        draws=60,
    ),
    Space(
        "a3_data.4",
        f"{NAME}passes_gopher_repetition",
        arguments({"text": pages(REPETITION_BOUNDS.values())}),
    ),
]

test_as_the_reference, test_contracts = drawn_checks([*QUALITY, *REPETITION])
