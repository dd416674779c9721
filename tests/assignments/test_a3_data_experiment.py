"""The answers of a3_data's experiments are what the reference measures."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.minhash_dedup import (
    MinHashSettings,
    candidate_probability,
    choose_bands,
    hash_functions,
    jaccard,
    shingle_hashes,
    signature,
)

ANSWERS = tomllib.loads((Path(__file__).parent / "a3_data_answers.toml").read_text("utf-8"))


def pair(number: int, shared: int, own: int) -> tuple[np.ndarray, np.ndarray]:
    """As in the handout."""
    words = [f"{number} {i}" for i in range(shared + 2 * own)]
    first = words[: shared + own]
    second = words[:shared] + words[shared + own :]
    return shingle_hashes(first, 1), shingle_hashes(second, 1)


@pytest.fixture(scope="module")
def equal_minima() -> dict[float, np.ndarray]:
    """Similarity -> which minima of each of 1,000 pairs are equal: bool [pairs, hashes]."""
    functions = hash_functions(MinHashSettings(num_hashes=64))
    found = {}
    for shared, own in ((80, 10), (50, 25)):
        pairs = [pair(number, shared, own) for number in range(1000)]
        similarity = jaccard(*pairs[0])
        equal = [signature(a, functions) == signature(b, functions) for a, b in pairs]
        found[similarity] = np.stack(equal)
    return found


def sharing_a_band(equal: np.ndarray, bands: int, rows: int) -> int:
    cut = equal[:, : bands * rows].reshape(len(equal), bands, rows)
    return int(cut.all(axis=2).any(axis=1).sum())


def test_the_choice_and_the_predictions() -> None:
    bands, rows = choose_bands(64, 0.8)
    assert (ANSWERS["bands"], ANSWERS["rows"]) == (bands, rows)
    found, compared = (100 * candidate_probability(s, bands, rows) for s in (0.8, 0.5))
    assert ANSWERS["predicted_missed_percent"] == round(100 - found, 2)
    assert ANSWERS["predicted_compared_percent"] == round(compared, 2)


def test_the_measured_counts(equal_minima: dict[float, np.ndarray]) -> None:
    bands, rows = ANSWERS["bands"], ANSWERS["rows"]
    assert set(equal_minima) == {0.8, 0.5}
    assert ANSWERS["missed_pairs"] == 1000 - sharing_a_band(equal_minima[0.8], bands, rows)
    assert ANSWERS["compared_pairs"] == sharing_a_band(equal_minima[0.5], bands, rows)
    exchanged = 1000 - sharing_a_band(equal_minima[0.8], rows, bands)
    assert ANSWERS["missed_pairs_with_rows_and_bands_exchanged"] == exchanged
