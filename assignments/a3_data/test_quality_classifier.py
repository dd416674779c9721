"""a3_data.5: what a learned filter reads, and where its threshold is."""

from hashlib import sha256

import pytest
from labelling_models import LineModel

MODULE = "data_pipeline.quality_classifier"


@pytest.mark.task("a3_data.5")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Page 12\nLog_in: __label__good!", "page 0 log _ in : _ _ label _ _ good !"),
        ("3.14 x2 2x ١٢ 007", "0 . 0 x 0 0 x 0 0"),
        ("Don't…  \t(ÉTÉ)\r\n한국어, ²", "don ' t … ( été ) 한국어 , ²"),
        (" \n\u00a0", ""),
        ("", ""),
        ("a\ud800b", "a ? b"),
    ],
    ids=["lines", "numbers", "signs", "blank", "empty", "not-utf8"],
)
def test_the_line_of_a_text(implementation, a3_data, text, expected):
    causes = {
        "one line: white space of any kind becomes one space": (
            lambda got: isinstance(got, str) and ("\n" in got or "  " in got)
        ),
        "a label in the text must not stay one: _ stands alone": lambda got: "__label__" in got,
        "each number becomes one 0": lambda got: any(c in "123456789" for c in got) or "00" in got,
        "lower case": lambda got: got.lower() == expected != got,
        "other characters stand apart, with spaces around": (
            lambda got: "".join(got.split()) == "".join(expected.split())
        ),
    }
    got = implementation(MODULE).prepare_text(text)
    a3_data.expect(got, expected, f"prepare_text({text!r})", causes)


@pytest.mark.task("a3_data.5")
def test_the_first_characters_are_read(implementation, a3_data):
    prepare_text = implementation(MODULE).prepare_text
    for text, most, expected in [
        ("one, two", 3, "one"),
        ("one, two", 4, "one ,"),
        ("É1!", 2, "é 0"),
        ("İİx", 2, "i \u0307 i \u0307"),
    ]:
        causes = {
            "the characters of the text are counted, not those of the result": (
                lambda got, most=most: len(got) == most
            ),
            "take the first characters before lower(), which makes two of İ": (
                lambda got: got.startswith("i \u0307")
            ),
        }
        got = prepare_text(text, most)
        a3_data.expect(got, expected, f"prepare_text({text!r}, {most})", causes)
    a3_data.expect(len(prepare_text("a" * 20_001)), 20_000, "the length for 20,001 letters")


EXAMPLES = [("Good text.", "wiki"), ("BUY now", "cc"), ("More good", "wiki"), ("\n", "wiki"),
            ("buy 100", "cc"), ("buy 7", "cc")]  # fmt: skip
LINES = ["__label__wiki good text .", "__label__cc buy now", "__label__wiki more good",
         "__label__cc buy 0", "__label__cc buy 0"]  # fmt: skip


def in_order(lines, seed):
    return sorted(lines, key=lambda line: sha256(f"{seed}\n{line}".encode()).digest())


@pytest.mark.task("a3_data.5")
@pytest.mark.parametrize("seed", [0, 7])
def test_the_lines_of_training(implementation, a3_data, seed):
    module = implementation(MODULE)
    expected = in_order(LINES, seed)
    causes = {
        "the order is that of the SHA-256 of the seed and the line": (
            lambda got: sorted(got) == sorted(expected)
        ),
        "a text without words is left out": lambda got: len(got) == 6,
        "equal lines are kept: they are two texts": lambda got: len(got) == 4,
        "each line begins with __label__, the label and a space": (
            lambda got: not all(line.startswith(("__label__wiki ", "__label__cc ")) for line in got)
        ),
    }
    for examples in (EXAMPLES, EXAMPLES[::-1]):
        got = module.training_lines(examples, module.TrainingSettings(seed=seed))
        a3_data.expect(got, expected, f"training_lines(..., seed={seed})", causes)


@pytest.mark.task("a3_data.5")
def test_the_lines_read_as_many_characters_as_the_settings_say(implementation, a3_data):
    module = implementation(MODULE)
    settings = module.TrainingSettings(max_characters=4)
    got = module.training_lines(EXAMPLES, settings)
    short = ["__label__wiki good", "__label__cc buy", "__label__wiki more"] + [
        "__label__cc buy"
    ] * 2
    causes = {"max_characters is a setting": in_order(LINES, 0)}
    a3_data.expect(got, in_order(short, 0), f"training_lines(..., {settings})", causes)


