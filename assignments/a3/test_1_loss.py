"""a3.1: cross-entropy with z-loss and mask, and bits per byte."""

import math

import pytest
import torch

from lm_course.grading.comparisons import check_close, check_raises, check_true

MODULE = "training.loss"
SIXTHS = [0.0, math.log(2), math.log(3)]  # probabilities 1/6, 2/6, 3/6


def exact_losses(logits, targets, z_loss=0.0):
    """The loss of each token in float64."""
    logits = logits.double()
    log_z = torch.logsumexp(logits, -1)
    return log_z - logits.gather(-1, targets[..., None])[..., 0] + z_loss * log_z**2


@pytest.mark.task("a3.1")
def test_token_losses_by_hand(implementation, a3):
    logits = torch.tensor([SIXTHS, SIXTHS])
    causes = {
        "this is the logarithm of the probability: the loss is -log": torch.tensor(
            [0.5, 1 / 3]
        ).log(),
        "this is the probability: the loss is its negative logarithm": torch.tensor([0.5, 1 / 3]),
        "these are bits: the loss is in nats": torch.tensor([1.0, math.log2(3)]),
        "this is the mean: return one loss for each token": lambda got: got.shape == (),
    }
    got = implementation(MODULE).token_losses(logits, torch.tensor([2, 1]))
    expected = torch.tensor([math.log(2), math.log(3)])
    a3.check(got, expected, "token_losses with probabilities 3/6 and 2/6", causes)


