"""Fully sharded training: the weights of one process on the whole batch, 1/N of them on a rank."""

import copy
import gc

import pytest
import torch
import torch.distributed as dist
from counted_collectives import OddModel, checksum, nbytes, recorded, token_loss_sum
from gloo_ranks import Ranks
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.data_parallel import mean_over_ranks
from training.fully_sharded import FullySharded, clip_sharded_gradients
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig


def batch(step: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """(ids, targets) of each rank; rank r has r more tokens than rank 0."""
    generator = torch.Generator().manual_seed(step)
    return [
        tuple(torch.randint(0, 11, (2, 4 + rank), generator=generator) for _ in range(2))
        for rank in range(size)
    ]


def tokens(parts: list[tuple[Tensor, Tensor]]) -> int:
    return sum(targets.numel() for _, targets in parts)


def whole_batch_run(size: int, steps: int, skips: bool) -> tuple[OddModel, list[float]]:
    """The same training in one process, with the norms of its gradients."""
    torch.manual_seed(0)
    model, norms = OddModel(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        parts = batch(step, size)
        optimizer.zero_grad()
        for rank, (ids, targets) in enumerate(parts):
            total = token_loss_sum(model(ids, not skips or rank == 0), targets)
            (total / tokens(parts)).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
    return model, norms


def train(rank: int, size: int, skips: bool) -> dict:
    torch.manual_seed(rank)  # the first rank's weights must reach the others
    sharded = FullySharded(OddModel())
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=0.01)
    norms = []
    for step in range(3):
        ids, targets = batch(step, size)[rank]
        optimizer.zero_grad()
        with pytest.raises(TypeError):
            sharded("not ids")  # an exception in forward leaves nothing behind
        total = token_loss_sum(sharded(ids, not skips or rank == 0), targets)
        mean_over_ranks(total, targets.numel()).backward()
        sharded.finish_gradient_synchronization()
        norms.append(clip_sharded_gradients(sharded.parameters(), 0.5).item())
        optimizer.step()
    reference, expected_norms = whole_batch_run(size, 3, skips)
    full = sharded.full_parameters()
    expected = dict(reference.named_parameters())
    assert full.keys() == expected.keys()
    return {
        "difference": max((full[n] - p).abs().max().item() for n, p in expected.items()),
        "norms": max(abs(a / b - 1) for a, b in zip(norms, expected_norms, strict=True)),
        "checksum": checksum(full.values()),
        "no gradient": sorted(n for n, p in sharded.named_parameters() if p.grad is None),
        "shapes": all(full[n].shape == p.shape for n, p in expected.items()),
    }


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("skips", [False, True], ids=["all use", "one rank uses"])
def test_weights_are_those_of_the_whole_batch(ranks: Ranks, size: int, skips: bool) -> None:
    """With unequal numbers of tokens, tied, frozen and unused parameters, and two types."""
    found = ranks.call(size, train, skips)
    for result in found:
        assert result["difference"] < 1e-6  # float32's part of the model
        assert result["norms"] < 1e-6, "the norm of the whole gradient"
        assert result["shapes"]
        assert result["no gradient"] == [
            "frozen.bias",
            "frozen.weight",
            "never.0.bias",
            "never.0.weight",
        ]
    assert len({result["checksum"] for result in found}) == 1


class Chosen(nn.Module):
    """Some of seven blocks, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2, dtype=torch.float64) for _ in range(7))
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: torch.Tensor, used: list[int]) -> torch.Tensor:
        for index in used:
            x = x + torch.tanh(self.blocks[index](x))
        return (x * self.scale).sum()


def choose(rank: int, size: int, used: list[list[int]]) -> float:
    torch.manual_seed(0)
    model = Chosen()
    expected = [
        torch.autograd.grad(model(torch.ones(2).double() + r, own), model.parameters(),
                            materialize_grads=True)
        for r, own in enumerate(used)
    ]  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sharded = FullySharded(model)
    with torch.no_grad():  # what an evaluation has used does not count
        sharded(torch.ones(2).double(), list(range(7)))
    sharded(torch.ones(2).double() + rank, used[rank]).backward()
    sharded.finish_gradient_synchronization()
    with torch.no_grad():
        for shard in sharded.parameters():
            shard -= 0 if shard.grad is None else shard.grad
    moved = [before[name] - after for name, after in sharded.full_parameters().items()]
    means = [sum(each) / size for each in zip(*expected, strict=True)]
    return max((a - b).abs().max().item() for a, b in zip(moved, means, strict=True))


@pytest.mark.parametrize("used", [[[], list(range(7))], [[0, 6], [1, 2, 3, 4, 5]], [[0], [6]]])
def test_ranks_that_leave_out_many_blocks_do_not_wait_for_ever(
    ranks: Ranks, used: list[list[int]]
) -> None:
    assert max(ranks.call(2, choose, used)) < 1e-12


def simple_model() -> nn.Module:
    layers = [nn.Embedding(11, 6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 11)]
    return nn.Sequential(*layers).double()


class Checkpointed(nn.Module):
    """Two blocks, each recomputed in backward, between an embedding and a head."""

    def __init__(self, recomputes: bool, reentrant: bool = False) -> None:
        super().__init__()
        self.recomputes, self.reentrant = recomputes, reentrant
        self.embedding = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 6)) for _ in range(3)
        )
        self.blocks = nn.ModuleList(Wrapped(block) for block in self.blocks)
        self.head = nn.Linear(6, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(x)

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=self.reentrant) if self.recomputes else block(x)


class Wrapped(nn.Module):
    """A block whose two linear maps are one unit."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.first, self.second = inner[0], inner[2]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.tanh(self.first(x)))


class Shared(nn.Module):
    """One layer used three times in a forward pass, another twice, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.recurrent = nn.ModuleList([nn.LSTM(6, 6, batch_first=True)])
        self.head = nn.Linear(6, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for index in (0, 1, 0, 1, 0):
            x = x + torch.tanh(self.layers[index](x))
        return self.head(self.recurrent[0](x)[0])


def parts_in_two_units() -> nn.Module:
    """Units that share a weight, and units that share a module."""
    model = Checkpointed(False).double()
    model.blocks[1].first.weight = model.blocks[0].first.weight
    model.blocks[2].second = model.blocks[1].second
    return model


def partly_frozen() -> nn.Module:
    """A frozen block, frozen parts of others, and gradients that must pass through both."""
    model = Checkpointed(False).double()
    model.blocks[1].requires_grad_(False)
    model.blocks[2].first.requires_grad_(False)
    model.head.requires_grad_(False)
    return model


MODELS = {
    "partly frozen": partly_frozen,
    "parts in two units": parts_in_two_units,
    "simple": simple_model,
    "checkpoint": lambda: Checkpointed(True).double(),
    "reentrant checkpoint": lambda: Checkpointed(True, reentrant=True).double(),
    "shared layers": lambda: Shared().double(),
    "attention": lambda: nn.Sequential(
        nn.Embedding(11, 8),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 2
        ),
        nn.Linear(8, 11),
    ).double(),
    "no units": lambda: nn.Embedding(11, 11).double(),
}


def exact_gradients(rank: int, size: int, name: str) -> dict[str, float]:
    """Differences of float64 gradients from one process, in several ways to accumulate."""
    torch.manual_seed(0)
    model = MODELS[name]()
    sharded = FullySharded(copy.deepcopy(model))
    steps = [batch(step, size) for step in (0, 1)]
    counts = [tokens(parts) for parts in steps]
    for parts in steps:
        for ids, targets in parts:
            (token_loss_sum(model(ids), targets) / sum(counts)).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    def loss(step: int, module: nn.Module) -> Tensor:
        ids, targets = steps[step][rank]
        return token_loss_sum(module(ids), targets) * size / sum(counts)

    def difference() -> float:
        sharded.finish_gradient_synchronization()
        for unit in sharded._units:
            assert unit.whole is None and unit.gathered is None, "everything is freed"
            present = [s.new_zeros(s.shape) if s.grad is None else s.grad for s in unit.shards]
            unit.flat.copy_(torch.cat([gradient.flatten() for gradient in present]))
        found = sharded.full_parameters()
        sharded.zero_grad()
        for unit, kept in zip(sharded._units, weights, strict=True):
            unit.flat.copy_(kept)
        return max((found[n] - e).abs().max().item() for n, e in expected.items())

    weights = [unit.flat.clone() for unit in sharded._units]
    found = {}
    if name != "reentrant checkpoint":  # which warns
        with torch.no_grad():
            loss(0, sharded)
    for step in (0, 1):
        loss(step, sharded).backward()
    found["two backward passes"] = difference()
    for step in (0, 1):
        loss(step, sharded.module).backward()
        sharded.finish_gradient_synchronization()
    found["bypassed, finished after each"] = difference()
    sum(loss(step, sharded) for step in (0, 1)).backward()
    found["two forward passes first"] = difference()
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_in_float64(ranks: Ranks, size: int, name: str) -> None:
    for found in ranks.call(size, exact_gradients, name):
        assert max(found.values()) < 1e-13, found


@pytest.mark.parametrize("name", MODELS)
def test_one_process_without_a_group(name: str) -> None:
    assert max(exact_gradients(0, 1, name).values()) < 1e-13
    assert not dist.is_initialized()


def events(rank: int, size: int) -> list[str]:
    """Collectives, uses of the blocks in forward, and their gradients in backward."""
    torch.manual_seed(0)
    sharded = FullySharded(Checkpointed(False))
    ids, targets = batch(0, size)[rank]

    def step() -> None:
        token_loss_sum(sharded(ids), targets).backward()
        sharded.finish_gradient_synchronization()

    def fail(*_: object) -> None:
        raise ValueError("after the blocks")

    step()
    failing = sharded.module.head.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="after the blocks"):
        sharded(ids)
    failing.remove()
    with recorded(size) as record:
        for index, block in enumerate(sharded.module.blocks):

            def note(_: nn.Module, args: tuple, index: int = index) -> None:
                record.events.append(f"use {index}")
                args[0].register_hook(lambda _: record.events.append(f"gradient {index}"))

            block.register_forward_pre_hook(note)
        step()
    return record.events


def test_blocks_are_gathered_ahead_and_reduced_during_backward(ranks: Ranks) -> None:
    found = ranks.call(2, events)
    assert found[0] == found[1]
    assert found[0] == [
        "all_gather",  # the first unit: all but the blocks
        "all_gather",  # block 0, ahead of its use
        "use 0",
        "all_gather",  # block 1, while block 0 computes
        "use 1",
        "all_gather",
        "use 2",
        "all_gather",  # block 1 again, while backward computes with block 2, which stayed
        "reduce_scatter",  # block 2
        "gradient 2",
        "all_gather",  # block 0, while backward computes with block 1
        "reduce_scatter",  # block 1
        "gradient 1",
        "reduce_scatter",
        "gradient 0",
        "reduce_scatter",  # the first unit
        "all_reduce",  # the flags
    ]


def shared_layers(rank: int, size: int) -> tuple[int, int]:
    """Reduce-scatters of a step in which layers are used several times, and the units."""
    sharded = FullySharded(Shared())
    ids, targets = batch(0, size)[rank]
    with recorded(size) as record:
        losses = [token_loss_sum(sharded(ids), targets) for _ in range(2)]
        sum(losses).backward()
        sharded.finish_gradient_synchronization()
    return record.count("reduce_scatter"), len(sharded._units)


def test_a_unit_used_often_is_reduced_once(ranks: Ranks) -> None:
    reduced, units = ranks.call(2, shared_layers)[0]
    assert reduced == units == 4


def shape(**changes: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=64,
        context_length=8,
        d_model=64,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        d_ff=172,
        **changes,
    )


def tensor_bytes() -> int:
    """Bytes of all storages that Python can reach."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):  # isinstance would load lazy modules
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def bytes_held(rank: int, size: int) -> dict[str, float]:
    """Bytes before the model exists, at rest after a step, and inside a block's forward pass."""
    before = tensor_bytes()
    sharded = FullySharded(TransformerLM(shape()))
    config = sharded.config
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=1e-3)
    ids = torch.randint(0, 64, (1, 8))
    inside = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = sharded(ids).square().mean()
        loss.backward()
        sharded.finish_gradient_synchronization()
        optimizer.step()
    del loss
    at_rest = tensor_bytes() - before
    sharded.module.blocks[3].feed_forward.register_forward_hook(
        lambda *_: inside.append(tensor_bytes() - before)
    )
    with torch.no_grad():
        sharded(ids)
    blocks = sum(nbytes(p) for p in TransformerLM(config).blocks[0].parameters())
    whole = sum(nbytes(p) for p in TransformerLM(config).parameters())
    return {"rest": at_rest, "inside": inside[0], "block": blocks, "whole": whole}


