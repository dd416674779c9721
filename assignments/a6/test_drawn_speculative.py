"""a6.15 to a6.17 on drawn inputs: look-up, acceptance, whole answers."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from speculative_models import Table
from speculative_oracle import lookup
from torch import Tensor

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import laid_out
from lm_course.drawn_inputs.input_spaces import Space

pytestmark = pytest.mark.usefixtures("a6")  # one thread
NAME = "inference.speculative_decoding."


@dataclass(frozen=True)
class Distributions:
    """Rows of weights that become rows of probabilities: of one row, or of all."""

    weights: tuple[tuple[int, ...], ...]
    width: int
    dtype: str = "float32"
    layout: str = "contiguous"
    one: bool = False

    def build(self) -> Tensor:
        rows = torch.tensor(self.weights, dtype=torch.float64).reshape(-1, self.width)
        rows = (rows / rows.sum(-1, keepdim=True)).to(getattr(torch, self.dtype))
        return laid_out(rows[0] if self.one else rows, self.layout if len(rows) else "contiguous")


DTYPES = st.sampled_from(["float32", "float32", "float64"])
LAYOUTS = st.sampled_from(["contiguous", "contiguous", "transposed", "strided", "padded", "offset"])
LISTS = st.sampled_from([list, tuple])
# Never at a border of two tokens, which are ratios of small whole numbers; and the number 0.
NUMBERS = st.one_of(st.integers(0, 100).map(lambda number: (2 * number + 1) / 202), st.just(0.0))


@st.composite
def weights(draw, width):
    """Whole numbers that are not all 0."""
    made = [draw(st.sampled_from([1, 2, 5, 0, 0, 9])) for _ in range(width)]
    made[draw(st.integers(0, width - 1))] += draw(st.sampled_from([1, 3]))
    return tuple(made)


# a6.15

tokens = st.sampled_from([1, 2, 3, 11, 12, 0])


@st.composite
def texts(draw):
    least = draw(st.sampled_from([1, 1, 1, 2, 3, 0]))
    text = draw(st.lists(draw(st.sampled_from([tokens, st.sampled_from([1, 2])])), max_size=20))
    if size := draw(near_constants(st.just(0), 17, 500)):
        text = [number % (size - 1) for number in range(size)] + text
    return {
        "token_ids": draw(LISTS)(text),
        "max_ngram": max(0, least + draw(near_constants(st.sampled_from([0, 1, 2, 5, -1]), 0, 40))),
        "num_drafts": draw(near_constants(st.sampled_from([1, 2, 4, 30, 0, -1]), 1, 100)),
        "min_ngram": least,
    }


def lookup_oracle(token_ids, max_ngram, num_drafts, min_ngram):
    if not 1 <= min_ngram <= max_ngram or num_drafts < 0:
        raise ValueError
    return lookup(token_ids, max_ngram, num_drafts, min_ngram)


# a6.16


@st.composite
def pairs_of_distributions(draw):
    width, dtype = draw(near_constants(st.integers(1, 6), 1, 300)), draw(DTYPES)
    many = width > 16
    kind = draw(st.sampled_from(["other", "other", "equal", "less", "apart"]))
    target = tuple(number % 7 for number in range(1, width + 1)) if many else draw(weights(width))
    draft = tuple(reversed(target)) if many else draw(weights(width))
    if kind == "equal":
        draft = tuple(3 * weight for weight in target)
    if kind == "apart" and not many:
        draft = tuple(int(not weight) for weight in target)
        draft = draft if any(draft) else target
    return {
        "target": Distributions((target,), width, dtype, draw(LAYOUTS), one=True),
        "draft": Distributions((draft,), width, dtype, draw(LAYOUTS), one=True),
    }


@st.composite
def drafts_of_a_model(draw):
    width, count = draw(st.integers(1, 5)), draw(near_constants(st.integers(0, 4), 0, 20))
    dtype = draw(DTYPES)
    rows = [draw(weights(width)) for _ in range(count + 1)]
    wrote = [draw(st.one_of(st.just(row), weights(width))) for row in rows[:count]]
    possible = [[token for token, weight in enumerate(row) if weight] for row in wrote]
    return {
        "draft_ids": [draw(st.sampled_from(tokens)) for tokens in possible],
        "draft_probabilities": Distributions(tuple(wrote), width, dtype, draw(LAYOUTS)),
        "target_probabilities": Distributions(tuple(rows), width, dtype, draw(LAYOUTS)),
        "numbers": [(draw(NUMBERS), draw(NUMBERS)) for _ in range(count + 1)],
    }


@st.composite
def drafts_of_a_lookup(draw):
    width, count = draw(st.integers(1, 5)), draw(near_constants(st.integers(0, 4), 0, 20))
    sure = draw(st.booleans())
    ids = [draw(st.integers(0, width - 1)) for _ in range(count)]
    rows = [draw(weights(width)) for _ in range(count + 1)]
    if sure:  # mostly right drafts
        rows[:count] = [
            tuple(weight + 40 * (token == draft) for token, weight in enumerate(row))
            for row, draft in zip(rows, ids, strict=False)
        ]
    return {
        "draft_ids": ids,
        "target_probabilities": Distributions(tuple(rows), width, draw(DTYPES), draw(LAYOUTS)),
        "numbers": [draw(NUMBERS) for _ in range(count + 1)],
    }


# a6.17


@st.composite
def answers(draw):
    target = Table(
        seed=draw(st.integers(0, 99)),
        size=draw(st.sampled_from([2.0, 1.0, 5.0])),
        order=draw(st.sampled_from([2, 1, 3])),
        vocab_size=draw(st.sampled_from([4, 7])),
        context_length=draw(st.sampled_from([40, 40, 10])),
    )
    small = None
    if draw(st.booleans()):
        small = Table(**{**vars(target), "noise": draw(st.sampled_from([0.5, 0.2, 0.0, 2.0]))})
    ids = st.integers(0, target.vocab_size - 1)
    sampling = {
        "temperature": draw(st.sampled_from([1.0, 0.7, 0.0, 1.5])),
        "top_k": draw(st.sampled_from([0, 0, 2])),
        "top_p": draw(st.sampled_from([1.0, 1.0, 0.8])),
        "min_p": draw(st.sampled_from([0.0, 0.0, 0.1])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.5])),
        "presence_penalty": draw(st.sampled_from([0.0, 0.0, 1.0])),
        "frequency_penalty": draw(st.sampled_from([0.0, 0.0, 1.0])),
        "logit_bias": draw(st.sampled_from([{}, {}, {1: 2.0}])),
        "seed": draw(st.sampled_from([0, 1, 2**63 - 1, 12345])),
    }
    return {
        "target": target,
        "small": small,
        "prompt": draw(LISTS)(draw(st.lists(ids, min_size=1, max_size=8))),
        "sampling": sampling,
        "max_new_tokens": draw(st.sampled_from([4, 5, 6, 7, 1, 2])),
        "stop": draw(st.sampled_from([(), (), (3,), {0, 2}])),
        "num_drafts": draw(st.sampled_from([3, 4, 1, 2, 0, 7])),
        "max_ngram": draw(st.sampled_from([2, 3, 1])),
    }


def generate(module, target, small, prompt, sampling, max_new_tokens, stop, num_drafts, max_ngram):
    """Generate, and count the passes ourselves, too."""
    from inference.sampling import SamplingSettings

    settings = SamplingSettings(**sampling)
    model, draft_model = target.model(), None if small is None else small.model()
    answer, num_passes = module.speculative_generate(
        model, draft_model, prompt, settings, max_new_tokens, stop, num_drafts, max_ngram
    )
    # As many of the tokens read as are neither of the prompt nor of passes: the drafts.
    num_drafted = sum(map(len, model.given)) - len(prompt) - (num_passes - 1)
    return answer, num_passes, num_drafted


SPACES = [
    Space(
        "a6.15",
        f"{NAME}prompt_lookup",
        texts(),
        oracle=lookup_oracle,
        draws=60,
    ),
    Space("a6.16", f"{NAME}residual", pairs_of_distributions(), draws=30),
    Space("a6.16", f"{NAME}accept_drafts", drafts_of_a_model(), draws=40),
    Space("a6.16", f"{NAME}accept_lookup", drafts_of_a_lookup(), draws=30),
    Space("a6.17", f"{NAME}speculative_generate", answers(), generate, draws=25),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
