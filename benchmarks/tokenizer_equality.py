"""Check that the lesson, the compiled code, tiktoken and tokenizers agree on a corpus.

    python benchmarks/tokenizer_equality.py CORPUS.txt --gpt2 FOLDER [--strings 100000]

FOLDER contains gpt2_vocab.json and gpt2_merges.txt. Besides the corpus, random strings of assigned
code points are encoded. It takes a few minutes for 60 MB, and exits with status 1 if anything
differs.
"""

import argparse
import hashlib
import random
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiktoken
import tokenizers

from tokenizer_bpe import merge_training, pretokenization
from tokenizer_bpe.compiled import merge_training as compiled_training
from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer
from tokenizer_bpe.tokenizer import Tokenizer

END = "<|endoftext|>"
VOCAB_SIZE = 32_000


def merges_hash(merges: list[tuple[bytes, bytes]]) -> str:
    text = "\n".join(f"{left.hex()} {right.hex()}" for left, right in merges)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compare_training(corpus: Path) -> bool:
    counts = pretokenization.count_words(corpus, [END], num_processes=2)
    _, lesson = merge_training.train_bpe_from_counts(counts, VOCAB_SIZE, [END])
    _, compiled = compiled_training.train_bpe(corpus, VOCAB_SIZE, [END], num_threads=2)
    print(
        f"merges: lesson {merges_hash(lesson)}, compiled {merges_hash(compiled)}: {len(lesson):,}"
    )
    return lesson == compiled


def random_strings(count: int) -> Iterator[str]:
    """Yield strings of 1 to 40 assigned code points, half of them from the first 0x250."""
    assigned = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")
    ]
    low = [character for character in assigned if ord(character) < 0x250]
    generator = random.Random(0)
    for _ in range(count):
        length = generator.randint(1, 40)
        yield "".join(generator.choice(generator.choice((assigned, low))) for _ in range(length))


def compare_encoding(texts: list[str], gpt2: Path, what: str, in_batch: bool) -> bool:
    lesson = Tokenizer.from_files(gpt2 / "gpt2_vocab.json", gpt2 / "gpt2_merges.txt", [END])
    compiled = CompiledTokenizer.of(lesson)
    ranks = {token: number for number, token in lesson.vocab.items() if token != END.encode()}
    special = {END: lesson.special_tokens[END]}
    peer = tiktoken.Encoding(
        "gpt2",
        pat_str=pretokenization.GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens=special,
    )
    with tempfile.TemporaryDirectory() as folder:
        lesson.save(Path(folder, "tokenizer.json"))
        hugging_face = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    digests = {name: hashlib.sha256() for name in ("lesson", "compiled", "tiktoken", "tokenizers")}
    total = 0
    batches = iter(compiled.encode_batch(texts, num_threads=2)) if in_batch else None
    for text in texts:
        ids = {
            "lesson": lesson.encode(text),
            "compiled": next(batches) if batches else compiled.encode(text),
            "tiktoken": peer.encode(text, allowed_special="all"),
            "tokenizers": hugging_face.encode(text).ids,
        }
        total += len(ids["lesson"])
        for name, found in ids.items():
            digests[name].update(str(found).encode())
    found = {name: digest.hexdigest()[:16] for name, digest in digests.items()}
    print(f"{what}: {len(texts):,} texts, {total:,} ids: {found}")
    return len(set(found.values())) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Equality on a whole corpus.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--strings", type=int, default=100_000)
    options = parser.parse_args()
    documents = [d + END for d in options.corpus.read_text(encoding="utf-8").split(END) if d]
    same = [
        compare_training(options.corpus),
        compare_encoding(documents, options.gpt2, "corpus", in_batch=True),
        compare_encoding(list(random_strings(options.strings)), options.gpt2, "strings", False),
    ]
    print("all the same" if all(same) else "NOT the same")
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
