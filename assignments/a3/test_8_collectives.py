"""a3.15: which collectives a step starts, and when."""

import pytest
import torch
from rank_models import Blocks, batch_of, loss_sum, model_of
from ranks import RECORD, on_ranks

from lm_course.grading.comparisons import Words, check_equal, check_true

MODULE = "training.fully_sharded"
pytestmark = [
    pytest.mark.usefixtures("a3"),
    pytest.mark.limit(seconds=40),
]


def note(event):
    RECORD.events.append(event)


def watch(blocks):
    """Record of each block that it begins, that it computes, and that backward has left it."""

    def begins(index, x):
        note(f"block {index} begins")
        if x.requires_grad:
            x.register_hook(lambda _: note(f"gradient of block {index}"))

    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda _, given, i=index: begins(i, given[0]))
        block.down.register_forward_pre_hook(lambda *_, i=index: note(f"block {i} computes"))


def one_pass(sharded, losses):
    loss = losses(0)
    note("backward")
    loss.backward()


def interrupted(sharded, losses):
    """Ctrl-C in a notebook: not an `Exception`, and the session continues."""

    def interrupt(*_):
        handle.remove()
        raise KeyboardInterrupt

    handle = sharded.module.blocks[2].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        losses(0)
    RECORD.clear()


def after_an_interrupt(sharded, losses):
    interrupted(sharded, losses)
    one_pass(sharded, losses)


def a_block_less_after_an_interrupt(sharded, losses):
    """The forward pass that was interrupted has used this block."""
    interrupted(sharded, losses)
    sharded.module.left_out = 1
    one_pass(sharded, losses)


def evaluation_between(sharded, losses):
    """Between a forward pass and its backward pass, one without gradients."""
    loss = losses(0)
    with torch.no_grad():
        losses(1)
    note("backward")
    loss.backward()


def two_forward_passes(sharded, losses):
    loss = losses(0) + losses(1)
    note("backward")
    loss.backward()


def second_backward_pass(sharded, losses):
    losses(1).backward()
    RECORD.clear()
    one_pass(sharded, losses)


def partly_frozen(*indices):
    """Blocks of which some have a frozen layer beside a trained one, as in LoRA: two units each."""

    def make():
        model = Blocks()
        for index in indices:
            model.blocks[index].up.requires_grad_(False)
        return model

    return make


class Leaving(Blocks):
    """Blocks, one of which may be left out."""

    left_out = None

    def forward(self, ids):
        x = self.embedding(ids)
        for index, block in enumerate(self.blocks):
            x = x if index == self.left_out else block(x)
        return self.head(x)


LEFT_OUT, EVALUATED = "after an interrupt, a block is left out", "an evaluation between"
HINTS = {
    LEFT_OUT: "an aborted forward pass must reset unit.uses and unit.used: no gradient will come",
    EVALUATED: "a pass without gradients must leave unit.used as it is while backward is due",
}
# name: (model, what a step does)
STEPS = {
    "one": (Blocks, one_pass),
    "after an interrupt": (Blocks, after_an_interrupt),
    LEFT_OUT: (Leaving, a_block_less_after_an_interrupt),
    "two forward passes": (Blocks, two_forward_passes),
    EVALUATED: (Blocks, evaluation_between),
    "second backward": (Blocks, second_backward_pass),
    "last block partly frozen": (partly_frozen(2), one_pass),
    "others partly frozen": (partly_frozen(0, 1), one_pass),
}


def events_of_a_step(module, name):
    kind, step = STEPS[name]

    def run(rank, size):
        sharded = module.FullySharded(model_of(0, kind))

        def losses(number):
            ids, targets = batch_of(number)[rank]
            return loss_sum(sharded(ids), targets)

        losses(0).backward()
        sharded.finish_gradient_synchronization()
        watch(sharded.module.blocks)
        with pytest.raises(IndexError):  # leaves nothing behind
            sharded(batch_of(0)[rank][0] + 1000)
        RECORD.clear()
        step(sharded, losses)
        note("finish")
        sharded.finish_gradient_synchronization()
        return [each if isinstance(each, str) else tuple(each) for each in RECORD.events]

    return on_ranks(2, run)[0]


