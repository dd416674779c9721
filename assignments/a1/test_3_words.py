"""a1.5 to a1.8: cut text into words, protect special tokens, count words, split a file."""

import io
import multiprocessing
import random
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import regex

from lm_course.grading.comparisons import check_true

MODULE = "tokenizer_bpe.pretokenization"
COUNT = "count_words"
# a1.5


@pytest.mark.task("a1.5")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the dog's bone", ["the", " dog", "'s", " bone"]),
        ("I'll pay $5.50!", ["I", "'ll", " pay", " $", "5", ".", "50", "!"]),
        ("a\n\n\nb", ["a", "\n\n", "\n", "b"]),
        ("a   b  ", ["a", "  ", " b", "  "]),
        ("l'été 東京2024", ["l", "'", "été", " 東京", "2024"]),
        ("a\x1cb\x85c", ["a", "\x1c", "b", "\x85", "c"]),
        ("", []),
    ],
    ids=["letters", "signs", "newlines", "spaces", "unicode", "separators", "empty"],
)
def test_words_under_the_pattern_of_gpt2(implementation, a1, text, expected):
    got = list(implementation(MODULE).pretokenize(text))
    causes = {
        "text.split() loses the spaces: the words must join to the text": text.split(),
        "the space before a word belongs to the word": [word.strip() for word in expected],
    }
    a1.expect(got, expected, f"the words of {text!r} are wrong", causes)


@pytest.mark.task("a1.5")
def test_words_under_the_pattern_of_gpt4(implementation, a1):
    module = implementation(MODULE)
    text = "I'LL pay 12345 (dollars).\n\n x"
    expected = ["I", "'LL", " pay", " ", "123", "45", " (", "dollars", ").\n\n", " x"]
    causes = {"the argument `pattern` is ignored": regex.findall(a1.GPT2, text)}
    got = list(module.pretokenize(text, module.GPT4_PATTERN))
    a1.expect(got, expected, "the words under GPT4_PATTERN are wrong", causes)


@pytest.mark.task("a1.5")
def test_words_under_a_pattern_of_your_own(implementation, a1):
    got = list(implementation(MODULE).pretokenize("a-b 1-2", r"\w|\W"))
    causes = {"the argument `pattern` is ignored": ["a", "-", "b", " 1", "-", "2"]}
    a1.expect(got, list("a-b 1-2"), r"the words under the pattern \w|\W are wrong", causes)


# a1.6


def with_empty_pieces(text, alternatives):
    return regex.split(f"({'|'.join(alternatives)})", text)


@pytest.mark.task("a1.6")
@pytest.mark.parametrize(
    ("text", "special_tokens", "expected"),
    [
        ("one<|endoftext|>two", ["<|endoftext|>"], ["one", "<|endoftext|>", "two"]),
        ("<s>a<s><s>", ["<s>"], ["<s>", "a", "<s>", "<s>"]),
        ("no token", ["<s>"], ["no token"]),
        ("no token", [], ["no token"]),
        ("", ["<s>"], []),
        ("a.c abc", ["a.c"], ["a.c", " abc"]),
        ("x<b>y<a>", ["<a>", "<b>"], ["x", "<b>", "y", "<a>"]),
    ],
    ids=["one", "ends", "none", "no-tokens", "empty", "dot", "two"],
)
def test_pieces(implementation, a1, text, special_tokens, expected):
    got = implementation(MODULE).split_special_tokens(text, special_tokens)
    causes = {
        "the special tokens are lost: each is a piece of its own": [
            piece for piece in expected if piece not in special_tokens
        ]
    }
    if text and not special_tokens:
        causes["without special tokens the whole text is one piece"] = []
    else:
        causes["drop empty pieces"] = with_empty_pieces(text, map(regex.escape, special_tokens))
    unescaped = with_empty_pieces(text, special_tokens)
    causes["escape the special tokens when you put them into a pattern"] = lambda got: (
        got in (unescaped, [piece for piece in unescaped if piece])
    )
    sentence = f"the pieces of {text!r} around {special_tokens} are wrong"
    a1.expect(got, expected, sentence, causes)


@pytest.mark.task("a1.6")
@pytest.mark.parametrize("order", [1, -1], ids=["short-first", "long-first"])
def test_the_longest_special_token_wins(implementation, a1, order):
    tokens = ["<|e|>", "<|e|><|e|>"][::order]
    text = "a<|e|><|e|><|e|>b"
    expected = ["a", "<|e|><|e|>", "<|e|>", "b"]
    got = implementation(MODULE).split_special_tokens(text, tokens)
    causes = {
        "the shorter of two special tokens wins: try the longest first": (
            ["a", "<|e|>", "<|e|>", "<|e|>", "b"]
        )
    }
    a1.expect(got, expected, f"the pieces of {text!r} around {tokens} are wrong", causes)


