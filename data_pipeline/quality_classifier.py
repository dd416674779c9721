"""Classifiers of text, trained here with fastText: is a page worth training on, is it harmful?

A linear classifier over the words and pairs of words of a text: Joulin et al., "Bag of Tricks for
Efficient Text Classification" (2016), section 2. GPT-3 (Brown et al. 2020, appendix A) chose pages
that resemble reference texts in this way, DCLM (Li et al. 2024, section 4.4) with fastText.

Use `lm data classifier` to train on texts of your own. Without that, small models are trained in
memory, in a second, from a few texts in this repository (classifier_training/written_examples.py).

What this leaves out: languages other than English in the built-in models, layout and case, and
several labels for one text.
"""

import functools
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import fasttext
from pydantic import Field

from data_pipeline.classifier_training.model_files import LABEL_PREFIX, named_model, save_model
from data_pipeline.classifier_training.written_examples import harmful_examples, quality_examples
from lm_core.settings import Settings
from lm_core.user_error import UserError

QUALITY_VARIABLE = "LM_QUALITY_MODEL"
QUALITY_LABELS = ("wiki", "cc")  # resembles reference texts; resembles the rest of a crawl
HARMFUL_VARIABLES = {"adult": "LM_ADULT_MODEL", "toxic": "LM_TOXIC_MODEL"}
HARMFUL_LABELS = {"adult": ("nsfw", "non-nsfw"), "toxic": ("toxic", "non-toxic")}
MIN_EXAMPLES = 2  # of each label; with one, the model knows a page and not a kind of page
WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")


class TrainingSettings(Settings):
    """How a classifier is trained.

    Attributes:
        epochs: how many times each example is read.
        learning_rate: of the first step; it falls linearly to 0.
        dimensions: length of the vector of a word.
        word_ngrams: longest sequence of words that has a vector of its own.
        buckets: number of vectors that the sequences share by their hash.
        max_characters: number of characters at the beginning of a text that are read.
        seed: of the first vectors and of the order of the examples.
    """

    epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=0.5, gt=0)
    dimensions: int = Field(default=16, ge=1)
    word_ngrams: int = Field(default=2, ge=1)
    buckets: int = Field(default=100_000, ge=1)
    max_characters: int = Field(default=20_000, ge=1)
    seed: int = Field(default=0, ge=0)


class ClassifierSettings(Settings):
    """Which documents a quality classifier keeps.

    Attributes:
        model: file of a model that `lm data classifier` wrote; if empty, nothing is dropped.
        threshold: lowest probability of `keep_label` that keeps a document.
        keep_label: the label of the documents to keep.
    """

    model: str = ""
    threshold: float = Field(default=0.5, ge=0, le=1)
    keep_label: str = Field(default="wiki", min_length=1)


class HarmfulSettings(Settings):
    """Which documents are dropped as harmful.

    Attributes:
        kinds: "adult", "toxic", or both; if empty, nothing is dropped.
        max_probability: a document is dropped if the probability that it is harmful is higher.
    """

    kinds: list[Literal["adult", "toxic"]] = Field(default_factory=list)
    max_probability: float = Field(default=0.5, ge=0, le=1)


def prepare_text(text: str, max_characters: int = 20_000) -> str:
    """Return a text as the one line that fastText reads, in training as in prediction.

    The first `max_characters` characters, in lower case; words, numbers (each becomes "0") and
    every other character apart; one space between them. No word can begin with "__label__", since
    "_" stands alone; characters that UTF-8 cannot encode become "?".

    >>> prepare_text("Page 12\\nLog_in: __label__good!")
    'page 0 log _ in : _ _ label _ _ good !'
    """
    text = text[:max_characters].encode("utf-8", "replace").decode("utf-8").lower()
    return " ".join("0" if word[0].isdecimal() else word for word in WORD.findall(text))


