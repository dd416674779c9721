"""The written texts: both labels equally often, the same every time, none in both classes."""

import pytest

from data_pipeline.classifier_training.written_examples import (
    harmful_examples,
    quality_examples,
    read_sections,
)


def test_examples_are_balanced_and_the_same_every_time():
    examples = quality_examples()
    assert examples == quality_examples()
    assert examples != quality_examples(seed=1)
    labels = [label for _, label in examples]
    assert labels.count("wiki") == labels.count("cc") == len(labels) / 2


@pytest.mark.parametrize("kind", ["adult", "toxic"])
def test_harmful_texts_are_not_among_the_harmless(kind):
    examples = harmful_examples(kind)
    lines = set().union(*read_sections(f"{kind}.txt"))
    for text, harmful in examples:
        assert any(line in lines for line in text.splitlines()) is harmful
    assert sum(harmful for _, harmful in examples) == len(examples) / 2


@pytest.mark.parametrize("name", ["wiki.txt", "cc.txt", "adult.txt", "toxic.txt", "harmless.txt"])
def test_no_line_is_written_twice(name):
    lines = [line for section in read_sections(name) for line in section]
    assert len(lines) == len(set(lines)) > 40
