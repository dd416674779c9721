"""The statistics of a step: by hand on one model, and in the log of a run."""

import sys
from pathlib import Path

import pytest
import torch

from lm_core.formats.metric_log import read_metrics
from training.engine import step_statistics
from training.engine.step_statistics import (
    global_norm,
    gradient_norms,
    peak_memory_bytes,
    residual_sizes,
    utilization,
    watched_blocks,
)
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import flops_per_token

sys.path.append(str(Path(__file__).parent))
from tiny_runs import make_run, train

CONFIG = ModelConfig(
    vocab_size=20, context_length=8, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=24
)
CPU = torch.device("cpu")


def test_the_norm_of_tensors_that_are_whole():
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0, 12.0]])]
    assert global_norm(gradients).item() == pytest.approx(13.0)


def test_norms_by_kind_add_up_to_the_whole_norm():
    torch.manual_seed(0)
    model = TransformerLM(CONFIG)
    model(torch.arange(8)[None]).logsumexp(-1).mean().backward()
    norms = gradient_norms(model.named_parameters())
    both = [block.attention.query.weight.grad for block in model.blocks]
    expected = torch.cat([gradient.flatten() for gradient in both]).norm()
    torch.testing.assert_close(norms["grad_norm/attention.query"], expected)
    whole = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    torch.testing.assert_close(torch.stack(list(norms.values())).norm(), whole)


def test_the_size_of_the_residual_stream_is_that_of_each_blocks_output():
    torch.manual_seed(0)
    model, outputs = TransformerLM(CONFIG), []
    for block in model.blocks:
        block.register_forward_hook(lambda block, inputs, output: outputs.append(output))
    with watched_blocks(model) as squares:
        model(torch.arange(8)[None])
        model(torch.arange(4)[None])  # a second micro-batch
    model(torch.arange(8)[None])  # no longer watched
    sizes = residual_sizes(squares, lambda figure: figure)
    expected = ((outputs[0].square().mean() + outputs[2].square().mean()) / 2).sqrt()
    torch.testing.assert_close(sizes["residual_rms/0"], expected)
    assert sizes.keys() == {"residual_rms/0", "residual_rms/1"}


def test_utilization_is_measured_against_a_product_on_this_device(monkeypatch):
    monkeypatch.setattr(step_statistics, "product_flops_per_second", lambda *given: 1e9)
    found = utilization(CONFIG, 1000.0, CPU, "float32")
    assert found["mfu"] == pytest.approx(1000 * flops_per_token(CONFIG, 8) / 1e9)
    assert found["peak_memory_bytes"] > 2**20


def test_the_product_is_faster_than_nothing_and_measured_once(monkeypatch):
    monkeypatch.setitem(step_statistics.PRODUCT_SIZES, "cpu", 64)
    step_statistics.product_flops_per_second.cache_clear()
    first = step_statistics.product_flops_per_second(CPU, torch.float32)
    assert 1e6 < first < 1e15
    assert step_statistics.product_flops_per_second(CPU, torch.float32) == first
    step_statistics.product_flops_per_second.cache_clear()


def test_the_fastest_product_counts_two_operations_for_each_multiplication(monkeypatch):
    seconds = iter([0.0, 3.0, 10.0, 12.0, 20.0, 25.0, 30.0, 34.0, 40.0, 46.0])  # at least 2.0
    monkeypatch.setattr(step_statistics.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setitem(step_statistics.PRODUCT_SIZES, "cpu", 10)
    measured = step_statistics.product_flops_per_second.__wrapped__(CPU, torch.float32)
    assert measured == 2 * 10**3 / 2.0


def test_memory_that_was_held_once_counts():
    before = peak_memory_bytes(CPU)
    held = torch.ones(before // 4 + 2**24)  # four bytes each
    assert peak_memory_bytes(CPU) > before + held.numel()


def test_rows_with_statistics_and_the_same_losses(tmp_path):
    plain, watched = make_run(tmp_path / "plain"), make_run(tmp_path / "watched")
    train(plain)
    train(watched, ("pretrain.training.statistics_every=5", "pretrain.training.micro_batches=1"))
    rows = read_metrics(watched / "runs/tiny/metrics.jsonl")
    steps = [row["step"] for row in rows if "mfu" in row]
    assert steps == [5, 10, 15, 20]
    names = {"residual_rms/1", "grad_norm/feed_forward.up", "peak_memory_bytes"}
    assert names <= rows[5].keys() and 0 < rows[5]["mfu"] < 1
    losses = [
        [row.get("loss") for row in read_metrics(root / "runs/tiny/metrics.jsonl")]
        for root in (plain, watched)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of torch.compile's own code
@pytest.mark.usefixtures("unchecked_types")
def test_compiled_blocks_change_rounding_and_nothing_else(tmp_path):
    """`compile = true` makes fused code of each block, which adds in another order."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = make_run(tmp_path / "plain"), make_run(tmp_path / "compiled")
    train(plain)
    assert not torch._dynamo.utils.counters["stats"]["unique_graphs"]
    train(compiled, ("pretrain.training.compile=true",))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    figures = [
        [row["loss"] for row in read_metrics(root / "runs/tiny/metrics.jsonl")[1:]]
        for root in (plain, compiled)
    ]
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
