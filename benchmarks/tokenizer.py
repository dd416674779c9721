"""Training and encoding against Hugging Face tokenizers, rustbpe and tiktoken, on one corpus.

    python benchmarks/tokenizer.py CORPUS.txt --gpt2 FOLDER [--repeats 5] [--out FILE]
    python benchmarks/tokenizer.py CORPUS.txt --gpt2 FOLDER --only encoding

CORPUS is any UTF-8 file; FOLDER contains GPT-2's merges (gpt2_merges.txt, gpt2_vocab.json). Peers
that are not installed are skipped and named (`pip install rustbpe tiktoken tokenizers`).

Every contestant runs once per round. The figures are medians of wall seconds, and ratios of
medians, because the machine may be busy. Code that is compiled at first use is compiled before the
clock starts and reported separately. Each cold encoder is a new object; a warm one has encoded the
same text before. Results are written to tokenizer_results.json next to this file, or to FILE, and
to the terminal.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

END = "<|endoftext|>"
VOCAB_SIZE = 32_000
HERE = Path(__file__).resolve().parent
Contestants = dict[str, Callable[[], Any]]


class FreshEachRound:
    """Calls `encode` with a new object each time, which `prepare` makes before the clock starts."""

    def __init__(self, make: Callable[[], Any], encode: Callable[[Any], Any]) -> None:
        self.make, self.encode = make, encode

    def prepare(self) -> None:
        self.object = self.make()

    def __call__(self) -> None:
        self.encode(self.object)


def timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def interleaved(contestants: Contestants, repeats: int) -> dict[str, float]:
    """Return median seconds of each contestant, in rounds: A B C A B C ..."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(repeats):
        for name, function in contestants.items():
            if isinstance(function, FreshEachRound):
                function.prepare()
            seconds[name].append(timed(function))
            print(f"  round {number + 1}: {name}: {seconds[name][-1]:.2f} s", flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def train_compiled(corpus: Path) -> None:
    from tokenizer_bpe.compiled.merge_training import train_bpe

    train_bpe(corpus, VOCAB_SIZE, [END], num_threads=2)


def train_lesson(corpus: Path, num_processes: int) -> None:
    from tokenizer_bpe.merge_training import train_bpe_from_counts
    from tokenizer_bpe.pretokenization import count_words

    counts = count_words(corpus, [END], num_processes=num_processes)
    train_bpe_from_counts(counts, VOCAB_SIZE, [END])


def train_tokenizers(corpus: Path) -> None:
    import tokenizers

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train([str(corpus)], trainer)


def train_rustbpe(corpus: Path) -> None:
    import rustbpe

    from tokenizer_bpe.pretokenization import GPT2_PATTERN

    documents = corpus.read_text(encoding="utf-8").split(END)
    rustbpe.Tokenizer().train_from_iterator(iter(documents), VOCAB_SIZE, pattern=GPT2_PATTERN)


def training_contestants(corpus: Path) -> Contestants:
    """Return contestants that import their code when called, so that memory is measured
    separately.
    """
    found: Contestants = {
        "compiled, 2 threads": lambda: train_compiled(corpus),
        "lesson, 2 processes": lambda: train_lesson(corpus, 2),
        "lesson, 1 process": lambda: train_lesson(corpus, 1),
        "tokenizers": lambda: train_tokenizers(corpus),
        "rustbpe": lambda: train_rustbpe(corpus),
    }
    for name in ("tokenizers", "rustbpe"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: skipped")
            del found[name]
    return found


def encoding_contestants(texts: list[str], gpt2: Path) -> Contestants:
    from tokenizer_bpe.compiled.tokenizer import Tokenizer as Compiled
    from tokenizer_bpe.pretokenization import GPT2_PATTERN
    from tokenizer_bpe.tokenizer import Tokenizer

    files = gpt2 / "gpt2_vocab.json", gpt2 / "gpt2_merges.txt"
    lesson = Tokenizer.from_files(*files, [END])
    warm_lesson, compiled = Tokenizer.from_files(*files, [END]), Compiled.of(lesson)

    # A new encoder for each round, made before the clock starts.
    found: Contestants = {
        "compiled, cold, ids as an array": FreshEachRound(
            lambda: Compiled.of(lesson), lambda t: [t.encode_to_array(text) for text in texts]
        ),
        "compiled, cold, ids as lists": FreshEachRound(
            lambda: Compiled.of(lesson), lambda t: [t.encode(text) for text in texts]
        ),
        "compiled, warm, ids as an array": lambda: [compiled.encode_to_array(t) for t in texts],
        "compiled, cold, batch, 2 threads, arrays": FreshEachRound(
            lambda: Compiled.of(lesson),
            lambda t: list(t.encode_batch_to_arrays(texts, num_threads=2)),
        ),
        "compiled, cold, batch, 2 threads, lists": FreshEachRound(
            lambda: Compiled.of(lesson), lambda t: t.encode_batch(texts, num_threads=2)
        ),
        "lesson, cold": FreshEachRound(
            lambda: Tokenizer.from_files(*files, [END]),
            lambda t: [t.encode_to_array(text) for text in texts],
        ),
        "lesson, warm": lambda: [warm_lesson.encode_to_array(text) for text in texts],
        "lesson, warm, a stream of texts": lambda: sum(
            1 for _ in warm_lesson.encode_iterable(texts)
        ),
    }
    for text in texts:
        warm_lesson.encode_to_array(text)
    try:
        import tiktoken
    except ImportError:
        print("tiktoken is not installed: skipped")
        return found
    special = {END: lesson.special_tokens[END]}
    ranks = {token: number for number, token in lesson.vocab.items() if token != END.encode()}
    peer = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    found["tiktoken"] = lambda: [peer.encode_ordinary(text) for text in texts]
    found["tiktoken, batch, 2 threads"] = lambda: peer.encode_ordinary_batch(texts, num_threads=2)
    return found


def compile_first() -> float:
    """Return the seconds that the first use of compiled code takes; almost none if it is cached."""
    from tokenizer_bpe.compiled import merge_training
    from tokenizer_bpe.compiled.tokenizer import Tokenizer

    def first_use() -> None:
        vocab, merges = merge_training.train_bpe_from_counts({"ab": 3, "abc": 2}, 259, [END])
        merge_training.count_words(["some words"], [END], num_threads=2)
        Tokenizer(vocab, merges, [END]).encode_batch(["some words"], num_threads=2)

    return timed(first_use)


def peak_megabytes(name: str, corpus: Path) -> int | None:
    """Return the peak memory of a process that trains once, including its children.

    It is read from /proc every 20 ms, so on Linux only. (The kernel's own maximum, ru_maxrss,
    starts at the size of the parent process.)
    """
    if not Path("/proc/self/task").is_dir():
        return None
    command = [sys.executable, __file__, str(corpus), "--train-once", name]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_kilobytes(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0, f"{name} failed"
    return round(peak / 1024)


def resident_kilobytes(pid: int) -> int:
    """Return the memory of a process and its children; 0 for one that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return sum(map(int, own)) + sum(resident_kilobytes(int(child)) for child in children)


def ratio(seconds: dict[str, float], ours: str, peer: str) -> float | None:
    return round(seconds[peer] / seconds[ours], 2) if {peer, ours} <= seconds.keys() else None


def ratios(training: dict[str, float], encoding: dict[str, float]) -> list[dict[str, Any]]:
    """Return the ratios of the stage's README, each with its minimum and goal."""
    peer, batch = "tiktoken", "tiktoken, batch, 2 threads"
    rows = [
        ("training 32k, compiled", training, "compiled, 2 threads", "tokenizers", 4, 6),
        ("training 32k, compiled", training, "compiled, 2 threads", "rustbpe", 1.5, 2.5),
        ("training 32k, lesson", training, "lesson, 2 processes", "tokenizers", 0.8, 1.2),
        ("training 32k, lesson", training, "lesson, 1 process", "tokenizers", None, None),
        ("encoding", encoding, "compiled, cold, ids as an array", peer, 3.3, 5),
        ("encoding", encoding, "compiled, cold, ids as lists", peer, None, 3),
        ("encoding", encoding, "compiled, warm, ids as an array", peer, None, None),
        ("encoding", encoding, "compiled, cold, batch, 2 threads, arrays", batch, 3.5, 5),
        ("encoding", encoding, "compiled, cold, batch, 2 threads, lists", batch, None, None),
        (
            "two threads against one",
            encoding,
            "compiled, cold, batch, 2 threads, arrays",
            "compiled, cold, ids as an array",
            1.6,
            1.8,
        ),
        ("encoding", encoding, "lesson, cold", peer, 0.27, 0.45),
        ("encoding", encoding, "lesson, warm", peer, 1.2, 1.6),
    ]
    return [
        {
            "what": f"{what}: {ours}",
            "against": against,
            "ratio": ratio(seconds, ours, against),
            "at_least": least,
            "aim": aim,
        }
        for what, seconds, ours, against, least, aim in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--gpt2", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "tokenizer_results.json")
    parser.add_argument("--only", choices=["encoding"], help="skip training and memory")
    parser.add_argument("--train-once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_once:
        training_contestants(options.corpus)[options.train_once]()
        return
    first_use = compile_first()
    contestants = {} if options.only else training_contestants(options.corpus)
    training = interleaved(contestants, options.repeats)
    memory = {name: peak_megabytes(name, options.corpus) for name in contestants}
    encoding: dict[str, float] = {}
    if options.gpt2:
        texts = [t for t in options.corpus.read_text(encoding="utf-8").split(END) if t]
        encoding = interleaved(encoding_contestants(texts, options.gpt2), options.repeats)
    megabytes = options.corpus.stat().st_size / 1e6
    results = {
        "corpus": options.corpus.name,
        "megabytes": round(megabytes, 1),
        "repeats": options.repeats,
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "first_use_seconds": round(first_use, 1),
        "training_seconds": {k: round(v, 2) for k, v in training.items()},
        "training_peak_megabytes": memory,
        "encoding_megabytes_per_second": {k: round(megabytes / v, 1) for k, v in encoding.items()},
        "ratios": ratios(training, encoding),
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