@pytest.mark.task("a3_data.5")
@pytest.mark.parametrize(
    ("examples", "named"),
    [
        ([("a", "good"), ("b", "good")], []),
        ([], []),
        ([("a", "good"), ("b", "good"), ("c", "poor")], ["poor"]),
        ([("a", "good"), ("b", "good"), ("c", "poor"), (" ", "poor")], ["poor"]),
        ([("a", "good"), ("b", "good"), ("c", "so so"), ("d", "so so")], ["so so"]),
        ([("a", "good"), ("b", "good"), ("c", ""), ("d", "")], []),
        ([("a", "good"), ("b", "good"), ("c", "so "), ("d", "so ")], ["so"]),
        ([("a", "good"), ("b", "good"), ("c", "\u3000so"), ("d", "\u3000so")], ["so"]),
    ],
    ids=["one-label", "none", "one-text", "one-with-words", "two-words", "no-label",
         "blank-behind", "blank-before"],
)  # fmt: skip
def test_examples_that_are_refused(implementation, a3_data, examples, named):
    module = implementation(MODULE)
    settings = module.TrainingSettings()
    what = f"training_lines({examples})"
    a3_data.raises(ValueError, lambda: module.training_lines(examples, settings), what, named)


@pytest.mark.task("a3_data.5")
@pytest.mark.parametrize("label", ["wiki", "cc", "news", "absent", "iki", "non-wiki"])
def test_the_probability_of_a_label(implementation, a3_data, label):
    model = LineModel(["wiki", "non-wiki", "wikinews", "cc", "news"])
    text = "Two lines\nof TEXT"
    line = "two lines of text"
    expected = model.number(line, label) if label in model.words else 0.0
    causes = {
        "predict returns only the most probable label, unless k is -1": 0.0,
        "give the model the text as in training: prepare_text": model.number(text, label),
        "this is the probability of another label, perhaps of one that ends or begins alike": (
            lambda got: float(got) in [model.number(line, each) for each in model.words]
        ),
    }
    got = implementation(MODULE).label_probability(model, text, label)
    a3_data.close(got, expected, 1e-12, 0, f"label_probability(model, {text!r}, {label!r})", causes)


@pytest.mark.task("a3_data.5")
def test_probabilities_are_from_0_to_1(implementation, a3_data):
    module = implementation(MODULE)
    for number, expected in [(1.00003, 1.0), (-0.1, 0.0), (0.0, 0.0), (1.0, 1.0), (0.25, 0.25)]:
        a3_data.close(module.clamped(number), expected, 0, 0, f"clamped({number})")
    model = LineModel(["wiki", "cc"], largest=1e9)
    got = module.label_probability(model, "some words", "cc")
    causes = {"fastText's probabilities can be above 1": model.number("some words", "cc")}
    a3_data.close(got, 1.0, 0, 0, "label_probability for a model that says more than 1", causes)
    got = module.label_probability(model, " \n", "cc")
    causes = {"a text without words has the probability 0, whatever the model says": 1.0}
    a3_data.close(got, 0.0, 0, 0, "label_probability of a text without words", causes)


GOOD = [True, True, False, True, False]
PROBABILITIES = [0.9, 0.8, 0.8, 0.3, 0.1]


@pytest.mark.task("a3_data.5")
@pytest.mark.parametrize(
    ("wanted", "expected", "likely"),
    [
        ({"precision": 0.7}, 0.3, "the best recall is wanted, so the lowest threshold that does"),
        ({"precision": 0.75}, 0.3, "the wanted figure itself is reached"),
        ({"precision": 1.0}, 0.9, "texts with equal probabilities are kept together"),
        ({"precision": 0.0}, 0.3, "0.0 is a wish, too; of equal recalls, the highest threshold"),
        ({"recall": 0.3}, 0.9, "the best precision is wanted"),
        ({"recall": 0.5}, 0.3, "the best precision: it is 2/3 at 0.8, and 3/4 at 0.3"),
        ({"recall": 1.0}, 0.3, "all good texts are kept from 0.3 on"),
    ],
    ids=["precision-0.7", "precision-0.75", "precision-1", "precision-0", "recall-0.3",
         "recall-0.5", "recall-1"],
)  # fmt: skip
def test_the_threshold(implementation, a3_data, wanted, expected, likely):
    got = implementation(MODULE).pick_threshold(PROBABILITIES, GOOD, **wanted)
    what = f"pick_threshold({PROBABILITIES}, {GOOD}, {wanted})"
    a3_data.close(got, expected, 0, 0, what, {likely: lambda got: True})


@pytest.mark.task("a3_data.5")
def test_thresholds_that_are_refused(implementation, a3_data):
    pick = implementation(MODULE).pick_threshold
    for probabilities, good, wanted, what in [
        ([0.9], [True], {}, "neither precision nor recall"),
        ([0.9], [True], {"precision": 0.5, "recall": 0.5}, "both precision and recall"),
        ([0.9], [True], {"precision": 0.0, "recall": 0.0}, "both, as 0"),
        ([0.9, 0.1], [False, False], {"recall": 0.5}, "no good text"),
        ([], [], {"recall": 0.5}, "no text"),
        ([0.9, 0.1], [False, True], {"precision": 0.9}, "a precision that no threshold reaches"),
        ([0.9, 0.1], [True, True], {"precision": float("nan")}, "a precision that is NaN"),
        ([0.9, 0.1], [True, True], {"recall": float("nan")}, "a recall that is NaN"),
    ]:
        a3_data.raises(
            ValueError, lambda p=probabilities, g=good, w=wanted: pick(p, g, **w),
            f"pick_threshold: {what}",
        )  # fmt: skip