@pytest.mark.task("a1.6")
@pytest.mark.parametrize("tokens", [["<a>", ""], ["<a>", "<b>", "<a>"]], ids=["empty", "twice"])
def test_special_tokens_that_cannot_be(implementation, a1, tokens):
    split_special_tokens = implementation(MODULE).split_special_tokens
    a1.expect_value_error(
        lambda: split_special_tokens("a<a>", tokens), f"the special tokens {tokens}"
    )


# a1.7

LOST_RETURN = (
    "reading in text mode turns \\r\\n into \\n: read bytes and decode them, or open the file with "
    "newline=''"
)


@pytest.mark.task("a1.7")
def test_counts_of_texts(implementation, a1):
    texts = ["low low", f"low{a1.END}er low"]
    got = implementation(MODULE).count_words(texts, [a1.END])
    joined = Counter(a1.words_of("".join(texts), [a1.END]))
    causes = {
        "the texts were joined: count each text by itself": dict(joined),
        "the special token was deleted, which joins the words around it: split there": (
            {"low": 1, " low": 2, "lower": 1}
        ),
        "the space before a word belongs to the word": {"low": 4, "er": 1},
        "a special token is not a word: drop it": {"low": 2, " low": 2, "er": 1, a1.END: 1},
    }
    a1.expect(
        a1.dict_of(got, COUNT),
        {"low": 2, " low": 2, "er": 1},
        f"the counts of {texts} are wrong",
        causes,
    )


@pytest.mark.task("a1.7")
def test_no_word_reaches_across_a_special_token(implementation, a1):
    text = f"ab{a1.END}ab<x>{a1.END}cd <x>"
    got = a1.dict_of(implementation(MODULE).count_words([text], [a1.END, "<x>"]), COUNT)
    without_end = text.replace(a1.END, "")
    deleted = [
        Counter(regex.findall(a1.GPT2, rest))
        for rest in (without_end, without_end.replace("<x>", ""))
    ]
    causes = {
        "the text was not split at its special tokens, so words contain parts of them": (
            dict(Counter(regex.findall(a1.GPT2, text)))
        ),
        "special tokens were deleted, which joins the words around them: split there": (
            lambda got: got in deleted
        ),
    }
    expected = {"ab": 2, "cd": 1, " ": 1}
    a1.expect(got, expected, f"the words around the special tokens of {text!r} are wrong", causes)


@pytest.mark.task("a1.7")
def test_counts_take_the_pattern(implementation, a1):
    got = implementation(MODULE).count_words(["1234 don't"], [], a1.GPT4)
    expected = dict(Counter(regex.findall(a1.GPT4, "1234 don't")))
    causes = {"the argument `pattern` is ignored": {"1234": 1, " don": 1, "'t": 1}}
    a1.expect(
        a1.dict_of(got, COUNT),
        expected,
        "the words of '1234 don't' under GPT4_PATTERN are wrong",
        causes,
    )


