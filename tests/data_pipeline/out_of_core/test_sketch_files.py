"""Chunks of texts, and what is read back from the files of shingles and band hashes."""

import numpy as np
import pytest

from data_pipeline.minhash_dedup import MinHashSettings, normalize, shingle_hashes
from data_pipeline.out_of_core.sketch_files import chunks, sketches, write_sketches

TEXTS = ["one two three four five six", "", "one two three", "seven " * 30, "eight nine"]


def test_a_chunk_ends_at_either_limit():
    texts = iter(["aa", "b", "c", "dddd", "e"])
    assert list(chunks(texts, 2, 100)) == [["aa", "b"], ["c", "dddd"], ["e"]]
    assert list(chunks(["aa", "b", "c", "dddd", "e"], 10, 3)) == [["aa", "b"], ["c", "dddd"], ["e"]]
    assert list(chunks([], 2, 3)) == []


def test_texts_are_read_as_they_are_needed():
    read = []
    texts = (read.append(number) or f"text {number}" for number in range(10))
    next(sketches(texts, MinHashSettings(), 1, 2))
    assert len(read) == 2


@pytest.mark.parametrize("chunk_documents", [1, 2, 5])
def test_the_files_hold_what_was_computed(tmp_path, chunk_documents):
    settings = MinHashSettings(num_hashes=12, num_bands=4, ngram_words=2)
    files = write_sketches(sketches(TEXTS, settings, 1, chunk_documents), tmp_path)
    assert files.num_documents == 5 and sum(files.chunk_sizes) == 5
    _, values = files.mapped_shingles()
    for number, text in enumerate(TEXTS):
        here = values[files.starts[number] : files.starts[number + 1]]
        assert np.array_equal(here, shingle_hashes(normalize(text), 2))
    whole = next(sketches(TEXTS, settings, 1, 5)).hashes
    for band in range(4):
        assert np.array_equal(np.concatenate(list(files.band(band, 4))), whole[band])
