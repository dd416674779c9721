"""a3.13: gradients averaged in buckets while backward runs."""

import math

import pytest
import torch
from rank_models import (
    Momentum,
    OddModel,
    batch_of,
    check_named,
    gradients,
    loss_sum,
    model_of,
    share,
    simple_model,
    weights,
    whole_batch_loss,
)
from ranks import RECORD, on_ranks
from torch import nn

from lm_course.grading.comparisons import check_equal, check_true

MODULE = "training.data_parallel"
pytestmark = [pytest.mark.usefixtures("a3"), pytest.mark.limit(seconds=40)]


@pytest.mark.task("a3.13")
def test_rank_0_gives_its_weights(implementation):
    module = implementation(MODULE)

    def run(rank, size):
        wrapper = module.DataParallel(model_of(rank))
        model = wrapper.module
        return {**weights(model), **dict(model.named_buffers())}

    results = on_ranks(2, run)
    mine = [
        {**weights(model), **dict(model.named_buffers())} for model in (model_of(0), model_of(1))
    ]
    own = {"rank 1 keeps its own: send what rank 0 has, buffers too, at the start": mine[1]}
    for rank, found in enumerate(results):
        check_named(found, mine[0], f"after DataParallel(model) on rank {rank}, the value", own,
                    rtol=0, atol=0)  # fmt: skip


@pytest.mark.task("a3.13")
@pytest.mark.parametrize("skips", [False, True], ids=["all use it", "one rank uses it"])
def test_three_steps_are_those_of_the_whole_batch(implementation, skips):
    module = implementation(MODULE)

    def run(rank, size):
        wrapper = module.DataParallel(model_of(rank), bucket_mb=0.0002)
        optimizer = Momentum(wrapper.parameters())
        first = None
        for step in range(3):
            ids, targets = batch_of(step)[rank]
            total = loss_sum(wrapper(ids, not skips or rank == 0), targets)
            share(total, batch_of(step)).backward()
            wrapper.finish_gradient_synchronization()
            first = gradients(wrapper) if first is None else first
            optimizer.step()
        return first, weights(wrapper)

    results = on_ranks(2, run)
    model = model_of(0)
    optimizer = Momentum(model.parameters())
    for step in range(3):
        whole_batch_loss(model, batch_of(step), skips).backward()
        if step == 0:
            first = gradients(model)
        optimizer.step()
    double = {n: 2 * g for n, g in first.items() if g is not None}
    causes = {
        "this is the sum over the ranks: divide it by their number": double,
        "it is averaged twice": {n: g / 4 for n, g in double.items()},
    }
    for found, end in results:
        check_named(found, first, "the gradient of the first step", causes)
        check_named(end, weights(model), "after three steps, the value", rtol=1e-5, atol=1e-6)
    for name, value in results[0][1].items():
        check_true(torch.equal(value, results[1][1][name]), f"the ranks' values of {name} differ")


def six_layers():
    return nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(6)))


def events_of_a_step(module, bucket_mb, inside_no_sync=False, after_no_sync=False):
    """Return what a second step does: collectives with their bytes, waits and gradients in order,
    and the bytes of all of its collectives. Before it may come a backward pass in no_sync.
    """

    def run(rank, size):
        model = six_layers()
        settings = {} if bucket_mb is None else {"bucket_mb": bucket_mb}
        wrapper = module.DataParallel(model, **settings)
        for index, layer in enumerate(model):
            layer.weight.register_post_accumulate_grad_hook(
                lambda _, index=index: RECORD.events.append(f"gradient {index}")
            )
        wrapper(torch.ones(3, 16)).sum().backward()
        wrapper.finish_gradient_synchronization()
        RECORD.clear()
        if inside_no_sync:
            return collectives_of_no_sync(wrapper)
        if after_no_sync:
            with wrapper.no_sync():
                wrapper(torch.ones(3, 16)).sum().backward()
            RECORD.events[:] = RECORD.started()  # without its gradients
        wrapper(torch.ones(3, 16)).sum().backward()
        during = [each if isinstance(each, str) else tuple(each) for each in RECORD.events]
        wrapper.finish_gradient_synchronization()
        return during, [tuple(each) for each in RECORD.started()]

    return on_ranks(2, run)[0]


