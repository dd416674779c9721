"""a1.9 to a1.11: the naive trainer, the incremental trainer, and the work that it does."""

import random
import time
from collections import Counter
from itertools import pairwise
from statistics import median

import pytest

from lm_course.grading.comparisons import check_true

NAIVE = "tokenizer_bpe.naive_training"
FAST = "tokenizer_bpe.merge_training"
both_trainers = pytest.mark.parametrize(
    "module",
    [
        pytest.param(NAIVE, marks=pytest.mark.task("a1.9")),
        pytest.param(FAST, marks=pytest.mark.task("a1.10")),
    ],
    ids=["naive", "incremental"],
)


@pytest.fixture
def corpus(tmp_path):
    """Return a function that writes a corpus file: text -> path."""

    def write(text):
        path = tmp_path / "corpus.txt"
        path.write_bytes(text.encode())
        return path

    return write


def expect_merges(a1, got, expected, counts, sentence, beginnings=None):
    """Compare the merges of the words in `counts`, and describe the first wrong one.

    `beginnings` maps a likely cause to the first merges that this mistake gives.
    """
    got = [tuple(pair) for pair in got]
    causes = {
        cause: lambda got, wrong=wrong: got[: len(wrong)] == wrong
        for cause, wrong in (beginnings or {}).items()
        if expected[: len(wrong)] != wrong
    }
    if likely := wrong_merge(a1, got, expected, counts):
        causes[likely] = got
    a1.expect(got, expected, sentence, causes)


def wrong_merge(a1, got, expected, counts):
    """Describe the first merge that differs, with the counts of pairs at that time."""
    number = next((n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), None)
    if number is None:
        short, many = min(len(got), len(expected)), len(got) > len(expected)
        return (
            f"they must end after merge {short}" if many else f"they end early, after merge {short}"
        )
    mine, right = got[number], expected[number]
    pairs = a1.count_pairs(counts, expected[:number])
    here = f"merge {number + 1} is {mine}"
    if pairs[mine] == pairs[right]:
        return f"{here}: a tie, which the larger pair of byte strings must win, here {right}"
    if pairs[mine] == 0:
        return f"{here}, which no word contains by then; {right} occurs {pairs[right]} times"
    return f"{here}, which occurs {pairs[mine]} times by then; {right} occurs {pairs[right]} times"


# a1.9 and a1.10: the same arguments, the same results


@both_trainers
def test_the_corpus_of_the_handout(implementation, a1, corpus, module):
    path = corpus(f"low low low{a1.END}low low lower")
    _, merges = a1.trained(implementation(module).train_bpe(path, 256 + 4 + 1, [a1.END]))
    counts = {"low": 2, " low": 3, " lower": 1}
    expected = [(b"o", b"w"), (b"l", b"ow"), (b" ", b"low"), (b"e", b"r")]
    beginnings = {
        "your ties go to the smaller pair, or to the one seen first: the larger pair of byte "
        "strings must win, here (b'o', b'w') over (b'l', b'o')": [(b"l", b"o")]
    }
    sentence = "the merges of 'low low low ...' are wrong"
    expect_merges(a1, merges, expected, counts, sentence, beginnings)


@both_trainers
def test_the_order_of_the_vocabulary(implementation, a1, corpus, module):
    path = corpus(f"low low low{a1.END}low low lower")
    vocab, _ = a1.trained(implementation(module).train_bpe(path, 256 + 4 + 2, [a1.END, "<x>"]))
    made = [b"ow", b"low", b" low", b"er"]
    special = [a1.END.encode(), b"<x>"]
    single = [bytes([byte]) for byte in range(256)]
    causes = {
        "the special tokens are missing: they take the last ids": dict(enumerate(single + made)),
        "the special tokens come first: put them last": dict(enumerate(special + single + made)),
        "the special tokens come before the merges: put them last": dict(
            enumerate(single + special + made)
        ),
        "keep special tokens in the order given": dict(enumerate(single + made + special[::-1])),
    }
    sentence = "the vocabulary is not 256 bytes, then the merges, then the special tokens, in order"
    a1.expect(dict(vocab), dict(enumerate(single + made + special)), sentence, causes)


