"""A written file records the Unicode tables, and reading it with others gives a warning."""

import json
import unicodedata
from importlib.metadata import version

import pytest
import regex
import tokenizers

from tokenizer_bpe.formats import unicode_tables as module
from tokenizer_bpe.formats.unicode_tables import FIRST_WITH, UnicodeTablesWarning, unicode_tables
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import tokenizer_hash

BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.fixture
def path(tmp_path):
    Tokenizer(BYTES, [], ["<e>"]).save(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def test_the_tables_are_named_by_the_characters_that_they_know():
    assert unicode_tables()["regex"] == version("regex")
    newest = unicode_tables()["unicode"]
    for name, code in FIRST_WITH.items():
        known = regex.match(r"\P{Cn}", chr(code)) is not None
        assert known == (float(name) <= float(newest))


def test_each_version_brought_its_character():
    """Python's own tables are the oracle, up to their version."""
    ours = float(".".join(unicodedata.unidata_version.split(".")[:2]))
    for name, code in FIRST_WITH.items():
        assert (unicodedata.category(chr(code)) != "Cn") == (float(name) <= ours), name


def test_a_file_says_with_which_tables_and_tokenizers_still_reads_it(path):
    content = json.loads(path.read_text())
    assert content["model"]["made_with"] == unicode_tables()
    assert tokenizers.Tokenizer.from_file(str(path)).encode("a<e>").ids == [97, 256]


def test_another_unicode_is_said(path, monkeypatch):
    Tokenizer.from_hugging_face(path)  # warnings are errors here
    before = tokenizer_hash(path)
    monkeypatch.setattr(module, "unicode_tables", lambda: {"regex": "2030.1.1", "unicode": "99.0"})
    words = rf"made with Unicode {unicode_tables()['unicode']}, .* Unicode 99.0: .*regex=="
    with pytest.warns(UnicodeTablesWarning, match=words):
        assert Tokenizer.from_hugging_face(path).encode("a") == [97]
    with pytest.warns(UnicodeTablesWarning):
        assert tokenizer_hash(path) == before


@pytest.mark.parametrize("made_with", [None, {}, [], "17.0", {"regex": "1"}])
def test_a_file_that_does_not_say_is_read_in_silence(path, made_with):
    content = json.loads(path.read_text())
    content["model"]["made_with"] = made_with
    path.write_text(json.dumps(content))
    assert Tokenizer.from_hugging_face(path).encode("a") == [97]
