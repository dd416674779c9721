"""The report's rows against the figures that pretraining itself logged."""

import math

import numpy as np
import pytest
import torch

from evaluation.checkpoint_report import evaluate_checkpoints
from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.formats.token_shards import ShardWriter, TokenShards
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import to_hugging_face


def make_checkpoint(folder, seed: int, vocab_size: int = 30) -> TransformerLM:
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=vocab_size,
        context_length=8,
        d_model=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        d_ff=16,
    )
    model = TransformerLM(config)
    with torch.no_grad():
        model.token_embedding.weight.mul_(20)  # far from even guesses, so that models differ
    write_checkpoint(folder, *to_hugging_face(model), {}, None)
    return model


@pytest.fixture
def shards(tmp_path) -> TokenShards:
    with ShardWriter(tmp_path / "shards", "a" * 64, 30, np.full(30, 3)) as writer:
        writer.add("validation", np.random.default_rng(0).integers(0, 30, 9))
    return TokenShards.open(tmp_path / "shards", "validation")


def test_one_row_for_each_checkpoint_with_the_loss_by_definition(tmp_path, shards):
    models = {
        ("pretrain", 0): make_checkpoint(tmp_path / "a/step_000000", 0),
        ("pretrain", 10): make_checkpoint(tmp_path / "a/step_000010", 1),
        ("sft", 5): make_checkpoint(tmp_path / "b/step_000005", 2),
    }
    folders = {"pretrain": tmp_path / "a", "sft": tmp_path / "b"}
    rows = evaluate_checkpoints(folders, tmp_path / "shards", device="cpu")
    assert [(row["stage"], row["step"]) for row in rows] == list(models)
    tokens = torch.from_numpy(shards.read(0, 9))
    for row, model in zip(rows, models.values(), strict=True):
        log_probabilities = torch.log_softmax(model(tokens[None, :-1]).double(), -1)[0]
        nats = -log_probabilities[torch.arange(8), tokens[1:]].sum().item()
        # 8 tokens of 3 bytes; float32 losses
        assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / 24, rel=1e-5)
        assert row["perplexity"] == pytest.approx(math.exp(nats / 8), rel=1e-5)
    assert len({row["bits_per_byte"] for row in rows}) == 3


def test_a_loss_whose_exponential_is_no_float_is_still_a_row(tmp_path, shards):
    """A training run that went wrong but stayed finite must not hide the other checkpoints'
    figures.
    """
    model = make_checkpoint(tmp_path / "earlier", 0)
    with torch.no_grad():
        model.token_embedding.weight.mul_(1000)
    write_checkpoint(tmp_path / "a/step_000000", *to_hugging_face(model), {}, None)
    (row,) = evaluate_checkpoints({"pretrain": tmp_path / "a"}, tmp_path / "shards", device="cpu")
    assert row["bits_per_byte"] * math.log(2) * 3 > 710, "nats per token"
    assert row["perplexity"] is None


def test_a_folder_without_checkpoints_and_another_vocabulary_are_refused(tmp_path, shards):
    with pytest.raises(ValueError, match="make one with `lm sft RECIPE`"):
        evaluate_checkpoints({"sft": tmp_path / "none"}, tmp_path / "shards")
    make_checkpoint(tmp_path / "a/step_000000", 0, vocab_size=31)
    with pytest.raises(ValueError, match=r"vocabulary of 31, .* one of 30"):
        evaluate_checkpoints({"pretrain": tmp_path / "a"}, tmp_path / "shards", device="cpu")