@both_trainers
def test_no_merge_crosses_a_special_token(implementation, a1, corpus, module):
    path = corpus(f"xy{a1.END}" * 20)
    _, merges = a1.trained(implementation(module).train_bpe(path, 300, [a1.END]))
    merges = [tuple(pair) for pair in merges]
    crossing = [left + right for left, right in merges if set(left + right) - set(b"xy")]
    check_true(
        not crossing,
        f"the text was not split at its special tokens: {crossing[:1]} was merged, which contains "
        f"a part of {a1.END}",
    )
    bordering = [left + right for left, right in merges if left + right != b"xy"]
    check_true(
        not bordering,
        f"a merge crosses the boundary of two documents: {bordering[:1]} was merged, but {a1.END} "
        "was in between: split the text there, do not delete it",
    )
    sentence = "the merges of 20 documents 'xy' are wrong"
    expect_merges(a1, merges, [(b"x", b"y")], {"xy": 20}, sentence)


@both_trainers
def test_no_merge_crosses_the_border_of_a_word(implementation, a1, corpus, module):
    text = "ab ab ab-ab 12345 12345 \n\n ab"
    path = corpus(text)
    for pattern, name in ((a1.GPT2, "GPT2_PATTERN"), (a1.GPT4, "GPT4_PATTERN")):
        _, merges = a1.trained(implementation(module).train_bpe(path, 300, [], pattern))
        counts = Counter(a1.words_of(text, [], pattern))
        sentence = f"the merges under {name} are wrong"
        expect_merges(a1, merges, a1.train(counts, 44), counts, sentence)


@both_trainers
def test_ties_in_training(implementation, a1, corpus, module):
    """b"\xe4" is larger than every ASCII letter, but its printed form begins with a backslash. A
    new token has a larger id than any byte, but may be the smaller byte string.
    """
    text = "ba-ab-zy-zz-東東-ac-bc-abz-\x01\x02-\x7f\x7f"
    _, merges = a1.trained(implementation(module).train_bpe(corpus(text), 290, []))
    counts = Counter(a1.words_of(text, []))
    keys = {
        "you compare the printed form of the bytes, not the bytes": str,
        "you compare the joined bytes, not the left tokens first": b"".join,
        "the smaller pair wins": lambda pair: [-b for b in pair[0]] + [0] + [-b for b in pair[1]],
        "the longer token wins": lambda pair: (len(pair[0]), pair),
    }
    beginnings = {
        f"your ties are broken by another rule: {rule}": train_with_ties(counts, 4, key)
        for rule, key in keys.items()
    }
    first = "your ties go to the pair seen first: the larger pair of byte strings must win"
    beginnings[first] = train_with_ties(counts, 4, lambda pair: 0)
    expected = a1.train(counts, 34)
    expect_merges(a1, merges, expected, counts, "a tie is broken the wrong way", beginnings)


def train_with_ties(counts, num_merges, key):
    """Return the merges under another tie rule: the largest `key` wins, then the first seen."""
    words = [([bytes([byte]) for byte in word.encode()], count) for word, count in counts.items()]
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], key(pair)))
        merges.append(best)
        for tokens, _ in words:
            for position in range(len(tokens) - 1):
                if tuple(tokens[position : position + 2]) == best:
                    tokens[position : position + 2] = [best[0] + best[1]]
    return merges


@both_trainers
def test_a_text_that_runs_out_of_pairs(implementation, a1, corpus, module):
    vocab, merges = a1.trained(implementation(module).train_bpe(corpus("abc"), 1000, [a1.END]))
    expected = [(b"b", b"c"), (b"a", b"bc")]
    expect_merges(a1, merges, expected, {"abc": 1}, "the merges of 'abc' are wrong")
    got = {token_id: token for token_id, token in vocab.items() if token_id > 255}
    expected = {256: b"bc", 257: b"abc", 258: a1.END.encode()}
    a1.expect(got, expected, "the vocabulary of 'abc' is wrong: no pair is left after two merges")


@both_trainers
@pytest.mark.parametrize("num_merges", [0, 120])
def test_a_small_corpus_of_many_scripts(implementation, a1, corpus, module, num_merges):
    train_bpe = implementation(module).train_bpe
    vocab, merges = a1.trained(train_bpe(corpus(a1.CORPUS), 257 + num_merges, [a1.END]))
    what = f"{num_merges} merges of a small text in many scripts are wrong"
    counts = Counter(a1.words_of(a1.CORPUS, [a1.END]))
    expect_merges(a1, merges, a1.merges[:num_merges], counts, what)
    a1.expect(
        dict(vocab),
        a1.vocabulary(a1.merges[:num_merges], [a1.END]),
        "the vocabulary of a small text in many scripts is wrong",
    )


