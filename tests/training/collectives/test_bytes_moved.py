"""The bytes predicted from the shape are those of the collectives that a step really starts."""

import pytest
import torch
from counted_collectives import recorded
from gloo_ranks import Ranks

from training.collectives import bytes_moved
from training.data_parallel import DataParallel
from training.fully_sharded import FullySharded
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import count_parameters

CONFIG = {
    "vocab_size": 64,
    "context_length": 8,
    "d_model": 16,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 4,
    "d_ff": 48,
}  # every matrix is divisible by 4, so nothing is padded


def model_and_ids(rank: int) -> tuple[TransformerLM, torch.Tensor]:
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(**CONFIG))
    return model, torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(rank))


def flags(number: int, size: int) -> float:
    """The bytes of one all-reduce of flags, one byte each."""
    return bytes_moved.all_reduce_bytes(number, size)


def data_parallel_step(rank: int, size: int) -> float:
    model, ids = model_and_ids(rank)
    wrapper = DataParallel(model)
    with recorded(size) as record:
        wrapper(ids).sum().backward()
        wrapper.finish_gradient_synchronization()
    parameters = len(list(model.parameters()))
    return record.sent["all_reduce"] - flags(parameters + 1, size)


@pytest.mark.parametrize("size", [2, 4])
def test_data_parallel(ranks: Ranks, size: int) -> None:
    predicted = bytes_moved.data_parallel_bytes(ModelConfig(**CONFIG), size)
    assert ranks.call(size, data_parallel_step) == [predicted] * size


def fully_sharded_step(rank: int, size: int, bfloat16: bool) -> float:
    model, ids = model_and_ids(rank)
    parameters = len(list(model.parameters()))
    sharded = FullySharded(model, torch.bfloat16 if bfloat16 else None)
    with recorded(size) as record:
        sharded(ids).sum().backward()
        sharded.finish_gradient_synchronization()
    assert record.sent["all_reduce"] == flags(parameters + 4, size), "one more for each unit"
    return record.sent["all_gather"] + record.sent["reduce_scatter"]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_fully_sharded(ranks: Ranks, size: int, bfloat16: bool) -> None:
    weight_bytes = 2 if bfloat16 else 4
    predicted = bytes_moved.fully_sharded_bytes(ModelConfig(**CONFIG), size, weight_bytes)
    assert ranks.call(size, fully_sharded_step, bfloat16) == [predicted] * size


def test_a_ring_by_hand() -> None:
    """Four ranks and 12 bytes: each part has 3 bytes, and a rank sends three of them, twice."""
    assert bytes_moved.reduce_scatter_bytes(12, 4) == 9
    assert bytes_moved.all_gather_bytes(12, 4) == 9
    assert bytes_moved.all_reduce_bytes(12, 4) == 18
    assert bytes_moved.all_reduce_bytes(12, 1) == 0


@pytest.mark.parametrize("position", ["pre", "post"])
def test_parameters_of_a_block(position: str) -> None:
    config = ModelConfig(**CONFIG, norm_position=position)
    model = TransformerLM(config)
    counted = sum(p.numel() for p in model.blocks[0].parameters())
    assert bytes_moved.block_parameters(config) == counted


def test_bytes_held() -> None:
    config = ModelConfig(**CONFIG)
    whole = 4 * count_parameters(config)
    assert bytes_moved.held_bytes(config, 4, "data_parallel") == 4 * whole
    assert bytes_moved.held_bytes(config, 4, "sharded_optimizer") == 2.5 * whole
    assert bytes_moved.held_bytes(config, 4, "fully_sharded") == whole
    with pytest.raises(AssertionError, match="no scheme"):
        bytes_moved.held_bytes(config, 4, "zero-2")
