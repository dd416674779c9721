"""a3_data.14: true similarity, union-find, clusters of near duplicates, and the files kept."""

from pathlib import Path

import numpy as np
import pytest
from minhash_oracle import random_sets

pytestmark = pytest.mark.task("a3_data.14")
MODULE = "data_pipeline.minhash_dedup"
TRANSITIVE = (
    "clusters are transitive: 0 is like 1, and 1 is like 2, so the three are one cluster, whose "
    "first document is 0"
)


def numbers(*each):
    return np.array(each, dtype=np.uint64)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 2, 3, 4), (3, 4, 5, 6), 1 / 3),
        ((1, 2, 3), (1, 2, 3), 1.0),
        ((1, 2), (3, 4), 0.0),
        ((1,), (1, 2, 3, 2**63), 0.25),
        ((), (1, 2), 0.0),
        ((), (), 1.0),
    ],
    ids=["some", "same", "none", "part", "one-empty", "both-empty"],
)
def test_the_similarity(implementation, a3_data, first, second, expected):
    got = implementation(MODULE).jaccard(numbers(*first), numbers(*second))
    shared = len(set(first) & set(second))
    causes = {
        "divide by the size of the union, in which shared elements count once, not by the sum of "
        "the sizes": shared / max(1, len(first) + len(second)),
        "divide by the size of the union, not by the smaller set": shared
        / max(1, min(len(first), len(second))),
        "divide by the size of the union, not by the larger set": shared
        / max(1, len(first), len(second)),
        "this is the number of shared elements": float(shared),
        "two empty sets are the same: 1.0": lambda found: bool(np.isnan(found)),
    }
    a3_data.close(got, expected, 1e-12, 0.0, f"jaccard of {first} and {second}", causes)


def found(components, count):
    return [int(components.find(item)) for item in range(count)]


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 1), (1, 2), (4, 5)],
        [(2, 1), (1, 0), (5, 4)],
        [(1, 2), (4, 5), (0, 2)],
        [(0, 2), (2, 1), (5, 4), (4, 5), (2, 2)],
    ],
    ids=["forward", "backward", "last-to-first", "again"],
)
def test_components(implementation, a3_data, pairs):
    components = implementation(MODULE).Components(6)
    a3_data.expect(found(components, 6), [0, 1, 2, 3, 4, 5], "find before anything is joined")
    for first, second in pairs:
        components.join(first, second)
    got = found(components, 6)
    causes = {
        "find returns the smallest member of the component, not any": lambda values: (
            len({values[0], values[1], values[2]}) == 1 and values[0] != 0
        ),
        TRANSITIVE: lambda values: len({values[0], values[1], values[2]}) > 1,
        "4 and 5 are one component": lambda values: values[4] != values[5],
    }
    a3_data.expect(got, [0, 0, 0, 3, 4, 4], f"the components after joining {pairs}", causes)


def test_large_groups_that_are_joined(implementation, a3_data):
    components = implementation(MODULE).Components(12)
    for first, second in [(8, 9), (9, 10), (3, 4), (4, 5), (10, 5), (1, 9)]:
        components.join(first, second)
    causes = {
        "join connects whole groups: change the root, not only the item itself": lambda got: (
            got[1] != got[3] or got[3] != got[8]
        )
    }
    expected = [0, 1, 2, 1, 1, 1, 6, 7, 1, 1, 1, 11]
    a3_data.expect(found(components, 12), expected, "the components of a larger group", causes)


@pytest.mark.parametrize("downward", [True, False])
def test_a_long_chain(implementation, a3_data, downward):
    """Python's recursion ends at depth 1,000."""
    components = implementation(MODULE).Components(5000)
    items = range(4999, 0, -1) if downward else range(1, 5000)
    for item in items:
        components.join(item, item - 1)
    try:
        got = [int(components.find(item)) for item in (4999, 2500, 0)]
    except RecursionError:
        raise a3_data.GradedFailure(
            "find calls itself for every step of a chain, and Python allows 1,000 such calls: use "
            "a loop"
        ) from None
    a3_data.expect(got, [0, 0, 0], "find in a chain of 5,000 items")


def near_copies(similarity, count):
    """Pairs of sets of 400 numbers with about this similarity."""
    shared = round(800 * similarity / (1 + similarity))
    pairs = [random_sets(400, shared, seed) for seed in range(count)]
    return [each for pair in pairs for each in pair]


