"""The benchmark of the server under load starts it, runs both loads and writes their figures."""

import importlib.util
import json
import sys
from pathlib import Path

import torch

from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import to_hugging_face

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "benchmarks" / "serve_load.py"


def test_both_loads_are_measured(tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [], SPECIAL_TOKENS)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=512,
        d_model=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        d_ff=32,
    )
    tensors, described = to_hugging_face(TransformerLM(config), {})
    folder = tmp_path / "step_000001"
    write_checkpoint(folder, tensors, described, hugging_face_files(tokenizer), None)
    spec = importlib.util.spec_from_file_location("serve_load", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    out = tmp_path / "results.json"
    chosen = ["--model", str(folder), "--clients", "3", "--seconds", "0.5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["serve_load.py", *chosen])
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    benchmark.main()
    loads = json.loads(out.read_text())["loads"]
    assert list(loads) == ["all stay", "30% leave"]
    for load in loads.values():
        assert load["exit_status"] == 0
        assert load["level"]["done"] > 0
        assert not load["secrets"]["leaks"]
        assert load["secrets"]["server"]["blocks"] > 0
    assert loads["all stay"]["level"]["hung_up"] == 0
    assert "--hang-up 0.3" in loads["30% leave"]["command"]
