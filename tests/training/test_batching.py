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
from training.batching import Batch, EpochSampler, WindowBatches, epoch_order, random_windows


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


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int32, np.int64, torch.int16])
def test_random_windows_and_what_follows_them(kind):
    tokens = torch.arange(20, dtype=kind) if kind is torch.int16 else np.arange(20, dtype=kind)
    x, y = random_windows(tokens, 50, 6, "cpu", torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (50, 6) and x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1) and torch.equal(x, x[:, :1] + torch.arange(6))
    x += 100  # the windows are the caller's
    assert int(max(tokens)) == 19 and int(y.max()) < 20


def test_inputs_and_targets_share_no_memory(tmp_path):
    """A single row of a larger tensor is contiguous as it is."""
    for make in (
        lambda: random_windows(np.arange(7), 1, 6, "cpu"),
        lambda: list(
            WindowBatches(make_shards(tmp_path / "s", 7), 6, 1, 0).batch_at(0).tensors.values()
        ),
    ):
        x, y = make()
        x += 100
        assert y.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_every_start_of_a_random_window_is_possible():
    """20 tokens have 14 windows of 6 + 1: the last begins at 13."""
    x, _ = random_windows(np.arange(20), 3000, 6, "cpu", torch.Generator().manual_seed(0))
    counts = x[:, 0].bincount(minlength=14)
    assert len(counts) == 14 and counts.min() > 130 and counts.max() < 300
    x, y = random_windows(np.arange(7), 2, 6, "cpu")
    assert x[:, 0].tolist() == [0, 0] and y[0, -1] == 6


def test_random_windows_depend_on_the_generator_alone():
    tokens, seeded = np.arange(1000), torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    first, second = (random_windows(tokens, 4, 8, "cpu", seeded)[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(first, second)
    again = random_windows(tokens, 4, 8, "cpu", torch.Generator().manual_seed(1))[0]
    assert torch.equal(first, again)
    assert random_windows(tokens, 4, 8, torch.device("meta"))[1].is_meta


def test_too_few_tokens_for_a_random_window_are_refused():
    with pytest.raises(UserError, match=r"6 tokens are less than .* context_length \+ 1 = 7"):
        random_windows(np.arange(6), 1, 6, "cpu")


def test_of_a_memory_map_only_the_windows_are_read(tmp_path):
    """A terabyte of zeros, which no machine could read: the file takes no space."""
    path = tmp_path / "tokens.bin"
    with path.open("wb") as file:
        file.truncate(2**40)
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    x, y = random_windows(tokens, 4, 8, "cpu")
    assert x.sum() == 0 and y.shape == (4, 8)


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_batch_is_split_by_rows(rows, parts):
    tensors = {"token_ids": torch.arange(rows * 3).view(rows, 3), "mask": torch.ones(rows, 3)}
    pieces = Batch(tensors, rows * 3).split(parts)
    assert len(pieces) == min(rows, parts)
    for name, tensor in tensors.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), tensor)
    sizes = [len(piece["mask"]) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    assert [piece.num_tokens for piece in pieces] == [3 * size for size in sizes]