def clusters(module, sets, **settings):
    got = module.duplicate_components(sets, module.MinHashSettings(**settings))
    return [int(first) for first in got]


def test_pairs_above_the_threshold_are_found(implementation, a3_data):
    got = clusters(implementation(MODULE), near_copies(0.95, 12), threshold=0.8)
    causes = {"nothing was found; are the documents of a bucket compared?": list(range(24))}
    expected = [number - number % 2 for number in range(24)]
    a3_data.expect(got, expected, "12 pairs with a similarity of 0.95, threshold 0.8", causes)


def test_candidates_are_verified(implementation, a3_data):
    """With bands of one row, nearly every pair of these is a candidate."""
    got = clusters(implementation(MODULE), near_copies(0.6, 10), threshold=0.8, num_bands=128)
    causes = {
        "a shared band makes a pair a candidate; the true similarity, jaccard(...) >= threshold, "
        "decides": [number - number % 2 for number in range(20)]
    }
    a3_data.expect(got, list(range(20)), "10 pairs with a similarity of 0.6, threshold 0.8", causes)


def test_signatures_are_not_compared(implementation, a3_data):
    """Of 4 minima, often 3 or 4 are equal although the similarity is 0.6."""
    got = clusters(
        implementation(MODULE), near_copies(0.6, 12), threshold=0.7, num_hashes=4, num_bands=4
    )
    causes = {
        "the true similarity decides: jaccard of the two sets. Equal minima only estimate it": (
            lambda firsts: firsts != list(range(24))
        )
    }
    what = "12 pairs with a similarity of 0.6, threshold 0.7, 4 hashes"
    a3_data.expect(got, list(range(24)), what, causes)


def test_documents_without_shingles(implementation, a3_data):
    got = clusters(implementation(MODULE), [numbers(), numbers(7), numbers()], threshold=1.0)
    causes = {
        "two empty sets have a similarity of 1, and their signatures are equal": [0, 1, 2],
    }
    a3_data.expect(got, [0, 1, 0], "documents of which two have no shingles", causes)


def test_only_candidates_are_compared(implementation, a3_data):
    """With one band of 128 rows, a pair at 0.8 has a probability of 4e-13."""
    got = clusters(implementation(MODULE), near_copies(0.8, 10), threshold=0.5, num_bands=1)
    causes = {
        "pairs that share no band are not compared": [number - number % 2 for number in range(20)]
    }
    a3_data.expect(got, list(range(20)), "pairs at 0.8 that share no band", causes)


def test_the_threshold_itself_is_a_duplicate(implementation, a3_data):
    sets = [numbers(*range(1, 9)), numbers(*range(1, 8))]  # 7 of 8
    module = implementation(MODULE)
    got = clusters(module, sets, threshold=7 / 8, num_hashes=64, num_bands=64)
    causes = {"a similarity equal to the threshold reaches it: use >=": [0, 1]}
    a3_data.expect(got, [0, 0], "a pair exactly at the threshold", causes)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 0, 2, 1), (1, 3, 0, 2)], ids=str)
def test_clusters_are_transitive(implementation, a3_data, order):
    """Each is similar to the next (0.82), but the first is not similar to the last (0.54)."""
    rng = np.random.default_rng(5)
    every = np.sort(rng.integers(0, 2**64, 2000, dtype=np.uint64))
    chain = [every[start : start + 1000].copy() for start in (0, 100, 200, 300)]
    got = clusters(implementation(MODULE), [chain[place] for place in order], num_bands=32)
    causes = {
        "clusters are transitive: A is like B, and B is like C, so C is in the cluster although it "
        "is not like A": lambda values: len(set(values)) > 1
    }
    a3_data.expect(got, [0, 0, 0, 0], "a chain of four documents", causes)


def test_a_document_joins_every_group_that_it_is_similar_to(implementation, a3_data):
    """The third is similar to both others, which are not similar to each other."""
    rng = np.random.default_rng(6)
    every = np.sort(rng.integers(0, 2**64, 14, dtype=np.uint64))
    sets = [every[:10].copy(), every[4:].copy(), every[2:12].copy()]
    module = implementation(MODULE)
    got = clusters(module, sets, threshold=0.6, num_hashes=64, num_bands=64)
    causes = {"the third document is similar to the first and to the second": [0, 1, 0]}
    a3_data.expect(got, [0, 0, 0], "a document between two others", causes)


