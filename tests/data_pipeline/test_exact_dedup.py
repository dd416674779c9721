"""Repeated lines, paragraphs and documents, counted by hand; Bloom filters against theory."""

import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.exact_dedup import (
    BloomFilter,
    ExactDedupSettings,
    deduplicate_lines,
    documents_of_each_line,
    drop_repeated_lines,
    drop_repeated_paragraphs,
    empty_filter,
    first_of_each,
    repeated_lines,
    text_hash,
)
from lm_core.user_error import UserError

MENU = "Home | Products | About us | Contact"
SETTINGS = ExactDedupSettings(max_documents_per_line=2, min_line_characters=10)


def test_lines_are_counted_once_for_each_document():
    counts = documents_of_each_line([f"{MENU}\n\n{MENU}", f"  {MENU}\nshort", "other words"])
    assert counts[text_hash(MENU)] == 2
    assert counts[text_hash("short")] == 1
    assert counts[text_hash("")] == 0


def test_short_lines_go_with_the_long_line_they_touch_and_stay_alone():
    shared = f"tail\n{MENU}\n  (end)"
    texts = [f"page {n}\n\ntail\n\n{shared}\nown words {n}\ntail" for n in range(3)]
    counts = documents_of_each_line(texts)
    expected = "page 1\n\ntail\n\nown words 1\ntail"
    assert drop_repeated_lines(texts[1], counts, SETTINGS) == (expected, 3)


def test_a_line_is_dropped_only_beyond_the_limit():
    texts = [f"{MENU}\ntext of page {n}, longer" for n in range(3)]
    two = documents_of_each_line(texts[:2])
    three = documents_of_each_line(texts)
    assert drop_repeated_lines(texts[0], two, SETTINGS) == (texts[0], 0)
    assert drop_repeated_lines(texts[0], three, SETTINGS) == ("text of page 0, longer", 1)


def test_a_line_repeated_inside_one_document_stays():
    text = "\n".join([MENU] * 5)
    assert drop_repeated_lines(text, documents_of_each_line([text]), SETTINGS) == (
        text,
        0,
    )


def test_no_hole_is_left_where_lines_went():
    text = f"first part of it\n\n{MENU}\n\n    second part, indented"
    counts = documents_of_each_line([text] + [MENU] * 2)
    expected = "first part of it\n\n    second part, indented"
    assert drop_repeated_lines(text, counts, SETTINGS) == (expected, 1)


def test_first_of_each_keeps_the_order():
    assert first_of_each(["b", "a", "b", "a ", "a"]) == [0, 1, 3]


def test_the_hash_is_the_same_on_every_machine():
    assert text_hash("the same") == 0x19DBE3227FC1804C  # `b2sum -l 64`, bytes reversed


PARAGRAPHS = ExactDedupSettings(min_paragraph_characters=5)


def test_the_first_paragraph_stays_and_later_ones_go_with_the_gap_before_them():
    seen: set[int] = set()
    first = "Intro text\n\nshared one\nits second line\n\n\nend of it"
    assert drop_repeated_paragraphs(first, seen, PARAGRAPHS) == (first, 0)
    second = "  shared one\nits second line \n \t\nown text\n\nend of it\n"
    assert drop_repeated_paragraphs(second, seen, PARAGRAPHS) == ("own text", 2)
    assert len(seen) == 4


def test_a_paragraph_repeated_inside_one_text_stays_once():
    text = "the same\n\nother one\n\nthe same"
    assert drop_repeated_paragraphs(text, set(), PARAGRAPHS) == ("the same\n\nother one", 1)


def test_short_paragraphs_always_stay():
    text = "Note\n\nNote\n\nNotes\n\nNotes"
    assert drop_repeated_paragraphs(text, set(), PARAGRAPHS) == ("Note\n\nNote\n\nNotes", 1)


def test_a_text_of_repeated_paragraphs_only_becomes_empty():
    assert drop_repeated_paragraphs("whole\n\nwhole", {text_hash("whole")}, PARAGRAPHS) == ("", 2)
    assert drop_repeated_paragraphs("", set(), PARAGRAPHS) == ("", 0)


def random_hashes(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, number, dtype=np.uint64)


@pytest.mark.parametrize(
    ("capacity", "rate", "num_bits", "num_hashes"),
    [(1000, 0.01, 9586, 7), (1000, 0.5, 1443, 1), (1, 0.001, 15, 10), (10**6, 0.001, 14377588, 10)],
)
def test_the_size_of_a_bloom_filter(capacity, rate, num_bits, num_hashes):
    bloom = BloomFilter(capacity, rate)
    assert (bloom.num_bits, bloom.num_hashes) == (num_bits, num_hashes)
    assert bloom.bits.nbytes == math.ceil(num_bits / 8)


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_a_bloom_filter_finds_all_that_was_added_and_few_others(rate):
    bloom, added, others = (
        BloomFilter(20_000, rate),
        random_hashes(0, 20_000),
        random_hashes(1, 50_000),
    )
    bloom.add_all(added)
    where, bit = bloom.places(added)
    assert (bloom.bits[where] & bit).all()
    where, bit = bloom.places(others)
    measured = (bloom.bits[where] & bit).all(axis=1).mean()
    zeros = (1 - 1 / bloom.num_bits) ** (bloom.num_hashes * len(added))
    theory = (1 - zeros) ** bloom.num_hashes
    deviation = math.sqrt(theory * (1 - theory) / len(others))
    assert abs(measured - theory) < 5 * deviation
    assert measured < 1.15 * rate


