"""`lm data classifier`: a quality classifier trained on documents of your own, with its figures.

Each text is used once, and its hash decides for what: training, picking the threshold, or the
report. The threshold is not picked on the texts of the report, since it would fit them too well.

What this leaves out: near duplicates (deduplicate first, or give `documents/` of a run), and texts
larger than memory together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.classifier_training.held_out_report import HeldOutReport, held_out_report
from data_pipeline.classifier_training.model_files import LABEL_PREFIX, save_model
from data_pipeline.quality_classifier import (
    QUALITY_LABELS,
    TrainingSettings,
    fit,
    label_probability,
    pick_threshold,
    prepare_text,
)
from data_pipeline.sources.page_files import read_every_page
from data_pipeline.sources.page_rows import RowKeys
from data_pipeline.sources.warc_files import LostPage
from data_pipeline.text_extraction import extract_text
from lm_core.artifact_paths import file_sha256, write_json
from lm_core.user_error import UserError

MAX_PAGE_BYTES = 5_000_000
MIN_WORD_COUNT = 5  # a rarer word is not shown as telling
TRAIN, PICK, REPORT = "training", "threshold", "report"

Example = tuple[str, str]


@dataclass(frozen=True)
class ClassifierResult:
    """The outcome of `train_on_examples`.

    Attributes:
        counts: texts of each part and label.
        in_both: texts that were given as good and as poor, and so left out.
        threshold: lowest probability of "wiki" that keeps a document.
        report: figures on the part that neither training nor the threshold saw.
        telling_words: those that raise the probability of each label most.
    """

    counts: dict[str, dict[str, int]]
    in_both: int
    threshold: float
    report: HeldOutReport
    telling_words: dict[str, list[str]]


def read_texts(paths: Sequence[Path]) -> tuple[list[str], int]:
    """Return the texts of files and folders, and how many pages gave none.

    Args:
        paths: pages of any kind that `lm data build` reads, also the `documents/` of a run.

    Raises:
        UserError: no page has a text.
    """
    texts, without = [], 0
    for page, _ in read_every_page(paths, MAX_PAGE_BYTES, RowKeys()):
        text = None
        if not isinstance(page, LostPage) and len(page.payload) <= MAX_PAGE_BYTES:
            text = extract_text(page.payload, page.content_type, page.charset)
        if text:
            texts.append(text)
        else:
            without += 1
    if not texts:
        raise UserError(f"{', '.join(map(str, paths))}: no page with a text")
    return texts, without


def part_of(text: str, held_out_share: float, max_characters: int) -> str:
    """Return the part of a text, TRAIN, PICK or REPORT, by the hash of its words.

    Texts that are equal for the classifier are in the same part. PICK and REPORT each have half of
    `held_out_share`.
    """
    digest = sha256(prepare_text(text, max_characters).encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    if position >= held_out_share:
        return TRAIN
    return PICK if position < held_out_share / 2 else REPORT


def split_examples(
    good: Iterable[str], poor: Iterable[str], held_out_share: float, max_characters: int
) -> tuple[dict[str, list[Example]], int]:
    """Return the examples of each part, and how many texts are in both `good` and `poor`.

    Texts without words are left out, as are those in both; equal texts count once.
    """
    unique: list[dict[str, str]] = []
    for texts in (good, poor):
        lines = {prepare_text(text, max_characters): text for text in texts}
        unique.append({line: text for line, text in lines.items() if line})
    in_both = unique[0].keys() & unique[1].keys()
    parts: dict[str, list[Example]] = {TRAIN: [], PICK: [], REPORT: []}
    for lines, label in zip(unique, QUALITY_LABELS, strict=True):
        for line, text in lines.items():
            if line not in in_both:
                part = part_of(text, held_out_share, max_characters)
                parts[part].append((text, label))
    return parts, len(in_both)


def _check_parts(parts: dict[str, list[Example]]) -> dict[str, dict[str, int]]:
    """Return the counts of each part and label; raise UserError if one of them is too small."""
    counts = {
        part: {label: sum(label == found for _, found in examples) for label in QUALITY_LABELS}
        for part, examples in parts.items()
    }
    for part, of_label in counts.items():
        for option, label in zip(("--good", "--poor"), QUALITY_LABELS, strict=True):
            if of_label[label] < 2:
                raise UserError(
                    f"{option}: {of_label[label]} different texts for the part {part}, expected at "
                    "least 2; give more texts, or another --held-out"
                )
    return counts


def telling_words(model: Any, label: str, count: int = 12) -> list[str]:
    """Return the words that raise the probability of `label` most, by their weight in the model
    times the square root of their number in the training texts.
    """
    words, numbers = model.get_words(include_freq=True)
    labels = model.get_labels()
    output = model.get_output_matrix()
    own = output[labels.index(LABEL_PREFIX + label)]
    direction = own - output.mean(axis=0)
    vectors = model.get_input_matrix()[: len(words)]
    strength = (vectors @ direction) * np.sqrt(numbers) * (np.asarray(numbers) >= MIN_WORD_COUNT)
    order = np.argsort(-strength, kind="stable")
    return [words[i] for i in order[:count] if words[i] != "</s>"]


def train_on_examples(
    good: Iterable[str],
    poor: Iterable[str],
    path: Path,
    settings: TrainingSettings,
    held_out_share: float = 0.2,
    precision: float | None = None,
    recall: float | None = None,
) -> ClassifierResult:
    """Train a classifier on good and poor texts, and write the model and `PATH.json`.

    Args:
        good: texts like those to keep.
        poor: texts like those to drop.
        path: the model file.
        settings: of the training.
        held_out_share: half of this share of the texts picks the threshold, half is for the report.
        precision: see `pick_threshold`; give this or `recall`.
        recall: see `pick_threshold`.

    Raises:
        UserError: too few texts, or no threshold reaches the precision. A model that was written
            before is then unchanged.
    """
    parts, in_both = split_examples(good, poor, held_out_share, settings.max_characters)
    counts = _check_parts(parts)
    keep_label = QUALITY_LABELS[0]
    model = fit(parts[TRAIN], settings)
    scores, truth = {}, {}
    for part in (PICK, REPORT):
        scores[part] = [
            label_probability(model, text, keep_label, settings.max_characters)
            for text, _ in parts[part]
        ]
        truth[part] = [label == keep_label for _, label in parts[part]]
    threshold = pick_threshold(scores[PICK], truth[PICK], precision, recall)
    result = ClassifierResult(
        counts=counts,
        in_both=in_both,
        threshold=threshold,
        report=held_out_report(scores[REPORT], truth[REPORT], threshold),
        telling_words={label: telling_words(model, label) for label in QUALITY_LABELS},
    )
    save_model(model, path)
    record = {"model_sha256": file_sha256(path), "labels": list(QUALITY_LABELS)}
    record |= {"keep_label": keep_label, "wanted": {"precision": precision, "recall": recall}}
    record |= asdict(result) | {"settings": settings.model_dump(), "held_out_share": held_out_share}
    write_json(path.with_name(f"{path.name}.json"), record)
    return result
