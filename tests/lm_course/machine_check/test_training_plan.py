"""The plan of a pretraining: its choices are those of training, and nothing is written."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lm_core.formats.token_shards import ShardWriter
from lm_course.data_steps.tokenizer import TokenizerStepSettings
from lm_course.machine_check import training_plan as module
from lm_course.machine_check.memory_fit import Memory
from lm_course.machine_check.training_plan import (
    attention_backend,
    optimizer_code,
    training_plan,
    vocabulary,
)
from training import training_loop
from training.runs.pretraining import PretrainSettings
from transformer_lm.model_config import ModelConfig

CPU = torch.device("cpu")
SHAPE = {"d_model": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "d_ff": 48}
SHAPE |= {"context_length": 16}


def settings(**training) -> PretrainSettings:
    given = {"steps": 10, "learning_rate": 1e-3, "batch_size": 4, "micro_batches": 2} | training
    return PretrainSettings(model=SHAPE, training=given)


def test_precision_is_chosen_by_the_training_loop(monkeypatch, tmp_path):
    asked = []

    def measured(run_once, device, repeats):
        asked.append((device, repeats))
        run_once(torch.bfloat16)
        return torch.bfloat16, 1.7

    monkeypatch.setattr(training_loop, "faster_dtype", measured)
    monkeypatch.chdir(tmp_path)
    plan = training_plan(settings(activation_checkpointing=True), 300, CPU, tmp_path / "runs")
    assert (plan.precision, asked) == ("bfloat16", [(CPU, 3)])
    assert plan.reason == "bfloat16 is 1.70 times as fast"
    assert plan.fits_memory and plan.fits_disk
    assert not list(tmp_path.iterdir())


def test_a_precision_in_the_recipe(tmp_path):
    plan = training_plan(settings(precision="bfloat16"), 300, CPU, tmp_path)
    assert (plan.precision, plan.reason) == ("bfloat16", "set in the recipe")


def test_what_does_not_fit_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "device_memory", lambda _: Memory(1000, 1000))
    monkeypatch.setattr(module, "free_disk", lambda _: 1000)
    plan = training_plan(settings(), 300, CPU, tmp_path)
    assert plan.precision is None and "does not fit" in plan.reason
    assert not plan.fits_memory and not plan.fits_disk
    assert plan._replace(memory=Memory(None, None)).fits_memory


def test_a_long_measurement_is_left_to_training(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "product_flops_per_second", lambda *_: 1e3)
    plan = training_plan(settings(), 300, CPU, tmp_path)
    assert plan.precision is None and plan.reason.startswith("lm pretrain measures it")
    monkeypatch.setattr(module, "choose_backend", lambda wanted, q, k: f"kernel{q.element_size()}")
    plan = training_plan(settings(), 300, CPU, tmp_path)
    assert plan.backend == "kernel4 in float32, kernel2 in bfloat16"


def test_one_precision_is_not_measured(tmp_path):
    plan = training_plan(settings(), 300, CPU, tmp_path, ["float32"])
    assert plan.precision is None and plan.reason.endswith("because bfloat16 cannot be used here")


@pytest.mark.parametrize(("length", "dtype"), [(16, torch.float32), (1024, torch.bfloat16)])
def test_attention_is_that_of_the_model(length, dtype):
    config = ModelConfig(**SHAPE | {"context_length": length}, vocab_size=300)
    assert attention_backend(config, CPU, dtype) == "sdpa"


def test_an_attention_backend_that_is_not_available(monkeypatch, capsys):
    from transformer_lm.kernels.attention_backend import say_once, why_triton_is_unusable

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(module, "empty_model", lambda config: model_that_wants("triton"))
    for cached in (say_once, why_triton_is_unusable):
        cached.cache_clear()
    config = ModelConfig(**SHAPE, vocab_size=300)
    assert attention_backend(config, CPU, torch.float32) == "sdpa"
    assert "triton is not usable here (no CUDA device); sdpa is used" in capsys.readouterr().err
    monkeypatch.setattr(module, "empty_model", lambda config: model_that_wants("tiled"))
    assert attention_backend(config, CPU, torch.float32) == "tiled"


def model_that_wants(backend: str) -> SimpleNamespace:
    attention = SimpleNamespace(attention_backend=backend)
    return SimpleNamespace(blocks=[SimpleNamespace(attention=attention)])


def test_the_optimizer_is_that_of_training(monkeypatch):
    assert optimizer_code(settings(), CPU) == "AdamW by PyTorch's fused kernel"
    assert optimizer_code(settings(optimizer="muon"), CPU).startswith("Muon; AdamW by")
    monkeypatch.setattr(module, "why_fused_is_unusable", lambda *_: "no such kernel")
    assert optimizer_code(settings(), CPU) == "AdamW by the lesson's formula (no such kernel)"


def test_vocabulary(tmp_path):
    assert vocabulary(TokenizerStepSettings(vocab_size=1000), tmp_path) == (1000, "")
    characters = TokenizerStepSettings(kind="characters")
    assert vocabulary(characters, tmp_path) == (256, "if the text has 256 different characters")
    made = tmp_path / "shards"
    with ShardWriter(made, "hash", 68, np.ones(68)) as writer:
        writer.add("train", [1, 2])
    assert vocabulary(characters, made) == (68, "")
