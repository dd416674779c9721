"""a3.16 and a3.17 on drawn inputs, on two ranks; the oracles compute in one process, in float64."""

import pytest
import torch
from drawn_on_ranks import SEEDS, check_on_ranks, close, groups, leaving_alone, on_two_ranks
from hypothesis import strategies as st
from rank_models import drawn, load, part

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_tensors import LAYOUTS, TensorInput, integers, laid_out, tensor
from lm_course.drawn_inputs.drawn_tensors import shapes as tensor_shapes
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within

pytestmark = pytest.mark.usefixtures("a3")
widths = near_constants(st.integers(1, 7), 1, 300)
TYPES = ("float32", "float64")


def own_part(x, dim, rank, group):
    """Return the rank's part; all of it in a group of its own."""
    return x if group == "own" else part(x, dim, rank)


def named(group):
    return {} if group is None else {"group": group}


def differentiated(inputs, result, upstream, is_own=True):
    """Return the result and the gradients of its weighted sum. Then change the result, if it
    belongs to the caller: the inputs must stay as they are.
    """
    found = {}
    if result.requires_grad:
        names = [name for name, x in inputs.items() if x is not None]
        with leaving_alone(upstream):
            gradients = torch.autograd.grad(result, [inputs[n] for n in names], upstream)
        found = {name: x.clone() for name, x in zip(names, gradients, strict=True)}
    kept = result.detach().clone()
    if is_own:
        result.detach().add_(1)
    return [kept, found if result.requires_grad else None]


# a3.16

# How a tensor lies in memory on each rank.
layouts = st.tuples(*[st.sampled_from([each for each in LAYOUTS if each != "expanded"])] * 2)


@st.composite
def exchanged(draw):
    shape = draw(tensor_shapes(0, 3))
    x = tensor(draw, shape, TYPES)
    return {"x": x, "layouts": draw(layouts), "group": draw(groups), "seed": draw(SEEDS)}


def call_exchange(name):
    @on_two_ranks
    def call(module, rank, group, x, layouts, seed):
        values = (x.detach() * (rank + 1)).contiguous()
        own = laid_out(values, layouts[rank]).requires_grad_()
        with leaving_alone(own, x):
            y = getattr(module, name)(own, *([] if group is None else [group]))
            upstream = drawn(seed + rank, *x.shape, dtype=x.dtype)
            upstream = laid_out(upstream, layouts[rank])
            return differentiated({"x": own}, y, upstream, name != "copy_to_ranks")

    return call


def exchange(name):
    def oracle(x, layouts, group, seed):
        upstream = [drawn(seed + rank, *x.shape, dtype=x.dtype) for rank in range(2)]
        results = []
        for rank in range(2):
            y, gradient = x * (rank + 1), upstream[rank]
            if group != "own" and name == "copy_to_ranks":
                gradient = upstream[0] + upstream[1]
            if group != "own" and name == "sum_over_ranks":
                y = 3 * x
            results.append([y, {"x": gradient}])
        return results

    return oracle


