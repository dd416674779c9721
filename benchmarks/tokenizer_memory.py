"""Train on a file that is larger than the allowed memory: peak memory and seconds.

    python benchmarks/tokenizer_memory.py CORPUS.txt [--megabytes 1000] [--cap-megabytes 2000]

The file is made from CORPUS by repeating its documents in a shuffled order. The training runs in a
child process whose data memory is capped (RLIMIT_DATA), so that allocating more fails.
`--table-megabytes` makes the table of words so small that it has to spill to disk. Linux only. The
result is written to tokenizer_memory_results.json next to this file.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

END = "<|endoftext|>"
VOCAB_SIZE = 32_000
HERE = Path(__file__).resolve().parent


def write_repeated(corpus: Path, target: Path, megabytes: int) -> None:
    """Write the documents of the corpus, reshuffled in each pass, until the file is large
    enough.
    """
    documents = [d.encode() + END.encode() for d in corpus.read_text(encoding="utf-8").split(END)]
    shuffler = random.Random(0)
    size = 0
    with target.open("wb") as file:
        while True:
            shuffler.shuffle(documents)
            for document in documents:
                size += file.write(document)
                if size >= megabytes * 1_000_000:
                    return


def train_capped(path: Path, cap_megabytes: int, table_megabytes: int | None) -> None:
    """In the child process: train, and print the figures as JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (cap_megabytes * 1_000_000,) * 2)
    from tokenizer_bpe.compiled import merge_training, word_counting

    table_bytes = table_megabytes * 1_000_000 if table_megabytes else word_counting.TABLE_BYTES
    started = time.perf_counter()
    words = word_counting.count_words(path, [END], num_threads=2, table_bytes=table_bytes)
    counted = time.perf_counter()
    _, merges = merge_training.train_bpe_from_words(words, VOCAB_SIZE, [END])
    ended = time.perf_counter()
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    figures = {
        "peak_megabytes": round(int(peak) / 1024),
        "counting_seconds": round(counted - started, 1),
        "merging_seconds": round(ended - counted, 1),
        "distinct_words": len(words.counts),
        "merges": len(merges),
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on more text than memory.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--cap-megabytes", type=int, default=2000)
    parser.add_argument("--table-megabytes", type=int)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_capped(options.corpus, options.cap_megabytes, options.table_megabytes)
        return
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "large.txt")
        write_repeated(options.corpus, large, options.megabytes)
        results: dict[str, object] = {"file_megabytes": round(large.stat().st_size / 1e6)}
        results["cap_megabytes"] = options.cap_megabytes
        for name, table in (("all in memory", None), ("table of 8 MB, spilled", 8)):
            table = options.table_megabytes or table
            command = [sys.executable, __file__, str(large), "--child"]
            command += ["--cap-megabytes", str(options.cap_megabytes)]
            command += ["--table-megabytes", str(table)] if table else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[name] = json.loads(done.stdout)
    text = json.dumps(results, indent=2)
    (HERE / "tokenizer_memory_results.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
