"""a3.9: the gradient of a large batch, from micro-batches."""

import pytest
import torch
from torch import nn

from lm_course.grading.comparisons import Words, check_close, check_equal, check_raises, check_true
from lm_course.grading.tensor_comparisons import check_tensor

pytestmark = pytest.mark.usefixtures("a3")  # one thread
MODULE = "training.gradient_accumulation"


def weights(*values, dtype=torch.float64):
    """A model with one parameter."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(values, dtype=dtype))
    return model


def linear_loss(model, part):
    """(factors, count) -> the sum of factor * weight in float32 or float64, and the count."""
    factors, count = part
    wide = model.weight.double() if model.weight.dtype == torch.float64 else model.weight.float()
    return (torch.tensor(factors, dtype=wide.dtype) * wide).sum(), count


def accumulated(implementation, model, parts, loss_sum=linear_loss):
    """Return (loss, gradient of the model's weight)."""
    loss = implementation(MODULE).accumulate_gradients(model, loss_sum, parts)
    check_true(
        model.weight.grad is not None, "accumulate_gradients leaves no gradient in the model"
    )
    return loss, model.weight.grad


@pytest.mark.task("a3.9")
def test_two_micro_batches_by_hand(implementation):
    """Weight 2; one token with the loss 3 w, and three with 5 w together: the handout's example."""
    parts = [([3.0], 1), ([5.0], 3)]
    loss, gradient = accumulated(implementation, weights(2.0), parts)
    causes = {
        "this is the mean of the two means, 3 and 5/3": [7 / 3],
        "this is the sum: divide by the number of tokens": [8.0],
        "divide by the number of tokens, 4, not of micro-batches": [4.0],
        "divided twice: by the tokens and by the micro-batches": [1.0],
        "only the last micro-batch is left": lambda got: got in (5 / 3, 5 / 4, 5.0),
        "the sums so far were divided again after each micro-batch": [(3.0 / 1 + 5.0) / 4],
    }
    what = "gradient of micro-batches of 1 and 3 tokens"
    check_tensor(gradient, torch.tensor([2.0]), what, causes, dtype=torch.float64)
    causes = {"this is the mean of the means": 14 / 3, "this is the sum": 16.0}
    check_tensor(
        loss, torch.tensor(4.0), "loss of micro-batches of 1 and 3 tokens", causes, dtype=None
    )
    check_true(not loss.requires_grad, "the returned loss holds the graph: return it detached")
    check_equal(str(loss.dtype), "torch.float64", "the type of the loss of a float64 model")


class Tied(nn.Module):
    """A weight with two names, one that is frozen, and one that is not used."""

    def __init__(self):
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.embedding, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight
        self.middle, self.unused = nn.Linear(6, 6), nn.Linear(2, 2)
        self.middle.bias.requires_grad_(False)
        self.double()

    def forward(self, ids):
        return self.head(self.middle(self.embedding(ids)).tanh())


def token_loss(model, part):
    ids, targets, mask = part
    logits = model(ids)
    losses = logits.logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]
    return (losses * mask).sum(), mask.sum()


def batch_of(rows, counted):
    generator = torch.Generator().manual_seed(rows)
    ids, targets = torch.randint(0, 9, (2, rows, 5), generator=generator)
    mask = torch.zeros(rows, 5, dtype=torch.bool)
    for row, count in enumerate(counted):
        mask[row, :count] = True
    return ids, targets, mask


@pytest.mark.task("a3.9")
@pytest.mark.parametrize("counted", [(5, 5, 5, 5), (5, 1, 1, 0), (0, 0, 3, 5)], ids=str)
def test_the_gradient_is_the_whole_batchs(implementation, counted):
    """Rows with 0 to 5 counted tokens, in micro-batches of 1, 1 and 2 rows."""
    batch, model, whole = batch_of(4, counted), Tied(), Tied()
    total, count = token_loss(whole, batch)
    (total / count).backward()
    parts = list(zip(*(tensor.split([1, 1, 2]) for tensor in batch), strict=True))
    loss = implementation(MODULE).accumulate_gradients(model, token_loss, parts)
    what = f"micro-batches of {counted[0]}, {counted[1]} and {sum(counted[2:])} counted tokens"
    causes = {
        "a micro-batch without counted tokens gives 0 / 0: never divide by its own number": (
            lambda got: bool(torch.isnan(got).any())
        )
    }
    right = (total / count).detach()
    check_tensor(loss, right, f"loss of {what}", causes, dtype=None, rtol=1e-9)
    rights = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        expected, got = rights[name].grad, parameter.grad
        if expected is None:
            check_true(got is None, f"{name} has no part in the loss, but gets a gradient")
            continue
        check_true(got is not None, f"{name} gets no gradient")
        wrong = causes | {
            "a weight with two names is divided twice": expected / int(count),
            "this is the sum: divide by the number of counted tokens": expected * int(count),
            "divide by the counted tokens, not by all": expected * int(count) / 20,
        }
        check_tensor(
            got, expected, f"gradient of {name}, {what}", wrong, dtype=torch.float64, rtol=1e-9
        )


