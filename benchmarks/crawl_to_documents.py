"""The pipeline from a crawl to deduplicated documents, beside datatrove's on the same files.

    python benchmarks/crawl_to_documents.py WARC [WARC ...] [--rounds 3] [--peer-python PYTHON]

Both extract the main text, identify the language (fastText's lid.176.ftz, English, at least 0.4),
apply Gopher's quality rules and drop near duplicates by MinHash (5-grams of words, 14 bands of 8
rows), with two worker processes, from the files on disk to the documents on disk. Ours is
`build_documents`, which also masks personal data, drops repeated lines and exact duplicates, and
checks the Jaccard similarity of each candidate. datatrove's is the chain of its documentation:
WarcReader, Trafilatura, LanguageFilter, GopherQualityFilter, then the four steps of its MinHash.
It gives each worker whole files, so pass two files or more of similar size.

The two alternate; a figure is the median of the wall seconds of whole processes, imports included,
and of their processor seconds. `--peer-python` names a Python that has `datatrove` with its
extractors and `fasttext-numpy2-wheel`. Results: crawl_to_documents_results.json beside this file.
"""

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

RESULTS = Path(__file__).with_name("crawl_to_documents_results.json")
WORKERS = 2


def run_ours(files: list[Path], folder: Path) -> int:
    """Build the documents, and return how many there are."""
    from data_pipeline.executors.document_building import DocumentSettings, build_documents

    settings = DocumentSettings.model_validate(
        {"num_processes": WORKERS, "minhash": {"num_hashes": 112, "threshold": 0.8}}
    )
    counts = build_documents(files, folder / "documents", settings).counts
    return counts[-1]["documents_out"]


def datatrove_steps(crawl: Path, folder: Path) -> dict[str, tuple[list, int]]:
    """Return datatrove's chain: the pipeline and the number of tasks of each step by its name."""
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import GopherQualityFilter, LanguageFilter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    names = ("filtered", "documents", "signatures", "buckets", "ids")
    filtered, documents, signatures, buckets, ids = (str(folder / name) for name in names)
    pages_to_texts = [
        WarcReader(str(crawl), glob_pattern="*.warc.gz"),
        Trafilatura(),
        LanguageFilter(languages=["en"], language_threshold=0.4),
        GopherQualityFilter(),
        JsonlWriter(filtered),
    ]
    signing = [JsonlReader(filtered), MinhashDedupSignature(signatures, config=config)]
    bucketing = [MinhashDedupBuckets(signatures, buckets, config=config)]
    clustering = [MinhashDedupCluster(buckets, ids, config=config)]
    dropping = [JsonlReader(filtered), MinhashDedupFilter(ids), JsonlWriter(documents)]
    return {
        "filter": (pages_to_texts, WORKERS),
        "signatures": (signing, WORKERS),
        "buckets": (bucketing, config.num_buckets),
        "clusters": (clustering, 1),
        "result": (dropping, WORKERS),
    }


def run_datatrove(files: list[Path], folder: Path) -> int:
    """Run datatrove's chain, and return how many documents it keeps."""
    import datatrove.utils.lid
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader

    from data_pipeline.language_id import language_model_path

    datatrove.utils.lid.cached_asset_path_or_download = lambda *_, **__: str(language_model_path())
    crawl = folder / "crawl"
    crawl.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copy(file, crawl / f"{number:03}.warc.gz")
    for name, (pipeline, tasks) in datatrove_steps(crawl, folder).items():
        logs = str(folder / "logs" / name)
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=WORKERS, logging_dir=logs, start_method="fork"
        ).run()
    return sum(1 for _ in JsonlReader(str(folder / "documents")).run())


RUNS = {"ours": run_ours, "datatrove": run_datatrove}


def timed(python: str, name: str, files: list[Path]) -> dict[str, float]:
    """Run one of them in a process of its own; return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, __file__, *map(str, files), "--only", name, "--folder", folder]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, "processor_seconds": processor, **said}


def number_of_responses(files: list[Path]) -> int:
    """Return how many pages the files have."""
    from warcio.archiveiterator import ArchiveIterator

    total = 0
    for file in files:
        with file.open("rb") as stream:
            total += sum(record.rec_type == "response" for record in ArchiveIterator(stream))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--only", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = [path.resolve() for path in options.files]
    if options.only:
        kept = RUNS[options.only](files, options.folder / "run")
        print(json.dumps({"documents_kept": kept}))
        return
    pages = number_of_responses(files)
    pythons = {"ours": sys.executable, "datatrove": options.peer_python}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for number in range(options.rounds):
        for name in RUNS if number % 2 == 0 else reversed(RUNS):
            rounds[name].append(timed(pythons[name], name, files))
            print(name, rounds[name][-1], file=sys.stderr)
    results: dict[str, object] = {"pages": pages, "python": platform.python_version()}
    print(f"{pages:,} pages in {len(files)} files, {WORKERS} workers, {options.rounds} rounds")
    print(f"{'':10} {'seconds':>8} {'processor':>10} {'pages/s':>8} {'kept':>7}")
    for name, each in rounds.items():
        seconds = statistics.median(one["seconds"] for one in each)
        processor = statistics.median(one["processor_seconds"] for one in each)
        kept = int(each[0]["documents_kept"])
        results[name] = {"rounds": each, "median_seconds": seconds, "median_processor": processor}
        print(f"{name:10} {seconds:8.1f} {processor:10.1f} {pages / seconds:8.0f} {kept:7,}")
    wall, work = (
        statistics.median(one[key] for one in rounds["datatrove"])
        / statistics.median(one[key] for one in rounds["ours"])
        for key in ("seconds", "processor_seconds")
    )
    results["ratio"] = {"seconds": wall, "processor_seconds": work}
    print(f"ours is {wall:.2f} times as fast (by processor time {work:.2f})")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