def training_lines(examples: Sequence[tuple[str, str]], settings: TrainingSettings) -> list[str]:
    """Return the lines of fastText's training file: "__label__LABEL words".

    Texts without words are left out. The order depends on the seed and the lines alone, not on the
    order of the examples, and mixes the labels: fastText reads the lines as they come.

    Raises:
        UserError: fewer than two labels; or a label with fewer than two texts with words, or one
            that is not a word, which the message names.
    """
    lines, counts = [], Counter({label: 0 for _, label in examples})
    for text, label in examples:
        if not label or label.split() != [label]:
            raise UserError(f"label {label!r}: expected one word without spaces")
        if line := prepare_text(text, settings.max_characters):
            lines.append(f"{LABEL_PREFIX}{label} {line}")
            counts[label] += 1
    if len(counts) < 2:
        raise UserError(f"expected texts of at least two labels, found {len(counts)}")
    rarest = min(sorted(counts), key=counts.__getitem__)
    if counts[rarest] < MIN_EXAMPLES:
        raise UserError(
            f"label {rarest}: {counts[rarest]} texts with words, expected at least {MIN_EXAMPLES}; "
            "give more texts of this kind"
        )
    return sorted(lines, key=lambda line: sha256(f"{settings.seed}\n{line}".encode()).digest())


