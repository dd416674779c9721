"""Batches: every window once per epoch, a pure function of seed and step, targets shifted by
one.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_core.formats.token_shards import ShardWriter, TokenShards
from lm_core.user_error import UserError
from training.batching import Batch, EpochSampler, WindowBatches, epoch_order


def make_shards(folder, num_tokens: int) -> TokenShards:
    """Write tokens 0, 1, 2 ..., so that a window shows where it was cut."""
    with ShardWriter(folder, "0" * 64, 1000, np.ones(1000), tokens_per_file=40) as writer:
        for start in range(0, num_tokens, 17):
            writer.add("train", np.arange(start, min(start + 17, num_tokens)))
    return TokenShards.open(folder, "train")


def test_targets_are_the_inputs_one_further(tmp_path):
    batches = WindowBatches(make_shards(tmp_path / "s", 100), 8, 3, seed=0)
    batch = batches.batch_at(0)
    assert batch["token_ids"].shape == (3, 8)
    assert batch["token_ids"].dtype == torch.int64
    assert torch.equal(batch["targets"], batch["token_ids"] + 1)
    assert batch.num_tokens == 24


@pytest.mark.parametrize("num_tokens", [81, 80, 88])
def test_an_epoch_is_every_whole_window_once(tmp_path, num_tokens):
    batches = WindowBatches(make_shards(tmp_path / "s", num_tokens), 8, 1, seed=3)
    count = (num_tokens - 1) // 8  # 81 tokens: 10 windows; 80: 9, as the last target is missing
    assert batches.num_windows == count
    for epoch in range(2):
        starts = [int(batches.batch_at(epoch * count + i)["token_ids"][0, 0]) for i in range(count)]
        assert sorted(starts) == list(range(0, count * 8, 8))


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5))
def test_batches_run_through_epoch_after_epoch(num_items, batch_size, seed):
    sampler = EpochSampler(num_items, batch_size, seed)
    steps = -(-3 * num_items // batch_size)
    seen = [index for step in range(steps) for index in sampler.indices_at(step)]
    for epoch in range(3):
        part = seen[epoch * num_items : (epoch + 1) * num_items]
        assert part == epoch_order(num_items, seed, epoch).tolist()
        assert sorted(part) == list(range(num_items))


def test_a_step_can_be_asked_for_alone_and_in_any_order(tmp_path):
    shards = make_shards(tmp_path / "s", 200)
    one = WindowBatches(shards, 8, 5, seed=1)
    in_order = [one.batch_at(step)["token_ids"] for step in range(12)]
    for step in (11, 0, 7):
        fresh = WindowBatches(shards, 8, 5, seed=1)
        assert torch.equal(fresh.batch_at(step)["token_ids"], in_order[step])


def test_seed_and_epoch_change_the_order():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert epoch_order(8, 0, 0).tolist() == epoch_order(8, 0, 0).tolist()


def test_too_few_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8 tokens are less than one window"):
        WindowBatches(make_shards(tmp_path / "s", 8), 8, 1, seed=0)


@pytest.mark.parametrize("name", ["token_ids", "targets"])
def test_ids_of_another_vocabulary_are_refused(name):
    tensors = {"token_ids": torch.tensor([[0, 4]]), "targets": torch.tensor([[4, 0]])}
    Batch(tensors | {"mask": torch.tensor([[9, 9]])}, 2).check_ids(5)
    with pytest.raises(UserError, match="token id 5 is outside the model's vocabulary of 5"):
        Batch(tensors | {name: torch.tensor([[1, 5]])}, 2).check_ids(5)


def test_a_batch_moves_as_one():
    batch = Batch({"a": torch.zeros(2), "b": torch.ones(3)}, 5).to(torch.device("meta"))
    assert batch["a"].is_meta and batch["b"].is_meta
    assert batch.num_tokens == 5
