"""The benchmark of the server under load starts it, runs both loads and writes their figures."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "benchmarks" / "serve_load.py"


@pytest.mark.slow
def test_both_loads_are_measured(tmp_path, monkeypatch) -> None:
    folder = write_tiny_checkpoint(tmp_path, context_length=512)
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