@pytest.mark.task("a3.9")
def test_small_gradients_do_not_vanish_in_bfloat16(implementation):
    """1 and 255 times 1/256: in bfloat16, 1 + 1/256 is 1."""
    model = weights(1.0, dtype=torch.bfloat16)
    parts = [([1.0], 1)] + [([1 / 256], 1)] * 255
    _, gradient = accumulated(implementation, model, parts)
    right = (1 + 255 / 256) / 256
    causes = {
        "sums of bfloat16 are kept in bfloat16: add them up in float32": lambda got: (
            abs(got - right) > 0.02 * right
        )
    }
    check_equal(str(gradient.dtype), "torch.bfloat16", "the type of the gradient")
    what = "gradient of 256 micro-batches, 255 of which have one of 1/256, in bfloat16"
    check_close(gradient.item(), right, 0, 2**-8, what, causes)


@pytest.mark.task("a3.9")
def test_sums_do_not_overflow_float16(implementation):
    """Four gradients of 40,000: their sum exceeds float16, and their mean does not."""
    model = weights(1.0, dtype=torch.float16)
    _, gradient = accumulated(implementation, model, [([40_000.0], 1)] * 4)
    what = "gradient of four micro-batches of one token, each with 40,000, in float16"
    causes = {"sums of float16 overflow: add them up in float32": lambda got: got > 65_504}
    check_close(float(gradient), 40_000.0, 0, 2**-10, what, causes)


@pytest.mark.task("a3.9")
def test_micro_batches_come_one_at_a_time(implementation):
    """Each goes backward before the next is asked for; each goes forward once."""
    model, events = weights(1.0, 1.0), []
    model.weight.register_hook(lambda gradient: events.append("backward"))

    def parts():
        for number in range(3):
            events.append("next")
            yield [1.0 * number, 2.0], 2

    def loss_sum(model, part):
        events.append("forward")
        return linear_loss(model, part)

    accumulated(implementation, model, parts(), loss_sum)
    if events.count("forward") > 3:
        likely = "the function runs twice on a micro-batch, which doubles the cost"
    elif events[:3] == ["next"] * 3:
        likely = "all micro-batches were asked for at once: they may be a generator"
    else:
        likely = "all losses were added up before backward, so all their graphs are kept"
    check_true(
        events == ["next", "forward", "backward"] * 3,
        "accumulate_gradients must go forward and backward with one micro-batch, then with the "
        "next: otherwise nothing is saved",
        {"events": Words(" ".join(events)), "likely": Words(likely)},
    )


@pytest.mark.task("a3.9")
def test_gradients_of_an_earlier_batch_are_refused(implementation):
    accumulate = implementation(MODULE).accumulate_gradients
    model = weights(1.0)
    accumulate(model, linear_loss, [([1.0], 1)])
    what = "accumulate_gradients with a model that has the gradients of the batch before"
    check_raises(ValueError, lambda: accumulate(model, linear_loss, [([1.0], 1)]), what)
    model.weight.grad = torch.zeros(1, dtype=torch.float64)
    what = "accumulate_gradients with a model that has gradients, which are 0,"
    check_raises(ValueError, lambda: accumulate(model, linear_loss, [([1.0], 1)]), what)
    model.weight.grad = None
    loss = accumulate(model, linear_loss, [([4.0], 2)])
    check_close(loss, 2.0, 1e-9, 0, "loss once the gradients are cleared")


@pytest.mark.task("a3.9")
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_batch_in_which_nothing_counts_is_refused(implementation, as_tensor):
    accumulate = implementation(MODULE).accumulate_gradients
    none = torch.tensor(0) if as_tensor else 0
    loss = accumulate(weights(2.0), linear_loss, [([0.0], none), ([3.0], none + 1)])
    check_close(loss, 6.0, 1e-9, 0, "loss of a micro-batch without counted tokens and one with 1")
    what = "accumulate_gradients of two micro-batches without counted tokens"
    parts = [([0.0], none), ([0.0], none)]
    check_raises(ValueError, lambda: accumulate(weights(1.0), linear_loss, parts), what)
    check_raises(ValueError, lambda: accumulate(weights(1.0), linear_loss, []), f"{what}, or none,")
