"""A documents folder -> uint16 token files: ours against HF tokenizers and datatrove.

    python benchmarks/tokenize_shards.py DOCUMENTS TOKENIZER.json [--megabytes 50] [--repeats 5]

Every contestant reads the same parquet files and uses the same tokenizer.json and two threads or
processes. It is a new process each time; its clock starts after imports and after reading the
tokenizer (datatrove's workers do both while the clock runs). Rounds are interleaved; figures are
medians of wall seconds. Documents are taken from the folder at equal distances until there are
enough, and cut into pieces of at most --piece characters, because HF tokenizers become slower on
longer texts. Peers that are not installed are skipped and named. datatrove is not a dependency.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

END = "<|endoftext|>"
HERE = Path(__file__).resolve().parent
BATCH = 256  # documents; HF tokenizers encodes a batch with its threads


def write_sample(source: Path, folder: Path, megabytes: float, piece: int) -> tuple[int, int]:
    """Write the documents of the benchmark; return their number and bytes."""
    from lm_core.formats.documents import Document, document_id, read_documents, write_documents

    documents = list(read_documents(source))
    size = sum(len(document.text) for document in documents)
    step = max(1, int(size / (megabytes * 1e6)))
    texts = [
        (document.source, document.text[start : start + piece])
        for document in documents[::step]
        for start in range(0, len(document.text), piece)
    ]
    found = [Document(document_id(text), text, source, "") for source, text in texts]
    num_bytes = sum(len(text.encode()) for _, text in texts)
    row = {"documents_out": len(found), "bytes_out": num_bytes}
    write_documents(folder, found, [row], rows_per_file=512)
    return len(found), num_bytes


def ours(num_threads: int) -> Callable[[Path, Path, Path], float]:
    def run(documents: Path, tokenizer: Path, out: Path) -> float:
        from data_pipeline.shard_writing import ShardSettings, write_token_shards
        from tokenizer_bpe.characters.either_kind import read_tokenizer
        from tokenizer_bpe.compiled.tokenizer import Tokenizer

        compiled = Tokenizer.of(read_tokenizer(tokenizer))
        compiled.encode("this compiles the code, or reads it from the cache")
        settings = ShardSettings(num_processes=num_threads)
        started = time.perf_counter()
        write_token_shards(documents, compiled, "", out / "shards", settings)
        return time.perf_counter() - started

    return run


def tokenizers(method: str) -> Callable[[Path, Path, Path], float]:
    def run(documents: Path, tokenizer: Path, out: Path) -> float:
        import pyarrow.parquet as pq
        from tokenizers import Tokenizer

        encoder = Tokenizer.from_file(str(tokenizer))
        encode_batch = getattr(encoder, method)
        end = encoder.token_to_id(END)
        started = time.perf_counter()
        with (out / "ids.bin").open("wb") as file:
            for path in sorted(documents.glob("*.parquet")):
                column = pq.read_table(path, columns=["text"])["text"].to_pylist()
                for first in range(0, len(column), BATCH):
                    batch = encode_batch(column[first : first + BATCH], add_special_tokens=False)
                    for found in batch:
                        file.write(np.array([*found.ids, end], dtype=np.uint16).tobytes())
        return time.perf_counter() - started

    return run


def datatrove(documents: Path, tokenizer: Path, out: Path) -> float:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    started = time.perf_counter()
    LocalPipelineExecutor(
        [
            ParquetReader(str(documents), glob_pattern="*.parquet"),
            DocumentTokenizer(
                str(out / "ids"), str(tokenizer), eos_token=END, shuffle_documents=False
            ),
        ],
        tasks=2,
        workers=2,
        logging_dir=str(out / "log"),
    ).run()
    return time.perf_counter() - started


CONTESTANTS = {
    "ours, 2 threads": ours(2),
    "ours, 1 thread": ours(1),
    "tokenizers, encode_batch, 2 threads": tokenizers("encode_batch"),
    "tokenizers, encode_batch_fast, 2 threads": tokenizers("encode_batch_fast"),
    "datatrove, 2 processes": datatrove,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("documents", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--piece", type=int, default=16_000, help="characters of a document")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "tokenize_shards_results.json")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        with tempfile.TemporaryDirectory() as out:
            print(CONTESTANTS[options.once](options.documents, options.tokenizer, Path(out)))
        return
    names = list(CONTESTANTS)
    for package in ("tokenizers", "datatrove"):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: skipped")
            names = [name for name in names if not name.startswith(package)]
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "documents"
        number, size = write_sample(options.documents, sample, options.megabytes, options.piece)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        environment = os.environ | {"RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
        for round_number in range(options.repeats):
            for name in names:
                command = [sys.executable, __file__, sample, options.tokenizer, "--once", name]
                answer = subprocess.run(command, env=environment, capture_output=True, text=True)
                assert answer.returncode == 0, answer.stderr
                seconds[name].append(float(answer.stdout.split()[-1]))
                print(f"  round {round_number + 1}: {name}: {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    results = {
        "documents": number,
        "megabytes": round(size / 1e6, 1),
        "repeats": options.repeats,
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seconds": {name: [round(s, 2) for s in values] for name, values in seconds.items()},
        "megabytes_per_second": {n: round(size / 1e6 / s, 1) for n, s in medians.items()},
        "ours_2_threads_is_faster": {
            name: round(median / medians["ours, 2 threads"], 1) for name, median in medians.items()
        },
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