def fit(examples: Sequence[tuple[str, str]], settings: TrainingSettings) -> Any:
    """Train a classifier in memory; see `train_classifier`."""
    lines = training_lines(examples, settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lines.txt")  # fastText reads files only
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        return fasttext.train_supervised(
            str(path),
            epoch=settings.epochs,
            lr=settings.learning_rate,
            dim=settings.dimensions,
            wordNgrams=settings.word_ngrams,
            bucket=settings.buckets,
            seed=settings.seed,
            thread=1,  # several threads write to the same vectors without locks
            verbose=0,
        )


def train_classifier(
    examples: Sequence[tuple[str, str]], path: Path, settings: TrainingSettings
) -> None:
    """Train a classifier and write it to `path`, whole or not at all.

    The same examples, in any order, give the same bytes on the same machine.

    Args:
        examples: (text, label) pairs, with two labels or more.
        path: the model file.
        settings: see TrainingSettings.

    Raises:
        UserError: see `training_lines`.
    """
    save_model(fit(examples, settings), path)


def label_probability(model: Any, text: str, label: str, max_characters: int = 20_000) -> float:
    """Return the probability, 0 to 1, that `model` gives to `label`; 0 for a text without words."""
    line = prepare_text(text, max_characters)
    if not line:
        return 0.0
    labels, probabilities = model.predict(line, k=-1)
    for found, probability in zip(labels, probabilities, strict=True):
        if found == LABEL_PREFIX + label:
            return clamped(float(probability))
    return 0.0


def clamped(probability: float) -> float:
    """Return the nearest number from 0 to 1; fastText can return 1.00003."""
    return min(max(probability, 0.0), 1.0)


@functools.cache
def _built_in_model(kind: str) -> Any:
    """Train the built-in model for "quality", "adult" or "toxic"."""
    if kind == "quality":  # few steps: it should learn common words, not these few texts
        return fit(quality_examples(), TrainingSettings(epochs=8, learning_rate=0.1))
    yes, no = HARMFUL_LABELS[kind]
    examples = [(text, yes if harmful else no) for text, harmful in harmful_examples(kind)]
    return fit(examples, TrainingSettings())


def _model_for(kind: str, variable: str, labels: tuple[str, ...]) -> Any:
    """Return the model that the environment variable names, or else the built-in one."""
    return named_model(variable, labels) or _built_in_model(kind)


def classify_quality(text: str) -> tuple[str, float]:
    """Return "wiki" (like a reference text) or "cc" (like most of a crawl), and its probability.

    At exactly 0.5 the answer is "wiki". A text without words is ("cc", 1.0). The model is the one
    that LM_QUALITY_MODEL names, or else the built-in one.

    Raises:
        UserError: LM_QUALITY_MODEL names no classifier with these two labels.
    """
    model = _model_for("quality", QUALITY_VARIABLE, QUALITY_LABELS)
    good, poor = QUALITY_LABELS
    probability = label_probability(model, text, good)
    return (good, probability) if probability >= 0.5 else (poor, 1.0 - probability)


def classify_harmful(text: str, kind: str) -> tuple[bool, float]:
    """Return whether a text is harmful, and the probability of this answer.

    At exactly 0.5 the answer is True; a text without words is (False, 1.0). LM_ADULT_MODEL and
    LM_TOXIC_MODEL name other models than the built-in ones.

    Args:
        text: the text.
        kind: "adult" (advertising for adult pages, obscene words) or "toxic" (insults, threats).

    Raises:
        UserError: another `kind`, or a variable that names no classifier with the labels of
            HARMFUL_LABELS.
    """
    probability = harmful_probability(text, kind)
    return (True, probability) if probability >= 0.5 else (False, 1.0 - probability)


def harmful_probability(text: str, kind: str) -> float:
    """Return the probability that a text is harmful; see `classify_harmful`."""
    if kind not in HARMFUL_LABELS:
        raise UserError(f"kind {kind!r}: expected one of {', '.join(HARMFUL_LABELS)}")
    model = _model_for(kind, HARMFUL_VARIABLES[kind], HARMFUL_LABELS[kind])
    return label_probability(model, text, HARMFUL_LABELS[kind][0])


def failed_quality_rule(model: Any, text: str, settings: ClassifierSettings) -> str | None:
    """Return "low quality" if the model gives `keep_label` less than the threshold, else None."""
    probability = label_probability(model, text, settings.keep_label)
    return None if probability >= settings.threshold else "low quality"


def failed_harmful_rule(text: str, settings: HarmfulSettings) -> str | None:
    """Return the first of `kinds` that is more probable than `max_probability`, or None."""
    for kind in settings.kinds:
        if harmful_probability(text, kind) > settings.max_probability:
            return kind
    return None


def pick_threshold(
    probabilities: Sequence[float],
    is_good: Sequence[bool],
    precision: float | None = None,
    recall: float | None = None,
) -> float:
    """Return the threshold that reaches the wanted precision or recall on held-out texts.

    Texts with at least the threshold are kept, so texts with equal probabilities are kept or
    dropped together. Of the thresholds that reach the wanted figure, the one with the best other
    figure is taken; if several have that too, the highest of them (it keeps the fewest texts).

    >>> pick_threshold([0.9, 0.8, 0.8, 0.3], [True, True, False, True], precision=0.7)
    0.3
    >>> pick_threshold([0.9, 0.8, 0.8, 0.3], [True, False, True, False], recall=0.8)
    0.8

    Args:
        probabilities: of being good, one for each text.
        is_good: the truth.
        precision: the wanted share of good texts among those kept.
        recall: the wanted share of good texts that are kept; give one of the two.

    Raises:
        UserError: both or none are given, no text is good, or no threshold has the precision.
    """
    if (precision is None) == (recall is None):
        raise UserError("give the wanted precision or the wanted recall")
    pairs = sorted(zip(probabilities, is_good, strict=True), reverse=True)
    num_good = sum(is_good)
    if not num_good:
        raise UserError("expected good texts among those held out, found none")
    found = 0
    candidates = []
    for kept, (probability, good) in enumerate(pairs, start=1):
        found += good
        if kept == len(pairs) or pairs[kept][0] < probability:  # the last of equal ones
            candidates.append((found / kept, found / num_good, probability))
    if precision is not None:
        reached = [(r, t) for p, r, t in candidates if p >= precision]
    else:
        reached = [(p, t) for p, r, t in candidates if r >= recall]
    if not reached:
        best = max(candidates)[0]
        raise UserError(
            f"no threshold reaches a precision of {precision}; the highest is {best:.3f}"
        )
    return max(reached)[1]