class Events:
    """The events of a step, with what is counted in them."""

    def __init__(self, events):
        self.events = events
        self.words = [each if isinstance(each, str) else each[0] for each in events]
        self.shown = {"in order": [word for word in self.words if word != "wait"]}

    def before(self, event, kind):
        return self.words[: self.words.index(event)].count(kind)

    def sent(self, *kinds):
        return sum(e[3] for e in self.events if not isinstance(e, str) and e[0] in kinds)


@pytest.mark.task("a3.15")
@pytest.mark.parametrize("name", ["one", "after an interrupt", "second backward"])
def test_order_of_the_collectives(implementation, name):
    step = Events(events_of_a_step(implementation(MODULE), name))
    when = "" if name == "one" else f" ({name})"
    check_true(
        step.before("block 0 begins", "all_gather") <= 3,
        f"everything is gathered at once: gather a unit when the one before it is used{when}",
        step.shown,
    )
    for index in range(2):
        check_true(
            step.before(f"block {index} computes", "all_gather") >= index + 3,
            f"while block {index} computes, the all-gather of block {index + 1} is not on its "
            f"way{when}",
            step.shown,
        )
    what = f"the all-gathers of a forward pass of 4 units{when}"
    check_equal(step.before("backward", "all_gather"), 4, what)
    for index, number in ((2, 1), (1, 2)):
        check_true(
            step.before(f"gradient of block {index}", "all_gather") >= 4 + number,
            f"while backward computes with block {index}, the all-gather of block {index - 1} is "
            f"not on its way{when}",
            step.shown,
        )
    check_true(
        step.words.count("all_gather") <= 7,
        "more all-gathers than two for each unit but the first, which stays whole until its "
        f"gradient is complete{when}",
        step.shown,
    )
    if name == "second backward":  # what came in the first one is sent in finish
        return
    check_true(
        step.before("gradient of block 1", "reduce_scatter") >= 1,
        "backward has computed the gradient of block 2 and left block 1, and the first "
        f"reduce-scatter has not started: start it when a unit's gradient is complete{when}",
        step.shown,
    )
    whole = sum(4 * p.numel() + 8 for p in Blocks().parameters())
    check_true(
        step.sent("reduce_scatter") <= whole,
        f"the reduce-scatters send more than all gradients once{when}",
        step.shown,
    )
    check_true(
        step.sent("all_reduce", "reduce") <= 512,
        f"an all-reduce sends gradients: a reduce-scatter sends half{when}",
        step.shown,
    )


@pytest.mark.task("a3.15")
@pytest.mark.parametrize("name", [name for name in STEPS if name != "second backward"])
def test_each_unit_is_reduced_once(implementation, name):
    step = Events(events_of_a_step(implementation(MODULE), name))
    likely = {"likely": Words(HINTS[name])} if name in HINTS else {}
    check_true(
        step.before("finish", "reduce_scatter") == 4 == step.words.count("reduce_scatter"),
        f"each of the 4 units needs one reduce-scatter, which starts while backward runs ({name})",
        step.shown | likely,
    )


@pytest.mark.task("a3.15")
@pytest.mark.parametrize(
    ("name", "forward", "in_all"),
    [("last block partly frozen", 5, 7), ("others partly frozen", 6, 10)],
)
def test_units_of_a_block_that_is_partly_frozen(implementation, name, forward, in_all):
    """All units of the last block stay."""
    step = Events(events_of_a_step(implementation(MODULE), name))
    what = f"the all-gathers of a forward pass of {forward} units ({name})"
    check_equal(step.before("backward", "all_gather"), forward, what)
    check_true(
        step.words.count("all_gather") <= in_all,
        "a unit of the last block, or the first unit, is gathered again: all units of a block that "
        f"stays, stay ({name})",
        step.shown,
    )