@pytest.mark.task("a1.7")
@pytest.mark.parametrize("as_type", ["Path", "str"])
def test_counts_of_a_file(implementation, a1, as_type, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(a1.CORPUS.encode())
    count_words = implementation(MODULE).count_words
    got = a1.dict_of(count_words(path if as_type == "Path" else str(path), ["<x>"]), COUNT)
    expected = dict(Counter(a1.words_of(a1.CORPUS, ["<x>"])))
    without_return = dict(Counter(a1.words_of(a1.CORPUS.replace("\r\n", "\n"), ["<x>"])))
    causes = {
        LOST_RETURN: without_return,
        "a str is the path of a file: you counted the words of the path itself": (
            dict(Counter(regex.findall(a1.GPT2, str(path))))
        ),
    }
    a1.expect(got, expected, "the word counts of a file are wrong", causes)


@pytest.mark.task("a1.7")
def test_counts_of_a_file_with_documents(implementation, a1, tmp_path):
    path = tmp_path / "corpus.txt"
    text = a1.CORPUS.replace("theatre", "<x>theatre<x>") * 20
    path.write_bytes(text.encode())
    got = a1.dict_of(implementation(MODULE).count_words(path, ["<x>", a1.END]), COUNT)
    expected = dict(Counter(a1.words_of(text, [a1.END, "<x>"])))
    causes = {LOST_RETURN: dict(Counter(a1.words_of(text.replace("\r", ""), [a1.END, "<x>"])))}
    a1.expect(got, expected, "the word counts of a file of 60 documents are wrong", causes)


@pytest.mark.task("a1.7")
@pytest.mark.parametrize("content", [None, b"", b"good \xff bad"], ids=["none", "empty", "latin"])
def test_files_that_cannot_be_counted(implementation, a1, content, tmp_path):
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    what = {None: "a missing file", b"": "an empty file"}.get(content, "a file that is not UTF-8")
    count_words = implementation(MODULE).count_words
    a1.expect_value_error(lambda: count_words(path, [a1.END]), what, names="corpus.txt")


@pytest.mark.task("a1.7")
def test_special_tokens_that_cannot_be_counted(implementation, a1):
    count_words = implementation(MODULE).count_words
    a1.expect_value_error(lambda: count_words(["a"], ["<x>", "<x>"]), "a special token named twice")


# a1.8


class CountingFile(io.BytesIO):
    """A file in memory that counts the bytes read from it."""

    bytes_read = 0

    def _counted(self, content):
        self.bytes_read += len(content)
        return content

    def read(self, size=-1):
        return self._counted(super().read(size))

    def read1(self, size=-1):
        return self._counted(super().read1(size))

    def readline(self, size=-1):
        return self._counted(super().readline(size))

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.bytes_read += count
        return count

    def getvalue(self):
        self.bytes_read += len(self.getbuffer())
        return super().getvalue()


@pytest.mark.task("a1.8")
@pytest.mark.parametrize("num_chunks", [1, 2, 3, 7])
def test_boundaries_by_hand(implementation, a1, num_chunks):
    content = b"aaaa<s>bb<s>cccc<s>dd"
    expected = {1: [0, 21], 2: [0, 16, 21], 3: [0, 9, 16, 21], 7: [0, 4, 9, 16, 21]}[num_chunks]
    find = implementation(MODULE).find_document_boundaries
    got = list(find(io.BytesIO(content), num_chunks, b"<s>"))
    behind = [0, *(b + 3 for b in expected[1:-1]), 21]
    plain = sorted({21 * share // num_chunks for share in range(num_chunks + 1)})
    causes = {
        "a boundary is where a separator begins; yours are where one ends": behind,
        "these are equal shares: move each of them to the next separator": plain,
        "the size of the file is the last boundary": expected[:-1],
    }
    a1.expect(
        got, expected, f"the boundaries of {content} for {num_chunks} parts are wrong", causes
    )


@pytest.mark.task("a1.8")
@pytest.mark.parametrize("block", [1024, 4096, 8192, 65536, 1 << 20])
def test_a_separator_across_the_border_of_two_reads(implementation, a1, block):
    """Wherever blocks of this size begin, one of these separators extends across two of them."""
    find = implementation(MODULE).find_document_boundaries
    half = block + 3000
    for shift in range(1, len(a1.END)):
        content = bytearray(b"x" * (2 * half))
        content[half + block - shift : half + block - shift + len(a1.END)] = a1.END.encode()
        content = bytes(content[: 2 * half])
        got = list(find(io.BytesIO(content), 2, a1.END.encode()))
        a1.expect(
            got,
            [0, half + block - shift, 2 * half],
            f"a separator that begins {shift} bytes before the end of a block of {block} is missed:"
            " keep the end of each block, and search it again together with the next",
        )


@pytest.mark.task("a1.8")
def test_only_a_small_part_of_the_file_is_read(implementation, a1):
    file = CountingFile((b"some words" * 10 + b"<s>") * 40_000)
    size = len(file.getbuffer())
    implementation(MODULE).find_document_boundaries(file, 4, b"<s>")
    check_true(
        file.bytes_read <= 3 * (1 << 18),
        f"find_document_boundaries read {file.bytes_read:,} of {size:,} bytes: seek to each share, "
        "and read small blocks from there to the next separator (here less than 110 bytes away)",
    )


# Where a cut at a space, at a line end or inside a special token changes the words.
HAZARDS = ["dög", "  \n", " \n \n ", "<a b>", "\r\n", "<|endof", "'s", "12", "345"]


@pytest.mark.limit(seconds=60)  # a busy machine keeps the processes that it starts waiting
@pytest.mark.task("a1.8")
@pytest.mark.parametrize(
    ("special_tokens", "why"),
    [
        (["<a b>", "<|endoftext|>"], "cut the file only right before <|endoftext|>"),
        (["<a b>"], "<|endoftext|> is text if it is not a special token: do not cut there"),
        (["<|endoftext|>", "\n<|endof"], "a cut must not go through a special token"),
    ],
    ids=["three-parts", "not-special", "inside-a-token"],
)
def test_three_processes_count_what_one_counts(implementation, a1, tmp_path, special_tokens, why):
    random.seed(1)
    end = a1.END if len(special_tokens[-1]) != len("\n<|endof") else "\n" + a1.END
    text = "".join(random.choice([*HAZARDS, end]) for _ in range(3000))
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode())
    count_words = implementation(MODULE).count_words
    got = a1.dict_of(count_words(path, special_tokens, a1.GPT4, num_processes=3), COUNT)
    expected = dict(Counter(a1.words_of(text, special_tokens, a1.GPT4)))
    a1.expect(got, expected, f"three processes give other counts than one: {why}")


@pytest.mark.limit(seconds=60)
@pytest.mark.task("a1.8")
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3"])
def test_three_processes_refuse_a_file_whose_end_is_not_utf_8(implementation, a1, tmp_path, bad):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"low lower<|endoftext|>" * 30 + bad)
    count_words = implementation(MODULE).count_words
    what = "count_words in three processes of a file whose last byte is not UTF-8"
    a1.expect_value_error(lambda: count_words(path, [a1.END], num_processes=3), what)


@pytest.mark.limit(seconds=60)
@pytest.mark.task("a1.8")
def test_more_processes_than_documents(implementation, a1, tmp_path):
    text = "low lower" + a1.END + "low"
    path = tmp_path / "corpus.txt"
    path.write_text(text)
    got = a1.dict_of(implementation(MODULE).count_words(path, [a1.END], num_processes=5), COUNT)
    expected = dict(Counter(a1.words_of(text, [a1.END])))
    a1.expect(got, expected, "five processes give other counts than one for two documents")


@pytest.mark.limit(seconds=60)
@pytest.mark.task("a1.8")
def test_two_processes_with_texts_in_place_of_a_file(implementation, a1):
    texts = ["low low", "er low" + a1.END + " lower", ""]
    count_words = implementation(MODULE).count_words
    got = a1.dict_of(count_words(iter(texts), [a1.END], num_processes=2), COUNT)
    expected = Counter(word for text in texts for word in a1.words_of(text, [a1.END]))
    a1.expect(got, dict(expected), "num_processes=2 gives other counts than 1 if texts are given")


def bytes_written():
    """Return the bytes that this process has written to files and pipes; 0 where no one counts."""
    counters = Path("/proc/self/io")
    lines = counters.read_text().splitlines() if counters.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar")), 0)


@pytest.mark.limit(seconds=60)  # a busy machine keeps the processes that it starts waiting
@pytest.mark.task("a1.8")
def test_another_process_does_its_part(implementation, a1, tmp_path):
    """Measure only this process: with a second one it must have less to do."""
    random.seed(2)
    words = ["".join(random.choices("abcdé", k=random.randint(1, 6))) for _ in range(300)]
    document = " ".join(random.choices(words, k=2500)) + a1.END
    path = tmp_path / "corpus.txt"
    path.write_bytes(document.encode() * 200)
    count_words = implementation(MODULE).count_words
    seconds = {1: [], 2: []}
    size, written = path.stat().st_size, bytes_written()
    for _, number in product(range(2), seconds):  # in turn, so that a busy machine disturbs both
        before = a1.seconds_of_children()
        spent = a1.processor_seconds(count_words, path, [a1.END], num_processes=number)
        seconds[number].append(spent)
        helped = a1.seconds_of_children() > before or multiprocessing.active_children()
        check_true(
            number == 1 or helped,
            "num_processes=2 has no effect, because no other process computed anything: count the "
            "parts of the file in other processes",
        )
    written = (bytes_written() - written) // 2
    check_true(
        written <= size // 2,
        f"count_words sends {written:,} bytes to its processes, for a file of {size:,}: send the "
        "path and offsets, and let each process read its part",
    )
    alone, shared = (min(measured) for measured in seconds.values())
    check_true(
        shared <= 0.75 * alone,
        f"num_processes=2 has little effect: this process computes {shared / alone:.2f} times as "
        "long as with num_processes=1; count the parts of the file in other processes",
    )