@both_trainers
@pytest.mark.parametrize(
    ("vocab_size", "special_tokens"),
    [(257, ["<x>", "<y>"]), (100, []), (300, ["<x>", "<x>"]), (300, [""])],
    ids=["no-room", "no-bytes", "twice", "empty"],
)
def test_what_no_trainer_can_do(implementation, a1, corpus, module, vocab_size, special_tokens):
    train_bpe = implementation(module).train_bpe
    path = corpus("ab ab")
    what = f"vocab_size={vocab_size} and special_tokens={special_tokens}"
    a1.expect_value_error(lambda: train_bpe(path, vocab_size, special_tokens), what)


# a1.10: from counts


@pytest.mark.task("a1.10")
@pytest.mark.parametrize(
    "counts",
    [
        {"aaaaaaa": 3, "aaaa": 2, "aa": 1},
        {"abababab": 2, "babab": 3, "abba": 1},
        {"abcabcabc": 1, "bcabc": 4, "cab": 3},
        {"ab": 9, "abc": 1, "ac": 1},
        {"a": 5},
        {},
    ],
    ids=["one-letter", "overlaps", "three-letters", "prefix", "no-pair", "no-word"],
)
def test_merges_from_counts(implementation, a1, counts):
    _, merges = a1.trained(implementation(FAST).train_bpe_from_counts(counts, 270, []))
    expect_merges(a1, merges, a1.train(counts, 14), counts, f"the merges of {counts} are wrong")


@pytest.mark.task("a1.10")
def test_vocabulary_from_counts(implementation, a1):
    train = implementation(FAST).train_bpe_from_counts
    vocab, merges = a1.trained(train({"abc": 2}, 259, ["<x>", "<y>"]))
    sentence = "vocab_size 259 has room for one merge beside two special tokens"
    expect_merges(a1, merges, [(b"b", b"c")], {"abc": 2}, sentence)
    a1.expect(dict(vocab), a1.vocabulary(merges, ["<x>", "<y>"]), "the vocabulary is wrong")


@pytest.mark.task("a1.10")
def test_on_merge_is_called_after_every_merge(implementation, a1):
    seen = []
    implementation(FAST).train_bpe_from_counts({"abcd": 1}, 300, [], on_merge=seen.append)
    causes = {"pass the number of merges made so far, which is 1 after the first": [0, 1, 2]}
    a1.expect(seen, [1, 2, 3], "on_merge was called with the wrong numbers", causes)


@pytest.mark.task("a1.10")
def test_on_merge_is_called_before_the_next_merge(implementation, a1):
    """The steps up to the first call do not depend on how many merges will follow."""
    train = implementation(FAST).train_bpe_from_counts
    steps = {}
    for merges in (1, 40):
        with a1.StepCounter() as counter:
            train(
                frequent_words(),
                256 + merges,
                [],
                on_merge=lambda number, merges=merges: steps.setdefault(merges, counter.steps),
            )
    check_true(len(steps) == 2, "on_merge was not called")
    check_true(
        steps[40] <= 2 * steps[1] + 200,
        "on_merge is called too late: your trainer takes "
        f"{steps[1]:,} steps to the first call if it makes one merge, and {steps[40]:,} if it "
        "makes 40; call it right after each merge, before you look for the next one",
    )


# a1.11: the work, in lines run and functions called; in time, for work inside one C call


def steps_per_merge(train, a1, counts, first, last):
    """Return the steps of one merge: the mean from the end of `first` to the end of `last`."""
    steps_after = []
    with a1.StepCounter() as counter:
        train(counts, 256 + last, [], on_merge=lambda number: steps_after.append(counter.steps))
    check_true(
        len(steps_after) == last,
        f"on_merge was called {len(steps_after)} times in {last} merges: call it right after each "
        "merge, so that the work between two merges can be measured",
    )
    return (steps_after[last - 1] - steps_after[first - 1]) / (last - first)


def frequent_words():
    """Return forty frequent words of the letters a to h; the first merges all happen in them."""
    random.seed(4)
    return {"".join(random.choices("abcdefgh", k=8)): 10_000 + n for n in range(40)}


