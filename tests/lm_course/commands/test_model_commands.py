"""`lm import`, `lm export`, `--model`: the result loads and gives the same text; a refused source
gives a one-line error, and leaves nothing behind.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from inference.engine import forward_choice
from inference.engine.chat_engine import ChatEngine
from inference.engine.engine import Engine
from inference.sampling import SamplingSettings
from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from lm_course.cli import main
from lm_course.commands.model_commands import (
    chat_engine_at,
    engine_at,
    engine_for,
    export_model,
    import_model,
)
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, to_printable
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import load_model, to_hugging_face

BYTES = [bytes([byte]) for byte in range(256)]
RARE = 4  # a byte that the GGUF file's vocabulary lacks
GREEDY = SamplingSettings(temperature=0.0)
QUESTION = [{"role": "user", "content": "Hi 12"}]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model: {% endif %}"
)


def small_model(dtype: torch.dtype = torch.float32, **changes) -> TransformerLM:
    shape = {"d_model": 64, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2, "d_ff": 96}
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(**(shape | changes), vocab_size=259, context_length=64))
    for parameter in model.parameters():
        parameter.data = (3 * parameter.data).to(dtype)
    return model


def folder_of(path: Path, model: TransformerLM, template: str = TEMPLATE) -> Path:
    tokenizer = Tokenizer(dict(enumerate(BYTES)), [], SPECIAL_TOKENS)
    files = hugging_face_files(tokenizer, template, {"eos_token": "<|im_end|>"})
    files["generation_config.json"] = b'{"eos_token_id": [258]}'
    write_checkpoint(path, *to_hugging_face(model, {"eos_token_id": 258}), files, None)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "source", small_model())


@pytest.fixture
def gguf_file(source: Path, gguf_writing) -> Path:
    """The same model in llama.cpp's format, with 255 bytes: an id below 256 is a byte's index."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source)
    known = [byte for byte in BYTES if byte[0] != RARE]
    path = source.with_suffix(".gguf")
    gguf_writing.write_gguf(
        path,
        theirs,
        "Q8_0",
        tokenizer__ggml__model="gpt2",
        tokenizer__ggml__pre="smollm",
        tokenizer__ggml__tokens=[*map(to_printable, known), *SPECIAL_TOKENS, "th"],
        tokenizer__ggml__token_type=[1] * 255 + [3] * 3 + [1],
        tokenizer__ggml__merges=["t h"],
        tokenizer__ggml__eos_token_id=257,
        tokenizer__chat_template=TEMPLATE,
    )
    return path


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".unfinished-")]


def test_a_folder_is_imported_and_exported_without_a_change(source, tmp_path):
    line = import_model(source, tmp_path / "ours")
    assert line == "llama: 78,336 parameters, context 64 tokens, float32, not quantized"
    assert export_model(tmp_path / "ours", tmp_path / "theirs") + ", not quantized" == line
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        for path in source.iterdir():
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.apply_chat_template(
            QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        engine = engine_for(None, folder)
        assert engine.chat_ids(QUESTION) == ids[0].tolist()
        drawn = theirs.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        said = tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True)
        assert "".join(engine.stream_chat(QUESTION, GREEDY, 12)) == said
        assert engine.stop_ids >= {258}


@pytest.mark.parametrize(("dtype", "found"), [(None, "bfloat16"), ("float32", "float32")])
def test_the_number_format_is_the_sources_unless_asked_for(tmp_path, dtype, found):
    folder_of(tmp_path / "source", small_model(torch.bfloat16))
    assert f", {found}, not" in import_model(tmp_path / "source", tmp_path / "ours", dtype)
    weights = load_model(tmp_path / "ours", dtype=None).parameters()
    assert {str(weight.dtype) for weight in weights} == {f"torch.{found}"}


def test_a_gguf_file_says_the_same_by_itself_imported_and_exported(gguf_file, tmp_path):
    line = import_model(gguf_file, tmp_path / "ours")
    assert line.endswith("context 64 tokens, float32, unpacked from Q8_0, F32")
    export_model(tmp_path / "ours", tmp_path / "theirs")
    engines = [
        engine_for(None, path) for path in (gguf_file, tmp_path / "ours", tmp_path / "theirs")
    ]
    said = {engine.chat(QUESTION, GREEDY, 12) for engine in engines}
    assert len(said) == 1 and {engine.stop_ids for engine in engines} == {
        frozenset({255, 256, 257})
    }
    ids = {tuple(engine.chat_ids(QUESTION)) for engine in engines}
    assert len(ids) == 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    theirs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert tuple(theirs) in ids
    assert len(tokenizer) == 259, "no id for the byte that the file lacks"
    described = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert described["eos_token_id"] == [255, 256, 257]
    for engine in engines:
        with pytest.raises(ValueError, match="the text holds byte 0x04"):
            engine.complete("a\x04", GREEDY, 3)


