"""The classifiers: one line for each text, the same bytes twice, labels that do not leak,
thresholds with ties, and the built-in models on texts that are not theirs.
"""

import re

import pytest

from data_pipeline.quality_classifier import (
    ClassifierSettings,
    HarmfulSettings,
    TrainingSettings,
    classify_harmful,
    classify_quality,
    failed_harmful_rule,
    failed_quality_rule,
    fit,
    label_probability,
    pick_threshold,
    prepare_text,
    train_classifier,
    training_lines,
)

SETTINGS = TrainingSettings(epochs=5, dimensions=4, buckets=1000)
EXAMPLES = [
    *[(f"The river rises in the hills and flows to the lake {name}.", "wiki") for name in "abcdef"],
    *[(f"Buy now! Free {name} | Login | Cart", "cc") for name in "abcdef"],
]
REFERENCE = (
    "The Treaty of Tordesillas divided the newly discovered lands outside Europe between the "
    "Portuguese Empire and the Crown of Castile, along a meridian 370 leagues west of the islands."
)
FORUM = (
    "Gardening Forum :: View topic - tomatoes\nFAQ Search Memberlist Register Log in\n"
    "Hi guys, does anybody know a good tomato?? thanks!!\nPosted: Mon May 5, 2008\n"
    "You cannot post new topics in this forum\nPowered by phpBB"
)


@pytest.fixture(scope="module")
def model():
    return fit(EXAMPLES, SETTINGS)


@pytest.fixture(autouse=True)
def _no_models_of_the_user(monkeypatch):
    for name in ("LM_QUALITY_MODEL", "LM_ADULT_MODEL", "LM_TOXIC_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Page 12\nLog_in: __label__good!", "page 0 log _ in : _ _ label _ _ good !"),
        ("3.14 1,000,000 x86", "0 . 0 0 , 0 , 0 x 0"),
        ("a\r\n\tb\u2028c\x0bd\u00a0e", "a b c d e"),
        ("Don't", "don ' t"),
        ("Größe 한국어", "größe 한국어"),
        ("\ud800", "?"),
        (" \n ", ""),
    ],
)
def test_a_text_becomes_one_line(text, line):
    assert prepare_text(text) == line


def test_only_the_beginning_is_read():
    assert prepare_text("one two three", max_characters=7) == "one two"


def test_the_same_bytes_twice_and_in_any_order(tmp_path):
    train_classifier(EXAMPLES, tmp_path / "first", SETTINGS)
    train_classifier(EXAMPLES[::-1], tmp_path / "second", SETTINGS)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    train_classifier(EXAMPLES, tmp_path / "third", SETTINGS.model_copy(update={"seed": 1}))
    assert (tmp_path / "first").read_bytes() != (tmp_path / "third").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "third"}


def test_labels_are_mixed_in_the_training_file():
    labels = [line.split()[0] for line in training_lines(EXAMPLES, SETTINGS)]
    assert sorted(labels) == sorted(f"__label__{label}" for _, label in EXAMPLES)
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_a_label_inside_a_text_is_text(model):
    lines = training_lines([("__label__cc __label__new", "wiki"), *EXAMPLES], SETTINGS)
    assert all(line.count("__label__") == 1 for line in lines)
    poor = label_probability(model, "Buy now! Free shoes | Login | Cart", "wiki")
    named = label_probability(model, "__label__wiki Buy now! Free shoes | Login | Cart", "wiki")
    assert max(poor, named) < 0.5


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "at least two labels, found 0"),
        ([("a text", "wiki"), ("another", "wiki")], "at least two labels, found 1"),
        ([*EXAMPLES[:6], ("one", "cc")], "label cc: 1 texts with words, expected at least 2"),
        ([*EXAMPLES[:6], (" ", "cc"), ("one", "cc")], "label cc: 1 texts"),
        ([("a", "two words"), ("b", "cc")], "label 'two words': expected one word"),
    ],
)
def test_too_few_examples_leave_no_file(tmp_path, examples, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train_classifier(examples, tmp_path / "model", SETTINGS)
    assert not list(tmp_path.iterdir())


def test_probabilities(model):
    text = "The river flows to the lake."
    assert label_probability(model, text, "wiki") > 0.5 > label_probability(model, text, "cc")
    assert label_probability(model, text, "other") == 0
    assert label_probability(model, "\n", "wiki") == 0
    assert 0 < label_probability(model, "1234 5678", "wiki") < 1
    assert label_probability(model, text.replace(" ", "\n"), "wiki") == label_probability(
        model, text, "wiki"
    )


def test_probabilities_above_one_are_clamped():
    class Overflowing:
        def predict(self, line, k):
            return ("__label__wiki", "__label__cc"), (1.00003, -0.00003)

    assert label_probability(Overflowing(), "text", "wiki") == 1
    assert label_probability(Overflowing(), "text", "cc") == 0


def test_quality_without_a_model():
    assert classify_quality(REFERENCE)[0] == "wiki"
    assert classify_quality(FORUM)[0] == "cc"
    assert classify_quality("") == ("cc", 1.0)
    label, probability = classify_quality("1234 5678")
    assert label in ("wiki", "cc")
    assert 0.5 <= probability <= 1


@pytest.mark.parametrize(
    ("kind", "text", "harmful"),
    [
        ("adult", "Watch the hottest nude girls on our free xxx site", True),
        ("adult", "SUCK MY COCK, admins, and fuck this page", True),
        ("adult", "The clinic offers advice on sexual health and contraception.", False),
        ("adult", "The assassin of Essex passed the analysis class.", False),
        ("toxic", "Hey, why did you revert my edits, you stupid piece of crap?", True),
        ("toxic", "I will hunt you down and kill you", True),
        ("toxic", "Why were my edits reverted? Please explain it on the talk page.", False),
        ("toxic", "Kill the process with SIGKILL; the parent learns that the child died.", False),
        ("toxic", "The police said that the man had threatened to kill his wife.", False),
        ("adult", "", False),
        ("toxic", "12", False),
    ],
)
def test_harmful_without_a_model(kind, text, harmful):
    answer, probability = classify_harmful(text, kind)
    assert answer is harmful
    assert 0.5 <= probability <= 1


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"kind 'rude': expected one of adult, toxic"):
        classify_harmful("text", "rude")