@pytest.mark.task("a1.11")
@pytest.mark.parametrize(
    ("size", "letters"), [(1000, "stuvw"), (4000, "stuvw"), (1000, "abcdefgh stuvw")]
)
def test_a_merge_visits_only_the_words_that_hold_the_pair(implementation, a1, size, letters):
    """Add many other words, made of a few other pairs; some have a token of each pair in common
    with the frequent words.
    """
    random.seed(5)
    parts = letters.split() * 6
    other_words = ["".join(map(random.choice, parts[:6])) for _ in range(size)]
    train = implementation(FAST).train_bpe_from_counts
    few, many = (
        steps_per_merge(train, a1, frequent_words() | dict.fromkeys(other_words[:n], 1), 5, 135)
        for n in (100, size)
    )
    check_true(
        many <= 2 * few + 50,
        "your trainer looks at words that a merge does not change: one merge takes "
        f"{few:,.0f} steps with 100 other words and {many:,.0f} with {size:,}; keep an index of "
        "the words that contain each pair",
    )


@pytest.mark.task("a1.11")
def test_a_merge_does_not_look_at_every_pair(implementation, a1):
    """Add many other pairs: Chinese characters are three bytes, with thousands of pairs."""
    random.seed(6)
    characters = [chr(code) for code in range(0x4E00, 0x9F00)]
    other_words = ["".join(random.choices(characters, k=2)) for _ in range(1500)]
    train = implementation(FAST).train_bpe_from_counts
    few, many = (
        steps_per_merge(train, a1, frequent_words() | dict.fromkeys(other_words[:n], 1), 5, 135)
        for n in (20, 1500)
    )
    check_true(
        many <= 2 * few + 50,
        "your trainer looks at every pair to find the best one: one merge takes "
        f"{few:,.0f} steps with 20 other words and {many:,.0f} with 1,500 that have thousands of "
        "other pairs; keep the pairs in a priority queue",
    )


@pytest.mark.task("a1.11")
def test_a_long_word_costs_in_proportion_to_its_length(implementation, a1):
    train = implementation(FAST).train_bpe_from_counts
    random.seed(7)
    for word in ("ab" * 1600, "".join(random.choices("abcdefgh", k=3200))):
        short, long = (steps_per_merge(train, a1, {word[:n]: 1}, 1, 6) for n in (800, 3200))
        check_true(
            long <= 8 * short + 50,
            "the work in a long word grows faster than its length: one merge takes "
            f"{short:,.0f} steps in a word of 800 bytes and {long:,.0f} in one of 3,200; go "
            "through the word once for a merge, and do not start over after each replacement",
        )


def microseconds_per_merge(train, counts):
    """Return the median processor time of merges 6 to 35."""
    times = []
    train(counts, 256 + 35, [], on_merge=lambda number: times.append(time.process_time_ns()))
    check_true(
        len(times) == 35, f"on_merge was called {len(times)} times in 35 merges, not once each"
    )
    return median(after - before for before, after in pairwise(times[4:])) / 1000


@pytest.mark.task("a1.11")
@pytest.mark.parametrize("other", ["words", "pairs"])
def test_nor_does_a_merge_look_at_all_inside_of_c(implementation, a1, other):
    """`max(zip(...))` is one step, however much it looks at, so this check compares times: of one
    merge with many other words, and with few.
    """
    random.seed(8)
    if other == "words":
        others = {"".join(random.choices("stuvw", k=8)): 1 for _ in range(20_000)}
        advice = (
            "looks at words that a merge does not change (keep an index of the words that contain"
        )
        advice += " each pair)"
    else:
        letters = [chr(code) for code in range(128) if chr(code) not in "abcdefgh"]
        others = {left + right: 1 for left in letters for right in letters}
        advice = "looks at every pair to find the best one (keep the pairs in a priority queue)"
    train = implementation(FAST).train_bpe_from_counts
    beside = {20: dict(list(others.items())[:20]), len(others): others}
    few, many = (
        min(microseconds_per_merge(train, frequent_words() | words) for _ in range(2))
        for words in beside.values()
    )
    check_true(
        many <= 4 * few + 20,
        f"your trainer {advice}: one merge takes {many / few:.0f} times as long with "
        f"{len(others):,} other words as with 20",
    )