def test_export_writes_a_gguf_file_that_chats(tmp_path, capsys):
    folder_of(tmp_path / "ours", small_model(tie_embeddings=False))
    before = engine_for(None, tmp_path / "ours")
    for kind, size in (("q8_0", 34 / 32), ("q4_0", 34 / 32), ("f16", 2)):
        path = tmp_path / f"{kind}.gguf"
        main(["export", str(tmp_path / "ours"), str(path), "--gguf", kind])
        line, next_step, *servers = capsys.readouterr().out.splitlines()
        assert line == f"llama: 94,912 parameters, {kind}, {path.stat().st_size:,} bytes"
        assert path.stat().st_size < 94_912 * size + 12_000  # the tokenizer
        assert next_step == f"written to {path}; chat with it: lm chat --model {path}"
        assert servers == [
            f"serve it with llama.cpp: llama-server -m {path}",
            "measure that server: lm bench serve --url http://127.0.0.1:8080/v1",
        ]
        engine = engine_for(None, path)
        assert engine.chat_ids(QUESTION) == before.chat_ids(QUESTION)
        assert engine.stop_ids >= before.stop_ids
        if kind == "f16":
            assert engine.chat(QUESTION, GREEDY, 12) == before.chat(QUESTION, GREEDY, 12)


@pytest.mark.parametrize("has_template", [True, False])
def test_an_exported_folder_says_how_to_serve_it(source, tmp_path, capsys, has_template):
    import_model(source, tmp_path / "ours")
    if not has_template:
        for name in ("chat_template.jinja", "tokenizer_config.json"):
            (tmp_path / "ours" / name).unlink(missing_ok=True)
    folder = tmp_path / "a folder"
    main(["export", str(tmp_path / "ours"), str(folder)])
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"written to {folder}; chat with it: lm chat --model {folder}",
        f"serve it with vLLM: vllm serve '{folder}'",
        "measure that server: lm bench serve --url http://127.0.0.1:8000/v1"
        + ("" if has_template else " --api completions"),
    ]


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("m.gguf", "q5_0", "GGUF type 'q5_0': expected f16, q8_0, q4_0"),
        ("folder", "q8_0", "folder: with --gguf, the target is a file whose name ends in .gguf"),
        ("there.gguf", "q8_0", "there.gguf: already exists; name another file"),
        ("m.gguf", "q4_0", "nothing: no checkpoint there"),
    ],
)
def test_a_refused_gguf_export_is_one_line_and_writes_nothing(
    source, tmp_path, capsys, target, kind, words
):
    (tmp_path / "there.gguf").write_bytes(b"mine")
    checkpoint = tmp_path / "nothing" if "nothing" in words else source
    with pytest.raises(SystemExit) as end:
        main(["export", str(checkpoint), str(tmp_path / target), "--gguf", kind])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and words in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "there.gguf"]
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"


def test_a_gguf_target_without_its_type_is_refused(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(source), str(tmp_path / "m.gguf")])
    assert end.value.code == 2
    assert "m.gguf: for a GGUF file, add --gguf q8_0, q4_0 or f16" in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()


def test_import_says_what_it_made_and_what_to_do_and_generate_speaks(
    source, gguf_file, tmp_path, capsys
):
    main(["import", str(gguf_file), str(tmp_path / "ours")])
    model, next_step = capsys.readouterr().out.splitlines()
    assert model.startswith("llama: ")
    assert next_step.endswith(f"lm chat --model {tmp_path / 'ours'}")
    for model in (gguf_file, tmp_path / "ours", source):
        arguments = ["--model", str(model), "--temperature", "0", "--max-new-tokens", "4"]
        main(["generate", "Hello", *arguments])
        assert capsys.readouterr().out.startswith("Hello")


def not_a_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    write_checkpoint(folder, {"a": torch.zeros(1)}, {"model_type": "bert"}, {}, None)
    return folder


def without_tokenizer(folder: Path) -> Path:
    (folder_of(folder, small_model()) / "tokenizer.json").unlink()
    return folder


def with_larger_tokenizer(folder: Path) -> Path:
    tokenizer = Tokenizer(dict(enumerate(BYTES)), [], [*SPECIAL_TOKENS, "<more>"])
    files = hugging_face_files(tokenizer)
    (folder_of(folder, small_model()) / "tokenizer.json").write_bytes(files["tokenizer.json"])
    return folder


def with_cut_weights(folder: Path) -> Path:
    weights = folder_of(folder, small_model()) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    return folder


def with_a_bad(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder_of(folder, small_model()) / name).write_text("{")
        return folder

    return make


def a_text_file(path: Path) -> Path:
    path.write_text("hello")
    return path


def one_file(name: str) -> Callable[[Path], Path]:
    """Return a maker of one file of a model's folder, given in place of the folder."""
    return lambda folder: folder_of(folder, small_model()) / name


def with_a_gguf_in_it(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"GGUF")
    return folder


def with_checkpoints_in_it(folder: Path) -> Path:
    for name in ("step_000000", "step_000020"):
        (folder / name).mkdir(parents=True)
    return folder


