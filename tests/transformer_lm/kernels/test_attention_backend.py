"""A backend that cannot run is replaced, once and with its reason; and never trusted for its import
alone.
"""

import platform
import sys
import types
from pathlib import Path

import pytest
import torch

from transformer_lm.attention import CausalSelfAttention
from transformer_lm.kernels import attention_backend
from transformer_lm.kernels.attention_backend import choose_backend, why_triton_is_unusable
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


CPU_INFO = Path("/proc/cpuinfo")
X86 = platform.machine() == "x86_64" and CPU_INFO.is_file()
CPU_FLAGS = set(CPU_INFO.read_text(encoding="utf-8").split()) if X86 else set()


@pytest.fixture(autouse=True)
def nothing_tried_yet():
    """Each test probes anew, and none leaves a made-up answer behind."""
    clear_caches()
    yield
    clear_caches()


def clear_caches():
    attention_backend.why_triton_is_unusable.cache_clear()
    attention_backend.say_once.cache_clear()


def tensors(queries, keys, dtype=torch.float32):
    return torch.zeros(1, 4, queries, 16, dtype=dtype), torch.zeros(1, 2, keys, 16, dtype=dtype)


def test_auto_on_a_cpu(monkeypatch):
    monkeypatch.setattr(attention_backend, "HAS_BFLOAT16_PRODUCTS", True)
    assert choose_backend("auto", *tensors(512, 512, torch.bfloat16)) == "matmul"
    assert choose_backend("auto", *tensors(513, 513, torch.bfloat16)) == "sdpa"
    assert choose_backend("auto", *tensors(1, 9, torch.bfloat16)) == "sdpa"
    assert choose_backend("auto", *tensors(9, 9)) == "sdpa"
    monkeypatch.setattr(attention_backend, "HAS_BFLOAT16_PRODUCTS", False)
    assert choose_backend("auto", *tensors(512, 512, torch.bfloat16)) == "sdpa"


def test_the_processor_is_asked():
    if not CPU_FLAGS:
        pytest.skip("this system does not list the processor's instructions in /proc/cpuinfo")
    assert attention_backend.cpu_multiplies_bfloat16() == ("avx512_bf16" in CPU_FLAGS)


@pytest.mark.parametrize("has_them", [True, False])
def test_what_pytorch_says_of_the_processor_decides(has_them, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_them)
    assert attention_backend.cpu_multiplies_bfloat16() == has_them


@pytest.mark.parametrize("backend", ["eager", "matmul", "tiled", "sdpa"])
def test_what_runs_everywhere_is_taken_as_asked(backend, capsys):
    assert choose_backend(backend, *tensors(9, 9)) == backend
    assert capsys.readouterr().err == ""


@CPU_ONLY
def test_without_a_gpu_the_reason_is_said_once(capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for _ in range(3):
        assert choose_backend("triton", *tensors(9, 9)) == "sdpa"
    expected = "attention: triton is not usable here (no CUDA device); sdpa is used\n"
    assert capsys.readouterr().err == expected


def test_other_devices_have_a_reason_of_their_own(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert why_triton_is_unusable("mps:0", torch.float32) == "no kernels for mps"


def stand_in_for_the_kernels(monkeypatch, flash_attention):
    """A module in place of kernels.flash_attention, and an interpreter that is allowed."""
    module = types.ModuleType("transformer_lm.kernels.flash_attention")
    module.flash_attention = flash_attention
    monkeypatch.setitem(sys.modules, "transformer_lm.kernels.flash_attention", module)
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def test_kernels_that_compute_are_usable_and_tried_once(monkeypatch):
    calls = []

    def works(q, k, v, is_causal):
        calls.append(q.dtype)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    stand_in_for_the_kernels(monkeypatch, works)
    for _ in range(3):
        assert choose_backend("triton", *tensors(9, 9)) == "triton"
    choose_backend("triton", *tensors(9, 9, torch.bfloat16))
    assert calls == [torch.float32, torch.bfloat16], "once for each type"


def test_an_import_that_succeeds_is_not_enough(monkeypatch, capsys):
    def fails(q, k, v, is_causal):
        raise RuntimeError("device kernel image is invalid\nand a long trace")

    stand_in_for_the_kernels(monkeypatch, fails)
    reason = why_triton_is_unusable("cpu", torch.float32)
    assert reason == "RuntimeError: device kernel image is invalid"
    assert choose_backend("triton", *tensors(9, 9)) == "sdpa"
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_wrong_results_are_seen(monkeypatch, broken):
    def wrong(q, k, v, is_causal):
        o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return 2 * o if broken == "forward" else 2 * o - o.detach()

    stand_in_for_the_kernels(monkeypatch, wrong)
    reason = why_triton_is_unusable("cpu", torch.float32)
    assert reason == "its kernels ran, and gave a wrong result"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name in [
        name for name in sys.modules if name.startswith("transformer_lm.kernels.flash_attention")
    ]:
        monkeypatch.delitem(sys.modules, name)

    class NoTriton:
        def find_spec(self, name, path=None, target=None):
            if name == "triton":
                raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTriton(), *sys.meta_path])
    assert why_triton_is_unusable("cpu", torch.float32) == "triton is not installed"


@CPU_ONLY
def test_a_model_without_a_gpu_computes_the_same(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    config = ModelConfig(
        vocab_size=10,
        context_length=32,
        d_model=24,
        num_layers=1,
        num_heads=6,
        num_kv_heads=2,
        d_ff=8,
    )
    torch.manual_seed(0)
    layer, x = CausalSelfAttention(config, 0, "sdpa"), torch.randn(2, 9, 24)
    expected = layer(x, RotaryEmbedding(4, 32), torch.arange(9))
    layer.attention_backend = "triton"
    assert torch.equal(layer(x, RotaryEmbedding(4, 32), torch.arange(9)), expected)
