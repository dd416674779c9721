"""a6.1 to a6.3 and a6.8 on drawn inputs: the space of each graded function."""

import pytest
import torch
from hypothesis import strategies as st
from sampling_oracle import (
    MINUS_INFINITY,
    divided,
    far_min_p,
    far_p,
    number_of,
    penalized,
    picked,
    sample_seed,
    shown,
    top_k,
    top_p,
)

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import within
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.drawn_tensors import LAYOUTS, TensorInput, shapes, tensor
from lm_course.drawn_inputs.input_spaces import Space, arguments

pytestmark = pytest.mark.usefixtures("a6")  # one thread
NAME = "inference.sampling."
STOP = "inference.stop_strings.StopStringFilter."
FLOATS = ("float32", "float32", "float64", "bfloat16")
CHANGEABLE = tuple(layout for layout in LAYOUTS if layout != "expanded")
booleans = st.booleans()
seeds = st.one_of(st.integers(0, 9), st.integers(0, 2**63 - 1), st.just(2**63 - 1))


# a6.1


places = st.lists(st.integers(0, 8), max_size=7)
long = near_constants(st.just(0), 2, 600)


def some_ids(draw, vocab):
    drawn = [place % vocab for place in draw(places)]
    drawn += [number * 7 % vocab for number in range(draw(long))]
    return tuple(drawn) if draw(booleans) else drawn


number = st.sampled_from([0.0, 0.0, 0.5, 1.25, -0.75, 2.0])
biases = st.dictionaries(st.integers(0, 8), st.sampled_from([-100.0, 2.0, 0.5, 50.0]), max_size=3)


@st.composite
def penalties(draw):
    vocab = draw(near_constants(st.integers(1, 9), 1, 2000))
    bias = {token % vocab: number for token, number in draw(biases).items()}
    if draw(st.integers(0, 7)) == 7:
        bias[vocab + draw(st.sampled_from([0, 0, 1, 1000]))] = 1.0
    prompt, answer = some_ids(draw, vocab), some_ids(draw, vocab)
    near_both = st.sampled_from([*prompt[:3], *answer[:3], 0])
    return {
        "logits": tensor(draw, (vocab,), FLOATS, (1.0, 5.0), (0.0, 0.0, -3.0), CHANGEABLE),
        "prompt_ids": prompt,
        "answer_ids": answer,
        "fields": {
            "repetition_penalty": draw(st.sampled_from([1.0, 1.3, 2.0, 0.5])),
            "presence_penalty": draw(number),
            "frequency_penalty": draw(number),
            "logit_bias": bias,
        },
        "zeros": draw(st.lists(near_both, max_size=1)),
        "hidden": draw(st.lists(near_both, max_size=1)),
    }


def penalize(module, logits, prompt_ids, answer_ids, fields, zeros, hidden):
    logits[zeros] = 0.0
    logits[hidden] = MINUS_INFINITY
    settings = module.SamplingSettings(**fields)
    before, memory = logits.clone(), logits.data_ptr()
    result = module.penalize(logits, prompt_ids, answer_ids, settings)
    own = result.data_ptr() != memory and torch.equal(logits, before)
    return {"result": result, "the logits are as they were": own, "bias": settings.logit_bias}


def penalize_oracle(logits, prompt_ids, answer_ids, fields, zeros, hidden):
    logits[zeros] = 0.0
    logits[hidden] = MINUS_INFINITY
    result = penalized(logits.tolist(), prompt_ids, answer_ids, fields)
    right = torch.tensor(result, dtype=torch.float32)
    return {
        "result": right,
        "the logits are as they were": True,
        "bias": fields["logit_bias"],
    }


# a6.2


@st.composite
def rows(draw, longest=8):
    """Logits of one to three axes; one time out of three they have ties, and some are hidden."""
    shape = draw(shapes(0, 2, 3))
    vocab = draw(near_constants(st.integers(1, longest), 1, 300 if len(shape) < 2 else 9))
    described = tensor(draw, (*shape, vocab), FLOATS, (1.0, 3.0), (0.0, 0.0, 4.0))
    changed = draw(st.sampled_from(["", "", "ties", "hidden"]))
    return described, changed


def made(logits: TensorInput | torch.Tensor, changed: str) -> torch.Tensor:
    """Return the logits with ties, or with every third but never all of a row hidden."""
    logits = logits.build() if isinstance(logits, TensorInput) else logits
    if changed == "ties":
        return logits.round()
    if changed == "hidden":
        logits = logits.clone()
        logits[..., 1::3] = MINUS_INFINITY
    return logits


def listed(logits: torch.Tensor) -> list[list[float]]:
    return logits.double().reshape(-1, logits.shape[-1]).tolist()


