"""a3.12 and a3.13 on drawn inputs, on two ranks; the oracles compute in one process."""

import contextlib
import math

import pytest
import torch
from drawn_on_ranks import (
    SEEDS,
    check_on_ranks,
    close,
    groups,
    leaving_alone,
    on_two_ranks,
    parameter_lists,
    parameters_of,
    whole_numbers,
)
from hypothesis import strategies as st
from ranks import RECORD
from torch import nn

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.grading.comparisons import check_true

pytestmark = pytest.mark.usefixtures("a3")
# a3.12


@st.composite
def averaged(draw):
    described = draw(parameter_lists())
    if described and draw(st.booleans()):
        described = [described[0], *described]
    flags = st.lists(st.booleans(), min_size=len(described), max_size=len(described))
    return {
        "described": described,
        "present": [draw(flags), draw(flags)],
        "twice": draw(st.booleans()),
        "shared": draw(st.booleans()),
        "large": draw(st.booleans()),
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


def given_gradient(number, rank, shape, dtype, seed, large):
    gradient = whole_numbers(seed + 10 * number + rank, shape, dtype)
    return gradient * 4096 if large else gradient


def call_average(name):
    @on_two_ranks
    def call(module, rank, group, described, present, twice, shared, large, seed):
        parameters = parameters_of(described, seed)
        if shared:  # two parameters in the same memory, each with a gradient of its own
            for number in range(1, len(parameters), 2):
                if described[number][:2] == described[number - 1][:2]:
                    values = parameters[number - 1].data
                    parameters[number] = nn.Parameter(values, described[number][2])
        for number, parameter in enumerate(parameters):
            if present[rank][number]:
                parameter.grad = given_gradient(
                    number, rank, described[number][0], described[number][1], seed, large
                )
        with leaving_alone(*parameters):
            listed = parameters + parameters[:1] * twice
            getattr(module, name)(iter(listed), **({} if group is None else {"group": group}))
        return [parameter.grad for parameter in parameters]

    return call


def averages(described, present, twice, shared, large, group, seed):
    results = []
    for rank in range(2):
        found = []
        for number, (shape, dtype, trained, _) in enumerate(described):
            own = [
                given_gradient(number, r, shape, dtype, seed, large)
                if present[r][number]
                else torch.zeros(shape, dtype=getattr(torch, dtype))
                for r in range(2)
            ]
            mean = own[rank] if group == "own" else (own[0] / 2 + own[1] / 2)
            kept = own[rank] if present[rank][number] else None
            found.append(mean if trained else kept)
        results.append(found)
    return results


@st.composite
def shared_losses(draw):
    return {
        "totals": [draw(st.sampled_from([0.0, 1.5, -4.0, 1e4])) for _ in range(2)],
        "counts": [draw(near_constants(st.integers(0, 9), 0, 5000)) for _ in range(2)],
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "count_type": draw(st.sampled_from(["a number", "int64", "int32", "the type of total"])),
        "group": draw(groups),
    }


@on_two_ranks
def call_mean(module, rank, group, totals, counts, dtype, count_type):
    total = torch.tensor(totals[rank], dtype=getattr(torch, dtype), requires_grad=True)
    count = counts[rank]
    if count_type != "a number":
        kind = dtype if count_type == "the type of total" else count_type
        count = torch.tensor(count, dtype=getattr(torch, kind))
    with leaving_alone(total, *([] if count_type == "a number" else [count])):
        loss = module.mean_over_ranks(total, count, *([] if group is None else [group]))
        (3 * loss).backward()
        found = loss.detach().clone()
        loss.detach().add_(1)  # it belongs to the caller
    return [found, total.grad]


def means(totals, counts, dtype, count_type, group):
    found = []
    for rank in range(2):
        ranks, tokens = (1, counts[rank]) if group == "own" else (2, sum(counts))
        factor = torch.tensor(ranks / max(tokens, 1), dtype=getattr(torch, dtype))
        found.append([factor * totals[rank], 3 * factor])
    return found


# a3.13


class Weighted(nn.Module):
    """The sum of the parameters that a call uses, each value times a number that it gets."""

    def __init__(self, parameters, seed, tied):
        super().__init__()
        self.all = nn.ParameterList(parameters)
        self.tied = tied and len(parameters) > 0
        if self.tied:
            self.also = parameters[0]
        self.register_buffer("counter", torch.tensor(seed))
        self.register_buffer("table", torch.tensor(2.0 * seed), persistent=False)

    def forward(self, used, seed):
        total = torch.zeros(())
        for number, parameter in enumerate(self.all):
            if used[number]:
                factor = whole_numbers(seed + number, parameter.shape, "float32")
                factor = factor * (used[number] != "with zeros")
                total = total + (parameter.float() * factor).sum()
        if self.tied and used[0] is True:
            total = total + 2 * self.also.float().sum()
        return total


@st.composite
def parallel_steps(draw):
    described = draw(parameter_lists(least=1))
    number = len(described)
    each = st.sampled_from([True, False, "with zeros"])
    flags = st.one_of(st.just([True] * number), st.lists(each, min_size=number, max_size=number))
    how = st.sampled_from(
        ["call", "call", "no_sync", "module", "forward outside", "forward inside"]
    )
    passes = st.fixed_dictionaries({"used": st.tuples(flags, flags), "how": how})
    return {
        "described": described,
        "tied": draw(st.booleans()),
        "bucket_mb": draw(st.sampled_from([5.0, 0.0, 1e-5, 4e-5, 1e-4, 1, math.inf])),
        "steps": draw(st.lists(st.lists(passes, max_size=3), min_size=1, max_size=3)),
        "keeps": draw(st.booleans()),
        "freezes_at": draw(st.sampled_from([9, 9, 1, 2])),  # the step from which 0 is frozen
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


@on_two_ranks
def call_parallel(module, rank, group, described, tied, bucket_mb, steps, keeps, freezes_at, seed):
    model = Weighted(parameters_of(described, seed + rank), seed + rank, tied)
    wrapper = module.DataParallel(model, bucket_mb, group)
    start = [p.detach().clone() for p in model.all] + [model.counter.clone(), model.table.clone()]
    trained = sum(p.numel() * p.element_size() for p in model.all if p.requires_grad)
    found = []
    with leaving_alone(*model.all):
        for number, passes in enumerate(steps):
            RECORD.clear()
            if number == freezes_at:
                model.all[0].requires_grad_(False)
            for place, each in enumerate(passes):
                arguments = each["used"][rank], seed + 1000 * number + 100 * place + rank
                go_backward(wrapper, each["how"], arguments)
            wrapper.finish_gradient_synchronization()
            if all(each["how"] in QUIET for each in passes[:-1]):
                sent = sum(each.nbytes for each in RECORD.started())
                check_true(
                    sent <= trained + 512,
                    "a gradient travels twice in a step with one backward pass outside no_sync",
                    {"bytes of the gradients": trained, "sent": sent},
                )
            found.append([None if p.grad is None else p.grad.clone() for p in model.all])
            if not keeps:
                wrapper.zero_grad()
    return [start, found]


QUIET = ("no_sync", "forward outside")  # backward is in no_sync


def go_backward(wrapper, how, arguments):
    """Run a forward and a backward pass, each inside no_sync or outside."""
    called = wrapper.module if how == "module" else wrapper
    with wrapper.no_sync() if how in ("no_sync", "forward inside") else contextlib.nullcontext():
        loss = called(*arguments)
    if not loss.requires_grad:
        return
    before = len(RECORD.started())
    with wrapper.no_sync() if how in QUIET else contextlib.nullcontext():
        loss.backward()
    check_true(
        how not in QUIET or len(RECORD.started()) == before,
        "a backward pass inside no_sync starts a collective",
        {"the forward pass was": "outside" if how == "forward outside" else "inside"},
    )


def parallel_gradients(described, tied, bucket_mb, steps, keeps, freezes_at, group, seed):
    return [
        _one_model(described, tied, steps, keeps, freezes_at, seed, rank, group == "own")
        for rank in range(2)
    ]


def _one_model(described, tied, steps, keeps, freezes_at, seed, rank, alone):
    sources = [rank] if alone else [0, 1]
    first = sources[0] if alone else 0
    values = parameters_of(described, seed + first)
    start = [p.detach().clone() for p in values]
    start += [torch.tensor(seed + first), torch.tensor(2.0 * (seed + first))]
    total = [None] * len(described)
    found = []
    for number, passes in enumerate(steps):
        for place, each in enumerate(passes):
            for source in sources:
                for index, (shape, _, trained, _) in enumerate(described):
                    frozen = not trained or (index == 0 and number >= freezes_at)
                    used = each["used"][source][index]
                    if used and not frozen:
                        at = seed + 1000 * number + 100 * place + source + index
                        gradient = whole_numbers(at, shape) + 2 * (tied and index == 0)
                        gradient = gradient * (used is True) / len(sources)
                        before = total[index]
                        total[index] = gradient if before is None else before + gradient
        kinds = [getattr(torch, dtype) for _, dtype, _, _ in described]
        found.append([None if t is None else t.to(k) for t, k in zip(total, kinds, strict=True)])
        if not keeps:
            total = [None] * len(described)
    return [start, found]


DATA = "training.data_parallel"
SPACES = [
    *(
        Space("a3.12", f"{DATA}.{name}", averaged(), call=call_average(name), oracle=averages,
              view=close, draws=20)
        for name in ("average_each_gradient", "average_flat_gradient")
    ),
    Space("a3.12", f"{DATA}.mean_over_ranks", shared_losses(), call=call_mean, oracle=means,
          view=close, draws=20),
    Space("a3.13", f"{DATA}.DataParallel.finish_gradient_synchronization", parallel_steps(),
          call=call_parallel, oracle=parallel_gradients, view=close, draws=25),
]  # fmt: skip
test_as_the_reference = check_on_ranks(SPACES)