@pytest.mark.task("a3.13")
@pytest.mark.parametrize("after", [False, True], ids=["one backward pass", "after one in no_sync"])
def test_buckets_start_while_backward_runs(implementation, after):
    """Six layers of 1 KiB, in buckets of 2 KiB."""
    during, started = events_of_a_step(implementation(MODULE), 2 / 1024, after_no_sync=after)
    buckets = [each[3] for each in started if each[3] >= 512]
    likely = {
        "buckets travel twice: what is complete in no_sync is not ready": [2048] * 5,
        "one bucket has everything: close it once it has bucket_mb MiB": [6144],
        "every parameter has a bucket of its own: fill it up to bucket_mb MiB": [1024] * 6,
    }
    check_equal(buckets, [2048] * 3, "the bytes of the buckets of six matrices of 1,024", likely)
    words = [each if isinstance(each, str) else each[0] for each in during]
    words = [word for word, each in zip(words, during, strict=True)
             if isinstance(each, str) or each[3] >= 512]  # fmt: skip
    order = {"in order": words}
    begins = "all_reduce" in words and words.index("all_reduce") < words.index("gradient 3")
    check_true(
        begins,
        "the first bucket holds layers 5 and 4, but its all-reduce does not start before backward "
        "has computed layer 3: start it in a hook of the last gradient of the bucket",
        order,
    )
    check_true(
        words.count("all_reduce") == 3,
        "backward is over, and not all three all-reduces have started",
        order,
    )
    until = words[: words.index("gradient 0")]
    check_true(
        "wait" not in until and not any(each[4] for each in during if not isinstance(each, str)),
        "a hook waits for its all-reduce, and backward waits with it: pass async_op=True, and wait "
        "in finish_gradient_synchronization",
        order,
    )


@pytest.mark.task("a3.13")
@pytest.mark.parametrize("bucket_mb", [None, math.inf])
def test_bytes_of_a_step(implementation, bucket_mb):
    """One bucket, by default or without a limit; beside the gradients, only flags travel."""
    _, started = events_of_a_step(implementation(MODULE), bucket_mb)
    what = f"the bytes of the buckets of 6 KiB of gradients, with bucket_mb {bucket_mb}"
    check_equal([each[3] for each in started if each[3] >= 512], [6144], what)
    total = sum(each[3] for each in started)
    check_true(
        total <= 6144 + 512,
        "a step sends more than the gradients (and at most 512 bytes of flags)",
        {"expected": "6,144 bytes", "got": f"{total:,} bytes"},
    )


@pytest.mark.task("a3.13")
def test_a_bucket_waits_for_each_of_its_gradients(implementation):
    """The first backward pass reaches one of two matrices in a bucket, the second one both."""
    module = implementation(MODULE)

    def run(rank, size):
        model = nn.ParameterList([torch.ones(64, 64), torch.ones(64, 64)])
        wrapper = module.DataParallel(model, bucket_mb=math.inf)
        RECORD.clear()
        model[1].sum().backward()
        early = [each.nbytes for each in RECORD.started()]
        (2 * model[0] + 3 * model[1]).sum().backward()
        wrapper.finish_gradient_synchronization()
        total = sum(each.nbytes for each in RECORD.started())
        return early, total, [parameter.grad[0, 0].item() for parameter in model]

    for rank, (early, total, found) in enumerate(on_ranks(2, run)):
        check_equal(found, [2.0, 4.0], f"a gradient of two backward passes on rank {rank}")
        check_equal(early, [], "the collectives before a bucket's other gradient is computed")
        check_true(
            total <= 2 * 16_384 + 512,
            "the bucket travels twice: it is complete when *each* of its parameters has a "
            "gradient, however often one of them is reached",
            {"expected": "32,768 bytes", "got": f"{total:,} bytes"},
        )


def collectives_of_no_sync(wrapper):
    """Return the numbers of collectives so far: inside, after an inner one, outside of an error."""
    found = []

    def backward():
        wrapper(torch.ones(3, 16)).sum().backward()
        found.append(len(RECORD.started()))

    with wrapper.no_sync():
        backward()
        with wrapper.no_sync():
            backward()
        backward()
    try:
        with wrapper.no_sync():
            raise KeyError
    except KeyError:
        backward()
    wrapper.finish_gradient_synchronization()
    RECORD.clear()
    loss = wrapper(torch.ones(3, 16)).sum()
    with wrapper.no_sync():
        loss.backward()
    return [*found, len(RECORD.started())]


@pytest.mark.task("a3.13")
def test_no_sync_sends_nothing(implementation):
    found = events_of_a_step(implementation(MODULE), 2 / 1024, inside_no_sync=True)
    causes = {"no_sync is ignored": lambda got: got[0] > 0}
    causes["the end of an inner no_sync ends the outer one"] = lambda got: got[2] > 0
    causes["an error inside no_sync leaves it on: use try and finally"] = lambda got: got[3] == 0
    causes["no_sync is about the backward pass, wherever the forward pass was"] = lambda got: (
        got[4] > 0
    )
    what = (
        "the collectives after a backward pass in no_sync(), after one in a no_sync() in it, after "
        "one behind that, after one behind a no_sync() that ended by an error, and in a new step "
        "after one in no_sync() whose forward pass was outside"
    )
    check_equal(found, [0, 0, 0, 3, 0], what, causes)


