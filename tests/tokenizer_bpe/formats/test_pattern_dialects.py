r"""Pattern constructs in both libraries: the same words, or an error. The oracle is `Split` of
`tokenizers`, which uses Oniguruma.
"""

import json
from functools import cache

import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from data_pipeline.executors.page_time_limit import time_limit
from lm_core.user_error import UserError
from tokenizer_bpe.formats.pattern_characters import (
    CATEGORIES,
    POSIX,
    SCRIPTS,
    Dialect,
    PatternError,
)
from tokenizer_bpe.formats.pattern_dialects import (
    neutral_pattern,
    pattern_read,
    pattern_to_write,
    unmatched_character,
)
from tokenizer_bpe.formats.tiktoken_patterns import O200K_PATTERN
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    pretokenize,
    split_digits_pattern,
)
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import tokenizer_json

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CL100K = (  # tiktoken's own
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_OF_OLD = GPT2_PATTERN.replace("'(?:[sdmt]|ll|ve|re)", "'s|'t|'re|'ve|'m|'ll|'d")
WELL_KNOWN = {
    "GPT-2": GPT2_PATTERN,
    "GPT-2, as published": GPT2_OF_OLD,
    "GPT-4": GPT4_PATTERN,
    "cl100k_base": CL100K,
    "o200k_base": O200K_PATTERN,
    "Llama 3": LLAMA3,
    "Qwen2": QWEN2,
    "SmolLM2": split_digits_pattern(),
    "DeepSeek-V3, words": DEEPSEEK,
    "DeepSeek-V3, digits": r"\p{N}{1,3}",
    "DeepSeek-V3, Chinese and Japanese": "[一-龥\u3040-ゟ゠-ヿ]+",
}

CONSTRUCTS = [
    *(r"\p{N}{1,3}+", r"\p{N}{2}+", r"\p{N}{1,3}?", r"\p{N}{2}?", r"\p{N}{,2}a", r"\p{N}{2,}"),
    *(r"a{2}{2}", r"a**b", r"a+*b", r"a+++", r"a++b", r"a*+b", r"a?+b", r"a+?b", r"a??b", r"a*?b"),
    *(r"a{3,1}", r"a{x}", r"a{1, 3}", r"{a", r"a{", r"a}", r"a{,}b", r"a{0}b", r"a{5000}"),
    *(r"[\p{L}&&[^x]]+", r"[a-c[x-z]1]+", r"[a-c[^x]]+", r"[a&&b]+", r"[a&b&]+", r"[a||b]+"),
    *(r"[a~~b]+", r"[a--b]+", r"[]a]+", r"[^]a]+", r"[a-c-e]+", r"[-ab]+", r"[ab-]+", r"[a^]+"),
    *(r"[\w-x]+", r"[a-\d]+", r"[\]\[]+", r"[!-/]+", r"[\x{61}-\x{63}]+", r"[\b]", r"[a\-z]+"),
    *(r"[[:alpha:]]+", r"[[:digit:]]+", r"[[:punct:]]+", r"[[:^alpha:]]+", r"[[:word:]]+"),
    *(r"[[:space:][:alnum:]]+", r"[[:upper:]]+", r"[[:xdigit:]]+", r"[[:blank:]]+", r"[:a]+"),
    *(r"\h+", r"\H+", r"[\h]+", r"[\H]+", r"\w+", r"\W+", r"[\w]+", r"[^\w]+", r"[\W]+", r"\d+"),
    *(r"\s+", r"\R", r"\X", r"a\Kb", r"\Ga", r"\N+", r"\O+", r"\v+", r"\e", r"\a", r"\cA", r"\0"),
    *(r"a$", r"^a", r"\Aa", r"a\Z", r"a\z", r"\n$", r"a\b", r"a\B", r"(?m)a$", r"\s+$", r"a$b"),
    *(r".+", r"(?m:.+)", r"(?s:.+)", r"(?m).+b", r"(?s).+b", r"(?-m:.+)", r"(?x)a b", r"(?x: a )"),
    *(r"(?i)b", r"(?i:b)", r"(?i:i)", r"(?i:k)", r"(?i:s)+", r"(?i:ss)", r"(?i:s(?:t))", r"(?i:é)"),
    *(r"(?i:[a-d])+", r"(?i:[h-j])+", r"(?i:[^a])+", r"(?i:\p{Lu})+", r"(?i:\p{L})+", r"(?i:ß)"),
    *(r"a(?i)b|c", r"(?i:b(?-i:c))", r"(?i:[^\s])+", r"(?i:'s|'t|ll)", r"(?im:b.)", r"(?u:a)"),
    *(r"(a)", r"(?<n>a)", r"(?P<n>a)", r"(a)\1", r"(?<n>a)\k<n>", r"(?<n>a)\g<n>", r"(?:a)(?1)"),
    *(
        r"(?>a{1,2})a",
        r"(?>ab|a)b",
        r"a(?=b)",
        r"a(?!b)",
        r"(?<=a)b",
        r"(?<!a)b",
        r"(?=a)",
        r"(?!a)*b",
    ),
    *(
        r"(?#note)a",
        r"a(?#note)+",
        r"a{2}+(?#note)?",
        r"a+(?#note)?b",
        r"(?~ab)",
        r"(?|a|b)",
        r"(?(1)a|b)",
        r"(?R)",
        r"(?:a|b)+",
        r"a||b",
    ),
    *(
        r"\p{Han}+",
        r"\p{Script=Han}+",
        r"\p{IsHan}+",
        r"\p{Letter}+",
        r"\p{^L}+",
        r"\P{^L}+",
        r"\pL",
    ),
    *(r"\p{Hiragana}+", r"\p{lu}+", r"\p{Alphabetic}+", r"\p{Cn}+", r"\p{Emoji}+", r"\p{L&}+"),
    *(r"\x61", r"\xe9", r"\x{e9}", r"\u00e9", r"\U0001F600", r"\N{BULLET}", r"\-\/\<\>\'", r"\ "),
    *(
        r"(?:a?)+b",
        r"(?:a*){1,3}b",
        r"a*",
        r"(?:)",
        r"a|",
        r"(?:a+?)?b",
        r"(a",
        r"a)",
        r"[a",
        r"\\",
    ),
    *(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", r"(?:\r\n|\n)+", r"(?:e<=1){e}", r"(?:ab){e<=1}"),
    *(r"\m\w+", r"\M", r"\L<x>", r"\y", r"\Y", r"(?V1)[a&&b]", r"(?b)a", r"(?e)a", r"(?r)a"),
]
TEXTS = [
    "call 1212121212 it's 555, 1234\n\n",
    "aaaa b aab aabb abc xyz x1-2 [a]&b|~^ {a} a{x} a{1, 3} a{ {,} -/<>' \\ \n",
    "I'S İı iI ſS kKK ß ẞ ss ﬆ st éÉ 'LL're BbCc\r\n\u0085\u2028\tab\x0b\x0c \x07\x1b",
    "漢字 ひらがな カナ ²³½ ٣٤ a\u0301 \u200d \U0001f600 ... !? fa0F\n",
    "b\na\n\na",
    "a",
    "",
]
EVERY = "".join(map(chr, range(1, 0x3000, 3)))


@cache
def assigned(text: str) -> str:
    """Remove characters that one library's Unicode tables lack."""
    known = set(_known_characters())
    return "".join(character for character in text if character in known)


def theirs(pattern: str, text: str) -> list[str]:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)] if text else []