@st.composite
def for_top_k(draw):
    logits, changed = draw(rows())
    k = draw(near_constants(st.integers(1, logits.shape[-1] + 2), 1, 400))
    return {"logits": logits, "changed": changed, "limit": k}


@st.composite
def for_top_p(draw):
    logits, changed = draw(rows())
    each = listed(made(logits, changed))
    p = draw(st.sampled_from([1.0, 1e-9, None, None, None, None]))
    p = far_p(each, draw(st.integers(0, 20))) if p is None else p
    return {"logits": logits, "changed": changed, "limit": p}


@st.composite
def for_min_p(draw):
    logits, changed = draw(rows())
    each = listed(made(logits, changed))
    p = draw(st.sampled_from([0.0, 1.0, None, None, None, None]))
    p = far_min_p(each, draw(st.integers(0, 20))) if p is None else p
    return {"logits": logits, "changed": changed, "limit": p}


def filtering(name):
    def call(module, logits, changed, limit):
        logits = made(logits, changed)
        result = getattr(module, name)(logits, limit)
        return {"result": result, "is a new tensor": result.data_ptr() != logits.data_ptr()}

    return call


@st.composite
def for_probabilities(draw):
    """Settings whose limits are far from every sum, so that rounding does not decide."""
    logits, changed = draw(rows())
    temperature = draw(st.sampled_from([1.0, 0.5, 0.8, 2.0, 0.0, 1e-40, 1e-30, 1e30, 1e300]))
    fields = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    if temperature in (0.5, 0.8, 1.0, 2.0):
        each = [divided(row, temperature) for row in listed(made(logits, changed))]
        if draw(booleans):
            fields["top_k"] = draw(near_constants(st.integers(1, 6), 1, 300))
            each = [top_k(row, fields["top_k"]) for row in each]
        if draw(booleans):
            fields["top_p"] = far_p(each, draw(st.integers(0, 9)))
            each = [top_p(row, fields["top_p"]) for row in each]
        if draw(booleans):
            fields["min_p"] = far_min_p(each, draw(st.integers(0, 9)))
    with_penalties = draw(booleans)  # which this function does not apply
    if with_penalties:
        fields |= {"repetition_penalty": 2.0, "presence_penalty": 1.0, "logit_bias": {0: 9.0}}
    return {"logits": logits, "changed": changed, "fields": fields}


def next_token_probabilities(module, logits, changed, fields):
    settings = module.SamplingSettings(**fields)
    return module.next_token_probabilities(made(logits, changed), settings)


# a6.3

indices = st.one_of(st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 2**40))
numbers = st.one_of(
    st.integers(0, 63).map(lambda number: number / 64),
    st.sampled_from([0.0, 1 - 2**-53, 2**-53, 5e-324, 0.5]),
    st.floats(0, 1, exclude_max=True),
)


@st.composite
def distributions(draw):
    """Shares that float64 adds without rounding: the border of a share can be hit exactly."""
    share = st.sampled_from([0.0, 0.0, 1 / 64, 0.125, 0.25, 0.5, 1.0, 2.0**-40])
    return {
        "shares": draw(st.lists(share, min_size=1, max_size=8)),
        "zeros": draw(near_constants(st.just(0), 2, 3000)),
        "dtype": draw(st.sampled_from(["float32", "float32", "float64"])),
        "strided": draw(booleans),
        "number": draw(numbers),
    }


def pick(module, shares, zeros, dtype, strided, number):
    values = [*shares, *[0.0] * zeros]
    probabilities = torch.tensor(values, dtype=getattr(torch, dtype))
    if strided:
        probabilities = torch.stack([probabilities, torch.ones_like(probabilities)], -1)[:, 0]
    return module.pick(probabilities, number)


@st.composite
def batches(draw):
    count = draw(st.integers(0, 4))
    vocab = draw(near_constants(st.integers(1, 11), 1, 300))
    fields = st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([1.0, 0.7, 3.0, 0.0]),
            "top_k": st.sampled_from([0, 0, 3]),
            "top_p": st.sampled_from([1.0, 1.0, 0.77]),
            "min_p": st.sampled_from([0.0, 0.0, 0.123]),
            "seed": seeds,
        }
    )
    return {
        "logits": tensor(draw, (count, vocab), ("float32",), (1.0, 2.0)) if count else None,
        "fields": [draw(fields) for _ in range(count)],
        "indices": [draw(indices) for _ in range(count)],
    }


def sample(module, logits, fields, indices):
    logits = torch.zeros(0, 3) if logits is None else logits
    settings = [module.SamplingSettings(**each) for each in fields]
    return module.sample(logits, settings, indices)


# a6.8

characters = st.sampled_from("aaabbc")
words = st.text(characters, min_size=1, max_size=5)
marks = st.sampled_from(["\n\n", "END", "aab", "\u00e9\u00e9n", "\U0001f600!", "User:"])