@pytest.mark.parametrize("size", [2, 4])
def test_bytes_on_each_rank(ranks: Ranks, size: int) -> None:
    """Parameters, gradients and two means: 4 times 1/N; in use, a block and the root, the next
    block being on its way.
    """
    for found in ranks.call(size, bytes_held):
        assert found["rest"] == pytest.approx(4 * found["whole"] / size, rel=0.05)
        root = found["whole"] - 6 * found["block"]
        most = found["rest"] + 2 * found["block"] + root
        assert found["rest"] < found["inside"] < 1.05 * most


def mixed_precision(rank: int, size: int) -> dict:
    torch.manual_seed(0)
    model = TransformerLM(shape())
    sharded = FullySharded(copy.deepcopy(model), compute_dtype=torch.bfloat16)
    seen = []
    sharded.module.blocks[0].attention.query.register_forward_hook(
        lambda layer, args, result: seen.extend([layer.weight.dtype, args[0].dtype])
    )
    ids = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(rank))
    with recorded(size) as record:
        logits = sharded(ids)
        forward_sent = record.sent["all_gather"]
        logits.float().square().mean().backward()
        sharded.finish_gradient_synchronization()
    whole = sum(nbytes(p) for p in model.parameters())
    kept = {p.dtype for p in sharded.parameters()} | {p.grad.dtype for p in sharded.parameters()}
    before = sharded.full_parameters()
    # An update far below half a unit of bfloat16 moves every weight.
    for shard in sharded.parameters():
        shard.data.mul_(1 + 1e-4)
    after = sharded.full_parameters()
    moved = sum(int((after[n] != before[n]).sum()) for n in before)
    nonzero = sum(int((before[n] != 0).sum()) for n in before)
    masters = all(torch.equal(before[n], p) for n, p in model.named_parameters())
    return {
        "seen": [str(dtype) for dtype in seen],
        "kept": [str(dtype) for dtype in kept],
        "forward": forward_sent / (whole * (size - 1) / size),
        "reduced": record.sent["reduce_scatter"] / (whole * (size - 1) / size),
        "moved": moved / nonzero,
        "masters": masters,
    }


