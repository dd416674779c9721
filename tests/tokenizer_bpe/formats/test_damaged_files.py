"""A damaged part of a file is one ValueError that names it; an intact value is returned
unchanged.
"""

from pathlib import Path

import pytest

from tokenizer_bpe.formats.damaged_files import (
    a_list,
    added_tokens,
    an_object,
    check_special_ids,
    token_ids,
)


def test_what_is_whole_comes_back():
    assert an_object({"a": 1}, "x") == {"a": 1}
    assert a_list([1], "x") == [1]
    assert token_ids({"a": 1, "b": 0}, "x") == {"a": 1, "b": 0}
    assert added_tokens([{"id": 1, "content": "<s>"}], "x") == [{"id": 1, "content": "<s>"}]
    check_special_ids({"<s>": 2, "<t>": 3}, {1: b"a"}, Path("x"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((None, "missing"), ("a", "a string"), (True, "true or false"), (1, "a number")),
        *((1.5, "a number"), ([], "a list")),
    ],
)
def test_the_kind_of_what_is_there(value, kind):
    with pytest.raises(ValueError, match=f"^x.json: vocab is {kind}, expected an object"):
        token_ids(value, "x.json: vocab")


@pytest.mark.parametrize("token_id", ["1", 1.0, None, True, [1]])
def test_an_id_is_a_whole_number(token_id):
    with pytest.raises(ValueError, match=r"^x: the id of 'a' is .*, not a whole number"):
        token_ids({"a": token_id}, "x")
    with pytest.raises(ValueError, match="needs `content`, a string, and `id`, a whole number"):
        added_tokens([{"content": "a", "id": token_id}], "x")


def test_every_id_once():
    with pytest.raises(ValueError, match="'a' and 'b' have the same id, 7"):
        token_ids({"a": 7, "b": 7}, "x")
    with pytest.raises(
        ValueError, match=r"^x: the special token '<s>' .* id 1, which b'a' already has"
    ):
        check_special_ids({"<s>": 1}, {1: b"a"}, Path("x"))