@st.composite
def streams(draw):
    """Stop strings, and a text of few letters that is cut anywhere; some texts have a stop string
    that is nearly complete.
    """
    stop = draw(st.lists(st.one_of(words, words, marks), max_size=3))
    parts = draw(st.lists(st.one_of(st.text(characters, max_size=6), marks), max_size=5))
    if stop and draw(booleans):
        whole = draw(st.sampled_from(stop))
        place = draw(st.integers(0, len(parts)))
        parts[place:place] = [whole[: draw(st.integers(0, len(whole)))]]
    if size := draw(near_constants(st.just(0), 2, 300)):
        stop, parts = [*stop, "a" * size + "b"], [*parts, "a" * (size - 1), "a", "a", "b", "c"]
    text = "".join(parts)
    if draw(booleans):
        pieces = list(text)
    else:
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pieces = [
            text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
        ]  # "" where two cuts are equal
    if draw(st.integers(0, 9)) == 9:
        stop.insert(draw(st.integers(0, len(stop))), "")
    return {"stop": tuple(stop) if draw(booleans) else stop, "pieces": pieces}


def stream(module, stop, pieces):
    """Push the pieces; another filter, of other stop strings, is used in between."""
    own, other = module.StopStringFilter(stop), module.StopStringFilter(["ab", "c"])
    before = own.stopped_by
    results = []
    for piece in pieces:
        results.append(own.push(piece))
        other.push(piece)
    first, second = own.finish(), own.finish()
    return {
        "push": results,
        "finish": [first, second],
        "stopped_by": [before, own.stopped_by],
        "pushed after finish of a stopped one": own.push("x") if own.stopped_by else "",
    }


def stream_oracle(stop, pieces):
    if "" in stop:
        raise ValueError("a stop string is empty")
    results, rest, by = shown(stop, pieces)
    return {
        "push": results,
        "finish": [rest, ""],
        "stopped_by": [None, by],
        "pushed after finish of a stopped one": "",
    }


def made_of(module, stop, pieces):
    """Change the list of stop strings after the filter was made."""
    stop = list(stop)
    made = module.StopStringFilter(stop)
    before = made.stopped_by
    stop.append("a")
    return before, [made.push(piece) for piece in pieces], made.stopped_by


def made_of_oracle(stop, pieces):
    if "" in stop:
        raise ValueError("a stop string is empty")
    results, _, by = shown(stop, pieces)
    return None, results, by


def finished(module, stop, pieces):
    """Finish after the first half of the pieces."""
    made = module.StopStringFilter(stop)
    for piece in pieces[: (len(pieces) + 1) // 2]:
        made.push(piece)
    return made.finish()


def finished_oracle(stop, pieces):
    if "" in stop:
        raise ValueError("a stop string is empty")
    return shown(stop, pieces[: (len(pieces) + 1) // 2])[1]


def pick_oracle(shares, zeros, dtype, strided, number):
    return picked(shares, number)


SPACES = [
    Space(
        "a6.1",
        f"{NAME}penalize",
        penalties(),
        call=penalize,
        view=within(1e-5, 1e-5),
        oracle=penalize_oracle,
        told=r"(?<=token )\d+",
        changes=("logits",),
        draws=40,
    ),
    Space("a6.2", f"{NAME}keep_top_k", for_top_k(), call=filtering("keep_top_k"), draws=24),
    Space("a6.2", f"{NAME}keep_top_p", for_top_p(), call=filtering("keep_top_p"), draws=30),
    Space("a6.2", f"{NAME}keep_min_p", for_min_p(), call=filtering("keep_min_p"), draws=24),
    Space(
        "a6.2",
        f"{NAME}next_token_probabilities",
        for_probabilities(),
        call=next_token_probabilities,
        view=within(1e-3, 1e-4),
        draws=32,
    ),
    Space(
        "a6.3",
        f"{NAME}uniform",
        arguments({"seed": seeds, "index": indices}),
        oracle=lambda seed, index: number_of(seed, index),
        draws=24,
    ),
    Space(
        "a6.3",
        f"{NAME}seed_of_sample",
        arguments({"seed": seeds, "number": indices}),
        oracle=lambda seed, number: sample_seed(seed, number),
        draws=24,
    ),
    Space("a6.3", f"{NAME}pick", distributions(), call=pick, oracle=pick_oracle, draws=40),
    Space("a6.3", f"{NAME}sample", batches(), call=sample, draws=24),
    Space("a6.8", f"{STOP}__init__", streams(), call=made_of, oracle=made_of_oracle, draws=16),
    Space("a6.8", f"{STOP}push", streams(), call=stream, oracle=stream_oracle, draws=50),
    Space("a6.8", f"{STOP}finish", streams(), call=finished, oracle=finished_oracle, draws=16),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
