"""a3_data.13: the S-curve, the choice of bands and rows, and the buckets of each band."""

import numpy as np
import pytest

pytestmark = pytest.mark.task("a3_data.13")
MODULE = "data_pipeline.minhash_dedup"


@pytest.mark.parametrize(
    ("similarity", "bands", "rows", "expected"),
    [
        (0.5, 1, 2, 0.25),
        (0.5, 2, 1, 0.75),
        (0.5, 2, 2, 0.4375),
        (0.8, 18, 7, 0.985542),
        (0.4, 18, 7, 0.029084),
        (0.0, 16, 8, 0.0),
        (1.0, 16, 8, 1.0),
    ],
)
def test_the_s_curve(implementation, a3_data, similarity, bands, rows, expected):
    got = implementation(MODULE).candidate_probability(similarity, bands, rows)
    exchanged = 1 - (1 - similarity**bands) ** rows
    causes = {
        "bands and rows are exchanged: all rows of a band must be equal, of the bands only one":
            exchanged,
        "this is the probability that no band is equal": 1 - expected,
        "this is the probability that all bands are equal": similarity ** (rows * bands),
        "this is the probability for one band: with b bands it is 1 - (1 - s^r)^b":
            similarity**rows,
    }  # fmt: skip
    what = f"candidate_probability({similarity}, {bands}, {rows})"
    a3_data.close(got, expected, 1e-6, 0.0, what, causes)


def test_the_false_negatives(implementation, a3_data):
    got = implementation(MODULE).false_negative_rate(2, 3, 0.5)
    causes = {
        "this is the share that is found": 1 - 0.765625,
        "bands and rows are exchanged": (1 - 0.25) ** 3,
    }
    what = "false_negative_rate(bands=2, rows=3, threshold=0.5)"
    a3_data.close(got, 0.765625, 1e-9, 0.0, what, causes)


@pytest.mark.parametrize(
    ("num_hashes", "threshold", "expected"),
    [
        (128, 0.8, (18, 7)),
        (64, 0.8, (10, 6)),
        (128, 0.5, (42, 3)),
        (128, 0.95, (7, 18)),
        (256, 0.9, (16, 16)),
        (16, 1.0, (1, 16)),
        (128, 0.01, (128, 1)),
        (1, 0.8, (1, 1)),
    ],
)
def test_the_chosen_bands(implementation, a3_data, num_hashes, threshold, expected):
    got = implementation(MODULE).choose_bands(num_hashes, threshold)
    bands, rows = expected
    causes = {
        "the result is (bands, rows)": (rows, bands),
        "rows need not divide num_hashes: the last hashes are left out": lambda found: (
            found[0] * found[1] == num_hashes != bands * rows
        ),
        "all numbers of rows are tried, from num_hashes down: a single band may be enough": (
            lambda found: bands == 1 and found[1] < rows
        ),
        "with more rows, a pair at the threshold would still be found often enough, and fewer "
        "pairs would be compared": lambda found: (
            isinstance(found, tuple) and len(found) == 2 and found[1] < rows
        ),
        "with so many rows, too few of the pairs at the threshold share a band (WANTED_RECALL)":
            lambda found: isinstance(found, tuple) and len(found) == 2 and found[1] > rows,
    }  # fmt: skip
    a3_data.expect(got, expected, f"choose_bands({num_hashes}, {threshold})", causes)


def test_given_bands(implementation, a3_data):
    module = implementation(MODULE)
    got = module.bands_and_rows(module.MinHashSettings(num_hashes=64, num_bands=16))
    causes = {"the result is (bands, rows)": (4, 16)}
    a3_data.expect(got, (16, 4), "bands_and_rows of 64 hashes in 16 bands", causes)
    got = module.bands_and_rows(module.MinHashSettings(num_hashes=64, threshold=0.8))
    a3_data.expect(got, (10, 6), "bands_and_rows of 64 hashes without num_bands")


@pytest.mark.parametrize(("num_hashes", "num_bands"), [(128, 20), (64, 65), (10, 4)])
def test_bands_that_do_not_divide_the_hashes(implementation, a3_data, num_hashes, num_bands):
    module = implementation(MODULE)
    settings = module.MinHashSettings(num_hashes=num_hashes, num_bands=num_bands)
    what = f"bands_and_rows of {num_hashes} hashes in {num_bands} bands"
    a3_data.raises(
        ValueError, lambda: module.bands_and_rows(settings), what, [str(num_bands), str(num_hashes)]
    )


def groups(got):
    return sorted(sorted(int(document) for document in bucket) for bucket in got)


def test_the_buckets_of_a_table(implementation, a3_data):
    table = np.array(
        [
            [1, 2, 3, 4, 9],
            [1, 2, 5, 4, 8],  # as the first in band 0; one row of band 1
            [3, 4, 1, 2, 7],  # band 0 has the numbers of the first one's band 1
            [3, 1, 5, 4, 6],  # as the second in band 1; one row of band 0 as the third
            [1, 2, 7, 7, 9],  # as the first in band 0, and in the column that is left over
        ],
        dtype=np.uint32,
    )
    got = groups(implementation(MODULE).band_buckets(table, 2, 2))
    causes = {
        "all rows of a band must be equal, not one": lambda found: [0, 1, 3] in found,
        "different bands are compared with each other: documents 0 and 2 have the same numbers in "
        "different bands": lambda found: any({0, 2} <= set(group) for group in found),
        "a group is two documents or more": lambda found: any(len(group) == 1 for group in found),
        "bands are columns: band i has the columns i * rows to (i + 1) * rows": lambda found: (
            [0, 1, 4] not in found
        ),
    }
    a3_data.expect(got, [[0, 1, 4], [1, 3]], "the buckets of two bands of two rows", causes)


def test_no_documents_and_no_equal_ones(implementation, a3_data):
    band_buckets = implementation(MODULE).band_buckets
    empty = np.empty((0, 8), dtype=np.uint32)
    a3_data.expect(groups(band_buckets(empty, 2, 4)), [], "the buckets of no documents")
    table = np.arange(24, dtype=np.uint32).reshape(3, 8)
    a3_data.expect(groups(band_buckets(table, 2, 4)), [], "the buckets of different documents")


def test_numbers_that_look_alike_when_joined(implementation, a3_data):
    table = np.array([[1, 23, 0], [12, 3, 0], [256, 0, 1], [0, 1, 1]], dtype=np.uint32)
    got = groups(implementation(MODULE).band_buckets(table, 1, 2))
    a3_data.expect(got, [], "the buckets of (1, 23), (12, 3), (256, 0) and (0, 1)")
