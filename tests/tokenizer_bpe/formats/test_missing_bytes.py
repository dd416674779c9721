"""A vocabulary without the rare bytes keeps its ids, and every text survives a round trip."""

import json

import pytest
import tokenizers

from lm_core.special_tokens import END_OF_TEXT
from tokenizer_bpe.formats.missing_bytes import RARE_BYTES, with_every_byte, without_added_bytes
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import to_printable, tokenizer_json

COMMON = [bytes([byte]) for byte in range(256) if byte not in RARE_BYTES]
VOCAB = dict(enumerate([END_OF_TEXT.encode(), *COMMON, b"th"]))


def test_the_rare_bytes_follow_the_largest_id_in_order():
    filled = with_every_byte(VOCAB)
    assert list(filled.items())[: len(VOCAB)] == list(VOCAB.items())
    assert [filled[i] for i in range(len(VOCAB), len(filled))] == [
        bytes([byte]) for byte in sorted(RARE_BYTES)
    ]
    assert with_every_byte(filled) == filled


def test_only_bytes_of_no_ordinary_text_are_rare():
    every = {
        byte for i in range(0x110000) if i // 2048 != 27 and i < 0x40000 for byte in chr(i).encode()
    }
    assert every - RARE_BYTES >= set(range(0x20, 0x7F)) | set(range(0x80, 0xC0)) | {0xF0}
    assert RARE_BYTES.isdisjoint(range(0x20, 0x7F))


def test_a_file_without_them_is_read_and_written_without_them(tmp_path):
    content = json.loads(
        tokenizer_json(Tokenizer(with_every_byte(VOCAB), [(b"t", b"h")], [END_OF_TEXT]))
    )
    for byte in RARE_BYTES:
        del content["model"]["vocab"][to_printable(bytes([byte]))]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    ours, theirs = Tokenizer.from_hugging_face(path), tokenizers.Tokenizer.from_file(str(path))
    assert ours.encode("that é漢😀") == theirs.encode("that é漢😀").ids
    odd = "a\x04b\U000e0001"
    assert ours.decode(ours.encode(odd)) == odd
    assert theirs.decode(theirs.encode(odd).ids) != odd, "they omit it silently"
    written = without_added_bytes(tokenizer_json(ours), len(VOCAB))
    assert json.loads(written) == content
    assert tokenizers.Tokenizer.from_str(written.decode()).get_vocab_size() == len(VOCAB)


def test_a_byte_of_ordinary_text_is_still_asked_for(tmp_path):
    content = json.loads(tokenizer_json(Tokenizer(with_every_byte(VOCAB), [], [END_OF_TEXT])))
    del content["model"]["vocab"]["!"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="no token for byte 0x21"):
        Tokenizer.from_hugging_face(tmp_path / "tokenizer.json")