def test_the_variable_names_another_model(monkeypatch, tmp_path):
    path = tmp_path / "model.bin"
    swapped = [(text, "cc" if label == "wiki" else "wiki") for text, label in EXAMPLES]
    train_classifier(swapped, path, SETTINGS)
    monkeypatch.setenv("LM_QUALITY_MODEL", str(path))
    assert classify_quality("The river flows to the lake.")[0] == "cc"
    train_classifier(EXAMPLES, path, SETTINGS)  # a file that changes is read again
    assert classify_quality("The river flows to the lake.")[0] == "wiki"
    monkeypatch.setenv("LM_TOXIC_MODEL", str(path))
    with pytest.raises(ValueError, match=r"labels non-toxic, toxic, found cc, wiki"):
        classify_harmful("text", "toxic")
    monkeypatch.setenv("LM_QUALITY_MODEL", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=r"LM_QUALITY_MODEL=.*missing: no such file"):
        classify_quality("text")


def test_rules_name_their_reason(model):
    settings = ClassifierSettings(threshold=0.5)
    assert failed_quality_rule(model, "The river flows to the lake.", settings) is None
    assert failed_quality_rule(model, "Buy now! Login | Cart", settings) == "low quality"
    assert failed_quality_rule(model, "", settings) == "low quality"
    insult = "You are a stupid idiot"
    assert failed_harmful_rule(insult, HarmfulSettings()) is None
    assert failed_harmful_rule(insult, HarmfulSettings(kinds=["adult", "toxic"])) == "toxic"
    assert failed_harmful_rule(insult, HarmfulSettings(kinds=["toxic"], max_probability=1)) is None


@pytest.mark.parametrize(
    ("probabilities", "is_good", "wanted", "threshold"),
    [
        ([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0], {"precision": 1.0}, 0.8),
        ([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0], {"recall": 1.0}, 0.8),
        ([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 1], {"precision": 0.7}, 0.3),  # 1/1, 2/3, 3/4
        ([0.9, 0.8, 0.8, 0.3], [1, 0, 1, 0], {"recall": 0.8}, 0.8),  # both of 0.8, or none
        ([0.3, 0.8, 0.8, 0.9], [0, 1, 0, 1], {"recall": 0.8}, 0.8),  # whatever their order
        ([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0], {"recall": 0.5}, 0.9),  # equal precision: the highest
        ([0.9, 0.5, 0.4], [1, 0, 0], {"precision": 0.3}, 0.9),  # equal recall: the highest
        ([0.5, 0.5, 0.5], [1, 1, 0], {"precision": 0.6}, 0.5),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], {"recall": 0.6}, 0.6),  # 2/3 at 0.7, 3/4 at 0.6
        ([0.2], [1], {"recall": 0.0}, 0.2),
    ],
)
def test_thresholds(probabilities, is_good, wanted, threshold):
    assert pick_threshold(probabilities, list(map(bool, is_good)), **wanted) == threshold


@pytest.mark.parametrize(
    ("is_good", "wanted", "message"),
    [
        ([True, False], {}, "the wanted precision or the wanted recall"),
        ([True, False], {"precision": 0.5, "recall": 0.5}, "the wanted precision or"),
        ([False, False], {"recall": 0.5}, "found none"),
        ([True, False], {"precision": 0.6}, "reaches a precision of 0.6; the highest is 0.500"),
    ],
)
def test_a_threshold_that_cannot_be_had(is_good, wanted, message):
    with pytest.raises(ValueError, match=message):
        pick_threshold([0.5, 0.5], is_good, **wanted)