def in_no_sync(wrapper, losses):
    with wrapper.no_sync():
        losses(0, wrapper).backward()
    losses(1, wrapper).backward()


def in_no_sync_later(wrapper, losses):
    losses(0, wrapper).backward()
    with wrapper.no_sync():
        losses(1, wrapper).backward()


def across_no_sync(wrapper, losses):
    outside = losses(0, wrapper)
    with wrapper.no_sync():
        outside.backward()
        inside = losses(1, wrapper)
    inside.backward()


def twice(wrapper, losses):
    losses(0, wrapper).backward()
    losses(1, wrapper).backward()


def bypassed(wrapper, losses):
    losses(0, wrapper.module).backward()
    losses(1, wrapper.module).backward()


def all_in_no_sync(wrapper, losses):
    with wrapper.no_sync():
        twice(wrapper, losses)


def after_an_error(wrapper, losses):
    try:
        with wrapper.no_sync():
            raise KeyError
    except KeyError:
        pass
    twice(wrapper, losses)


def nested(wrapper, losses):
    with wrapper.no_sync():
        with wrapper.no_sync():
            losses(0, wrapper).backward()
        losses(1, wrapper).backward()


WAYS = {
    "one in no_sync, one outside": in_no_sync,
    "one outside, one in no_sync": in_no_sync_later,
    "forward and backward on two sides of no_sync": across_no_sync,
    "two backward passes": twice,
    "wrapper.module is called": bypassed,
    "both in no_sync": all_in_no_sync,
    "after an error in no_sync": after_an_error,
    "no_sync in no_sync": nested,
}


@pytest.mark.task("a3.13")
@pytest.mark.parametrize("odd", [False, True], ids=["simple", "odd"])
def test_accumulation(implementation, odd):
    """Two micro-batches a rank, in several ways, with the same wrapper."""
    module = implementation(MODULE)
    kind = OddModel if odd else simple_model

    def run(rank, size):
        wrapper = module.DataParallel(model_of(0, kind), bucket_mb=0.0002)

        def losses(step, called):
            ids, targets = batch_of(step)[rank]
            return loss_sum(called(ids), targets)

        found = {}
        for name, way in WAYS.items():
            way(wrapper, losses)
            wrapper.finish_gradient_synchronization()
            found[name] = gradients(wrapper)
            wrapper.zero_grad()
        return found

    results = on_ranks(2, run)
    by_step = []
    for step in range(2):
        model = model_of(0, kind)
        (sum(loss_sum(model(ids), targets) for ids, targets in batch_of(step)) / 2).backward()
        by_step.append(gradients(model))
    both = {n: None if g is None else g + by_step[1][n] for n, g in by_step[0].items()}
    causes = {
        "only the last backward pass counts": by_step[1],
        "only the first backward pass counts: what came after its all-reduce is lost": by_step[0],
    }
    for rank, found in enumerate(results):
        for name in WAYS:
            what = f"two micro-batches ({name}): the gradient on rank {rank}"
            check_named(found[name], both, what, causes, rtol=1e-5)


@pytest.mark.task("a3.13")
def test_a_gradient_of_zeros_is_a_gradient(implementation):
    """Rank 1 has one of zeros for a parameter that rank 0 has not used."""
    module = implementation(MODULE)

    def run(rank, size):
        model = nn.ParameterList([torch.ones(2), torch.ones(3), torch.ones(4)])
        wrapper = module.DataParallel(model)
        loss = model[0].sum()
        (loss if rank == 0 else loss + (0 * model[1]).sum()).backward()
        wrapper.finish_gradient_synchronization()
        return [parameter.grad for parameter in model]

    for rank, (used, zeros, missing) in enumerate(on_ranks(2, run)):
        check_true(used is not None, f"a gradient of rank {rank} is None after finish")
        what = "of a parameter that one rank does not use, and the other with a gradient of 0,"
        check_true(zeros is not None, f"the gradient on rank {rank} {what} is None")
        check_true(not zeros.any(), f"the gradient on rank {rank} {what} is not 0")
        check_true(missing is None, "a gradient that is missing on all ranks must stay None")


@pytest.mark.task("a3.13")
def test_data_parallel_in_one_process(implementation):
    wrapper = implementation(MODULE).DataParallel(model_of(0))
    check_true(
        isinstance(wrapper.module, OddModel), "wrapper.module is the module that was wrapped"
    )
    whole_batch_loss(wrapper, batch_of(0)).backward()
    wrapper.finish_gradient_synchronization()
    model = model_of(0)
    whole_batch_loss(model, batch_of(0)).backward()
    check_named(gradients(wrapper), gradients(model), "in one process, the gradient")
