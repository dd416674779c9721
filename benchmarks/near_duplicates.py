"""Near duplicates: speed of signatures, memory and time for up to a million documents, recall.

    python benchmarks/near_duplicates.py signatures PAGES... [--pages 1000] [--every 9]
    python benchmarks/near_duplicates.py growth WORDS.txt [--sizes 10000 30000 100000]
    python benchmarks/near_duplicates.py recall WORDS.txt

`signatures` needs `pip install rensa`. PAGES are files and folders that `lm data build` reads;
their text is extracted and normalized first. Each implementation then makes signatures of 128
numbers of the same documents' 5-word shingles, on one thread, the implementations taking turns.
"end to end" is from lists of words to signatures, with the shingles in the form that each library
takes. "hashing" is from 64-bit hashes of the shingles.

`growth` makes documents of about 100 words of WORDS.txt (`.xz` or plain), drawn with the
frequencies of that text. Three in ten are copies of one of the 1,000 before, with up to six words
changed. They are written to a file, one in a line. Each size runs in a child process on one
processor, which reads that file and reports its largest memory (VmHWM, so Linux only).

`recall` plants 250 pairs at each of ten similarities from 0.5 to 0.95 in 5,000 documents, finds
the true similarity of every pair (an inverted index gives the number of shared shingles), and
compares the pairs that share a band with the S-curve.

Results go into near_duplicates_results.json next to this file, pictures into docs/pictures/.
"""

import argparse
import hashlib
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_pipeline.compiled.shingle_sets import shingle_sets
from data_pipeline.compiled.signatures import signatures
from data_pipeline.minhash_dedup import (
    MinHashSettings,
    bands_and_rows,
    candidate_probability,
    duplicate_components,
    hash_functions,
    normalize,
    shingle_hashes,
    signature,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "near_duplicates_results.json"
PICTURES = HERE.parent / "docs" / "pictures"
SETTINGS = MinHashSettings()
NGRAM, HASHES = SETTINGS.ngram_words, SETTINGS.num_hashes
FUNCTIONS = hash_functions(SETTINGS)
SIMILARITIES = [0.5 + 0.05 * step for step in range(10)]


def save(section: str, figures: dict[str, Any]) -> None:
    """Replace one section of the results file, and print it."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    results[section] = figures
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


# Signatures against other libraries.


def words_of_pages(paths: list[Path], most: int, every: int) -> list[list[str]]:
    """Return the words of every ninth page, say, that has at least one shingle's words."""
    from data_pipeline.sources.page_files import read_every_page
    from data_pipeline.sources.page_rows import RowKeys
    from data_pipeline.sources.warc_files import Page
    from data_pipeline.text_extraction import extract_text

    documents: list[list[str]] = []
    for number, (page, _) in enumerate(read_every_page(paths, 10_000_000, RowKeys())):
        if isinstance(page, Page) and number % every == 0:
            text = extract_text(page.payload, page.content_type, page.charset)
            words = normalize(text or "")
            if len(words) >= NGRAM:
                documents.append(words)
        if len(documents) == most:
            break
    return documents


def string_shingles(words: list[str]) -> list[str]:
    return [" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]


def contenders(documents: list[list[str]]) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the implementations that are timed, by what is timed."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # read by rensa at its first use
    import rensa
    from datasketch import MinHash

    sets = [shingle_hashes(words, NGRAM) for words in documents]
    values, starts = shingle_sets(documents, NGRAM)
    rensa_starts, lists = starts.astype(np.uint64), [shingles.tolist() for shingles in sets]
    upper = [(shingles >> np.uint64(32)).tolist() for shingles in sets]
    return {
        "hashing": {
            "lesson (numpy)": lambda: [signature(shingles, FUNCTIONS) for shingles in sets],
            "compiled": lambda: signatures(values, starts, FUNCTIONS),
            "rensa R-MinHash": lambda: rensa.RMinHash.digest_matrix_from_flat_token_hashes(
                values, rensa_starts, HASHES, 0
            ),
            "rensa C-MinHash": lambda: rensa.CMinHash.digests64_from_token_hash_sets(
                lists, HASHES, 0
            ),
            "datasketch": lambda: MinHash.bulk(upper, num_perm=HASHES, hashfunc=int),
        },
        "end to end": {
            "lesson (numpy)": lambda: [
                signature(shingle_hashes(words, NGRAM), FUNCTIONS) for words in documents
            ],
            "compiled": lambda: signatures(*shingle_sets(documents, NGRAM), FUNCTIONS),
            "rensa R-MinHash": lambda: rensa.RMinHash.digest_matrix_from_token_sets(
                [string_shingles(words) for words in documents], HASHES, 0
            ),
            "rensa C-MinHash": lambda: rensa.CMinHash.digests64_from_token_sets(
                [string_shingles(words) for words in documents], HASHES, 0
            ),
            "datasketch": lambda: MinHash.bulk(
                ([s.encode() for s in string_shingles(words)] for words in documents),
                num_perm=HASHES,
            ),
        },
    }


def measure_signatures(options: argparse.Namespace) -> None:
    """Time all implementations in turn, after one round that does not count."""
    documents = words_of_pages(options.inputs, options.pages, options.every)
    values, starts = shingle_sets(documents, NGRAM)
    lesson = [signature(shingle_hashes(words, NGRAM), FUNCTIONS) for words in documents[:200]]
    assert np.array_equal(signatures(values, starts, FUNCTIONS)[:200], lesson)
    figures: dict[str, Any] = {
        "documents": len(documents),
        "words": sum(map(len, documents)),
        "median_words": statistics.median(map(len, documents)),
        "distinct_shingles": len(values),
        "num_hashes": HASHES,
        "threads": 1,
        "rounds": options.rounds,
    }
    for what, implementations in contenders(documents).items():
        seconds: dict[str, list[float]] = {name: [] for name in implementations}
        for _ in range(options.rounds + 1):
            for name, function in implementations.items():
                started = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - started)
        medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
        figures[what] = {
            name: {
                "seconds": round(median, 4),
                "compiled_is_faster_by": round(median / medians["compiled"], 2),
            }
            for name, median in medians.items()
        }
    save("signatures", figures)


# Documents made of real words.


def read_words(path: Path) -> np.ndarray:
    """Return the words of a text's first 5 MB, repeated as often as they occur there."""
    opener = lzma.open if path.suffix == ".xz" else Path.open
    with opener(path, "rt", encoding="utf-8") as file:
        return np.array([sys.intern(word) for word in normalize(file.read(5_000_000))], object)


def synthetic_documents(words: np.ndarray, count: int, seed: int = 0) -> Iterator[str]:
    """Yield documents of 60 to 140 words; three in ten are near copies, see the module."""
    rng = np.random.default_rng(seed)
    latest: list[list[str]] = []
    for _ in range(count):
        if latest and rng.random() < 0.3:
            document = list(latest[rng.integers(len(latest))])
            for place in rng.integers(len(document), size=rng.integers(7)):
                document[place] = words[rng.integers(len(words))]
        else:
            document = words[rng.integers(len(words), size=rng.integers(60, 141))].tolist()
            latest.append(document)
            del latest[:-1000]
        yield " ".join(document)


def run_one_size(path: Path, method: str) -> None:
    """In the child process: find the clusters of the lines, and print the figures as JSON."""
    from data_pipeline.out_of_core.duplicate_clusters import duplicate_clusters

    started, processor_started = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, path.open(encoding="utf-8") as texts:
        if method == "out of core":
            clusters = duplicate_clusters(texts, SETTINGS, folder)
        else:
            sets = [shingle_hashes(normalize(text), NGRAM) for text in texts]
            clusters = np.array(duplicate_components(sets, SETTINGS))
    seconds = time.perf_counter() - started
    processor_seconds = time.process_time() - processor_started
    hashed = hashlib.sha256(clusters.astype("<i8").tobytes()).hexdigest()[:16]
    figures = {
        "method": method,
        "documents": len(clusters),
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor_seconds, 2),
        "peak_megabytes": peak_megabytes(),
        "documents_kept": len(np.unique(clusters)),
        "clusters_hash": hashed,
    }
    print(json.dumps(figures))


