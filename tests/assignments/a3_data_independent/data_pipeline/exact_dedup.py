"""Exact repeats and a Bloom filter, written from the handout with groupby and whole numbers."""

import math
from collections import Counter, defaultdict
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from lm_core.settings import Settings

WHOLE = 2**64


class ExactDedupSettings(Settings):
    max_documents_per_line: int = 10
    min_line_characters: int = 30
    paragraphs: bool = False
    min_paragraph_characters: int = 30
    memory: Literal["exact", "bloom"] = "exact"
    bloom_capacity: int = 100_000_000
    bloom_false_positive_rate: float = 0.01


def bytes_hash(data):
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def text_hash(text):
    return bytes_hash(text.encode())


def line_hashes(text):
    bare = (line.strip() for line in text.split("\n"))
    return {text_hash(line) for line in bare if line}


def documents_of_each_line(texts):
    texts_of_line = defaultdict(set)
    for number, text in enumerate(texts):
        for key in line_hashes(text):
            texts_of_line[key].add(number)
    return Counter({key: len(numbers) for key, numbers in texts_of_line.items()})


def drop_repeated_lines(text, documents_of_line, settings):
    def is_repeated(line):
        bare = line.strip()
        count = documents_of_line.get(text_hash(bare), 0) if bare else 0
        return count > settings.max_documents_per_line

    kept, dropped = [], 0
    for repeated, run in groupby(text.split("\n"), key=is_repeated):
        lines = list(run)
        longest = max(len(line.strip()) for line in lines)
        if repeated and longest >= settings.min_line_characters:
            dropped += len(lines)
        else:
            kept += lines
    if not dropped:
        return text, 0
    return "\n".join(with_single_gaps(kept)).strip("\n"), dropped


def with_single_gaps(lines):
    """Of several blank lines with a line before and behind, leave an empty one."""
    made = []
    last = len(lines) - 1
    numbered = groupby(enumerate(lines), key=lambda pair: 0 < pair[0] < last and is_blank(pair[1]))
    for is_gap, run in numbered:
        gap = [line for _, line in run]
        made += [""] if is_gap and len(gap) > 1 else gap
    return made


def is_blank(line):
    return not line.strip(" \t")


def drop_repeated_paragraphs(text, seen, settings):
    lines = text.split("\n")
    pieces, gap = [], []  # (lines of the gap before, lines of the paragraph)
    for number, line in enumerate(lines):
        is_inner = 0 < number < len(lines) - 1
        if is_inner and is_blank(line):
            gap.append(line)
        elif gap or not pieces:
            pieces.append((gap, [line]))
            gap = []
        else:
            pieces[-1][1].append(line)
    made, count = "", 0
    started = False
    for gap, paragraph in pieces:
        whole = "\n".join(paragraph)
        if len(whole.strip()) >= settings.min_paragraph_characters:
            key = text_hash(whole.strip())
            if key in seen:
                count += 1
                continue
            seen.add(key)
        if started:
            made += "\n" + "".join(f"{line}\n" for line in gap)
        made += whole
        started = True
    return (made.strip("\n"), count) if count else (text, 0)


def first_of_each(texts):
    first = {}
    for position, text in enumerate(texts):
        first.setdefault(text, position)
    return sorted(first.values())


def deduplicate_lines(paths, folder, settings=None):
    paths, folder = [Path(path) for path in paths], Path(folder)
    if any(path.resolve().parent == folder.resolve() for path in paths):
        raise ValueError(f"{folder} has one of the files")
    contents = {}
    for path in paths:
        if path.name in contents:
            raise ValueError(f"two files are named {path.name}")
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        contents[path.name] = path.read_bytes()
    cut = {name: cut_lines(content) for name, content in contents.items()}
    counts = Counter(bare for lines in cut.values() for bare, _ in lines)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in cut.items():
        (folder / name).write_bytes(b"".join(whole for bare, whole in lines if counts[bare] < 2))
    return sum(count for count in counts.values() if count > 1)


def cut_lines(content):
    made = []
    while content:
        line, end, content = content.partition(b"\n")
        bare = line[:-1] if end and line.endswith(b"\r") else line
        made.append((bare, line + end))
    return made


class BloomFilter:
    """The bits as one whole number of Python, and as bytes when they are asked for."""

    def __init__(self, capacity, false_positive_rate):
        if capacity < 1 or not 0 < false_positive_rate < 1:
            raise ValueError(f"a filter for {capacity} hashes and a rate of {false_positive_rate}")
        nats = -math.log(false_positive_rate)
        self.num_bits = math.ceil(capacity * nats / math.log(2) ** 2)
        self.num_hashes = round(nats / math.log(2)) or 1
        self.whole = 0

    @property
    def bits(self):
        size = -(-self.num_bits // 8)
        return np.frombuffer(self.whole.to_bytes(size, "little"), dtype=np.uint8).copy()

    def _mask(self, key):
        key = int(key)
        step = (key // 2**32 + key % 2**32 * 2**32) | 1
        mask = 0
        for _ in range(self.num_hashes):
            mask |= 1 << key % self.num_bits
            key = (key + step) % WHOLE
        return mask

    def add_all(self, hashes):
        masks = [self._mask(key) for key in hashes]
        before = self.whole
        earlier = Counter()
        answers = []
        for key, mask in zip(hashes.tolist(), masks, strict=True):
            answers.append(before & mask == mask or earlier[key] > 0)
            earlier[key] += 1
            self.whole |= mask
        return np.array(answers, dtype=bool)

    def add(self, key):
        found = key in self
        self.whole |= self._mask(key)
        return found

    def __contains__(self, key):
        mask = self._mask(key)
        return self.whole & mask == mask


def empty_filter(settings):
    return None


def repeated_lines(read_texts, settings):
    counts = documents_of_each_line(read_texts())
    return Counter({k: n for k, n in counts.items() if n > settings.max_documents_per_line})
