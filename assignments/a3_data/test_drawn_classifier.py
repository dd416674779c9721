"""a3_data.5 on drawn inputs: the space of each graded function."""

from hypothesis import strategies as st
from labelling_models import LineModel
from text_strategies import texts

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within

NAME = "data_pipeline.quality_classifier."
PIECES = ["word", "Word", " ", " ", "\n", "12", "3", "_", "__label__", "__label__wiki", ".", "…",
          "é", "É", "İ", "한국", "٣", "\u0301", "\t", "-", "a1b", "\U0001f600",
          "\x00"]  # fmt: skip
lone = st.sampled_from([*PIECES, *PIECES, "\ud800", "\udfff"])
readable = st.one_of(texts(), st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
any_text = st.one_of(readable, st.lists(lone, max_size=10).map("".join))
limits = near_constants(st.integers(1, 12), 1, 30_000)
labels = st.sampled_from(["wiki", "wiki", "wiki", "cc", "cc", "cc", "news", "한국"])
rare_labels = st.sampled_from(["", "two words", "wiki\n", " cc"])
some_texts = st.sampled_from(["Good text.", "buy 7", "buy 100", "a b c", "More", " ", "\n"])


def exact(value):
    return Within(float(value), 1e-12, 1e-12)


@st.composite
def examples(draw):
    each = st.tuples(st.one_of(some_texts, some_texts, readable), labels)
    drawn = draw(st.lists(each, max_size=12))
    if drawn and draw(st.integers(0, 9)) == 1:
        rare = draw(rare_labels)
        drawn += [("Good text.", rare), ("a b c", rare)]
    return drawn


def training_lines(module, examples, seed, max_characters):
    settings = module.TrainingSettings(seed=seed, max_characters=max_characters)
    return module.training_lines(examples, settings)


def label_probability(module, text, given, label, largest, max_characters):
    model = LineModel(given, largest)
    return module.label_probability(model, text, label, max_characters)


@st.composite
def held_out(draw):
    number = st.one_of(st.sampled_from([0.1, 0.5, 0.5, 0.9]), st.floats(0, 1))
    count = draw(near_constants(st.integers(1, 9), 0, 300))
    probabilities = draw(st.lists(number, min_size=min(count, 9), max_size=min(count, 9)))
    probabilities = (probabilities * (count // 9 + 1))[:count]
    good = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    wanted = st.sampled_from([0.0, 0.25, 0.5, 2 / 3, 0.75, 0.9, 1.0])
    precision, recall = draw(
        st.one_of(
            st.tuples(wanted, st.none()),
            st.tuples(st.none(), wanted),
            st.tuples(st.none(), wanted),
            st.tuples(wanted, st.none()),
            st.sampled_from([(None, None), (0.5, 0.5), (0.0, 0.0)]),
        )
    )
    return {
        "probabilities": probabilities,
        "is_good": good,
        "precision": precision,
        "recall": recall,
    }


SPACES = [
    Space(
        "a3_data.5",
        f"{NAME}prepare_text",
        arguments({"text": any_text, "max_characters": limits}),
        draws=90,
    ),
    Space(
        "a3_data.5",
        f"{NAME}training_lines",
        arguments(
            {
                "examples": examples(),
                "seed": st.integers(0, 3),
                "max_characters": near_constants(st.integers(1, 30), 1, 30_000),
            }
        ),
        call=training_lines,
        draws=60,
    ),
    Space(
        "a3_data.5",
        f"{NAME}label_probability",
        arguments(
            {
                "text": st.one_of(readable, some_texts),
                "given": st.sampled_from(
                    [
                        ["wiki", "cc"],
                        ["cc"],
                        ["non-cc", "cc", "ccc", "a"],
                        ["a", "wiki", "non-wiki"],
                    ]
                ),
                "label": st.sampled_from(["wiki", "cc", "cc", "wiki", "c", "a"]),
                "largest": st.sampled_from([1.0, 1.0, 1.5]),
                "max_characters": limits,
            }
        ),
        call=label_probability,
        view=exact,
    ),
    Space(
        "a3_data.5",
        f"{NAME}clamped",
        arguments({"probability": st.floats(-2, 3)}),
    ),
    Space("a3_data.5", f"{NAME}pick_threshold", held_out(), view=exact, draws=70),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