def peak_megabytes() -> int:
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(peak) / 1024)


def measure_growth(options: argparse.Namespace) -> None:
    """Run each size in a child process, and up to 30,000 documents the lesson, too."""
    runs = [(size, "lesson") for size in options.sizes if size <= 30_000]
    runs += [(size, "out of core") for size in options.sizes]
    rows, words = [], read_words(options.inputs[0])
    with tempfile.TemporaryDirectory() as folder:
        for size, method in runs:
            file = Path(folder, f"{size}.txt")
            if not file.exists():
                with file.open("w", encoding="utf-8") as lines:
                    lines.writelines(text + "\n" for text in synthetic_documents(words, size))
            command = [sys.executable, __file__, "growth", str(file), "--child", method]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)
    save("growth", {"processes": 1, "runs": rows})
    draw_growth(rows)


def draw_growth(rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    keys = (("seconds", "seconds"), ("peak_megabytes", "largest memory (MB)"))
    for axes, (key, label) in zip(panels, keys, strict=True):
        for method, marker in (("lesson", "s"), ("out of core", "o")):
            chosen = [row for row in rows if row["method"] == method]
            sizes = [row["documents"] for row in chosen]
            axes.plot(sizes, [row[key] for row in chosen], marker=marker, label=method)
        last = rows[-1]
        if key == "seconds":
            line = [last["seconds"] * size / last["documents"] for size in sizes]
            axes.plot(sizes, line, color="gray", linestyle=":", label="in proportion")
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.2 * max(row[key] for row in rows))
        axes.set(xscale="log", xlabel="documents of 100 words", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left" if key == "seconds" else "lower right")
    figure.savefig(PICTURES / "near_duplicates_growth.png", dpi=130)


# Recall and precision against all pairs.


def planted_documents(words: np.ndarray, seed: int = 0) -> list[list[str]]:
    """Return 5,000 documents of 200 words: 250 pairs for each of SIMILARITIES.

    The second of a pair has one run of words replaced. A run of w words changes w + 4 of the 196
    shingles.
    """
    rng = np.random.default_rng(seed)
    documents = []
    for similarity in SIMILARITIES:
        changed = round(196 * (1 - similarity) / (1 + similarity)) - 4
        for _ in range(250):
            first = words[rng.integers(len(words), size=200)].tolist()
            start = rng.integers(4, 200 - changed - 4)
            other = words[rng.integers(len(words), size=changed)].tolist()
            documents += [first, first[:start] + other + first[start + changed :]]
    return documents


def true_pairs(values: np.ndarray, starts: np.ndarray) -> dict[tuple[int, int], float]:
    """Return the Jaccard similarity of every pair that has a shingle in common."""
    from scipy.sparse import csr_array, triu

    _, columns = np.unique(values, return_inverse=True)
    ones = np.ones(len(values), dtype=np.int32)
    table = csr_array((ones, columns, starts), shape=(len(starts) - 1, columns.max() + 1))
    shared = triu(table @ table.T, k=1).tocoo()
    sizes = np.diff(starts)
    union = sizes[shared.row] + sizes[shared.col] - shared.data
    pairs = zip(shared.row.tolist(), shared.col.tolist(), strict=True)
    return dict(zip(pairs, (shared.data / union).tolist(), strict=True))


def candidate_pairs(rows: np.ndarray, settings: MinHashSettings) -> set[tuple[int, int]]:
    from data_pipeline.minhash_dedup import band_buckets

    found = set()
    for bucket in band_buckets(rows, *bands_and_rows(settings)):
        found |= {(a, b) for place, a in enumerate(bucket) for b in bucket[place + 1 :]}
    return found


def measure_recall(options: argparse.Namespace) -> None:
    """Compare candidates with all pairs, for three ways to cut 128 hashes."""
    documents = planted_documents(read_words(options.inputs[0]))
    values, starts = shingle_sets(documents, NGRAM)
    truth = true_pairs(values, starts)
    rows = signatures(values, starts, FUNCTIONS)
    sets = [values[a:b] for a, b in pairwise(starts)]
    cuts = []
    for bands in (None, 32, 8):
        settings = MinHashSettings(num_bands=bands)
        b, r = bands_and_rows(settings)
        candidates = candidate_pairs(rows, settings)
        wanted = {pair for pair, similarity in truth.items() if similarity >= settings.threshold}
        components = duplicate_components(sets, settings)
        joined = {
            (first, document) for document, first in enumerate(components) if first < document
        }
        table = []
        for middle in SIMILARITIES:
            near = {p: s for p, s in truth.items() if abs(s - middle) < 0.025}
            curve = statistics.mean(candidate_probability(s, b, r) for s in near.values())
            share = len(near.keys() & candidates) / len(near)
            figures = {"similarity": round(statistics.mean(near.values()), 3), "pairs": len(near)}
            table.append(figures | {"s_curve": round(curve, 3), "measured": round(share, 3)})
        cuts.append(
            {
                "bands": b,
                "rows": r,
                "pairs_at_threshold_or_above": len(wanted),
                "candidates": len(candidates),
                "candidate_recall": round(len(candidates & wanted) / len(wanted), 4),
                "candidate_precision": round(len(candidates & wanted) / len(candidates), 4),
                "joined_recall": round(len(joined & wanted) / len(wanted), 4),
                "joined_precision": round(len(joined & wanted) / len(joined), 4),
                "by_similarity": table,
            }
        )
    save("recall", {"documents": len(documents), "cuts": cuts})
    draw_recall(cuts)


def draw_recall(cuts: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    grid = np.linspace(0.3, 1, 200)
    for cut, color in zip(cuts, ("C0", "C1", "C2"), strict=True):
        b, r = cut["bands"], cut["rows"]
        axes.plot(grid, candidate_probability(grid, b, r), color, label=f"{b} bands of {r} rows")
        points = cut["by_similarity"]
        measured = [point["measured"] for point in points]
        axes.plot([point["similarity"] for point in points], measured, color + "o")
    axes.axvline(SETTINGS.threshold, color="gray", linestyle=":", label="threshold")
    axes.set(xlabel="true Jaccard similarity of a pair", ylabel="share of pairs that are compared")
    axes.set_title("lines: the S-curve; points: measured, 250 pairs each", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(PICTURES / "near_duplicates_recall.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the search for near duplicates.")
    parser.add_argument("what", choices=["signatures", "growth", "recall"])
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_one_size(options.inputs[0], options.child)
        return
    measures = {"signatures": measure_signatures, "growth": measure_growth}
    (measures | {"recall": measure_recall})[options.what](options)


if __name__ == "__main__":
    main()
