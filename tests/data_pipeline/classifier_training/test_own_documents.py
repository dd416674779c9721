"""A classifier from documents of one's own: the split by hash, no text on two sides, the files."""

import json

import pytest

from data_pipeline.classifier_training.own_documents import (
    part_of,
    read_texts,
    split_examples,
    train_on_examples,
)
from data_pipeline.quality_classifier import TrainingSettings
from lm_core.artifact_paths import file_sha256

SETTINGS = TrainingSettings(epochs=5, dimensions=4, buckets=1000)
GOOD = [f"The river {n} rises in the hills of {n * n} and flows to the lake." for n in range(60)]
GOOD = [text.replace("0", "zero ").translate(str.maketrans("123456789", "abcdefghi"))
        for text in GOOD]  # fmt: skip
POOR = [f"Buy {text.split()[2]} now | Login | Cart | {text.split()[8]}" for text in GOOD]


def test_the_parts_have_about_their_shares():
    parts, _ = split_examples(GOOD, POOR, 0.4, 1000)
    assert sum(map(len, parts.values())) == 120
    assert 55 <= len(parts["training"]) <= 90
    assert min(len(parts["threshold"]), len(parts["report"])) >= 12


def test_equal_texts_are_in_one_part_and_count_once():
    for text in GOOD[:10]:
        assert part_of(f"{text} 1", 0.5, 100) == part_of(f"{text.upper()}\n22", 0.5, 100)
    parts, in_both = split_examples(["One  text", "one text", "both"], ["BOTH", " "], 0.5, 100)
    assert (sum(map(len, parts.values())), in_both) == (1, 1)
    before = split_examples(GOOD, POOR, 0.4, 1000)[0]["report"]
    after = split_examples(GOOD[:30], POOR, 0.4, 1000)[0]["report"]
    assert set(after) <= set(before)  # fewer texts move none of the others


def test_the_model_and_its_record(tmp_path):
    path = tmp_path / "model.bin"
    result = train_on_examples(GOOD, POOR, path, SETTINGS, 0.4, recall=0.9)
    assert result.report.roc_auc.value == 1
    assert "|" in result.telling_words["cc"]
    record = json.loads((tmp_path / "model.bin.json").read_text())
    assert record["model_sha256"] == file_sha256(path)
    assert record["threshold"] == result.threshold
    assert (record["labels"], record["keep_label"]) == (["wiki", "cc"], "wiki")
    assert record["report"]["num_texts"] == result.report.num_texts
    first = path.read_bytes()
    train_on_examples(GOOD[::-1], POOR, path, SETTINGS, 0.4, recall=0.9)
    assert path.read_bytes() == first


def test_too_few_texts_leave_the_files_as_they_were(tmp_path):
    path = tmp_path / "model.bin"
    with pytest.raises(ValueError, match=r"--poor: \d different texts for the part \w+"):
        train_on_examples(GOOD, POOR[:2], path, SETTINGS, 0.4, recall=0.9)
    alike = [*GOOD[:30], *POOR[30:]], [*GOOD[30:], *POOR[:30]]  # nothing to learn
    with pytest.raises(ValueError, match="no threshold reaches a precision of 1"):
        train_on_examples(*alike, path, SETTINGS, 0.4, precision=1.0)
    assert not list(tmp_path.iterdir())


def test_texts_come_from_pages_of_any_kind(tmp_path):
    (tmp_path / "page.html").write_text("<p>A sentence that is long enough to be kept here.</p>")
    (tmp_path / "empty.html").write_text("<p></p>")
    (tmp_path / "rows.jsonl").write_text('{"text": "a row"}\n')
    texts, without = read_texts([tmp_path])
    assert sorted(texts) == ["A sentence that is long enough to be kept here.", "a row"]
    assert without == 1
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "page.html").unlink()
    with pytest.raises(ValueError, match="no page with a text"):
        read_texts([tmp_path])
