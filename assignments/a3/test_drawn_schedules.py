"""a3.6 on drawn inputs: rates at and beside each limit of a run, in any order."""

import pytest
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.drawn_inputs.result_comparison import Within

pytestmark = pytest.mark.usefixtures("a3", "own_optimizers")
MOST = 10**6

lengths = near_constants(st.integers(1, 12) | st.integers(13, 300), 1, MOST)
rates = st.sampled_from([1.0, 3e-4, 0.02, 7.0, 0.0])
decays = texts_of_code(st.sampled_from(["1-sqrt", "linear", "linear", "1-sqrt", "cosine", ""]))


def limits(settings, decay_steps):
    """The updates at which something begins or ends."""
    steps, warmup = settings["steps"], settings["warmup_steps"]
    return [1, warmup, steps - decay_steps, steps, (warmup + steps) // 2]


@st.composite
def runs(draw, with_decay):
    """Draw a run, and updates of it: the limits, those beside them, and others."""
    steps = draw(lengths)
    warmup = min(draw(near_constants(st.integers(0, 12), 0, MOST)), steps)
    settings = {
        "steps": steps,
        "warmup_steps": draw(st.sampled_from([warmup, warmup, 0, steps])),
        "learning_rate": draw(rates),
        "min_learning_rate": draw(st.sampled_from([0.0, 1e-5, 0.3])),
    }
    decay_steps = 0
    if with_decay:
        left = steps - settings["warmup_steps"]
        decay_steps = draw(
            st.sampled_from([0, left, left // 2, left, left // 3 + 1, left + 1])
            | near_constants(st.integers(0, 12), 0, MOST)
        )
        settings["decay_steps"] = decay_steps
        decay = draw(decays)
        if decay != "1-sqrt" or draw(st.booleans()):
            settings["decay"] = decay
    near = [x + more for x in limits(settings, decay_steps) for more in (-1, 0, 1)]
    others = draw(st.lists(st.integers(1, 2 * steps), max_size=6))
    updates = draw(st.permutations(sorted({max(1, x) for x in (*near, *others)})))
    return {"updates": tuple(updates), "settings": settings}


def call_schedule(name):
    def call(module, updates, settings):
        settings = dict(settings)
        if name == "linear_decay_at" and settings["min_learning_rate"] == 0.0:
            del settings["min_learning_rate"]  # it is the default
        found = [getattr(module, name)(update, **settings) for update in updates]
        return dict(zip(updates, found, strict=True))

    return call


def view_rates(found):
    return {
        update: Within(float(rate), 1e-9, 1e-12) if isinstance(rate, int | float) else rate
        for update, rate in found.items()
    }


def refused(**settings):
    usual = {"steps": 10, "warmup_steps": 2, "learning_rate": 1.0, "min_learning_rate": 0.1}
    return {"updates": (1, 9), "settings": {**usual, **settings}}


SPACES = [
    Space(
        "a3.6",
        "training.schedules.learning_rate_at",
        runs(with_decay=False),
        call_schedule("learning_rate_at"),
        view_rates,
        draws=80,
    ),
    Space(
        "a3.6",
        "training.schedules.warmup_stable_decay_at",
        runs(with_decay=True),
        call_schedule("warmup_stable_decay_at"),
        view_rates,
        told=r"\d+(?= steps of warm| of decay| steps of the run)|(?<=unknown decay ')[^']*",
        examples=[refused(decay_steps=9), refused(decay_steps=3, decay="sqrt")],
        draws=100,
    ),
    Space(
        "a3.6",
        "training.schedules.linear_decay_at",
        runs(with_decay=False),
        call_schedule("linear_decay_at"),
        view_rates,
        draws=60,
    ),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
