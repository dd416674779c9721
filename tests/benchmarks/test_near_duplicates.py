"""The true similarities in the benchmark of near duplicates, and the documents that it plants."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.minhash_dedup import jaccard, normalize, shingle_hashes

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "near_duplicates.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("near_duplicates", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


WORDS = np.array([f"w{number}" for number in range(3000)], dtype=object)


def test_the_similarity_of_all_pairs_is_the_true_one(benchmark):
    documents = [text.split() for text in benchmark.synthetic_documents(WORDS, 60)]
    sets = [shingle_hashes(words, 5) for words in documents]
    found = benchmark.true_pairs(*benchmark.shingle_sets(documents, 5))
    for pair in itertools.combinations(range(60), 2):
        assert found.get(pair, 0.0) == jaccard(sets[pair[0]], sets[pair[1]])
    assert sum(similarity > 0.5 for similarity in found.values()) > 5


def test_pairs_are_planted_at_the_similarities_that_are_named(benchmark):
    documents = benchmark.planted_documents(WORDS)
    assert len(documents) == 5000
    for number, similarity in enumerate(benchmark.SIMILARITIES):
        first, second = documents[500 * number : 500 * number + 2]
        assert abs(jaccard(shingle_hashes(first, 5), shingle_hashes(second, 5)) - similarity) < 0.02


def test_documents_depend_on_the_seed_alone(benchmark):
    texts = list(benchmark.synthetic_documents(WORDS, 30))
    assert texts == list(benchmark.synthetic_documents(WORDS, 30))
    assert texts != list(benchmark.synthetic_documents(WORDS, 30, seed=1))
    assert all(60 <= len(normalize(text)) <= 140 for text in texts)
