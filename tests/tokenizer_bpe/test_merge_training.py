"""The fast trainer makes the naive trainer's merges, and its work does not grow with the corpus."""

import gc
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_core.settings import load_settings
from tokenizer_bpe import merge_training, naive_training
from tokenizer_bpe.merge_training import (
    IndexedWords,
    LinkedWord,
    TokenizerSettings,
    train_bpe_from_counts,
)
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN, gpt4_pattern, pretokenize

END = "<|endoftext|>"


def train_both(tmp_path_factory, text, vocab_size, special_tokens, **arguments):
    path = tmp_path_factory.getbasetemp() / "corpus.txt"
    path.write_bytes(text.encode())
    return [
        trainer.train_bpe(path, vocab_size, special_tokens, **arguments)
        for trainer in (naive_training, merge_training)
    ]


# Few letters make long runs, overlaps and ties; é and 漢 make tokens that are parts of characters.
corpora = st.lists(
    st.one_of(st.text("ab ", max_size=30), st.text("abcé漢 '\n1", max_size=30), st.just(END)),
    min_size=1,
    max_size=12,
).filter(any)


@settings(max_examples=200, deadline=None)
@given(parts=corpora, long_word=st.sampled_from([1, 4, 500]), merges=st.integers(0, 60))
def test_the_merges_are_those_of_the_naive_trainer(tmp_path_factory, parts, long_word, merges):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_training, "LONG_WORD", long_word)
        naive, fast = train_both(tmp_path_factory, "".join(parts), 258 + merges, [END, "<x>"])
    assert fast == naive


def test_the_same_on_real_text_and_under_the_other_pattern(tmp_path_factory):
    text = Path(random.__file__).read_text(encoding="utf-8")[:20_000] + END + "12345 é" * 9
    naive, fast = train_both(tmp_path_factory, text, 400, [END], pattern=GPT4_PATTERN)
    assert fast == naive
    assert len(fast[1]) == 400 - 257


def test_no_merge_crosses_a_special_token(tmp_path_factory):
    """Without the cut, b"|" + b">" would be merged, and b"x" with the next text."""
    for _, merges in train_both(tmp_path_factory, f"xy{END}" * 20, 300, [END]):
        assert merges == [(b"x", b"y")]


def test_ties_go_to_the_larger_bytes_and_not_to_the_printed_form():
    """The bytes of é are c3 a9. Its printed form in a tokenizer.json, "Ã©", sorts differently from
    that of a control character, "Ģ" (U+0122) for 0x80.
    """
    counts = {"\x01\x02": 5, "zy": 5, "é": 5, "ab": 5, "abc": 5}
    _, merges = train_bpe_from_counts(counts, 256 + 5, [])
    assert merges == [
        (b"a", b"b"),
        (b"\xc3", b"\xa9"),
        (b"z", b"y"),
        (b"ab", b"c"),
        (b"\x01", b"\x02"),
    ]


def test_a_longer_token_is_larger_than_the_one_that_it_begins_with():
    _, merges = train_bpe_from_counts({"ab": 9, "abc": 1, "ac": 1}, 256 + 3, [])
    assert merges == [(b"a", b"b"), (b"ab", b"c"), (b"a", b"c")]


def test_special_tokens_are_appended_after_the_merges():
    vocab, _ = train_bpe_from_counts({"ab": 1}, 259, ["<x>", "<y>"])
    assert [vocab[i] for i in (97, 256, 257, 258)] == [b"a", b"ab", b"<x>", b"<y>"]
    assert list(vocab) == list(range(259))


def test_on_merge_is_called_after_each_merge():
    seen = []
    train_bpe_from_counts({"abcd": 1}, 300, [], on_merge=seen.append)
    assert seen == [1, 2, 3]


def test_the_garbage_collector_is_on_again_after_an_error():
    def fail(done):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train_bpe_from_counts({"ab": 1}, 300, [], on_merge=fail)
    assert gc.isenabled()


class CountedList(list):
    """A list that counts how often its items are read."""

    reads = 0

    def __getitem__(self, index):
        CountedList.reads += 1
        return super().__getitem__(index)


def test_a_merge_visits_only_the_words_that_hold_the_pair():
    """A trainer that recounts would read every word for every merge: 2,000 times 100."""
    random.seed(0)
    counts = {"".join(random.choices("abcdefghijklmnop", k=8)): 1 for _ in range(2000)}
    words = IndexedWords(counts)
    words._words = CountedList(words._words)
    CountedList.reads = 0
    occurrences = 0
    queue = merge_training.MergeQueue(words.pair_counts, [bytes([byte]) for byte in range(256)])
    for merge in range(100):
        pair = queue.pop_best()
        occurrences += words.pair_counts[pair]
        queue.add_token(b"%d" % merge)
        queue.push(words.merge(pair, chr(256 + merge)))
    # Besides the words with the pair, only those from which an earlier merge removed it.
    assert occurrences <= 2000 * 7
    assert CountedList.reads <= 2 * 2000 * 7
    assert CountedList.reads < 2000 * 100 / 5


@pytest.mark.parametrize("letters", ["a", "ab", "abcdefgh"])
def test_one_long_word_costs_at_most_three_visits_a_token(letters):
    """All merges together: n initial positions, and two more for each of at most n merges."""
    size = 4_000
    random.seed(3)
    word = LinkedWord("".join(random.choices(letters, k=size)))
    visits = 0
    positions_of = word._positions

    class CountedPositions(dict):
        def pop(self, pair, default):
            nonlocal visits
            found = super().pop(pair, default)
            visits += len(found)
            return found

    word._positions = CountedPositions(positions_of)
    next_token = 256
    while word._positions:
        pair = max(word._positions, key=lambda pair: len(word._positions[pair]))
        for _ in word.merge(pair, chr(next_token)):
            pass
        next_token += 1
    assert size / 2 < visits <= 3 * size


def test_settings_have_limits(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("vocab_size = 512\npattern = 'gpt4'\n")
    assert load_settings(TokenizerSettings, recipe, []).pattern == "gpt4"
    for wrong in ("vocab_size = 256", "pattern = 'gpt5'", "num_processes = 0", "max_digits = -1"):
        recipe.write_text(wrong)
        with pytest.raises(ValueError, match=wrong.split()[0]):
            load_settings(TokenizerSettings, recipe, [])


def test_the_digit_rule_of_the_settings():
    """Unset: each pattern's own rule; a number: that many digits in a word; 0: no limit."""
    assert TokenizerSettings().word_pattern == GPT2_PATTERN
    assert TokenizerSettings(pattern="gpt4").word_pattern == GPT4_PATTERN
    for max_digits, words in (
        (0, ["1234567"]),
        (1, list("1234567")),
        (2, ["12", "34", "56", "7"]),
        (3, ["123", "456", "7"]),
        (12, ["1234567"]),
    ):
        settings = TokenizerSettings(pattern="gpt4", max_digits=max_digits)
        assert settings.word_pattern == gpt4_pattern(max_digits)
        assert pretokenize("1234567", settings.word_pattern) == words


def test_gpt2_has_no_digit_rule_to_set(tmp_path):
    recipe = tmp_path / "recipe.toml"
    for text in ("max_digits = 0", "pattern = 'gpt2'\nmax_digits = 2"):
        recipe.write_text(text)
        with pytest.raises(ValueError) as error:
            load_settings(TokenizerSettings, recipe, [])
        number = text[-1]
        assert str(error.value) == (
            f"{recipe}: max_digits = {number}: GPT-2's pattern has no digit rule; "
            'use pattern = "gpt4"'
        )
