"""The growth of the time to encode, and to train on, one long word of random letters.

    python benchmarks/tokenizer_long_words.py --gpt2 FOLDER [--repeats 3]

FOLDER contains GPT-2's vocabulary (gpt2_vocab.json, gpt2_merges.txt). The lesson and the compiled
code process words of 125,000 to 1,000,000 letters from a to z. Every length runs once per round,
and the figures are medians of wall seconds. Code that is compiled at first use is compiled before
the clock starts; words of this length are not cached. It takes about a minute. Results are written
to tokenizer_long_words_results.json next to this file, with the nanoseconds per letter: if the work
is n log n, they grow by a sixth from the shortest word to the longest.
"""

import argparse
import json
import os
import platform
import random
import statistics
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizer_bpe import merge_training
from tokenizer_bpe.compiled import merge_training as compiled_training
from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer
from tokenizer_bpe.tokenizer import Tokenizer

LENGTHS = (125_000, 250_000, 500_000, 1_000_000)
VOCAB_SIZE = 4096
RESULTS = Path(__file__).resolve().parent / "tokenizer_long_words_results.json"


def random_word(length: int) -> str:
    return "".join(random.Random(length).choices(string.ascii_lowercase, k=length))


def contestants(gpt2: Tokenizer) -> dict[str, Callable[[str], Any]]:
    """Return name -> the function to time with a word."""
    train, train_compiled = (
        module.train_bpe_from_counts for module in (merge_training, compiled_training)
    )
    return {
        "encoding, lesson": gpt2.encode_to_array,
        "encoding, compiled": CompiledTokenizer.of(gpt2).encode_to_array,
        "training, lesson": lambda word: train({word: 1}, VOCAB_SIZE, []),
        "training, compiled": lambda word: train_compiled({word: 1}, VOCAB_SIZE, []),
    }


def timed(function: Callable[[str], Any], word: str) -> float:
    started = time.perf_counter()
    function(word)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="The time that one long word takes.")
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    gpt2 = Tokenizer.from_files(options.gpt2 / "gpt2_vocab.json", options.gpt2 / "gpt2_merges.txt")
    words = {length: random_word(length) for length in LENGTHS}
    made = contestants(gpt2)
    for function in made.values():  # compiles
        function(random_word(2000))
    seconds: dict[str, dict[int, list[float]]] = {
        name: {length: [] for length in LENGTHS} for name in made
    }
    for number in range(options.repeats):
        for length, word in words.items():
            for name, function in made.items():
                seconds[name][length].append(timed(function, word))
                print(
                    f"  round {number + 1}: {name}, {length:,}: {seconds[name][length][-1]:.2f} s"
                )
    medians = {
        name: {length: statistics.median(times) for length, times in of_name.items()}
        for name, of_name in seconds.items()
    }
    results = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "cores": os.cpu_count(),
        "repeats": options.repeats,
        "vocab_size_of_training": VOCAB_SIZE,
        "seconds": {
            name: {str(length): round(value, 3) for length, value in of_name.items()}
            for name, of_name in medians.items()
        },
        "nanoseconds_per_letter": {
            name: {str(length): round(1e9 * value / length) for length, value in of_name.items()}
            for name, of_name in medians.items()
        },
    }
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