@st.composite
def linears(draw):
    d_in, d_out = draw(widths), draw(widths)
    x = tensor(draw, (*draw(tensor_shapes(0, 3, 4)), d_in), TYPES, (1.0, 100.0))
    return {
        "x": x,
        "d_out": d_out,
        "bias": draw(st.booleans()),
        "gather": draw(st.booleans()),
        "copies": draw(st.booleans()),
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


def whole_layer(x, d_out, bias, seed):
    weight = drawn(seed, d_out, x.shape[-1], dtype=x.dtype)
    return weight, drawn(seed + 1, d_out, dtype=x.dtype) if bias else None


def group_name(group):
    """Return "own" if the group has this rank alone."""
    return "own" if group is not None and group.size() == 1 else "all"


@on_two_ranks
def call_column(module, rank, group, x, d_out, bias, gather, copies, seed):
    weight, offset = whole_layer(x, d_out, bias, seed)
    kind = group_name(group)
    layer, other = (
        module.ColumnParallelLinear(
            x.shape[-1], width, bias, gather, copies_input=copies, **named(group)
        )
        for width in (d_out, d_out + 2)  # the second is there to be mixed up with
    )
    values = {"weight": own_part(weight, 0, rank, kind)}
    if bias:
        values["bias"] = own_part(offset, 0, rank, kind)
    load(layer, **values)
    own = x.detach().requires_grad_()
    with leaving_alone(own, layer.weight):
        y = layer(own)
        upstream = drawn(seed + 2, *x.shape[:-1], d_out, dtype=x.dtype)
        upstream = upstream if gather else own_part(upstream, -1, rank, kind)
        inputs = {"x": own, "weight": layer.weight, "bias": layer.bias}
        return [*differentiated(inputs, y, upstream), len(other.rows)]


def columns(x, d_out, bias, gather, copies, group, seed):
    weight, offset = (None if v is None else v.double() for v in whole_layer(x, d_out, bias, seed))
    wide = x.double()
    y = wide @ weight.T + (0 if offset is None else offset)
    upstream = drawn(seed + 2, *x.shape[:-1], d_out, dtype=x.dtype).double()
    rows = upstream.reshape(-1, d_out)
    results = []
    for rank in range(2):
        x_gradient = upstream @ weight
        if not copies:
            x_gradient = own_part(upstream, -1, rank, group) @ own_part(weight, 0, rank, group)
        found = {
            "x": x_gradient,
            "weight": own_part(rows.T @ wide.reshape(-1, x.shape[-1]), 0, rank, group),
        }
        if bias:
            found["bias"] = own_part(rows.sum(0), 0, rank, group)
        result = y if gather else own_part(y, -1, rank, group)
        found = {name: value.to(x.dtype) for name, value in found.items()}
        number = d_out + 2 if group == "own" else part(torch.zeros(d_out + 2), 0, rank).numel()
        results.append([result.to(x.dtype), found, number])
    return results


@on_two_ranks
def call_row(module, rank, group, x, d_out, bias, gather, copies, seed):
    weight, offset = whole_layer(x, d_out, bias, seed)
    kind = group_name(group)
    layer = module.RowParallelLinear(x.shape[-1], d_out, bias, **named(group))
    values = {"weight": own_part(weight, 1, rank, kind)} | ({"bias": offset} if bias else {})
    load(layer, **values)
    own = own_part(x.detach(), -1, rank, kind).requires_grad_()
    with leaving_alone(own, layer.weight):
        y = layer(own)
        upstream = drawn(seed + 2, *x.shape[:-1], d_out, dtype=x.dtype)
        inputs = {"x": own, "weight": layer.weight, "bias": layer.bias}
        return differentiated(inputs, y, upstream)


def rows(x, d_out, bias, gather, copies, group, seed):
    weight, offset = (None if v is None else v.double() for v in whole_layer(x, d_out, bias, seed))
    wide = x.double()
    y = wide @ weight.T + (0 if offset is None else offset)
    upstream = drawn(seed + 2, *x.shape[:-1], d_out, dtype=x.dtype).double()
    flat = upstream.reshape(-1, d_out)
    results = []
    for rank in range(2):
        found = {
            "x": own_part(upstream @ weight, -1, rank, group),
            "weight": own_part(flat.T @ wide.reshape(-1, x.shape[-1]), 1, rank, group),
        }
        if bias:
            found["bias"] = flat.sum(0)
        found = {name: value.to(x.dtype) for name, value in found.items()}
        results.append([y.to(x.dtype), found])
    return results


# a3.17


@st.composite
def embeddings(draw):
    vocab_size = draw(near_constants(st.integers(1, 9), 1, 300))
    return {
        "ids": integers(draw, draw(tensor_shapes(0, 3, 4)), vocab_size),
        "vocab_size": vocab_size,
        "d_model": draw(widths),
        "dtype": draw(st.sampled_from(TYPES)),
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


@on_two_ranks
def call_embedding(module, rank, group, ids, vocab_size, d_model, dtype, seed):
    table = drawn(seed, vocab_size, d_model, dtype=getattr(torch, dtype))
    layer = module.VocabParallelEmbedding(vocab_size, d_model, **named(group))
    load(layer, weight=own_part(table, 0, rank, group_name(group)))
    with leaving_alone(ids, layer.weight):
        y = layer(ids)
        upstream = drawn(seed + 1, *ids.shape, d_model, dtype=y.dtype)
        result, found = differentiated({"weight": layer.weight}, y, upstream)
        return [result, {name: value.to_dense() for name, value in found.items()}]


def embedded(ids, vocab_size, d_model, dtype, group, seed):
    table = drawn(seed, vocab_size, d_model, dtype=getattr(torch, dtype))
    upstream = drawn(seed + 1, *ids.shape, d_model, dtype=table.dtype)
    gradient = torch.zeros_like(table).index_add(0, ids.flatten(), upstream.reshape(-1, d_model))
    return [[table[ids], {"weight": own_part(gradient, 0, rank, group)}] for rank in range(2)]


@st.composite
def vocabularies(draw):
    vocab_size = draw(near_constants(st.integers(1, 9), 1, 300))
    shape = draw(tensor_shapes(0, 3, 4))
    types = ("float32", "float64", "bfloat16", "float16")
    sizes = (1.0, 3.0, 30.0, 1e4)
    logits = tensor(draw, (*shape, vocab_size), types, sizes, (0.0, 0.0, -2e4))
    hidden = TensorInput(logits.shape, "bool", seed=draw(SEEDS))
    return {
        "logits": logits,
        "targets": integers(draw, shape, vocab_size),
        "hidden": hidden if draw(st.booleans()) else None,
        "wrong": draw(st.sampled_from([0, 0, 0, 0, 1])),
        "group": draw(groups),
        "seed": draw(SEEDS),
    }


def masked(logits, targets, hidden):
    """Some logits are -inf, as a mask makes them; never the target's."""
    if hidden is None:
        return logits.clone()
    hidden = hidden.clone().scatter_(-1, targets.unsqueeze(-1), False)
    return logits.masked_fill(hidden, -torch.inf)


@on_two_ranks
def call_loss(module, rank, group, logits, targets, hidden, wrong, seed):
    values = masked(logits, targets, hidden)
    own = own_part(values, -1, rank, group_name(group)).detach().requires_grad_()
    with leaving_alone(own, targets):
        try:
            loss = module.vocab_parallel_cross_entropy(
                own, targets, logits.shape[-1] + 2 * wrong, **named(group)
            )
        except ValueError:
            return "refused"
        upstream = drawn(seed, *targets.shape, dtype=loss.dtype)
        return differentiated({"logits": own}, loss, upstream)


def divided_losses(logits, targets, hidden, wrong, group, seed):
    if wrong:
        return ["refused"] * 2
    dtype = torch.promote_types(logits.dtype, torch.float32)
    wide = masked(logits, targets, hidden).double()
    log_p = wide.log_softmax(-1)
    loss = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    upstream = drawn(seed, *targets.shape, dtype=dtype).double().unsqueeze(-1)
    gradient = log_p.exp().scatter_add(
        -1, targets.unsqueeze(-1), -torch.ones_like(targets.unsqueeze(-1), dtype=torch.float64)
    )
    gradient = (gradient * upstream).to(logits.dtype)
    return [[loss.to(dtype), {"logits": own_part(gradient, -1, rank, group)}] for rank in range(2)]


def close_losses(results):
    """A gradient of 16 bits is rounded once, at the end."""
    return [each if each == "refused" else [close(each[0]), rounded(each[1])] for each in results]


def rounded(found):
    half = {n: Within(x, 2**-7, 1e-5) for n, x in found.items() if x.dtype.itemsize == 2}
    return close(found) | half


TENSOR = "training.tensor_parallel"
SPACES = [
    *(
        Space("a3.16", f"{TENSOR}.{name}", exchanged(), call=call_exchange(name),
              oracle=exchange(name), view=close, draws=15)
        for name in ("copy_to_ranks", "sum_over_ranks")
    ),
    Space("a3.16", f"{TENSOR}.ColumnParallelLinear.forward", linears(), call=call_column,
          oracle=columns, view=close, draws=30),
    Space("a3.16", f"{TENSOR}.RowParallelLinear.forward", linears(), call=call_row,
          oracle=rows, view=close, draws=25),
    Space("a3.17", f"{TENSOR}.VocabParallelEmbedding.forward", embeddings(), call=call_embedding,
          oracle=embedded, view=close, draws=25),
    Space("a3.17", f"{TENSOR}.vocab_parallel_cross_entropy", vocabularies(), call=call_loss,
          oracle=divided_losses, view=close_losses, draws=40),
]  # fmt: skip
test_as_the_reference = check_on_ranks(SPACES)
