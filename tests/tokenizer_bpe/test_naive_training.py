"""The naive trainer, against examples worked by hand."""

from collections import Counter

import pytest

from tokenizer_bpe.naive_training import best_pair, count_pairs, merge_pair, train_bpe

END = "<|endoftext|>"


def letters(word):
    return tuple(bytes([byte]) for byte in word.encode())


def test_pairs_are_counted_with_their_overlap():
    assert count_pairs({letters("aaa"): 2, letters("ab"): 3}) == Counter(
        {(b"a", b"a"): 4, (b"a", b"b"): 3}
    )


def test_ties_go_to_the_larger_pair_of_bytes():
    assert best_pair({(b"a", b"z"): 2, (b"b", b"a"): 2, (b"c", b"c"): 1}) == (b"b", b"a")
    assert best_pair({(b"a", b"b"): 1, (b"ab", b"a"): 1}) == (b"ab", b"a")
    # b"\xe9" is larger than b"z" as a byte, but not in its printed form.
    assert best_pair({(b"\xe9", b"a"): 1, (b"z", b"a"): 1}) == (b"\xe9", b"a")
    assert best_pair({(b"\x80", b"a"): 1, (b"~", b"a"): 1}) == (b"\x80", b"a")


def test_a_merge_goes_from_left_to_right():
    assert merge_pair(letters("aaaab"), (b"a", b"a")) == (b"aa", b"aa", b"b")
    assert merge_pair((b"a", b"b", b"ab"), (b"a", b"b")) == (b"ab", b"ab")
    assert merge_pair(letters("ba"), (b"a", b"b")) == (b"b", b"a")


def test_a_corpus_worked_by_hand(tmp_path):
    """low 2, " low" 3, " lower" 1: lo 6 and ow 6 tie, ow is larger; then l+ow 6; " "+low 4."""
    path = tmp_path / "corpus.txt"
    path.write_text(f"low low low{END}low low lower", encoding="utf-8")
    vocab, merges = train_bpe(path, 256 + 4 + 1, [END])
    assert merges == [(b"o", b"w"), (b"l", b"ow"), (b" ", b"low"), (b"e", b"r")]
    assert vocab == {i: bytes([i]) for i in range(256)} | {
        256: b"ow",
        257: b"low",
        258: b" low",
        259: b"er",
        260: END.encode(),
    }


def test_it_stops_where_no_pair_is_left(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("ab", encoding="utf-8")
    vocab, merges = train_bpe(path, 1000, [END, "<x>"])
    assert merges == [(b"a", b"b")]
    assert [vocab[256], vocab[257], vocab[258]] == [b"ab", END.encode(), b"<x>"]


@pytest.mark.parametrize(
    ("content", "vocab_size", "special_tokens", "message"),
    [
        (b"ab", 256, [END], "vocab_size 256 is too small"),
        (b"ab", 300, ["x", "x"], "named twice"),
        (b"ab", 300, [""], "is empty"),
        (b"", 300, [END], "is empty"),
        (b"\xff", 300, [END], "not UTF-8"),
    ],
)
def test_bad_input(content, vocab_size, special_tokens, message, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        train_bpe(path, vocab_size, special_tokens)


def test_verbose_shows_every_merge(tmp_path, capsys):
    path = tmp_path / "corpus.txt"
    path.write_text("ab ab ab b")
    train_bpe(path, 258, [], verbose=True)
    assert capsys.readouterr().out == "1: b'a' + b'b', 3 times\n2: b' ' + b'ab', 2 times\n"
