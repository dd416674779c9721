"""`lm compare`: exit status, the layer that it names, a learner's files, and wrong input."""

import json
import os
import shutil
import sys
from pathlib import Path

import preloaded_python
import pytest
import torch

from lm_core.formats.checkpoint_files import write_checkpoint
from lm_course.cli import main
from lm_course.model_checks.compare_command import model_source, place_of
from lm_course.model_checks.compared_models import load_both
from lm_course.model_checks.layer_errors import LayerError
from transformer_lm.language_model import TransformerLM
from transformer_lm.layers import RMSNorm
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import to_hugging_face

PROJECT = Path(__file__).parents[3]
ONE = ["--type", "float32", "--backend", "sdpa"]


def status_of(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    return stopped.value.code


def test_equal_models(llama_folder, tmp_path, capsys):
    path = tmp_path / "figures.json"
    main(["compare", str(llama_folder), "--gradients", "--json", str(path)])
    printed = capsys.readouterr().out
    assert "Every layer computes what transformers computes." in printed
    assert printed.count("none, gradients too") == 4
    figures = json.loads(path.read_text())
    kinds = [(one["dtype"], one["backend"]) for one in figures["comparisons"]]
    backends = ["eager", "matmul", "sdpa", "tiled"]
    types = ["float32", "bfloat16", "float16"]
    assert [kind for kind in kinds if kind[1] != "triton"] == [
        (t, b) for t in types for b in backends
    ]
    first = figures["comparisons"][0]
    assert first["first"] is None and first["layers"][-1]["name"] == "loss"
    assert first["gradients"][0]["name"] == "output_head.weight"
    assert first["gradients"][-1]["name"] == "token_embedding.weight"


def test_a_wrong_layer_is_named(llama_folder, tmp_path, capsys, monkeypatch):
    def with_another_eps(self, x):
        scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps + 1e-3)
        return x * scale * self.weight

    monkeypatch.setattr(RMSNorm, "forward", with_another_eps)
    path = tmp_path / "figures.json"
    assert status_of([str(llama_folder), *ONE, "--json", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "First difference: blocks.0.attention_norm" in printed
    assert json.loads(path.read_text())["comparisons"][0]["first"] == "blocks.0.attention_norm"


def test_a_wrong_backward_pass_is_named(llama_folder, capsys, monkeypatch):
    from transformer_lm.attention import CausalSelfAttention

    attend = CausalSelfAttention._attend
    monkeypatch.setattr(
        CausalSelfAttention, "_attend", lambda self, q, k, v: attend(self, q.detach(), k, v)
    )
    assert status_of([str(llama_folder), *ONE, "--gradients"]) == 1
    printed = capsys.readouterr().out
    assert "First difference: gradient of blocks.2.attention.query.weight" in printed
    main(["compare", str(llama_folder), *ONE])  # without gradients, it cannot be seen


def test_a_learners_file(llama_folder, tmp_path):
    reference = (PROJECT / "transformer_lm" / "layers.py").read_text()
    right = "functional.silu(self.gate(x)) * self.up(x)"
    assert right in reference
    folder = tmp_path / "workspace" / "transformer_lm"
    folder.mkdir(parents=True)
    wrong = reference.replace(right, "functional.silu(self.up(x)) * self.gate(x)")
    (folder / "layers.py").write_text(wrong)
    found = preloaded_python.run(
        ["-m", "lm_course", "compare", str(llama_folder), "--impl", str(folder.parent), *ONE],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "60", "PYTHONPATH": str(PROJECT)},
        timeout=120,
    )
    assert found.returncode == 1, found.stderr
    assert "your file: workspace/transformer_lm/layers.py" in found.stdout
    assert "First difference: input of blocks.0.feed_forward.down" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 60


def test_float16_overflow_is_not_a_difference(llama, tmp_path, capsys):
    ours = TransformerLM(llama.ours.config)
    ours.load_state_dict(llama.ours.state_dict())
    ours.blocks[1].feed_forward.down.weight.data.mul_(3e5)
    write_checkpoint(tmp_path / "large", *to_hugging_face(ours), {}, None)
    main(["compare", str(tmp_path / "large"), "--type", "float16", "--backend", "sdpa"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "none before blocks.1.feed_forward" in printed
    assert "numbers overflow in float16, at blocks.1.feed_forward, and nothing after it" in printed
    assert "Every layer computes" not in printed


def test_triton_is_not_replaced_by_another_backend(llama_folder, monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert status_of([str(llama_folder), "--type", "float32", "--backend", "triton"]) == 2
    expected = "--backend triton: not usable on cpu in float32 (no CUDA device); name another"
    assert expected in " ".join(capsys.readouterr().err.split())


def test_weights_that_differ_are_named(llama_folder, monkeypatch, capsys):
    from lm_course.model_checks import compared_models

    load = compared_models.load_model

    def with_a_mistake(folder: Path) -> TransformerLM:
        model = load(folder)
        model.blocks[1].attention.key.weight.data[0, 0] += 1
        return model

    monkeypatch.setattr(compared_models, "load_model", with_a_mistake)
    assert list(load_both(llama_folder).wrong_weights) == ["blocks.1.attention.key.weight"]
    assert status_of([str(llama_folder), *ONE]) == 1
    printed = capsys.readouterr().out
    assert "weight blocks.1.attention.key.weight differs" in printed
    assert "Every layer computes" not in printed


def test_parameters_by_other_names(llama_folder, monkeypatch, capsys):
    from lm_course.model_checks import compared_models

    empty = compared_models.empty_model

    def with_another(shape: ModelConfig) -> TransformerLM:
        model = empty(shape)
        model.extra = torch.nn.Parameter(torch.zeros(1))
        return model

    monkeypatch.setattr(compared_models, "empty_model", with_another)
    assert status_of([str(llama_folder), *ONE]) == 2
    assert "TransformerLM also has extra: the model needs the" in capsys.readouterr().err


def test_a_gguf_file(llama, tmp_path, gguf_writing):
    path = tmp_path / "model.gguf"
    gguf_writing.write_gguf(path, llama.theirs)
    both = load_both(path)
    assert not both.wrong_weights and both.family.name == "llama"
    ids = torch.arange(20)[None]
    expected = llama.theirs(ids).logits
    assert torch.allclose(both.theirs(ids).logits, expected, atol=1e-4)
    assert torch.allclose(both.ours(ids), expected, atol=1e-4)


WRONG = {
    "--against llamacpp": "--against llamacpp: expected transformers",
    "--type int8": "--type int8: expected float32, bfloat16, float16",
    "--backend flash": "--backend flash: expected eager, matmul, sdpa, tiled, triton",
    "--tokens 65": "--tokens 65: expected 2 to 64, the context",
    "--json nowhere/figures.json": "--json nowhere/figures.json: no folder nowhere",
    "--device tpu": "device 'tpu' is unknown",
}


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options(options, llama_folder, capsys):
    assert status_of([str(llama_folder), *options.split()]) == 2
    assert WRONG[options] in capsys.readouterr().err


def test_no_model(tmp_path, capsys):
    assert status_of([str(tmp_path / "nothing")]) == 2
    assert "no such folder or file" in capsys.readouterr().err
    assert status_of([str(tmp_path)]) == 2
    assert f"{tmp_path}: holds no checkpoint; name one" in capsys.readouterr().err


def test_a_run_stands_for_its_last_checkpoint(llama_folder, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "pretrain" / "step_000010"
    shutil.copytree(llama_folder, checkpoint)
    assert model_source(tmp_path) == checkpoint


def test_a_shape_without_a_family(tmp_path, capsys):
    shape = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "d_ff": 16}
    config = ModelConfig(**shape, vocab_size=11, context_length=8, norm_position="post")
    write_checkpoint(tmp_path / "own", *to_hugging_face(TransformerLM(config)), {}, None)
    assert status_of([str(tmp_path / "own")]) == 2
    error = capsys.readouterr().err
    assert "transformers has no family for a decoder with norm_position = 'post'" in error


def test_without_transformers(llama_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert status_of([str(llama_folder)]) == 2
    assert "pip install 'transformers>=5.0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("blocks.0.attention.output", "input", "scores, mask and softmax"),
        ("blocks.3.feed_forward_norm", "input", "the sum after attention"),
        ("blocks.1", "input", "the stream at the start of the block"),
        ("final_norm", "output", "final_norm"),
    ],
)
def test_places_in_words(name, kind, words):
    assert place_of(LayerError(name, kind, 1.0, 1.0, 0.0, 0.1)).endswith(words)