def others(pattern: str) -> bool:
    try:
        tokenizers.Regex(pattern)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("pattern", CONSTRUCTS)
def test_read_as_oniguruma_reads_it_or_refused(pattern):
    try:
        ours = pattern_read(pattern, "tokenizer.json")
    except UserError as error:
        assert str(error).startswith("tokenizer.json: the pattern ")
        assert "\n" not in str(error)
        return
    assert others(pattern), "they cannot read it"
    for text in (*TEXTS, assigned(EVERY)):
        assert pretokenize(text, ours) == theirs(pattern, text), ours


@pytest.mark.parametrize("pattern", CONSTRUCTS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_written_as_we_cut_by_it_or_refused(pattern):
    whole = rf"{pattern}|[\s\S]"
    try:
        written = pattern_to_write(whole)
    except UserError as error:
        assert " cannot be written to a tokenizer.json: it " in str(error)
        return
    for text in (*TEXTS, assigned(EVERY)):
        assert theirs(written, text) == pretokenize(text, whole), written
        assert pretokenize(text, pattern_read(written, "")) == pretokenize(text, whole)


def test_enough_of_them_are_taken():
    taken = dict.fromkeys(Dialect, 0)
    for dialect in Dialect:
        for pattern in CONSTRUCTS:
            try:
                neutral_pattern(pattern, dialect)
            except PatternError:
                continue
            taken[dialect] += 1
    assert taken[Dialect.ONIGURUMA] > 100
    assert taken[Dialect.REGEX] > 90
    assert len(CONSTRUCTS) > 180


@pytest.mark.parametrize("pattern", WELL_KNOWN.values(), ids=WELL_KNOWN)
def test_well_known_patterns_are_read_and_right(pattern):
    ours = pattern_read(pattern, "")
    words = st.text("aſİk'sSlLtTvVeErR12 \t\n\r.,/!-é漢ひア٣½\u0301ǅ", max_size=25)

    @settings(max_examples=60)
    @given(words)
    def same(text):
        assert pretokenize(text, ours) == theirs(pattern, text)

    same()
    for text in TEXTS:
        assert pretokenize(text, ours) == theirs(pattern, text)


@pytest.mark.parametrize("pattern", [*list(WELL_KNOWN.values())[:8], CL100K])
def test_well_known_patterns_are_written_and_right(pattern):
    written = pattern_to_write(pattern)
    for text in TEXTS:
        assert theirs(written, text) == pretokenize(text, pattern)
    assert written == pattern or pattern == CL100K


@pytest.mark.parametrize(
    "name",
    [*(f"\\p{{{name}}}" for name in (*CATEGORIES, *CATEGORIES.values(), *SCRIPTS, "Alphabetic"))],
)
def test_a_property_is_the_same_set_in_both(name):
    """Compare over all characters of the first planes that are in both tables."""
    text = _known_characters()
    ours = neutral_pattern(name, Dialect.ONIGURUMA).text
    assert set(regex.findall(ours, text)) == set(_members(name, text))


@pytest.mark.parametrize("name", POSIX)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_posix_class_is_the_same_set_in_both(name, dialect):
    text = _known_characters()
    written = f"[[:{name}:]]"
    neutral = neutral_pattern(written, dialect).text
    meant = (
        _members(written, text) if dialect is Dialect.ONIGURUMA else regex.findall(written, text)
    )
    assert set(regex.findall(neutral, text)) == set(_members(neutral, text)) == set(meant)


def _members(pattern: str, text: str) -> str:
    removed = pre_tokenizers.Split(tokenizers.Regex(pattern), "removed")
    left = set("".join(piece for piece, _ in removed.pre_tokenize_str(text)))
    return "".join(character for character in text if character not in left)


@cache
def _known_characters() -> str:
    """Return the characters assigned in both tables. U+0295 has since become another kind of
    letter.
    """
    codes = (*range(1, 0x5000), *range(0xD000, 0xD800), *range(0xF900, 0x11000))
    text = "".join(map(chr, codes))
    known = set(_members(r"\P{Cn}", text)) & set(regex.findall(r"\P{Cn}", text)) - {"\u0295"}
    return "".join(character for character in text if character in known)


@pytest.mark.parametrize(
    "pattern", [CL100K, DEEPSEEK, r"\p{N}{1,3}+|\P{N}+", r"a(?!b)|\w+", r"\w+$"]
)
def test_ids_are_the_same_after_reading_and_after_writing(pattern, tmp_path):
    vocab = {byte: bytes([byte]) for byte in range(256)}
    merges = [(b"1", b"2"), (b"a", b"b"), (b"a", b"a")]
    vocab |= {256 + i: left + right for i, (left, right) in enumerate(merges)}
    content = json.loads(tokenizer_json(Tokenizer(vocab, merges, [], r"\w+|\W")))
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    other = tokenizers.Tokenizer.from_file(str(path))
    ours = Tokenizer.from_hugging_face(path)
    ours.save(tmp_path / "again.json")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again.json"))
    for text in TEXTS:
        assert ours.encode(text) == other.encode(text).ids == again.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    assert Tokenizer.from_hugging_face(tmp_path / "again.json").pattern == ours.pattern


def test_what_we_would_lose_is_not_written():
    with pytest.raises(UserError, match=r"it does not match '\\x00', which would be lost"):
        pattern_to_write(r"\w+|\s+")
    with pytest.raises(UserError, match="it has a capturing group"):
        pattern_to_write(r"(a)|[\s\S]")
    with pytest.raises(PatternError, match="can match the empty text"):
        neutral_pattern("a*", Dialect.REGEX)


@pytest.mark.parametrize("pattern", [r"\W+a|\w|\W", r"(?:\W+)+a|\w|\W", r"(?:\s+)+b|\S|\s"])
def test_repeats_inside_of_repeats_are_looked_at_in_time(pattern):
    """Over all characters in one text they would take hours; the limit only ends a failing test."""
    with time_limit(120):
        assert pattern_to_write(pattern)
        assert pattern_read(pattern, "")


def test_all_characters_are_searched_once_for_a_pattern_that_is_written_and_read_again():
    unmatched_character.cache_clear()
    written = pattern_to_write(r"\d+|\D")
    assert pattern_read(written, "") == pattern_to_write(written) == written
    assert unmatched_character.cache_info().misses == 1
    assert unmatched_character((r"\d+",)) == "\x00", "another pattern has its own answer"


@pytest.mark.parametrize("opening", ["(", "(?:", "["])
def test_groups_too_deep_are_refused(opening):
    closing = "]" if opening == "[" else ")"
    with pytest.raises(UserError, match="too many nested groups"):
        pattern_read(opening * 3000 + "a" + closing * 3000, "tokenizer.json")
