"""The choice of what is compared: tokens, backends, and which difference counts as the first."""

import math

import pytest
import torch

from lm_core.user_error import UserError
from lm_course.model_checks.layer_errors import LayerError, with_weights_in
from lm_course.model_checks.model_comparison import (
    Comparison,
    backends_here,
    comparisons,
    default_tokens,
    random_tokens,
)
from transformer_lm.kernels.fast_attention import KERNELS


@pytest.mark.parametrize(
    ("context", "window", "tokens"),
    [(64, None, 37), (20, None, 20), (1000, 100, 137), (1000, 512, 549), (9000, 4096, 37)],
)
def test_default_tokens(llama, context, window, tokens):
    changed = {"context_length": context, "sliding_window": window}
    assert default_tokens(llama.ours.config.model_copy(update=changed)) == tokens


def test_a_learners_attention_without_backends(llama):
    cpu = torch.device("cpu")
    assert "sdpa" in backends_here(llama.ours, cpu, torch.float32)
    model = with_weights_in(llama.ours, torch.float32, torch.float32)
    model.blocks[1].attention.attend_by = model.blocks[1].attention.attention_backend
    del model.blocks[1].attention.attention_backend
    assert backends_here(model, cpu, torch.float32) == ("own",)


def row(name, here=0.0, whole=0.0, theirs=0.0):
    return LayerError(name, "output", 1.0, here, theirs, 1e-6, whole, 1e-5)


def test_the_first_difference():
    equal, inherits, wrong = row("a"), row("b", whole=1.0), row("c", here=math.nan, whole=1.0)
    verdicts = [each.verdict for each in (equal, inherits, wrong, row("d", theirs=math.inf))]
    assert verdicts == ["equal", "inherited", "wrong", "overflow"]
    assert Comparison("float32", "sdpa", [equal, inherits, wrong]).first is wrong
    assert Comparison("float32", "sdpa", [equal, inherits]).first is inherits
    assert Comparison("float32", "sdpa", [equal]).first is None
    with_gradients = Comparison("float32", "sdpa", [equal], gradients=[wrong])
    assert with_gradients.first is wrong and with_gradients.in_gradients
    assert with_gradients.as_json()["gradients"][0]["here"] is None  # NaN is not JSON


def test_a_loss_that_is_still_the_stub(llama, monkeypatch):
    from training import loss

    def stub(*_):
        raise NotImplementedError("a3.1: write cross_entropy")

    ids, cpu = random_tokens(llama.ours.config, 8), torch.device("cpu")
    (found,) = comparisons(llama, ids, cpu, ["float32"], ["sdpa"])
    assert [each.name for each in found.layers][-2:] == ["logits", "loss"]
    monkeypatch.setattr(loss, "cross_entropy", stub)
    (found,) = comparisons(llama, ids, cpu, ["float32"], ["sdpa"])
    assert found.layers[-1].name == "logits" and found.first is None
    monkeypatch.setattr(loss, "cross_entropy", lambda x, y: 1.01 * torch.tensor(5.0))
    (found,) = comparisons(llama, ids, cpu, ["float32"], ["sdpa"])
    assert found.first.name == "loss"


def test_each_backend_is_compared_by_itself(llama, monkeypatch):
    tiles = KERNELS["tiled"]
    monkeypatch.setitem(KERNELS, "tiled", lambda *arguments: 1.01 * tiles(*arguments))
    ids, cpu = random_tokens(llama.ours.config, 8), torch.device("cpu")
    found = comparisons(llama, ids, cpu, ["float32"], ["eager", "matmul", "tiled", "sdpa"])
    firsts = {one.backend: one.first and one.first.name for one in found}
    assert firsts.pop("tiled") == "blocks.0.attention"
    assert set(firsts.values()) == {None}


def test_a_named_backend_of_an_attention_without_backends(llama):
    """It would be compared under a name of which the model knows nothing."""
    model = with_weights_in(llama.ours, torch.float32, torch.float32)
    del model.blocks[1].attention.attention_backend
    ids, cpu = random_tokens(llama.ours.config, 8), torch.device("cpu")
    with pytest.raises(UserError, match="--backend sdpa: the model's attention has no backends"):
        next(comparisons(llama._replace(ours=model), ids, cpu, ["float32"], ["sdpa"]))
