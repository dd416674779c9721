"""a2.20 and a2.21 on drawn inputs: the Triton kernels, run by Triton's interpreter on the CPU.

The inputs are few and tiny, because a program takes some milliseconds. The results are compared
with the formulas of the handout in float64. The contracts of other functions make no sense here: a
kernel writes to memory that it is given; that it writes to nothing else is checked with each call.
"""

import ctypes
import mmap
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from interpreter_errors import own_error

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import TensorInput, tensor
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.grading.comparisons import check_true

pytestmark = pytest.mark.usefixtures("a2", "triton")
LAYOUTS = ("contiguous", "split", "spaced", "padded", "followed")
dtypes = st.sampled_from(["float32", "float16", "bfloat16"])
# Tiles have 64 queries and 32 keys.
rows = near_constants(st.sampled_from([1, 3, 33, 65, 70]), 1, 140)
keys = near_constants(st.sampled_from([1, 2, 5, 31, 40, 70]), 1, 140)
few = near_constants(st.integers(1, 40), 1, 70)
few_keys = near_constants(st.integers(0, 40), 0, 70)
packed = st.none() | st.none() | st.lists(st.tuples(few, few_keys), min_size=1, max_size=3)
heads = st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)])
widths = near_constants(st.sampled_from([16, 16, 8, 24]), 1, 40)
windows = near_constants(st.sampled_from([None, 1, 3, 20, 31, 33]), 1, 140)
booleans = st.booleans()


def case(num_queries, num_keys, width=16, heads=1, kv_heads=1, **options):
    return {
        "q": TensorInput((1, heads, num_queries, width), seed=1),
        "k": TensorInput((1, kv_heads, num_keys, width), seed=2),
        "v": TensorInput((1, kv_heads, num_keys, width), seed=3, layout="followed"),
        "sequences": None,
        "is_causal": True,
        "window": None,
        "ends": False,
        **options,
    }


# Where rows are not positions, and where the next sequence begins within a tile.
CASES = [
    case(70, 31, window=3),
    case(5, 70, window=20, heads=2),
    case(129, 129, window=95),  # a tile begins one position before a window
    case(43, 42, sequences=[(3, 40), (40, 2)], is_causal=False),
]


@st.composite
def kernel_inputs(draw):
    dtype, width, (num_heads, kv_heads) = draw(dtypes), draw(widths), draw(heads)
    sequences, is_causal = draw(packed), draw(booleans)
    if sequences is None:
        batch, num_queries, num_keys = draw(st.integers(1, 2)), draw(rows), draw(keys)
    else:
        batch, num_queries, num_keys = 1, *(sum(each) for each in zip(*sequences, strict=True))
    # Some scores are all far below 0, the score of what is not there.
    high, low = (
        {"layouts": LAYOUTS, "offsets": (0.0, 5.0)},
        {
            "layouts": LAYOUTS,
            "offsets": (0.0, -5.0),
        },
    )
    key_shape = (batch, kv_heads, num_keys, width)
    return {
        "q": tensor(draw, (batch, num_heads, num_queries, width), (dtype,), **high),
        "k": tensor(draw, key_shape, (dtype,), (1.0, 4.0), **low),
        "v": tensor(draw, key_shape, (dtype,), offsets=(0.0, 20.0), layouts=LAYOUTS),
        "sequences": sequences,
        "is_causal": is_causal,
        "window": draw(windows) if is_causal else None,
        "ends": draw(booleans),
    }


def at_the_end(x):
    """Return a copy of a contiguous tensor with nothing behind it: to read there ends the
    process.
    """
    if not x.is_contiguous():
        return x
    size = x.numel() * x.element_size()
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    behind = ctypes.c_void_p(start + pages * mmap.PAGESIZE)
    ctypes.CDLL(None).mprotect(behind, mmap.PAGESIZE, 0)
    offset = pages * mmap.PAGESIZE - size
    copied = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=offset)
    return copied.view(x.shape).copy_(x)


def parts_of(q, k, sequences):
    """Return each sequence's slices of the rows of q and of k."""
    if sequences is None:
        return [(slice(0, q.shape[2]), slice(0, k.shape[2]))]
    parts, first_q, first_k = [], 0, 0
    for num_queries, num_keys in sequences:
        parts.append((slice(first_q, first_q + num_queries), slice(first_k, first_k + num_keys)))
        first_q, first_k = first_q + num_queries, first_k + num_keys
    return parts


def settings_of(q, k, sequences, is_causal, window):
    """Return the arguments of the operators after the tensors."""
    if sequences is None:
        return None, None, q.shape[2], k.shape[2], is_causal, window or 0
    both = [
        torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
        for lengths in zip(*sequences, strict=True)
    ]
    return *both, *(max(each) for each in zip(*sequences, strict=True)), is_causal, window or 0


def scores_of(q, k, is_causal, window):
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    queries, keys = q.shape[2], k.shape[2]
    distance = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
    hidden = (distance < 0) & is_causal
    if window:
        hidden = hidden | (distance >= window)
    return scores.masked_fill(hidden, float("-inf"))