def test_adding_one_by_one_is_like_adding_many():
    keys = random_hashes(2, 300)
    keys[100:200] = keys[:100]
    one, many = BloomFilter(500, 0.001), BloomFilter(500, 0.001)
    added = [one.add(int(key)) for key in keys]
    assert added == many.add_all(keys).tolist()
    assert added[:100] == [False] * 100
    assert added[100:200] == [True] * 100
    assert np.array_equal(one.bits, many.bits)
    assert int(keys[0]) in one
    assert sum(int(key) in one for key in random_hashes(5, 1000)) < 5


def test_a_bloom_filter_is_the_same_in_every_process():
    bloom = BloomFilter(100, 0.01)
    bloom.add(text_hash("the same"))
    assert np.flatnonzero(np.unpackbits(bloom.bits, bitorder="little")).tolist() == POSITIONS
    assert text_hash("the same") in pickle.loads(pickle.dumps(bloom))


def by_the_definition(key: int, num_bits: int, num_hashes: int) -> list[int]:
    second = (key >> 32 | key << 32) % 2**64 | 1
    return sorted({(key + i * second) % 2**64 % num_bits for i in range(num_hashes)})


POSITIONS = by_the_definition(0x19DBE3227FC1804C, 959, 7)


@pytest.mark.parametrize(("capacity", "rate"), [(0, 0.1), (10, 0.0), (10, 1.0)])
def test_an_impossible_filter_is_refused(capacity, rate):
    with pytest.raises(ValueError, match="expected a capacity"):
        BloomFilter(capacity, rate)


FULL_FILTER = ExactDedupSettings(max_documents_per_line=2, memory="bloom", bloom_capacity=1)


@pytest.mark.parametrize(
    "settings", [SETTINGS, FULL_FILTER, FULL_FILTER.model_copy(update={"bloom_capacity": 1000})]
)
def test_repeated_lines_are_the_same_in_little_memory(settings):
    texts = [f"{MENU}\npage {n}\nof group {n % 45}\npage {n}" for n in range(100)]
    expected = {k: n for k, n in documents_of_each_line(texts).items() if n > 2}
    assert repeated_lines(lambda: texts, settings) == Counter(expected)
    assert len(expected) == 11


def test_the_setting_chooses_the_filter():
    bloom = empty_filter(ExactDedupSettings(memory="bloom", bloom_capacity=1000))
    assert (bloom.num_bits, bloom.num_hashes) == (9586, 7)
    assert empty_filter(ExactDedupSettings()) is None


def written(folder: Path, **files: bytes) -> list[Path]:
    folder.mkdir()
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    return [folder / name for name in files]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


MEMORIES = [ExactDedupSettings(), ExactDedupSettings(memory="bloom", bloom_capacity=2)]


@pytest.mark.parametrize("settings", MEMORIES, ids=["exact", "bloom"])
def test_lines_that_occur_twice_anywhere_go_in_all_places(tmp_path, settings):
    files = written(
        tmp_path / "in",
        a=b"own a\ntwice here\nshared\ntwice here\n Shared\nlast",
        b=b"shared\r\n\xff\xfe not UTF-8\r\nown b\n\x00\nlast\nend",
        c=b"\xff\xfe not UTF-8\r\nonly here",
        empty=b"",
    )
    (tmp_path / "out").mkdir()  # as by tempfile.TemporaryDirectory()
    (tmp_path / "out" / "other").write_bytes(b"stays")
    assert deduplicate_lines(files, tmp_path / "out", settings) == 8
    assert contents(tmp_path / "out") == {
        "a": b"own a\n Shared\n",
        "b": b"own b\n\x00\nend",
        "c": b"only here",
        "empty": b"",
        "other": b"stays",
    }


def test_line_ends_and_blank_lines(tmp_path):
    one, two = written(tmp_path / "in", one=b"a\nb\n\na", two=b"c\r\n\nb")
    deduplicate_lines([one, str(two)], str(tmp_path / "new" / "out"))
    assert contents(tmp_path / "new" / "out") == {"one": b"", "two": b"c\r\n"}
    (single,) = written(tmp_path / "single", single=b"a\n\nb\rc\r\r\nb\rc\r\n")
    deduplicate_lines([single], tmp_path / "out")
    assert contents(tmp_path / "out") == {"single": single.read_bytes()}


def test_wrong_files_are_refused_and_nothing_is_written(tmp_path):
    (a,) = written(tmp_path / "in", a=b"x")
    (same,) = written(tmp_path / "in2", a=b"x")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for paths, folder, words in [
        ([a, same], tmp_path / "out", "2 files have this name"),
        ([a], tmp_path / "in", "contains a, an input"),
        ([a], tmp_path / "link", "contains a, an input"),
        ([a, tmp_path / "missing"], tmp_path / "out", "no such file"),
        ([a, tmp_path / "in2"], tmp_path / "out", "no such file"),
        ([same], a, "expected a folder"),
    ]:
        with pytest.raises(UserError, match=words):
            deduplicate_lines(paths, folder)
    assert not (tmp_path / "out").exists()
    assert contents(tmp_path / "in") == {"a": b"x"}


def test_nothing_is_half_written(tmp_path, monkeypatch):
    files = written(tmp_path / "in", a=b"x\n", b=b"y\n")
    reads = []

    def fail_at_the_last_reading(file: Path):
        reads.append(file)
        if len(reads) == 4:
            raise OSError("disk")
        return [file.read_bytes()]

    monkeypatch.setattr("data_pipeline.exact_dedup._lines", fail_at_the_last_reading)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_bytes(b"before")
    with pytest.raises(OSError, match="disk"):
        deduplicate_lines(files, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"before"}