def test_a_chain_in_one_bucket(implementation, a3_data):
    """All four share the one band, and each is similar to the next only."""
    module = implementation(MODULE)
    multipliers, offsets = module.hash_functions(module.MinHashSettings(num_hashes=1))
    rng = np.random.default_rng(8)
    every = rng.integers(0, 2**64, 12, dtype=np.uint64)
    values = (every >> np.uint64(32)).astype(np.uint32) * multipliers[0] + offsets[0]
    every = every[np.argsort(values)]  # the first has the smallest value, and all sets have it
    sets = [np.sort(every[[0, *range(start, start + 5)]]) for start in (1, 3, 5, 7)]
    got = clusters(module, sets, threshold=0.5, num_hashes=1, num_bands=1)
    causes = {
        "a document is compared with the first of a group only: any of them may be the similar one":
            lambda firsts: len(set(firsts)) > 1
    }  # fmt: skip
    a3_data.expect(got, [0, 0, 0, 0], "a chain of four documents in one bucket", causes)


def test_bands_that_do_not_divide_are_refused(implementation, a3_data):
    module = implementation(MODULE)
    settings = module.MinHashSettings(num_bands=20)
    what = "duplicate_components with 20 bands of 128 hashes"
    a3_data.raises(
        ValueError, lambda: module.duplicate_components([numbers(1)], settings), what, ["20", "128"]
    )


def test_copies_are_not_compared_pair_by_pair(implementation, a3_data):
    module = implementation(MODULE)
    settings = module.MinHashSettings(num_hashes=8, num_bands=2)

    def steps(count, limit=float("inf")):
        sets = [numbers(1, 2, 3)] * count
        with a3_data.StepCounter(limit) as counter:
            module.duplicate_components(sets, settings)
        return counter.steps

    few = steps(40)
    many = steps(320, limit=40 * few)
    a3_data.true(
        many <= 20 * few,
        "320 copies of one text take more than 20 times the steps of 40 copies: do not compare "
        "documents that are in one component already, nor a document with every member of a group",
        {"steps for 40": few, "steps for 320": f"{many:,} or more"},
    )


# Files


def text_of(start, count, seed=3):
    rng = np.random.default_rng(seed)
    words = [f"word{number}" for number in rng.integers(0, 10_000_000, 600)]
    return " ".join(words[start : start + count]).encode()


def kept(module, a3_data, contents, **settings):
    """The names of the files that are kept, in the order of the result, after checks of the bytes
    and the paths.
    """
    settings = {
        "num_hashes": 128, "num_bands": 32, "ngram_words": 3, "threshold": 0.8, **settings
    }  # fmt: skip
    with a3_data.written_files(contents) as paths:
        out = paths[0].parent.parent / "out" / "deep"
        got = module.deduplicate_documents(paths, folder=out, **settings)
        if got is None:
            raise a3_data.GradedFailure("deduplicate_documents returned None; return the paths")
        a3_data.expect(a3_data.files_in(paths[0].parent), contents, "the input files afterwards")
        written = a3_data.files_in(out)
        names = [Path(path).name for path in got]
        a3_data.expect(sorted(names), sorted(written), "the names of the result and the files")
        a3_data.expect(
            [Path(path) for path in got], [out / name for name in names], "the paths returned"
        )
        causes = {
            "write the bytes of the file as they are, not its decoded text": lambda _: True,
        }
        a3_data.expect(
            written, {name: contents[name] for name in written}, "the files kept", causes
        )
        return names


def test_one_file_of_each_cluster(implementation, a3_data):
    text, other = text_of(0, 100), text_of(200, 100)
    contents = {
        "b.txt": text + b"\r\n\xff\x00 " + "été".encode(),
        "a.txt": text.upper() + b"!\n",
        "d.txt": other,
        "c.txt": text,
        "e.bin": b"\x80\x81 caf\xe9 \xfe\xff" + other,
    }
    got = kept(implementation(MODULE), a3_data, contents)
    causes = {
        "of a cluster, keep the file that comes first in `paths`, not the first name": [
            "a.txt", "d.txt"
        ],
        "case and punctuation do not count: compare normalized words": ["b.txt", "a.txt", "d.txt"],
        "a cluster keeps one file; all were dropped": [],
        "every file was kept": list(contents),
    }  # fmt: skip
    a3_data.expect(got, ["b.txt", "d.txt"], "the files kept of two clusters", causes)