def forward_oracle(q, k, v, sequences, is_causal, window, ends=False):
    """Return o and lse, by the formula."""
    q, k, v = q.double(), *(x.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
                            for x in (k, v))  # fmt: skip
    o, lse = [], []
    for queries, keys in parts_of(q, k, sequences):
        scores = scores_of(q[:, :, queries], k[:, :, keys], is_causal, window)
        lse.append(torch.logsumexp(scores, -1))
        o.append(torch.softmax(scores, -1).nan_to_num(0.0) @ v[:, :, keys])
    return torch.cat(o, 2), torch.cat(lse, 2)


def run(operator, tensors, settings, ends):
    """Call an operator of the given launcher, with memory that holds NaN until it is written."""
    launcher = import_module("transformer_lm.kernels.flash_attention")
    tensors = [at_the_end(x) if ends else x for x in tensors]
    before = [x.clone() for x in tensors]
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy; hidden scores may be inf
        results = own_error(lambda: getattr(launcher, operator)(*tensors, *settings))
    for x, old in zip(tensors, before, strict=True):
        check_true(torch.equal(x, old), "a kernel writes to its inputs")
    return results


def call_forward(module, q, k, v, sequences, is_causal, window, ends):
    settings = settings_of(q, k, sequences, is_causal, window)
    return run("forward_operator", (q, k, v), settings, ends)


# Rounded once; in the types of half the size, so are the weights that v is multiplied with.
ALLOWED = {
    torch.float32: (1e-4, 1e-5),
    torch.float16: (2**-10, 1e-3),
    torch.bfloat16: (2**-7, 1e-2),
}


def rounded_oracle(oracle):
    def rounded(q, k, v, **options):
        o, lse = oracle(q, k, v, **options)
        return o.to(q.dtype), lse.float()

    return rounded


def view_forward(value):
    o, lse = value
    rtol, atol = ALLOWED[o.dtype]
    size = max(1.0, float(o.abs().max()))
    return {"o": within(rtol, atol * size)(o), "lse": within(1e-4, 1e-4)(lse)}


# a2.21


def saved_of(q, k, v, **options):
    """Return what the forward pass keeps, and the gradient of o."""
    o, lse = forward_oracle(q, k, v, **options)
    generator = torch.Generator().manual_seed(5)
    grad = torch.randn(o.shape, generator=generator).to(q.dtype)
    return grad, o.to(q.dtype), lse.float()


def call_backward(module, q, k, v, sequences, is_causal, window, ends):
    options = {"sequences": sequences, "is_causal": is_causal, "window": window}
    grad, o, lse = saved_of(q, k, v, **options)
    settings = settings_of(q, k, **options)
    return run("backward_operator", (grad, q, k, v, o, lse), settings, ends)


def backward_oracle(q, k, v, sequences, is_causal, window, ends=False):
    """Return dq, dk and dv by the formulas of task 18, from o as it was kept."""
    options = {"sequences": sequences, "is_causal": is_causal, "window": window}
    grad, o, lse = (x.double() for x in saved_of(q, k, v, **options))
    group, scale = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5
    wide = [x.double().repeat_interleave(group, 1) for x in (k, v)]
    dq, *others = q.double().clone(), *(torch.zeros_like(x) for x in wide)
    for queries, keys in parts_of(q, k, sequences):
        k_part, v_part = (x[:, :, keys] for x in wide)
        q_part, grad_part = q[:, :, queries].double(), grad[:, :, queries]
        scores = scores_of(q_part, k_part, is_causal, window)
        weights = (scores - lse[:, :, queries, None]).exp().nan_to_num(0.0)
        delta = (grad_part * o[:, :, queries]).sum(-1, keepdim=True)
        d_scores = weights * (grad_part @ v_part.transpose(-1, -2) - delta) * scale
        dq[:, :, queries] = d_scores @ k_part
        others[0][:, :, keys] = d_scores.transpose(-1, -2) @ q_part
        others[1][:, :, keys] = weights.transpose(-1, -2) @ grad_part
    dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in others)
    return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype)


def view_backward(value):
    """dq and dk contain a difference of sums of v, which may be 20 times as large as they are: in
    float32, that shows.
    """
    rtol, atol = ALLOWED[value[0].dtype]
    least = 10.0 if value[0].dtype == torch.float32 else 1.0
    sizes = {"dq": least, "dk": least, "dv": 1.0}
    return {
        name: within(2 * rtol, 2 * atol * max(size, float(x.abs().max())))(x)
        for (name, size), x in zip(sizes.items(), value, strict=True)
    }


SPACES = [
    Space(
        "a2.20",
        "transformer_lm.flash_attention_forward.forward_kernel",
        kernel_inputs(),
        call_forward,
        view_forward,
        oracle=rounded_oracle(forward_oracle),
        examples=CASES,
        draws=20,
    ),
    Space(
        "a2.21",
        "transformer_lm.flash_attention_backward.key_gradient_kernel and the others",
        kernel_inputs(),
        call_backward,
        view_backward,
        oracle=backward_oracle,
        examples=CASES,
        draws=12,
    ),
]

test_as_the_reference, _ = drawn_checks(SPACES)
