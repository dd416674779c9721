"""The summary that the step `tokenizer` gives to the report."""

from lm_core.special_tokens import SPECIAL_TOKENS
from lm_course.data_steps.tokenizer import TOKENS_SHOWN, _first_bytes, longest_tokens


def test_the_longest_tokens_are_all_there_and_no_special_one() -> None:
    """Here one learned token is longer than each special one, and one is shorter."""
    learned = [b"a" * 40, b"ab", b" documentation", *(bytes([65 + i]) * 3 for i in range(26))]
    special = [token.encode() for token in SPECIAL_TOKENS]
    assert len(b"ab") < min(map(len, special)) < 40
    shown = longest_tokens(dict(enumerate([*learned, *special])))
    assert shown[:2] == [b"a" * 40, b" documentation"]
    assert len(shown) == TOKENS_SHOWN
    assert not set(shown) & set(special)
    few = longest_tokens(dict(enumerate([b"x", b"yy", *special])))
    assert few == [b"yy", b"x"]


def test_of_a_first_text_beyond_the_limit_the_beginning_is_used() -> None:
    assert list(_first_bytes(iter(["abc", "defg", "h"]), 7, 3)) == ["abc", "defg"]
    assert list(_first_bytes(iter(["abc", "defgh", "i"]), 7, 3)) == ["abc"]
    assert list(_first_bytes(iter(["aé漢", "b"]), 5, 2)) == ["aé"]
