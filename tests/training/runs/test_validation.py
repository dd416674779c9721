"""Validation: each token once, bytes of the predicted tokens, and the same figure every time."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lm_core.formats.token_shards import ShardWriter, TokenShards
from lm_core.user_error import UserError
from training.engine.parallelism import OneProcess
from training.runs.validation import evaluate_bits_per_byte, validation_windows

VOCAB = 50


class Recorder(nn.Module):
    """A model that gives every token the same logits and records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, VOCAB))
        self.seen = []

    def forward(self, token_ids):
        assert not self.training
        self.seen.extend(row.tolist() for row in token_ids)
        return self.bias.expand(*token_ids.shape, VOCAB)


def make_shards(folder, tokens) -> TokenShards:
    lengths = np.arange(VOCAB) % 5  # 0 bytes for 0, 5, 10 ... as for special tokens
    with ShardWriter(folder, "0" * 64, VOCAB, lengths) as writer:
        writer.add("validation", tokens)
    return TokenShards.open(folder, "validation")


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 10, 33, 57])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_token_but_the_first_is_predicted_once(num_tokens, batch_size):
    targets = [
        start + 1 + offset
        for windows in validation_windows(num_tokens, 8, batch_size)
        for start, count in windows
        for offset in range(count)
    ]
    assert targets == list(range(1, num_tokens))


@pytest.mark.parametrize("num_tokens", [2, 41, 43])
def test_the_figure_by_hand(tmp_path, num_tokens):
    tokens = np.random.default_rng(0).integers(1, VOCAB, num_tokens)
    shards, model = make_shards(tmp_path / "s", tokens), Recorder()
    result = evaluate_bits_per_byte(model, shards, 8, batch_size=2)
    losses = -torch.log_softmax(model.bias.detach().double(), 0)[tokens[1:]]
    num_bytes = int((tokens[1:] % 5).sum())
    assert (result.num_tokens, result.num_bytes) == (num_tokens - 1, num_bytes)
    # each loss is a float32 of about 4, with a relative error of 2e-7
    expected = losses.sum().item() / math.log(2) / num_bytes
    assert result.bits_per_byte == pytest.approx(expected, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(losses.mean().item()), rel=1e-5)


def test_the_model_reads_the_text_in_order_and_in_windows(tmp_path):
    tokens = np.arange(20)
    model = Recorder()
    evaluate_bits_per_byte(model, make_shards(tmp_path / "s", tokens), 8, batch_size=2)
    assert model.seen == [list(range(8)), list(range(8, 16)), [16, 17, 18]]
    assert model.training, "the training mode is restored"


def test_ids_of_a_damaged_shard_are_refused_before_the_model_sees_them(tmp_path):
    """The very last token is only a target, which the model never reads."""
    make_shards(tmp_path / "s", np.arange(1, 10))
    (file,) = (tmp_path / "s").glob("validation-*.bin")
    np.array([*range(1, 9), VOCAB], "<u2").tofile(file)
    shards, model = TokenShards.open(tmp_path / "s", "validation"), Recorder()
    with pytest.raises(UserError, match=f"token id {VOCAB} is outside .* vocabulary of {VOCAB}"):
        evaluate_bits_per_byte(model, shards, 100)
    assert model.seen == []


def test_max_tokens_reads_the_start_only(tmp_path):
    shards = make_shards(tmp_path / "s", np.arange(40))
    assert evaluate_bits_per_byte(Recorder(), shards, 8, max_tokens=11).num_tokens == 10
    assert evaluate_bits_per_byte(Recorder(), shards, 8, max_tokens=99).num_tokens == 39


def test_no_random_numbers_are_drawn(tmp_path):
    shards, model = make_shards(tmp_path / "s", np.arange(40)), Recorder()
    before = torch.get_rng_state()
    first = evaluate_bits_per_byte(model, shards, 8)
    assert torch.equal(before, torch.get_rng_state())
    assert first == evaluate_bits_per_byte(model, shards, 8)


def test_nothing_to_predict_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 tokens, at least 2"):
        evaluate_bits_per_byte(Recorder(), make_shards(tmp_path / "s", [3]), 8)


class OneOfSeveral(OneProcess):
    """Stands for a rank that does not wait for the others: it returns its own sums."""

    def __init__(self, data_rank: int, data_ranks: int) -> None:
        self.data_rank, self.data_ranks = data_rank, data_ranks
        self.figures: list[float] = []

    def sums(self, figures: list[float]) -> list[float]:
        self.figures = figures
        return [figures[0], max(figures[1], 1)]  # a rank without a batch has no bytes


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_divide_the_batches_and_run_equally_many(tmp_path, ranks):
    tokens = np.random.default_rng(0).integers(1, VOCAB, 57)
    shards = make_shards(tmp_path / "s", tokens)
    whole = Recorder()
    expected = evaluate_bits_per_byte(whole, shards, 8, batch_size=2)
    assert len(whole.seen) == 7  # windows, in four batches
    nats, num_bytes, forwards = 0.0, 0, []
    for rank in range(ranks):
        one, model = OneOfSeveral(rank, ranks), Recorder()
        calls = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        result = evaluate_bits_per_byte(model, shards, 8, batch_size=2, parallelism=one)
        assert result.num_tokens == 56  # of all ranks
        nats, num_bytes = nats + one.figures[0], num_bytes + one.figures[1]
        forwards.append(len(calls))
    assert num_bytes == expected.num_bytes
    assert nats == pytest.approx(56 * expected.nats_per_token, rel=1e-12)
    assert forwards == [-(-4 // ranks)] * ranks