def test_files_that_are_not_utf8(implementation, a3_data):
    text = text_of(0, 60)
    contents = {"1": b"\xff\xfe" + text, "2": text + b" \xc3", "3": b"\xe9\xe8"}
    contents |= {"4": b"\xff", "5": b"\xff\xff"}
    got = kept(implementation(MODULE), a3_data, contents)
    causes = {
        'bytes that are not UTF-8 become replacement characters (errors="replace"), which are '
        "signs like others: without them, 3, 4 and 5 are empty": ["1", "3"],
        "3 and 5 both read as two replacement characters": ["1", "3", "4", "5"],
    }
    a3_data.expect(got, ["1", "3", "4"], "the files kept of those that are not UTF-8", causes)


def test_short_and_empty_files(implementation, a3_data):
    contents = {"1": b"", "2": b" \n", "3": b"", "4": b"...", "5": b"!!!", "6": b"two words"}
    contents |= {"7": b"Two, words!", "8": b"two", "9": b" \r\n", "10": b"..."}
    got = kept(implementation(MODULE), a3_data, contents, ngram_words=5)
    causes = {
        "files without words are duplicates only if they are the same": ["1", "6", "8"],
        "a file with fewer words than an n-gram is one shingle": ["1", "2", "4", "5"],
    }
    expected = ["1", "2", "4", "5", "6", "8", "9"]
    a3_data.expect(got, expected, "the files kept of short ones", causes)


def test_ngrams_and_threshold_are_used(implementation, a3_data):
    contents = {str(start): text_of(start, 200) for start in (0, 5, 60)}
    module = implementation(MODULE)
    for settings, expected in [
        ({"num_bands": 128, "ngram_words": 1}, ["0", "60"]),
        ({"num_bands": 1, "ngram_words": 1}, ["0", "5", "60"]),
        ({"num_bands": 128, "ngram_words": 1, "threshold": 0.5}, ["0"]),
        ({"num_bands": 128, "ngram_words": 40, "threshold": 0.945}, ["0", "5", "60"]),
    ]:
        got = kept(module, a3_data, contents, **settings)
        a3_data.expect(got, expected, f"the files kept with {settings}")


@pytest.mark.parametrize("wrong", ["bands", "same-name", "inside", "link"])
def test_calls_that_are_refused(implementation, a3_data, wrong):
    module = implementation(MODULE)
    with a3_data.written_files({"a.txt": b"one text", "b.txt": b"another"}) as paths:
        folder = paths[0].parent.parent / "out"
        bands, names = 32, ["a.txt"]
        if wrong == "bands":
            bands, names = 20, ["20", "128"]
        elif wrong == "same-name":
            (paths[0].parent.parent / "c").mkdir()
            paths.append(paths[0].parent.parent / "c" / "a.txt")
            paths[-1].write_bytes(b"third")
        elif wrong == "link":
            folder, names = paths[0].parent.parent / "link", []
            folder.symlink_to(paths[0].parent)
        else:
            folder, names = paths[0].parent.parent / "out" / ".." / "in", []
        before = a3_data.files_in(paths[0].parent)
        what = {
            "bands": "deduplicate_documents with 20 bands of 128 hashes",
            "same-name": "deduplicate_documents of two files named a.txt",
            "inside": "deduplicate_documents into the folder of its inputs",
            "link": "deduplicate_documents into a symbolic link to the folder of its inputs",
        }[wrong]
        call = lambda: module.deduplicate_documents(paths, 128, bands, 3, 0.8, folder)  # noqa: E731
        a3_data.raises(ValueError, call, what, names)
        a3_data.expect(a3_data.files_in(paths[0].parent), before, f"the inputs after {what}")


def test_the_folder_may_hold_other_files(implementation, a3_data):
    with a3_data.written_files({"a.txt": b"one text"}) as paths:
        folder = paths[0].parent.parent / "out"
        folder.mkdir()
        (folder / "old.txt").write_bytes(b"old")
        (folder / "a.txt").write_bytes(b"from the run before")
        implementation(MODULE).deduplicate_documents([str(paths[0])], 128, 32, 3, 0.8, str(folder))
        expected = {"a.txt": b"one text", "old.txt": b"old"}
        a3_data.expect(a3_data.files_in(folder), expected, "a folder with other files, afterwards")
