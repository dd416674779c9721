"""The files besides the weights in a folder or a GGUF file: the template, and the ids that end a
text.
"""

import json

import pytest

from inference.engine.text_side import TextSide, text_side_of_folder, text_side_of_gguf
from lm_core.formats.gguf_container import GGUFFile
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, to_printable

BYTES = {byte: bytes([byte]) for byte in range(256)}
OTHERS = ["<s>", "</s>", "<end>"]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    """Write the folder of a model with its own template and special tokens, 256 to 258."""
    tokenizer = Tokenizer(BYTES, [], OTHERS)
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    for name, content in hugging_face_files(tokenizer, TEMPLATE, roles).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def write(path, **content):
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | content))


def test_our_own_checkpoint_keeps_its_format(tmp_path):
    tokenizer = Tokenizer(BYTES, [], SPECIAL_TOKENS)
    for name, content in hugging_face_files(tokenizer).items():
        (tmp_path / name).write_bytes(content)
    write(tmp_path / "config.json", eos_token_id=5)
    side = text_side_of_folder(tmp_path)
    assert side == TextSide(side.tokenizer)


def test_the_ids_that_end_a_text(folder):
    assert text_side_of_folder(folder).stop_ids == {258}, "what closes a message"
    write(folder / "config.json", eos_token_id=257)
    assert text_side_of_folder(folder).stop_ids == {257, 258}
    write(folder / "generation_config.json", eos_token_id=[256, 65])
    assert text_side_of_folder(folder).stop_ids == {65, 256, 257, 258}
    write(folder / "config.json", eos_token_id=None)
    assert text_side_of_folder(folder).stop_ids == {65, 256, 258}


def test_the_id_before_every_text(folder):
    assert text_side_of_folder(folder).first_id is None
    write(folder / "tokenizer_config.json", add_bos_token=True)
    assert text_side_of_folder(folder).first_id == 256
    (folder / "special_tokens_map.json").unlink()  # `transformers` reads that file first
    write(folder / "tokenizer_config.json", bos_token={"content": "</s>"})
    assert text_side_of_folder(folder).first_id == 257


def test_a_folder_with_a_broken_file_is_refused(folder):
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json: .*not valid JSON"):
        text_side_of_folder(folder)


def gguf(**metadata) -> GGUFFile:
    tokens = [*(to_printable(BYTES[byte]) for byte in range(256)), *OTHERS]
    described = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * 3,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }
    return GGUFFile(
        described | {f"tokenizer.{k.replace('__', '.')}": v for k, v in metadata.items()}, {}
    )


def test_a_gguf_file_says_the_same(folder):
    write(folder / "config.json", eos_token_id=257)
    found, expected = text_side_of_gguf(gguf(chat_template=TEMPLATE)), text_side_of_folder(folder)
    assert found.tokenizer.vocab == expected.tokenizer.vocab
    assert found[1:] == expected[1:]
    assert found.template.tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert text_side_of_gguf(gguf(ggml__add_bos_token=True)).first_id == 256
    assert text_side_of_gguf(gguf()).template is None


def test_llama_3_begins_with_the_bos_token_unless_the_file_says_otherwise():
    """llama.cpp's default for these names; see its src/llama-vocab.cpp."""
    for name, first in (("llama-bpe", 256), ("llama3", 256), ("llama-v3", 256), ("qwen2", None)):
        assert text_side_of_gguf(gguf(ggml__pre=name)).first_id == first
    silent = gguf(ggml__pre="llama3", ggml__add_bos_token=False)
    assert text_side_of_gguf(silent).first_id is None


def test_a_template_that_fails_leaves_text_to_be_continued(folder):
    (folder / "chat_template.jinja").write_text("{% for x in %}")
    write(folder / "config.json", eos_token_id=257)
    side = text_side_of_folder(folder)
    assert side.stop_ids == {257}
    assert side.template.text == "{% for x in %}", "the chat reports why it fails"
