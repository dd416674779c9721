"""The figures of a comparison, by hand; turns alternate; a peer that fails is named."""

import sys
import sysconfig
from itertools import count
from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from tokenizer_bpe.compiled import tokenizer as compiled_tokenizer
from tokenizer_bpe.compiled import word_boundaries, word_merging, word_table
from tokenizer_bpe.inspection import tokenizer_comparison as comparison
from tokenizer_bpe.inspection.sample_sentences import NUM_WORDS, SENTENCES
from tokenizer_bpe.merge_training import train_bpe
from tokenizer_bpe.pretokenization import GPT4_PATTERN
from tokenizer_bpe.tokenizer import Tokenizer

END = "<|endoftext|>"
BYTES = {byte: bytes([byte]) for byte in range(256)}
PEERS = ("tiktoken", "tokenizers")


@pytest.fixture
def only_bytes() -> Tokenizer:
    return Tokenizer(BYTES, [])


@pytest.fixture
def fake_encoders(monkeypatch: pytest.MonkeyPatch):
    """Replace the encoders by ones that return [1], and record their creation and calls in
    order.
    """
    calls: list[str] = []

    def maker(name: str):
        def make(tokenizer: Tokenizer):
            calls.append(f"make {name}")
            return lambda text: calls.append(f"{name} {tokenizer.pattern}") or [1]

        return make

    monkeypatch.setattr(comparison, "ENCODERS", {name: maker(name) for name in ("ours", "theirs")})
    return calls


def test_figures_of_a_tokenizer_that_knows_bytes_alone(only_bytes) -> None:
    """A token is a byte, so tokens per word are bytes per word."""
    (figures,) = comparison.compare_tokenizers([("bytes", only_bytes)], "Größe" * 50, rounds=1)
    assert (figures.name, figures.vocab_size, figures.bytes_per_token) == ("bytes", 256, 1.0)
    for code, sentences in SENTENCES.items():
        num_bytes = sum(len(sentence.encode()) for sentence in sentences)
        assert figures.fertility[code] == num_bytes / NUM_WORDS[code], code


def test_bytes_per_token_counts_bytes_of_the_text_and_not_characters() -> None:
    tokenizer = Tokenizer(BYTES | {256: "é".encode()}, [(b"\xc3", b"\xa9")])
    (figures,) = comparison.compare_tokenizers([("e", tokenizer)], "éé", rounds=1)
    assert figures.bytes_per_token == 2.0
    assert figures.vocab_size == 257


def test_the_sentences_say_the_same_in_every_language() -> None:
    assert sorted(SENTENCES) == sorted(["en", "de", "es", "ru", "zh", "ar", "hi", "py"])
    for code, sentences in SENTENCES.items():
        assert len(sentences) == (3 if code == "py" else 6), code
    assert NUM_WORDS["en"] == sum(len(sentence.split()) for sentence in SENTENCES["en"])
    assert not any(" " in sentence for sentence in SENTENCES["zh"]), (
        "words are cut for our count only"
    )
    assert NUM_WORDS["zh"] > 2 * len(SENTENCES["zh"])


def test_the_peers_give_our_ids_and_have_a_speed() -> None:
    text = Path(__file__).read_text(encoding="utf-8") + END
    for pattern in (comparison.Tokenizer(BYTES, []).pattern, GPT4_PATTERN):
        vocab, merges = train_bpe(Path(__file__), 400, [END], pattern)
        tokenizer = Tokenizer(vocab, merges, [END], pattern)
        (figures,) = comparison.compare_tokenizers([("t", tokenizer)], text, rounds=2)
        for name in ("ours", "compiled", *PEERS):
            assert isinstance(figures.speeds[name], float), (name, figures.speeds)
        for name in ("compiled", *PEERS):
            assert comparison.ENCODERS[name](tokenizer)(text) == tokenizer.encode(text)


def test_the_turns_alternate_and_each_makes_its_encoder_anew(fake_encoders) -> None:
    tokenizers = [Tokenizer(BYTES, [], pattern=pattern) for pattern in ("(?s:.)", "(?s:.+)")]
    turns = []
    comparison.encoding_speeds(tokenizers, "text", 2, count().__next__, lambda: turns.append(1))
    assert len(turns) == comparison.num_turns(len(tokenizers), 2)
    one_round = [
        call
        for tokenizer in tokenizers
        for name in ("ours", "theirs")
        for call in (f"make {name}", f"{name} {tokenizer.pattern}")
    ]
    assert fake_encoders == one_round * 2


