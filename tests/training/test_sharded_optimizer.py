"""ZeRO-1: the same weights as without sharding, and a part of the state on each rank."""

import pytest
import torch
from counted_collectives import OddModel, checksum, nbytes, recorded, token_loss_sum
from gloo_ranks import Ranks
from torch import nn

from training.collectives import bytes_moved
from training.data_parallel import DataParallel, mean_over_ranks
from training.sharded_optimizer import ShardedOptimizer
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "adafactor": (torch.optim.Adafactor, {"lr": 0.05}),  # looks at whole matrices
}


def groups(model: nn.Module) -> list[dict]:
    """Two groups, one with a learning rate of its own, frozen parameters among them."""
    named = list(model.named_parameters())
    vectors = [p for _, p in named if p.ndim < 2]
    return [{"params": [p for _, p in named if p.ndim >= 2]}, {"params": vectors, "lr": 0.01}]


def losses(step: int, rank: int, model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * step + rank)
    ids, targets = (torch.randint(0, 11, (2, 4), generator=generator) for _ in range(2))
    return token_loss_sum(model(ids, sometimes=step != 1), targets)


def train(rank: int, size: int, name: str) -> dict:
    """Five steps with a schedule, a group added after two, a saved state loaded after three."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    models = []
    for sharded in (False, True):
        torch.manual_seed(0)
        model = DataParallel(OddModel())
        first, second = groups(model)
        if sharded:
            optimizer = ShardedOptimizer([first], optimizer_class, **kwargs)
        else:
            optimizer = optimizer_class([first], **kwargs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for step in range(5):
            if step == 2:
                second.setdefault("initial_lr", second["lr"])
                optimizer.add_param_group(second)
                schedule = torch.optim.lr_scheduler.LambdaLR(
                    optimizer, [lambda step: 1 / (1 + step)] * 2
                )
            if step == 4 and sharded:
                own, whole = optimizer.state_dict(), optimizer.full_state_dict()
                optimizer = ShardedOptimizer(groups(model), optimizer_class, **kwargs)
                optimizer.load_state_dict(whole if rank % 2 else own)
            optimizer.zero_grad()
            mean_over_ranks(losses(step, rank, model), 8).backward()
            model.finish_gradient_synchronization()
            optimizer.step()
            schedule.step()
        models.append(model)
    plain, other = ([p.detach() for p in model.parameters()] for model in models)
    return {
        "equal": all(torch.equal(a, b) for a, b in zip(plain, other, strict=True)),
        "checksum": checksum(other),
        "own": sorted(i for i, p in enumerate(models[1].parameters()) if optimizer.state.get(p)),
        "saved": len(own["state"]),
        "whole": len(whole["state"]),
    }


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_of_the_optimizer_without_sharding(
    ranks: Ranks, size: int, name: str
) -> None:
    found = ranks.call(size, train, name)
    assert all(result["equal"] for result in found), "bit for bit: the same sums in the same order"
    assert len({result["checksum"] for result in found}) == 1
    owned = [index for result in found for index in result["own"]]
    assert len(owned) == len(set(owned)) > 0, "a parameter has one owner"
    assert sum(result["saved"] for result in found) == found[0]["whole"] == len(owned)


def realistic() -> TransformerLM:
    return TransformerLM(
        ModelConfig(
            vocab_size=1024,
            context_length=8,
            d_model=128,
            num_layers=6,
            num_heads=4,
            num_kv_heads=2,
            d_ff=344,
        )
    )


def state_bytes(rank: int, size: int) -> tuple[int, int, float]:
    """Bytes of this rank's state, of the state in one process, and bytes sent by broadcasts."""
    model = realistic()
    optimizer = ShardedOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with recorded(size) as record:
        optimizer.step()
    held = [t for state in optimizer.state.values() for t in state.values() if t.ndim > 0]
    whole = 2 * sum(nbytes(p) for p in model.parameters())
    return sum(nbytes(t) for t in held), whole, record.sent["broadcast"]


@pytest.mark.parametrize("size", [2, 4])
def test_each_rank_holds_its_part_of_the_state(ranks: Ranks, size: int) -> None:
    found = ranks.call(size, state_bytes)
    whole = found[0][1]
    for held, _, _ in found:
        assert held == pytest.approx(whole / size, rel=0.05)
    assert sum(held for held, _, _ in found) == whole
    predicted = bytes_moved.sharded_optimizer_bytes(realistic().config, size)
    reduced = bytes_moved.data_parallel_bytes(realistic().config, size)
    assert found[0][2] == predicted - reduced


def fewer_parameters_than_ranks(rank: int, size: int) -> tuple[float, int]:
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = ShardedOptimizer([weight], torch.optim.SGD, lr=0.5, momentum=0.9)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert calls == [True]
    return weight.sum().item(), len(optimizer.state)


def test_a_rank_may_own_nothing(ranks: Ranks) -> None:
    assert ranks.call(4, fewer_parameters_than_ranks) == [(0.0, 1), (0.0, 0), (0.0, 0), (0.0, 0)]


def test_one_process_without_a_group() -> None:
    assert fewer_parameters_than_ranks(0, 1) == (0.0, 1)


def test_named_parameters_and_wrong_arguments() -> None:
    model = nn.Linear(3, 3)
    optimizer = ShardedOptimizer(model.named_parameters(), torch.optim.AdamW, lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["betas"] == optimizer.defaults["betas"] == (0.9, 0.999)
    with pytest.raises(ValueError, match="learning rate"):
        ShardedOptimizer(model.parameters(), torch.optim.AdamW, lr=-1.0)


def frozen_with_a_gradient(rank: int, size: int) -> list[list[float]]:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = ShardedOptimizer(parameters, torch.optim.SGD, lr=1.0)
    for parameter in parameters[:2]:
        parameter.grad = torch.ones(2)
    for parameter in parameters[1:]:
        parameter.requires_grad_(False)
    optimizer.step()
    return [parameter.tolist() for parameter in parameters]


def test_a_parameter_frozen_with_a_gradient_is_updated_on_all_ranks(ranks: Ranks) -> None:
    """As by the optimizer without sharding; one without a gradient stays."""
    assert ranks.call(2, frozen_with_a_gradient) == [[[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]] * 2
