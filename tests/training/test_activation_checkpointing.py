"""Checkpointed functions: equal gradients to the last bit, fewer bytes, one more forward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as torchs_checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.user_error import UserError
from training.activation_checkpointing import checkpoint_blocks, checkpointed
from training.batching import Batch
from training.runs.pretraining import language_model_loss
from training.runs.training_settings import TrainingSettings
from training.training_loop import TrainingRun, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import (
    activation_bytes_by_part,
    checkpointed_activation_bytes,
    forward_flops_by_part,
    recomputed_flops,
)

Way = Callable[..., torch.Tensor]


def plainly(function, *inputs):
    return function(*inputs)


def by_torch(function, *inputs):
    return torchs_checkpoint(function, *inputs, use_reentrant=False)


def make_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 6))


def results_of(way: Way, layers: nn.Module, run, autocast: bool = False) -> list[torch.Tensor]:
    """Return the loss, its gradients, and the next random number."""
    torch.manual_seed(1)
    x = torch.rand(5, 6, requires_grad=True)
    layers.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = run(way, layers, x).square().sum()
    loss.backward()
    return [loss, x.grad, *(parameter.grad for parameter in layers.parameters()), torch.rand(1)]


def once(way: Way, layers, x):
    return way(layers, x)


def twice_with_draws_between(way: Way, layers, x):
    x = way(layers, x)
    return way(layers, nn.functional.dropout(x, 0.5))


def nested(way: Way, layers, x):
    return way(lambda x: way(layers, x) + way(layers, 2 * x), x)


def weights_used_outside_too(way: Way, layers, x):
    return layers(way(layers, layers(x)))


def weights_used_again_outside(way: Way, layers, x):
    return layers(way(layers, x))


def with_an_input_that_needs_no_gradient(way: Way, layers, x):
    return way(lambda fixed, x, number: layers(fixed) + number * x, x.detach() + 1, x, 3)


def with_no_input_that_needs_one(way: Way, layers, x):
    return x + way(layers, x.detach())


def with_several_results(way: Way, layers, x):
    first, second, _ = way(lambda x: (layers(x), 2 * x, x.argmax()), x)
    return first * second


def with_an_unused_result(way: Way, layers, x):
    return way(lambda x: (layers(x), 2 * x), x)[0]


CASES = [
    once,
    twice_with_draws_between,
    nested,
    weights_used_outside_too,
    weights_used_again_outside,
    with_an_input_that_needs_no_gradient,
    with_no_input_that_needs_one,
    with_several_results,
    with_an_unused_result,
]
WEIGHTS_USED_MORE_THAN_ONCE = {*CASES[1:5]}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("run", CASES, ids=lambda run: run.__name__)
def test_gradients_are_equal_to_the_last_bit(run, autocast):
    layers = make_layers()
    expected = results_of(plainly, layers, run, autocast)
    for way in (checkpointed, by_torch):
        for number, (found, right) in enumerate(
            zip(results_of(way, layers, run, autocast), expected, strict=True)
        ):
            if autocast and run in WEIGHTS_USED_MORE_THAN_ONCE:
                # Autocast adds the gradients of a weight's uses in bfloat16; apart, in float32.
                torch.testing.assert_close(found, right, rtol=2e-2, atol=2e-2)
            elif run is weights_used_outside_too:  # the sum of three gradients in another order
                torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(found, right), f"{way.__name__}: result {number}"


def test_backward_inside_autocast():
    layers = make_layers()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.rand(5, 6)
        checkpointed(layers, checkpointed(layers, x)).sum().backward()
    assert all(parameter.grad is not None for parameter in layers.parameters())


def test_nothing_between_is_kept_and_the_function_runs_twice():
    layers, runs, kept = make_layers(), [], []

    def function(x):
        runs.append(torch.is_grad_enabled())
        return layers(x)

    x = torch.rand(5, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        result = checkpointed(function, x)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()] and runs == [False]
    result.sum().backward()
    assert runs == [False, True]
    with torch.no_grad():
        assert not checkpointed(function, x).requires_grad
    assert len(runs) == 3


def test_a_gradient_by_other_means_is_refused():
    layers = make_layers()
    x = torch.rand(5, 6, requires_grad=True)
    with pytest.raises(UserError, match=r"checkpointed functions need loss.backward\(\)"):
        torch.autograd.grad(checkpointed(layers, x).sum(), [x])
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(checkpointed(layers, x).sum(), list(layers.parameters()))


# Blocks of a model.

CONFIG = ModelConfig(
    vocab_size=40,
    context_length=16,
    d_model=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    d_ff=24,
)
IDS = torch.arange(32).view(2, 16)


def make_model(checkpoint: bool, backend: str = "auto") -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(CONFIG, backend)
    if checkpoint:
        checkpoint_blocks(model)
    return model


@pytest.mark.parametrize("cu_seqlens", [None, torch.tensor([0, 5, 16], dtype=torch.int32)])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_models_gradients_are_equal_to_the_last_bit(autocast, cu_seqlens):
    ids = IDS if cu_seqlens is None else IDS[:1]
    borders = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
    gradients = []
    for model in (make_model(False), make_model(True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(ids, **borders).float().logsumexp(-1).sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert make_model(True).state_dict().keys() == make_model(False).state_dict().keys()


def bytes_kept_by_blocks(model: TransformerLM) -> int:
    """Return the bytes of all memory that the blocks keep for backward, each once, without the
    parameters and the tables of positions.
    """
    x = model.token_embedding(IDS)
    positions = torch.arange(16)
    others = [*model.parameters(), model.rotary.cosines, model.rotary.sines, positions]
    not_counted = {tensor.untyped_storage().data_ptr() for tensor in others}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in not_counted:
            kept[storage.data_ptr()] = tensor  # alive, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for block in model.blocks:
            x = block(x, model.rotary, positions)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_the_bytes_kept_are_those_of_the_formula():
    parts = checkpointed_activation_bytes(CONFIG, 2, 16, bytes_per_value=4)
    assert bytes_kept_by_blocks(make_model(True)) == parts["block inputs"]
    # Without checkpointing, our readable layers keep more than the formula's careful ones.
    everything = activation_bytes_by_part(CONFIG, 2, 16, bytes_per_value=4)
    blocks = sum(everything.values()) - everything["output head"] - parts["last norm"]
    kept = bytes_kept_by_blocks(make_model(False))
    assert blocks <= kept <= 2 * blocks, f"{kept / blocks:.2f} times the formula"


def flops_of_a_step(model: TransformerLM) -> int:
    with FlopCounterMode(display=False) as counter:
        model(IDS).sum().backward()
    return counter.get_total_flops()


def test_the_recomputed_flops_are_those_of_the_formula():
    without, with_ = (flops_of_a_step(make_model(each, "eager")) for each in (False, True))
    assert without == 2 * 3 * sum(forward_flops_by_part(CONFIG, 16).values())
    assert with_ - without == 2 * recomputed_flops(CONFIG, 16)


def test_a_run_with_the_setting_gives_the_same_numbers(tmp_path):
    calls = []
    for folder, checkpoint in (("without", False), ("with", True)):
        model = make_model(False)
        model.blocks[0].attention.register_forward_hook(lambda *given: calls.append(1))
        calls.clear()
        run = TrainingRun(
            model=model,
            loss_of_batch=language_model_loss,
            batch_at=lambda step: Batch({"token_ids": IDS, "targets": (IDS + step) % 40}, 32),
            validate=None,
            settings=TrainingSettings(
                steps=3,
                batch_size=2,
                learning_rate=1e-2,
                precision="float32",
                activation_checkpointing=checkpoint,
            ),
            checkpoint_folder=tmp_path / folder / "checkpoints",
            metric_log=MetricLog(tmp_path / folder / "metrics.jsonl", "pretrain"),
            fingerprint="f",
        )
        train(run)
        assert len(calls) == (6 if checkpoint else 3)
    figures = [
        [
            (row["loss"], row["grad_norm"])
            for row in read_metrics(tmp_path / name / "metrics.jsonl")[1:]
        ]
        for name in ("without", "with")
    ]
    assert figures[0] == figures[1]