def test_a_speed_is_the_median_in_millions_of_bytes(fake_encoders, only_bytes) -> None:
    """Ours takes 1, 9 and 2 seconds, theirs 4, 4 and 5: medians 2 and 4, for 2 bytes."""
    times = iter([0, 1, 1, 5, 10, 19, 20, 24, 30, 32, 40, 45])
    (speeds,) = comparison.encoding_speeds([only_bytes], "é", 3, times.__next__)
    assert speeds == {"ours": 1e-6, "theirs": 0.5e-6}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_not_installed(only_bytes, monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # its import then fails
    (speeds,) = comparison.encoding_speeds([only_bytes], "a b", 2, count().__next__)
    assert speeds[name] == comparison.NOT_INSTALLED
    assert sum(isinstance(speed, float) for speed in speeds.values()) == 3


def test_a_peer_that_refuses_a_pattern() -> None:
    tokenizer = Tokenizer(BYTES, [], pattern=r"\p{L}+|(?s:.)(?<!x{e<=1})")
    (speeds,) = comparison.encoding_speeds([tokenizer], "a b", 2, count().__next__)
    assert isinstance(speeds["ours"], float)
    assert {speeds[name] for name in PEERS} <= {comparison.REFUSES, comparison.OTHER_IDS}


def test_a_peer_that_gives_other_ids_has_no_speed(fake_encoders, only_bytes, monkeypatch) -> None:
    monkeypatch.setitem(comparison.ENCODERS, "theirs", lambda tokenizer: lambda text: [2])
    (speeds,) = comparison.encoding_speeds([only_bytes], "a b", 2, count().__next__)
    assert speeds == {"ours": speeds["ours"], "theirs": comparison.OTHER_IDS}


def test_the_compiled_encoder_has_compiled_and_has_met_no_word(only_bytes) -> None:
    """Neither depends on the text: one cold encoder is timed."""
    encode = comparison.compiled_encoder(only_bytes)
    assert encode.__self__._idle == []
    assert isinstance(encode.__self__, compiled_tokenizer.Tokenizer)
    before = {name: len(kernel.signatures) for name, kernel in kernels_of_compiled_code()}
    text = f"it's {END} {'w' * 500}  12\n漢"
    assert encode(text) == only_bytes.encode(text)
    assert before == {name: len(kernel.signatures) for name, kernel in kernels_of_compiled_code()}


def kernels_of_compiled_code():
    return [
        (f"{module.__name__}.{name}", each)
        for module in (compiled_tokenizer, word_boundaries, word_merging, word_table)
        for name, each in vars(module).items()
        if hasattr(each, "signatures")
    ]


def test_a_pattern_or_code_of_ones_own_is_not_compiled(only_bytes, monkeypatch, tmp_path) -> None:
    own = Tokenizer(BYTES, [], pattern=r"\w+|\W")
    (speeds,) = comparison.encoding_speeds([own], "a b", 2, count().__next__)
    assert speeds["compiled"] == comparison.NOT_COMPILED
    assert isinstance(speeds["ours"], float)
    (tmp_path / "tokenizer_bpe").mkdir()
    (tmp_path / "tokenizer_bpe" / "tokenizer.py").touch()
    monkeypatch.setenv(STAND_INS_VARIABLE, str(tmp_path))
    assert comparison.compiled_encoder(only_bytes) == comparison.NOT_COMPILED


def test_without_numba(only_bytes, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizer_bpe.compiled.tokenizer", None)
    (speeds,) = comparison.encoding_speeds([only_bytes], "a b", 2, count().__next__)
    assert speeds["compiled"] == comparison.NOT_INSTALLED


@pytest.mark.parametrize("name", [comparison.OURS, comparison.COMPILED])
def test_an_error_of_ours_is_not_hidden(only_bytes, monkeypatch, name: str) -> None:
    def broken(tokenizer: Tokenizer):
        raise RuntimeError("ours")

    monkeypatch.setitem(comparison.ENCODERS, name, broken)
    with pytest.raises(RuntimeError, match="ours"):
        comparison.encoding_speeds([only_bytes], "a", 1, count().__next__)


def test_an_empty_text_is_refused(only_bytes) -> None:
    with pytest.raises(ValueError, match="the text to compare on is empty"):
        comparison.compare_tokenizers([("bytes", only_bytes)], "")


def test_the_beginning_of_a_file_ends_with_a_whole_character(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("aé漢".encode())
    expected = ["", "a", "a", "aé", "aé", "aé", "aé漢", "aé漢"]
    assert [comparison.beginning_of(path, size) for size in range(8)] == expected
    for broken, position in ((b"ab\xff", 2), ("a漢".encode()[:-1], 1)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"text.txt: not UTF-8 \(byte {position}\)"):
            comparison.beginning_of(path)


def test_the_text_of_the_standard_library(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "b.py").write_text("bbbb")
    (tmp_path / "a.py").write_text("aé")
    (tmp_path / "c.txt").write_text("no")
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
    assert comparison.standard_library_text() == "aébbbb"
    assert comparison.standard_library_text(5) == "aébb"
    assert comparison.standard_library_text(2) == "ab", "half of é does not count"
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path / "none")}.__getitem__)
    assert comparison.standard_library_text() == ""
