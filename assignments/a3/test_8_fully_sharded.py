"""a3.15: parameters, gradients and state divided among the ranks."""

import pytest
import torch
from rank_models import (
    Blocks,
    Momentum,
    batch_of,
    check_named,
    gradients,
    loss_sum,
    model_of,
    share,
    weights,
    whole_batch_loss,
)
from ranks import RECORD, bytes_at_rest, on_ranks
from torch import nn

from lm_course.containment.counted_work import TensorCounter
from lm_course.grading.comparisons import check_equal, check_true

MODULE = "training.fully_sharded"
pytestmark = [
    pytest.mark.usefixtures("a3"),
    pytest.mark.limit(seconds=40),
]


@pytest.mark.task("a3.15")
@pytest.mark.parametrize("skips", [False, True], ids=["all use it", "one rank uses it"])
def test_weights_are_those_of_the_whole_batch(implementation, skips):
    """Tied, frozen and unused parameters, two types, and sizes that 2 does not divide."""
    module = implementation(MODULE)

    def run(rank, size):
        sharded = module.FullySharded(model_of(rank))
        found = [sharded.full_parameters()]
        buffers = dict(sharded.module.named_buffers())
        optimizer = Momentum(sharded.parameters())
        for step in range(3):
            ids, targets = batch_of(step)[rank]
            total = loss_sum(sharded(ids, not skips or rank == 0), targets)
            share(total, batch_of(step)).backward()
            sharded.finish_gradient_synchronization()
            missing = [n for n, p in sharded.named_parameters() if p.grad is None]
            optimizer.step()
            found.append(sharded.full_parameters())
        return found, missing, buffers

    results = on_ranks(2, run)
    model = model_of(0)
    expected = [weights(model)]
    optimizer = Momentum(model.parameters())
    for step in range(3):
        whole_batch_loss(model, batch_of(step), skips).backward()
        optimizer.step()
        expected.append(weights(model))
    moved = {n: x - expected[0][n] for n, x in expected[1].items()}
    causes = {
        "the gradient is the sum over the ranks: divide it by their number": {
            n: x + moved[n] for n, x in expected[1].items()
        },
        "nothing has moved": expected[0],
    }
    own = {"rank 1 keeps its own weights: send those of rank 0 at the start": weights(model_of(1))}
    for rank, (found, missing, buffers) in enumerate(results):
        right = dict(model.named_buffers())
        check_named(buffers, right, f"at the start, on rank {rank}, the buffer")
        check_named(found[0], expected[0], f"full_parameters() at the start, on rank {rank}", own)
        check_named(found[1], expected[1], "after one step, full_parameters()", causes)
        check_named(found[3], expected[3], "after three steps, full_parameters()", rtol=1e-5,
                    atol=1e-6)  # fmt: skip
        right = ["frozen.bias", "frozen.weight", "never.0.bias", "never.0.weight"]
        check_equal(sorted(missing), right, "the parameters whose gradient is None")


DROPPED = -7  # block 0 computes, and its result is not used


