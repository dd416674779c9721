"""Characters to ids and back, against a dictionary; the file is read by `tokenizers` in
test_either_kind.py.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.special_tokens import END_OF_TEXT, SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer, characters_of
from tokenizer_bpe.templates.added_tokens import encode_as_text

ALPHABET = "ab \né漢😀<|>endoftx"


def test_characters_get_ids_in_the_order_of_their_code_points() -> None:
    characters = characters_of(["ba\n", "é", "ab"])
    assert characters == ["\n", "a", "b", "é"]
    tokenizer = CharacterTokenizer.of(characters, SPECIAL_TOKENS)
    assert tokenizer.encode("bé\na") == [2, 3, 0, 1]
    assert tokenizer.special_tokens == {name: 4 + n for n, name in enumerate(SPECIAL_TOKENS)}
    assert tokenizer.vocab_size == 7
    assert tokenizer.byte_lengths().tolist() == [1, 1, 1, 2, 0, 0, 0]
    assert tokenizer.merges == []


@given(st.lists(st.sampled_from([*ALPHABET, END_OF_TEXT, END_OF_TEXT * 2])).map("".join))
def test_every_text_of_known_characters_survives(text: str) -> None:
    special = [END_OF_TEXT, END_OF_TEXT * 2]
    tokenizer = CharacterTokenizer.of(characters_of([ALPHABET]), special)
    ids = tokenizer.encode(text)
    double, rest = tokenizer.special_tokens[END_OF_TEXT * 2], []
    for part in text.split(END_OF_TEXT * 2):  # the longer special token comes first
        single = [[sorted(ALPHABET).index(c) for c in piece] for piece in part.split(END_OF_TEXT)]
        rest.append(single[0])
        for piece in single[1:]:
            rest[-1] = [*rest[-1], tokenizer.special_tokens[END_OF_TEXT], *piece]
    expected = rest[0]
    for part in rest[1:]:
        expected = [*expected, double, *part]
    assert ids == expected
    assert tokenizer.decode(ids) == text
    assert list(tokenizer.encode_iterable([text[:3], text[3:]])) == ids
    assert tokenizer.encode_batch([text, ""]) == [ids, []]


def test_a_character_without_a_token_is_named_with_its_place() -> None:
    tokenizer = CharacterTokenizer.of(["a", "b"], [END_OF_TEXT])
    for text, place in (("abé", 2), (f"a{END_OF_TEXT}b\x00", 15), ("A", 0), ("c", 0)):
        message = f"at position {place}, which is not one of the tokenizer's 2 characters"
        with pytest.raises(UserError, match=message):
            tokenizer.encode(text)
    with pytest.raises(UserError, match=r"holds 'é' \(U\+00E9\) at position 1"):
        tokenizer.encode("bé")
    with pytest.raises(UserError, match=r"token id 3 is not in the vocabulary \(0 to 2\)"):
        tokenizer.decode([0, 3])


def test_a_vocabulary_of_words_is_refused() -> None:
    with pytest.raises(UserError, match="token 1 is 'bc', expected one character"):
        CharacterTokenizer({0: b"a", 1: b"bc"})


def test_a_user_cannot_write_a_control_token() -> None:
    """encode_as_text makes a twin without control tokens, with the arguments of `Tokenizer`."""
    tokenizer = CharacterTokenizer.of(characters_of([END_OF_TEXT]), [END_OF_TEXT])
    ids = encode_as_text(tokenizer, f"{END_OF_TEXT}")
    assert tokenizer.special_tokens[END_OF_TEXT] not in ids
    assert tokenizer.decode(ids) == END_OF_TEXT


def test_a_large_vocabulary_has_wide_ids() -> None:
    assert CharacterTokenizer.of(["a"]).encode_to_array("a").dtype == np.uint16
    many = [chr(n) for n in range(0x10000, 0x10000 + (1 << 16) + 1)]
    tokenizer = CharacterTokenizer.of(many)
    assert tokenizer.encode_to_array(many[-1]).dtype == np.uint32
    assert tokenizer.encode(many[-1]) == [1 << 16]
