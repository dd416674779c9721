"""a3.14 and a3.15 on drawn inputs, on two ranks; the oracles compute in one process."""

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
from rank_models import Momentum
from torch import nn

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within

pytestmark = pytest.mark.usefixtures("a3", "compiler_loaded")
# a3.14


@st.composite
def optimizer_runs(draw):
    described = draw(parameter_lists(dtypes=("float32", "float64"), least=1))
    number = len(described)
    return {
        "described": described,
        "second": draw(st.lists(st.booleans(), min_size=number, max_size=number)),
        "added_at": draw(st.sampled_from([0, 1, 2, 9])),
        "given_as": draw(st.sampled_from(["list", "tuple", "iterator", "alone", "no group"])),
        "switched": draw(st.lists(st.booleans(), min_size=number, max_size=number)),
        "switched_at": draw(st.sampled_from([9, 0, 1, 2])),  # frozen ones are trained from here on
        "renewed_at": draw(st.sampled_from([9, 0, 1, 2])),  # as by load_state_dict
        "kind": draw(st.sampled_from(["AdamW", "SGD"])),
        "rates": draw(st.lists(st.sampled_from([0.1, 0.0, 0.03]), min_size=1, max_size=4)),
        "present": draw(st.lists(st.booleans(), min_size=number, max_size=number)),
        "decay": draw(st.sampled_from([0.0, 0.1])),
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


def gradients_at(step, described, present, seed):
    return [
        whole_numbers(seed + 50 * step + i, shape, dtype) if here or step == 1 else None
        for i, ((shape, dtype, _, _), here) in enumerate(zip(described, present, strict=True))
    ]


def as_given(parameters, way):
    """Return the parameters in one of the ways in which a group may have them."""
    if way == "alone" and len(parameters) == 1:
        return parameters[0]
    return {"tuple": tuple, "iterator": iter}.get(way, list)(parameters)


@on_two_ranks
def call_optimizer(
    module, rank, group, described, second, added_at, given_as, switched, switched_at, renewed_at,
    kind, rates, present, decay, seed,
):  # fmt: skip
    parameters = parameters_of(described, seed)
    settings = {"lr": 0.5, "weight_decay": decay} | ({"momentum": 0.9} if kind == "SGD" else {})
    later = [p for p, flag in zip(parameters, second, strict=True) if flag]
    now = [p for p in parameters if not any(p is other for other in later)]
    bare = now and given_as == "no group"  # PyTorch refuses an empty list
    optimizer = module.ShardedOptimizer(
        iter(now) if bare else [{"params": as_given(now, given_as)}],
        getattr(torch.optim, kind),
        process_group=group,
        **settings,
    )
    with leaving_alone():
        for step, rate in enumerate(rates):
            if step == switched_at:
                for parameter, flag in zip(parameters, switched, strict=True):
                    parameter.requires_grad_(parameter.requires_grad != flag)
            if step == added_at:
                given = as_given(later, given_as)
                optimizer.add_param_group({"params": given, "weight_decay": 0.3})
            if step == renewed_at:
                optimizer.param_groups = [dict(each) for each in optimizer.param_groups]
            for each in optimizer.param_groups:
                each["lr"] = rate
            for parameter, gradient in zip(
                parameters, gradients_at(step, described, present, seed), strict=True
            ):
                parameter.grad = gradient if parameter.requires_grad else None
            optimizer.step()
    return [parameters, [bool(optimizer.state.get(p)) for p in parameters], switched]


def view_optimizer(results):
    """The parameters; on how many ranks each has state; and the bytes of the two loads, without
    parameters that were frozen at some time: who owns these is free.
    """
    (first, owns, switched), (_, others, _) = results
    size = [
        p.numel() * p.element_size() * (not flag) for p, flag in zip(first, switched, strict=True)
    ]
    loads = [sum(n for n, own in zip(size, each, strict=True) if own) for each in (owns, others)]
    counts = [int(a) + int(b) for a, b in zip(owns, others, strict=True)]
    return close([[parameters for parameters, *_ in results], counts, sorted(loads)])


def optimized(
    described, second, added_at, given_as, switched, switched_at, renewed_at, kind, rates, present,
    decay, group, seed,
):  # fmt: skip
    """The formulas, in float64, and the rule of the handout for the owners."""
    values = [p.detach().double() for p in parameters_of(described, seed)]
    kinds = [getattr(torch, dtype) for _, dtype, _, _ in described]
    loads, owners = [0, 0], {}
    trained = [flag for _, _, flag, _ in described]

    def give(indices):
        size = {i: values[i].numel() * kinds[i].itemsize * trained[i] for i in indices}
        for i in sorted(size, key=lambda i: -size[i]):
            owner = loads.index(min(loads))
            owners[i] = owner
            loads[owner] += size[i]

    give(i for i, flag in enumerate(second) if not flag)
    means, squares, counts = {}, {}, {}
    for step, rate in enumerate(rates):
        if step == switched_at:
            trained = [own != flag for own, flag in zip(trained, switched, strict=True)]
        if step == added_at:
            give(i for i, flag in enumerate(second) if flag)
        for i, gradient in enumerate(gradients_at(step, described, present, seed)):
            if i not in owners or gradient is None or not trained[i]:
                continue
            weight_decay = 0.3 if second[i] else decay
            g, counts[i] = gradient.double(), counts.get(i, 0) + 1
            if kind == "SGD":
                g = g + weight_decay * values[i]
                means[i] = 0.9 * means[i] + g if i in means else g
                values[i] = values[i] - rate * means[i]
                continue
            values[i] = values[i] * (1 - rate * weight_decay)
            means[i] = 0.9 * means.get(i, 0) + 0.1 * g
            squares[i] = 0.999 * squares.get(i, 0) + 0.001 * g * g
            mean, square = means[i] / (1 - 0.9 ** counts[i]), squares[i] / (1 - 0.999 ** counts[i])
            values[i] = values[i] - rate * mean / (square.sqrt() + 1e-8)
    final = [v.to(k) for v, k in zip(values, kinds, strict=True)]
    flags = [
        [i in counts and (group == "own" or owners[i] == rank) for i in range(len(values))]
        for rank in range(2)
    ]
    return [[final, each, switched] for each in flags]


# a3.15


class Chain(nn.Module):
    """Linear blocks, of which a call leaves some out, between an inward map and a head."""

    def __init__(self, width, number, tied, frozen, dtype, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.inward = nn.Linear(3, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width, bias=i != 1) for i in range(number))
        self.head = nn.Linear(width, 3)
        if "blocks" in tied and number > 1:
            self.blocks[-1].weight = self.blocks[0].weight
        if "ends" in tied and width == 3:
            self.head.weight = self.inward.weight
        for index, flag in enumerate(frozen[:number]):
            self.blocks[index].requires_grad_(not flag)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.to(getattr(torch, dtype))

    def forward(self, x, used):
        x = self.inward(x)
        for index, block in enumerate(self.blocks):
            if used[index]:
                x = x + torch.tanh(block(x))
        return self.head(x) * self.scale


@st.composite
def sharded_runs(draw):
    number = draw(near_constants(st.integers(1, 4), 1, 8))
    every = st.lists(st.booleans(), min_size=number, max_size=number)
    skips = draw(st.booleans())
    used = st.tuples(every, every) if skips else st.just(([True] * number, [True] * number))
    return {
        "width": draw(near_constants(st.integers(1, 5), 1, 40)),
        "number": number,
        "tied": draw(st.sampled_from(["", "", "blocks", "ends", "blocks and ends"])),
        "frozen": draw(st.sampled_from([[False] * 8, [False, True] * 4, [True] + [False] * 7])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "narrow": draw(st.booleans()),
        "steps": draw(st.lists(st.lists(used, min_size=1, max_size=2), min_size=1, max_size=2)),
        "once": draw(st.booleans()) and not skips,
        "joined": draw(st.booleans()) and not skips,  # all forward passes before one backward pass
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


RATE = 1e-3


def input_at(step, place, rank, seed, dtype):
    generator = torch.Generator().manual_seed(seed + 1000 * step + 10 * place + rank)
    return torch.randn(2, 3, generator=generator).to(getattr(torch, dtype))


@on_two_ranks
def call_sharded(
    module, rank, group, width, number, tied, frozen, dtype, narrow, steps, once, joined, seed
):
    model = Chain(width, number, tied, frozen, dtype, seed + rank)
    compute = torch.bfloat16 if narrow else None
    sharded = module.FullySharded(model, compute, group)
    optimizer = Momentum(sharded.parameters(), lr=RATE)
    found = []
    with leaving_alone():
        for step, passes in enumerate(steps):
            losses = []
            for place, used in enumerate(passes):
                x = input_at(step, place, rank, seed, dtype)
                losses.append(sharded(x, used[rank]).to(x.dtype).square().sum())
                if not joined:
                    losses.pop().backward()
                    if not once:
                        sharded.finish_gradient_synchronization()
            if joined:
                sum(losses).backward()
            if once or joined:
                sharded.finish_gradient_synchronization()
            missing = sorted(n for n, p in sharded.named_parameters() if p.grad is None)
            optimizer.step()
            found.append([sharded.full_parameters(), missing])
    return found


def view_sharded(results):
    """The weights have moved by little: that is compared, not the weights alone."""
    return [
        [[{n: within_a_step(x) for n, x in full.items()}, missing] for full, missing in found]
        for found in results
    ]


def within_a_step(x):
    return Within(x, 1e-6, 0.2 * RATE)


def trained_whole(width, number, tied, frozen, dtype, narrow, steps, once, joined, group, seed):
    results = []
    for rank in range(2):
        sources = [rank] if group == "own" else [0, 1]
        model = Chain(width, number, tied, frozen, dtype, seed + sources[0])
        optimizer = Momentum(model.parameters(), lr=RATE)
        found = []
        for step, passes in enumerate(steps):
            for place, used in enumerate(passes):
                for source in sources:
                    x = input_at(step, place, source, seed, dtype)
                    loss = model(x, used[source]).square().sum() / len(sources)
                    loss.backward()
            missing = sorted(n for n, p in model.named_parameters() if p.grad is None)
            optimizer.step()
            full = {n: p.detach().clone() for n, p in model.named_parameters()}
            found.append([full, missing])
        results.append(found)
    return results


SPACES = [
    Space("a3.14", "training.sharded_optimizer.ShardedOptimizer.step", optimizer_runs(),
          call=call_optimizer, oracle=optimized, view=view_optimizer, draws=20),
    Space("a3.15", "training.fully_sharded.FullySharded.forward", sharded_runs(),
          call=call_sharded, oracle=trained_whole, view=view_sharded, draws=20),
]  # fmt: skip
test_as_the_reference = check_on_ranks(SPACES)
