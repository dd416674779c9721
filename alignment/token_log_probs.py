"""Log-probabilities of the tokens of a text, and their sum and mean per text.

All of alignment is built on these: the fine-tuning loss is their negative mean over the answer, and
a preference compares two sums. Two mistakes are easy here, and both train without an error: using
the logits of position t as the prediction *of* token t (they predict t + 1), and including padding
or the prompt in the sum. `token_log_probs` is the direct implementation; the runs use
`fused_token_log_probs`.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.engine.fused_loss import fused_token_losses


def token_log_probs(
    logits: Float[Tensor, "batch seq vocab"], token_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq-1"]:
    """Return log p(token t+1 | tokens 0..t) for t = 0 .. seq-2, in nats, computed in float32.

    Column t belongs to token t + 1: the first token has no prediction, and the last logits no
    target.
    """
    predictions = logits[:, :-1].float()
    targets = token_ids[:, 1:].unsqueeze(-1)
    # The log softmax of one entry is its logit minus the logsumexp. Gathering first never forms the
    # (batch, seq, vocab) log-probabilities a second time.
    return predictions.gather(-1, targets).squeeze(-1) - predictions.logsumexp(dim=-1)


def fused_token_log_probs(
    logits: Float[Tensor, "batch seq vocab"], token_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq-1"]:
    """Return the result of `token_log_probs` without a float32 copy of the logits.

    The last column has no target: it gets the first token as a dummy and is cut off afterwards,
    because cutting the logits instead would copy them.
    """
    return -fused_token_losses(logits, token_ids.roll(-1, dims=1))[:, :-1]


def sum_per_sequence(
    log_probs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """Return the sum over the masked tokens of each text: log p(answer | prompt), in nats.

    A text without a masked token would give 0; `pad` refuses such texts, so no batch has one.
    """
    return torch.where(mask, log_probs, 0.0).sum(dim=-1)


def mean_per_sequence(
    log_probs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """Return the mean over the masked tokens of each text, to compare long and short answers.

    NaN for a text without a masked token, which `pad` refuses.
    """
    return sum_per_sequence(log_probs, mask) / mask.sum(dim=-1)


def mean_over_tokens(
    log_probs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Return the mean over all masked tokens of the batch, all weighted equally.

    This is not the mean of the per-text means, in which a token of a short answer weighs more.
    """
    return sum_per_sequence(log_probs, mask).sum() / mask.sum()