def test_bfloat16_copies_of_float32_masters(ranks: Ranks) -> None:
    for found in ranks.call(2, mixed_precision):
        assert found["seen"] == ["torch.bfloat16"] * 2
        assert found["kept"] == ["torch.float32"]
        assert found["forward"] == pytest.approx(0.5)
        assert found["reduced"] == pytest.approx(1.0), "gradients are added in float32"
        assert found["masters"]
        assert found["moved"] > 0.99


def compare_with_torch(rank: int, size: int) -> tuple[float, dict, dict]:
    """The largest difference from fully_shard, and the bytes that both send."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    ours = TransformerLM(shape())
    theirs = copy.deepcopy(ours)
    sharded = FullySharded(ours)
    for block in theirs.blocks:
        fully_shard(block)
    fully_shard(theirs)
    ids = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(rank))
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (sharded, theirs)]
    sent = []
    for model, optimizer in zip((sharded, theirs), optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            with recorded(size) as record:
                model(ids).square().mean().backward()
                if model is sharded:
                    sharded.finish_gradient_synchronization()
            optimizer.step()
        sent.append(record.sent)
    full = sharded.full_parameters()
    difference = max(
        (full[n] - p.full_tensor()).abs().max().item() for n, p in theirs.named_parameters()
    )
    return difference, sent[0], sent[1]


@pytest.mark.parametrize("size", [2, 4])
def test_three_steps_equal_those_of_fully_shard(ranks: Ranks, size: int) -> None:
    for difference, ours, theirs in ranks.call(size, compare_with_torch):
        assert difference < 1e-5
        for kind in ("all_gather", "reduce_scatter"):
            assert 0 < ours[kind] <= 1.02 * theirs[kind], "a block is gathered once too often"


@pytest.mark.parametrize("frozen", [False, True])
def test_a_block_is_freed_once_backward_has_passed_it(frozen: bool) -> None:
    """Also a frozen block, whose own gradient does not come."""
    sharded = FullySharded(partly_frozen() if frozen else Checkpointed(False))
    (unit,) = sharded._units_of[sharded.module.blocks[1]]
    whole = []
    sharded.module.blocks[0].register_forward_pre_hook(lambda _, args: note(args[0]))

    def note(x: Tensor) -> None:
        x.register_hook(lambda _: whole.append(unit.whole is not None))

    sharded(torch.zeros(1, 3, dtype=torch.int64)).sum().backward()
    assert whole == [False]


def test_shards_of_a_bfloat16_module_are_float32() -> None:
    sharded = FullySharded(nn.Sequential(nn.Linear(4, 4)).bfloat16())
    result = sharded(torch.ones(2, 4, dtype=torch.bfloat16))
    result.float().sum().backward()
    sharded.finish_gradient_synchronization()
    assert result.dtype == torch.bfloat16
    assert {p.dtype for p in sharded.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in sharded.parameters()} == {torch.float32}


def test_a_conversion_afterwards_is_refused() -> None:
    sharded = FullySharded(simple_model())
    with pytest.raises(RuntimeError, match="before it is sharded"):
        sharded.float()
    assert [name for name, _ in sharded.named_parameters()][:1] == ["0.weight"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = sharded.nothing