BAD_SOURCES = {
    "name one of the checkpoints in it: ": with_checkpoints_in_it,
    "model.safetensors: this is one file of a model's folder": one_file("model.safetensors"),
    "weights are all needed; name the folder: ": one_file("config.json"),
    "has no config.json; name the GGUF file in it: ": with_a_gguf_in_it,
    "source: no such folder or file; models known by name: smollm2": lambda path: path,
    "source: has no config.json; name a Hugging Face": lambda path: path.mkdir() or path,
    "model_type is 'bert'; this code reads gpt2, llama": not_a_model,
    "not a GGUF file": a_text_file,
    "tokenizer.json: no such file; fetch or import it again": without_tokenizer,
    "; fetch or import it again": with_cut_weights,
    "column 2 (char 1)); fetch or import it again": with_a_bad("config.json"),
    "column 2 (char 1)); fetch it again, or make one": with_a_bad("tokenizer.json"),
    "has 260 entries, the model 259 rows": with_larger_tokenizer,
}


@pytest.mark.parametrize(("words", "make"), BAD_SOURCES.items(), ids=BAD_SOURCES)
def test_a_bad_source_is_one_line_and_leaves_nothing(words, make, tmp_path, capsys):
    made = make(tmp_path / "source")
    with pytest.raises(SystemExit) as stopped:
        main(["import", str(made), str(tmp_path / "ours")])
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and errors.count("\n") == 1 and words in errors
    assert not (tmp_path / "ours").exists() and not leftovers(tmp_path)


def test_an_existing_target_is_not_replaced(source, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    import_model(source, target)  # an empty folder may be replaced
    for call in (import_model, export_model):
        with pytest.raises(ValueError, match="mine: already exists; name another"):
            call(source, target)
    with pytest.raises(ValueError, match="already exists"):
        import_model(source, source / "config.json")


def test_other_mistakes_of_the_command_line(source, tmp_path):
    with pytest.raises(ValueError, match="--dtype int8: expected float32, bfloat16, float16"):
        import_model(source, tmp_path / "ours", "int8")
    with pytest.raises(ValueError, match="--checkpoint and --model were both given"):
        engine_for(source, source)
    for name in ("nothing", "nothing.gguf"):
        with pytest.raises(ValueError, match=f"{name}: no such folder or file"):
            engine_for(None, tmp_path / name)


def test_a_shape_without_a_family_is_not_exported(tmp_path):
    checkpoint = folder_of(tmp_path / "post", small_model(norm_position="post"))
    with pytest.raises(ValueError, match=r"post: transformers has no family .* norm_position"):
        export_model(checkpoint, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
    assert engine_for(checkpoint, None).complete("Hello", GREEDY, 3)


def test_a_gguf_file_cut_short_anywhere_is_one_line(gguf_file, tmp_path, capsys):
    """At 50 places, from the header to the last tensor: the file, the part and what to do."""
    content = gguf_file.read_bytes()
    end, tensors = len(content) - 32, content.index(b"token_embd.weight")
    parts = set()
    for length in [*range(10), *range(tensors, tensors + 10), *range(50, end, end // 30)]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(content[:length])
        with pytest.raises(SystemExit) as stopped:
            main(["import", str(cut), str(tmp_path / "ours")])
        errors = capsys.readouterr().err
        assert stopped.value.code == 2 and errors.count("\n") == 1, errors
        assert errors.startswith(f"lm: {cut}: ") and "fetch it again" in errors
        named = ("header", "metadata", "list of tensors", "tensor ", "not a GGUF file")
        parts |= {part for part in named if part in errors}
    assert len(parts) == 5 and not (tmp_path / "ours").exists()


def test_every_byte_of_the_head_may_be_damaged(gguf_file, tmp_path):
    """Whatever the first part of a file holds, the engine starts or gives a one-line error."""
    content = gguf_file.read_bytes()
    drawn = random.Random(0)
    head = content.index(b"token_embd.weight") + 200
    for _ in range(150):
        damaged = bytearray(content)
        damaged[drawn.randrange(4, head)] = drawn.randrange(256)
        path = tmp_path / "damaged.gguf"
        path.write_bytes(damaged)
        try:
            engine_for(None, path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_smollm2_answers(smollm2):
    engine = engine_for(None, smollm2)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    assert engine.chat(asked, GREEDY, 30) == "The capital of France is Paris."
    assert engine.stop_ids == {0, 1, 2}


def test_lm_chat_has_it_where_the_compiled_pass_knows_the_model(
    source, monkeypatch, capsys
) -> None:
    made = chat_engine_at(source)
    assert "source: getting ready; the first start compiles" in capsys.readouterr().err
    assert isinstance(made, ChatEngine)
    assert made.batch.settings.cache_tokens == 4 * 64
    plain = engine_at(source)
    assert made.chat(QUESTION, GREEDY, 5) == plain.chat(QUESTION, GREEDY, 5)
    monkeypatch.setattr(forward_choice, "unsupported_variant", lambda config: "norm = other")
    assert type(chat_engine_at(source)) is Engine
    assert capsys.readouterr().err == ""
