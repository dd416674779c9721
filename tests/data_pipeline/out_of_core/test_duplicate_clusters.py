"""Clusters found on disk are the lesson's, for any size of chunk, part and pool."""

import numpy as np
import pytest

from data_pipeline.compiled import bucket_joining
from data_pipeline.minhash_dedup import (
    MinHashSettings,
    duplicate_components,
    normalize,
    shingle_hashes,
)
from data_pipeline.out_of_core import duplicate_clusters as module
from data_pipeline.out_of_core.duplicate_clusters import buckets_of, duplicate_clusters


def corpus(seed, size):
    """Return texts with chains of near copies, exact copies, short and empty texts."""
    rng = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(400)]
    texts: list[str] = ["", "one", "...", ""]
    while len(texts) < size:
        old = texts[rng.integers(len(texts))].split()
        if rng.random() < 0.7 and old:
            for _ in range(rng.integers(0, 3)):
                old[rng.integers(len(old))] = words[rng.integers(400)]
            texts.append(" ".join(old))
        else:
            texts.append(" ".join(rng.choice(words, rng.integers(1, 60))))
    return texts


def lesson(texts, settings):
    sets = [shingle_hashes(normalize(text), settings.ngram_words) for text in texts]
    return duplicate_components(sets, settings)


SETTINGS = [
    MinHashSettings(),
    MinHashSettings(threshold=0.5, ngram_words=2, num_hashes=64),
    MinHashSettings(threshold=0.7, ngram_words=1, num_hashes=24, num_bands=24, seed=5),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: str(s.threshold))
@pytest.mark.parametrize("seed", [0, 1])
def test_clusters_are_those_of_the_lesson(tmp_path, settings, seed):
    texts = corpus(seed, 150)
    expected = lesson(texts, settings)
    assert 30 < len(set(expected)) < 120, "a corpus with and without duplicates"
    for chunk in (1, 2, 7, 149, 150, 1000):
        found = duplicate_clusters(iter(texts), settings, tmp_path, chunk_documents=chunk)
        assert found.dtype == np.int64 and found.tolist() == expected
    assert list(tmp_path.iterdir()) == [], "the scratch files are gone"


def test_a_band_may_be_sorted_in_parts_and_a_bucket_compared_in_parts(tmp_path, monkeypatch):
    texts = [*corpus(2, 120), *["the same five words here"] * 50]
    expected = lesson(texts, SETTINGS[1])
    monkeypatch.setattr(module, "MAPPED_BYTES", 3 * module.PAGE_BYTES)
    for sort_bytes in (500, 5000):
        found = duplicate_clusters(texts, SETTINGS[1], tmp_path, sort_bytes=sort_bytes)
        assert found.tolist() == expected


def test_parts_of_a_band_hold_every_bucket_once(tmp_path):
    texts = corpus(3, 100)
    parts = module.sketches(texts, SETTINGS[1], 1, 9)
    files = module.write_sketches(parts, tmp_path)
    whole = next(module.band_parts(files, 0, 2, 1 << 30))
    cut = list(module.band_parts(files, 0, 2, 640))
    assert len(cut) == 10
    assert np.concatenate([part.members for part in cut]).tolist() == whole.members.tolist()
    assert np.concatenate([part.begins for part in cut]).tolist() == whole.begins.tolist()


def test_any_number_of_processes_gives_the_same_clusters(tmp_path):
    texts = corpus(4, 120)
    found = duplicate_clusters(texts, SETTINGS[0], tmp_path, num_processes=2, chunk_documents=11)
    assert found.tolist() == lesson(texts, SETTINGS[0])


def test_ten_thousand_copies_take_as_many_comparisons(tmp_path, monkeypatch):
    """Counted as members that are read: the buckets of later bands are together already."""
    joined = []
    join = bucket_joining.BucketJoiner.join

    def counted(self, start, stop, *arguments):
        joined.append(stop - start)
        join(self, start, stop, *arguments)

    monkeypatch.setattr(bucket_joining.BucketJoiner, "join", counted)
    texts = ["a text of which there are copies"] * 10_000 + ["another text"] * 10_000
    found = duplicate_clusters(texts, SETTINGS[0], tmp_path)
    assert found.tolist() == [0] * 10_000 + [10_000] * 10_000
    assert sum(joined) == 20_000


def test_no_texts_and_one(tmp_path):
    assert duplicate_clusters([], SETTINGS[0], tmp_path / "new").tolist() == []
    assert duplicate_clusters([], SETTINGS[0], tmp_path, num_processes=2).tolist() == []
    assert duplicate_clusters([""], SETTINGS[0], tmp_path).tolist() == [0]


def test_scratch_files_are_removed_after_an_error(tmp_path):
    def texts():
        yield "one"
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        duplicate_clusters(texts(), SETTINGS[0], tmp_path, chunk_documents=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="divide"):
        duplicate_clusters([], MinHashSettings(num_bands=3), tmp_path)


def test_buckets_by_hand():
    hashes = np.array([5, 1, 5, 9, 1, 5], dtype=np.uint64)
    buckets = buckets_of(hashes, np.arange(10, 16))
    assert buckets.members.tolist() == [11, 14, 10, 12, 15]
    assert buckets.begins.tolist() == [True, False, True, False, False]
    assert len(buckets_of(hashes[:2], np.arange(2)).members) == 0
    assert len(buckets_of(hashes[:0], np.arange(0)).members) == 0