class Chosen(nn.Module):
    """Some of seven blocks, one after another; there is a first unit, too."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2, dtype=torch.float64) for _ in range(7))
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x, used):
        for index in used:
            y = torch.tanh(self.blocks[index](x))
            x = x if index == DROPPED else x + y
        return (x * self.scale).sum()


USED = {
    "one rank uses none": ([], range(7)),
    "each uses others": ([0, 6], [1, 2, 3, 4, 5]),
    "each uses one end": ([0, 1], [4, 5, 6]),
    "one drops a result": ([DROPPED, 1, 2, 3, 4, 5, 6], range(7)),
}


@pytest.mark.task("a3.15")
@pytest.mark.parametrize("used", USED.values(), ids=USED)
def test_ranks_leave_out_different_blocks(implementation, used):
    """Many of them: a rank is then far ahead, and must not wait for what needs this rank itself."""
    module = implementation(MODULE)
    x = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def run(rank, size):
        sharded = module.FullySharded(model_of(0, Chosen))
        for _ in range(2):
            with torch.no_grad():
                sharded(x, range(7))
            sharded(x + rank, used[rank]).backward()
            sharded.finish_gradient_synchronization()
        Momentum(sharded.parameters(), lr=1.0).step()
        return sharded.full_parameters()

    results = on_ranks(2, run)
    model = model_of(0, Chosen)
    for _ in range(2):
        for rank, own in enumerate(used):
            (model(x + rank, own) / 2).backward()
    Momentum(model.parameters(), lr=1.0).step()
    for found in results:
        what = f"ranks that use blocks {list(used[0])} and {list(used[1])}, after a step of 1: the"
        check_named(found, weights(model), f"{what} value")


@pytest.mark.task("a3.15")
def test_the_optimizer_sees_shards(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        sharded = module.FullySharded(model_of(0))
        copies = sharded.full_parameters()
        for copy in copies.values():
            copy.fill_(7)
        again = sharded.full_parameters()
        return {n: p.numel() for n, p in sharded.named_parameters()}, again

    for found, again in on_ranks(2, run):
        model = model_of(0)
        sizes = {n: p.numel() for n, p in model.named_parameters()}
        check_equal(sorted(found), sorted(sizes), "the names of the shards")
        for name, number in found.items():
            check_true(
                number <= -(-sizes[name] // 2),
                f"the shard of {name} has more than half of its {sizes[name]} values",
                {"got": number},
            )
        check_named(again, weights(model), "full_parameters() after its copies were overwritten")


def bytes_of_a_step(module, most):
    """Return the bytes of the tensors on each rank at the moments of `most`, over those before."""

    def run(rank, size):
        found = {}

        def note(when):
            found[when] = bytes_at_rest(counter, most[when][0])

        def hook(block, arguments):
            arguments[0].register_hook(lambda _: note("when backward has left block 1"))

        with TensorCounter() as counter:
            sharded = module.FullySharded(model_of(0, lambda: Blocks(32, 64, 8)))
            note("after construction")
            sharded.module.blocks[1].register_forward_pre_hook(hook)
            sharded.module.blocks[4].down.register_forward_pre_hook(
                lambda *_: note("in the forward pass of block 4")
            )
            result = sharded(torch.zeros(1, 1, dtype=torch.int64)).sum()
            note("between forward and backward")
            result.backward()
            sharded.finish_gradient_synchronization()
            del result
            sharded.zero_grad()
            note("after a step, without gradients")
        return found

    return on_ranks(2, run)


@pytest.mark.task("a3.15")
def test_bytes_on_each_rank(implementation):
    """Eight blocks and a first unit: the shards are half of all; two blocks and the first unit are
    whole while they are used.
    """
    model = Blocks(32, 64, 8)
    block = sum(4 * p.numel() for p in model.blocks[0].parameters())
    whole = sum(4 * p.numel() for p in model.parameters())
    first = whole - 8 * block
    slack = block // 2
    limits = {
        "after construction": (whole // 2, "keep only the shards, and no module with its weights"),
        "in the forward pass of block 4": (
            whole // 2 + 2 * block + first,
            "a block is not freed after its forward pass, or all are gathered at once",
        ),
        "between forward and backward": (
            whole // 2 + block + first,
            "a block is not freed after its forward pass: autograd must not keep its weights",
        ),
        "when backward has left block 1": (
            # the shards of 7 blocks' gradients; two blocks and two gradients whole
            whole // 2 + 7 * block // 2 + 4 * block + 2 * first,
            "a block, or its whole gradient, is not freed when backward has left it",
        ),
        "after a step, without gradients": (whole // 2, "something whole stays after the step"),
    }
    most = {when: (limit + slack, likely) for when, (limit, likely) in limits.items()}
    for rank, found in enumerate(bytes_of_a_step(implementation(MODULE), most)):
        for when, (limit, likely) in most.items():
            check_true(
                found[when] <= limit,
                f"rank {rank} holds too much {when}: the model has {whole:,} bytes, a block "
                f"{block:,}",
                {"expected": f"at most {limit:,} bytes", "got": f"{found[when]:,} bytes",
                 "likely": likely},
            )  # fmt: skip


@pytest.mark.task("a3.15")
def test_bfloat16_copies_of_float32_shards(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        sharded = module.FullySharded(model_of(0, Blocks), compute_dtype=torch.bfloat16)
        seen = []
        sharded.module.blocks[1].up.register_forward_hook(
            lambda layer, arguments, _: seen.extend([layer.weight.dtype, arguments[0].dtype])
        )
        RECORD.clear()
        result = sharded(batch_of(0)[rank][0])
        gathered = sum(each.nbytes for each in RECORD.started("all_gather"))
        result.float().square().mean().backward()
        sharded.finish_gradient_synchronization()
        reduced = {each.dtype for each in RECORD.started("reduce_scatter")}
        kept = sorted({str(x.dtype) for p in sharded.parameters() for x in (p, p.grad)})
        before = sharded.full_parameters()
        with torch.no_grad():
            for shard in sharded.parameters():
                shard.mul_(1 + 1e-4)
        return seen, gathered, reduced, kept, before, sharded.full_parameters(), result.dtype

    whole = sum(4 * p.numel() for p in Blocks().parameters())
    for seen, gathered, reduced, kept, before, after, result in on_ranks(2, run):
        check_equal(seen, [torch.bfloat16] * 2, "the types of a block's weight and of its input")
        check_equal(result, torch.bfloat16, "the type of the result")
        check_true(
            gathered <= 0.5 * whole + 200,
            "the gathered copies of a forward pass are not bfloat16",
            {"expected": f"{whole // 2:,} bytes", "got": f"{gathered:,} bytes"},
        )
        check_equal(
            sorted(reduced), ["float32"], "the type in which gradients are added over the ranks"
        )
        check_equal(kept, ["torch.float32"], "the types of the shards and their gradients")
        exact = "the shards stay float32: full_parameters()"
        check_named(before, weights(model_of(0, Blocks)), exact, rtol=0, atol=0)
        moved = sum(int((after[n] != before[n]).sum()) for n in before)
        nonzero = sum(int((before[n] != 0).sum()) for n in before)
        check_true(
            moved >= 0.99 * nonzero,
            "an update of 1/10,000 of each weight is lost: keep the shards in float32",
            {"expected": f"{nonzero} weights move", "got": f"{moved}"},
        )


@pytest.mark.task("a3.15")
def test_accumulation_of_shards(implementation):
    """Two micro-batches, finished once or after each; after a pass without gradients and one that
    fails.
    """
    module = implementation(MODULE)

    def run(rank, size):
        found = []
        for each in (False, True):
            sharded = module.FullySharded(model_of(0, Blocks))
            with torch.no_grad():
                sharded(batch_of(3)[rank][0])
            with pytest.raises(IndexError):
                sharded(batch_of(3)[rank][0] + 1000)
            for step in range(2):
                ids, targets = batch_of(step)[rank]
                loss_sum(sharded(ids), targets).backward()
                if each:
                    sharded.finish_gradient_synchronization()
            if not each:
                sharded.finish_gradient_synchronization()
            Momentum(sharded.parameters(), lr=1.0).step()
            found.append(sharded.full_parameters())
        return found

    results = on_ranks(2, run)
    by_step = []
    for step in range(2):
        model = model_of(0, Blocks)
        (sum(loss_sum(model(ids), targets) for ids, targets in batch_of(step)) / 2).backward()
        by_step.append(gradients(model))
    start = weights(model)
    expected = {n: x - by_step[0][n] - by_step[1][n] for n, x in start.items()}
    causes = {
        "only the last backward pass counts": {n: x - by_step[1][n] for n, x in start.items()},
        "only the first backward pass counts": {n: x - by_step[0][n] for n, x in start.items()},
    }
    for found in results:
        for weights_found, when in zip(found, ["once", "after each"], strict=True):
            what = f"two micro-batches, finished {when}, then a step of 1: the value"
            check_named(weights_found, expected, what, causes, rtol=1e-4, atol=1e-4)


@pytest.mark.task("a3.15")
def test_fully_sharded_in_one_process(implementation):
    sharded = implementation(MODULE).FullySharded(model_of(0))
    for copy in sharded.full_parameters().values():
        copy.fill_(7)  # the copies belong to the caller
    whole_batch_loss(sharded, batch_of(0)).backward()
    sharded.finish_gradient_synchronization()
    Momentum(sharded.parameters()).step()
    model = model_of(0)
    whole_batch_loss(model, batch_of(0)).backward()
    Momentum(model.parameters()).step()
    check_named(sharded.full_parameters(), weights(model), "in one process, full_parameters()")
