"""Model files: damaged ones are refused (fastText would not return), others' labels are named."""

import pytest

from data_pipeline.classifier_training.model_files import load_classifier, save_model
from data_pipeline.quality_classifier import TrainingSettings, fit

EXAMPLES = [("some words here", "a"), ("other words", "a"), ("more text", "b"), ("a text", "b")]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "new folder" / "model.bin"
    save_model(fit(EXAMPLES, TrainingSettings(epochs=1, dimensions=2, buckets=10)), path)
    return path


def test_a_model_is_written_and_read(path):
    assert set(load_classifier(path, ["a", "b"]).get_labels()) == {"__label__a", "__label__b"}
    assert list(path.parent.iterdir()) == [path]


def test_other_labels_are_named(path):
    with pytest.raises(ValueError, match=r"the labels good, poor, found a, b$"):
        load_classifier(path, ["poor", "good"])


@pytest.mark.parametrize("kept", [0, 4, 60, 91, 92, 110, 200, -1])
def test_a_damaged_file_is_refused(path, tmp_path, kept):
    damaged = tmp_path / "damaged.bin"
    damaged.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="not a whole fastText model"):
        load_classifier(damaged, ["a", "b"])


def test_a_file_of_another_kind_is_refused(tmp_path):
    other = tmp_path / "text.txt"
    other.write_text("some text " * 100)
    with pytest.raises(ValueError, match="not a whole fastText model"):
        load_classifier(other, ["a"])
    with pytest.raises(ValueError, match="missing: no such file"):
        load_classifier(tmp_path / "missing", ["a"])