@pytest.mark.task("a3.1")
def test_large_logits(implementation, a3):
    logits = torch.tensor([[1e4, 0.0, 0.0], [-1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [0.0, 1.0, -1e4]])
    targets = torch.tensor([1, 0, 2, 2])
    causes = {
        "exp(10000) is infinite: subtract the largest logit first (torch.logsumexp does)": (
            lambda got: bool(got.isnan().any())
        ),
        "a probability became 0, and log(0) is -inf: compute log Z - logits[target]": lambda got: (
            bool(got.isinf().any())
        ),
        "something is added to the probability before log: compute log Z - logits[target]": (
            lambda got: bool(got[0] < 100)
        ),
    }
    got = implementation(MODULE).token_losses(logits, targets)
    exact = exact_losses(logits, targets)
    a3.check(got, exact, "token_losses of logits near 10,000", causes, atol=2e-3)


@pytest.mark.task("a3.1")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_are_computed_in_float32_or_float64(implementation, a3, dtype):
    logits = a3.random(3, 500, dtype=dtype)
    targets = torch.tensor([[7, 499, 0]]).mT[:, 0]
    exact = dtype == torch.float64
    causes = {
        f"this was computed in {dtype}: convert the logits with .float() first": (
            lambda got: got.dtype == dtype and not exact
        ),
        "this was computed in float32: keep float64 logits as they are": lambda got: exact,
    }
    got = implementation(MODULE).token_losses(logits, targets)
    what = f"token_losses of {dtype} logits"
    wanted = torch.float64 if exact else torch.float32
    rtol = 1e-12 if exact else 1e-5
    a3.check(got, exact_losses(logits, targets), what, causes, dtype=wanted, rtol=rtol, atol=rtol)


@pytest.mark.task("a3.1")
def test_z_loss_by_hand(implementation, a3):
    plain, log_z = math.log(2), math.log(6)
    causes = {
        "z_loss is not used": torch.tensor([plain]),
        "log Z is not squared": torch.tensor([plain + 0.5 * log_z]),
        "Z itself is squared, not log Z": torch.tensor([plain + 0.5 * 36]),
        "this is (log Z) / 2 squared, or half the term": torch.tensor([plain + 0.25 * log_z**2]),
        "log Z was computed without the largest logit that was subtracted before": torch.tensor(
            [plain + 0.5 * math.log(2) ** 2]
        ),
    }
    got = implementation(MODULE).token_losses(torch.tensor([SIXTHS]), torch.tensor([2]), z_loss=0.5)
    expected = torch.tensor([plain + 0.5 * log_z**2])
    a3.check(got, expected, "token_losses with z_loss 0.5, where log Z is ln 6", causes)


@pytest.mark.task("a3.1")
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_the_mean_is_over_the_tokens_that_count(implementation, a3, z_loss):
    logits, targets = a3.random(2, 4, 5), torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    losses, plain = exact_losses(logits, targets, z_loss), exact_losses(logits, targets)
    rows = torch.stack([each[counts].mean() for each, counts in zip(losses, mask, strict=True)])
    penalty = losses - plain
    causes = {
        "the mask is not used": losses.mean(),
        "the sum over the counted tokens is divided by all tokens": (losses * mask).mean(),
        "this is the sum: divide by the number of tokens that count": (losses * mask).sum(),
        "this is the mean over the tokens that do not count": losses[~mask].mean(),
        "this is the mean of the rows' means: a token of a short row counts more": rows.mean(),
    }
    if z_loss:
        causes |= {
            "z_loss is not passed on": plain[mask].mean(),
            "the z-loss is also of tokens that do not count": plain[mask].mean() + penalty.mean(),
            "the z-loss is a sum over tokens, not a mean": plain[mask].mean() + penalty[mask].sum(),
        }
    got = implementation(MODULE).cross_entropy(logits, targets, mask, z_loss)
    a3.check(got, losses[mask].mean(), "cross_entropy of 4 counted tokens out of 8", causes)


@pytest.mark.task("a3.1")
def test_without_a_mask_all_tokens_count(implementation, a3):
    logits, targets = a3.random(2, 4, 5), torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    expected = exact_losses(logits, targets, 0.3)
    causes = {
        "this is the sum: take the mean over the tokens": expected.sum(),
        "z_loss is not passed on": exact_losses(logits, targets).mean(),
    }
    got = implementation(MODULE).cross_entropy(logits, targets, z_loss=0.3)
    a3.check(got, expected.mean(), "cross_entropy without a mask", causes)


@pytest.mark.task("a3.1")
def test_a_mask_that_leaves_nothing_gives_nan(implementation, a3):
    logits, targets = a3.random(2, 3, seed=1), torch.tensor([0, 1])
    causes = {
        "an empty mean is hidden as 0: whoever trains on it never sees the mistake": (
            lambda got: bool(got == 0)
        )
    }
    got = implementation(MODULE).cross_entropy(logits, targets, torch.tensor([False, False]))
    a3.check(got, torch.tensor(math.nan), "cross_entropy with a mask of only False", causes)


@pytest.mark.task("a3.1")
@pytest.mark.parametrize("target", [-100, -1, 3])
def test_ids_outside_the_vocabulary_are_refused(implementation, target):
    """Also where the mask is False: it says what counts, and does not make an id right."""
    module = implementation(MODULE)
    logits, targets = torch.zeros(2, 3), torch.tensor([0, target])
    hint = "logits.gather does; an index such as logits[i, -1] counts from the end"
    refused(
        lambda: module.token_losses(logits, targets), f"token_losses with the id {target}", hint
    )
    mask = torch.tensor([True, False])
    hint = "look at all targets before the mask is used, so that a wrong batch is noticed"
    what = f"cross_entropy with the id {target} where the mask is False"
    refused(lambda: module.cross_entropy(logits, targets, mask), what, hint)


def refused(call, what, hint):
    try:
        got = call()
    except NotImplementedError:
        raise
    except (RuntimeError, IndexError, ValueError):
        return
    sentence = f"{what}, of a vocabulary of 3, should raise an error ({hint})"
    check_true(False, sentence, {"got": got})


@pytest.mark.task("a3.1")
def test_bits_per_byte_by_hand(implementation):
    causes = {
        "these are nats: divide by ln 2": 2 * math.log(2),
        "multiplied by ln 2: a bit is ln 2 nats, so divide": 2 * math.log(2) ** 2,
        "divided by log10(2): the logarithm must be natural": 2 * math.log(2) / math.log10(2),
        "this is bytes per bit": 0.5,
        "divided by 8: the text is counted in bytes, not in bits": 0.25,
    }
    function = implementation(MODULE).bits_per_byte
    got = function(8 * math.log(2), 4)
    check_close(got, 2.0, 0.0, 1e-12, "bits_per_byte of 8 bits in 4 bytes", causes)
    check_true(isinstance(got, float), f"bits_per_byte should be a float, not {type(got).__name__}")
    for number in (0, -1):
        call = f"bits_per_byte(1.0, {number})"
        check_raises(ValueError, lambda number=number: function(1.0, number), call, [str(number)])
