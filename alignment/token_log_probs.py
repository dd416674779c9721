"""Log-probabilities that a model gives to the tokens of a text, and their sum and mean per text.

Everything in alignment is made from these: the loss of fine-tuning is their negative mean over the
answer, a preference compares two sums. Two mistakes are easy here and both train without an error:
taking the logits of position t as the prediction *of* token t (they predict t + 1), and letting
padding or the prompt into the sum. `token_log_probs` is the
obvious way, `fused_token_log_probs` the one that the runs use.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lm_core.user_error import UserError
from training.engine.fused_loss import fused_token_losses


def token_log_probs(
    logits: Float[Tensor, "batch seq vocab"], token_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq-1"]:
    """log p(token t+1 | tokens 0..t) for t = 0 .. seq-2, in nats, computed in float32.

    Column t belongs to token t + 1: the first token has no prediction, the last logits no target.
    """
    predictions = logits[:, :-1].float()
    targets = token_ids[:, 1:].unsqueeze(-1)
    # log softmax at one place: the logit there minus the logsumexp. Gathering first never forms the
    # (batch, seq, vocab) log-probabilities a second time.
    return predictions.gather(-1, targets).squeeze(-1) - predictions.logsumexp(dim=-1)


def fused_token_log_probs(
    logits: Float[Tensor, "batch seq vocab"], token_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq-1"]:
    """What `token_log_probs` gives, without a float32 copy of the logits.

    The last column has no target: it is given the first token's, and cut off again, because cutting
    the logits instead would copy them.
    """
    return -fused_token_losses(logits, token_ids.roll(-1, dims=1))[:, :-1]


def sum_per_sequence(
    log_probs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """Sum of the masked tokens of each text: log p(answer | prompt), in nats.

    Raises ValueError when a text has no masked token.
    """
    _check_no_mask_is_empty(mask)
    return torch.where(mask, log_probs, 0.0).sum(dim=-1)


def mean_per_sequence(
    log_probs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """Mean over the masked tokens of each text, so that long and short answers compare.

    Raises ValueError when a text has no masked token.
    """
    return sum_per_sequence(log_probs, mask) / mask.sum(dim=-1)


def mean_over_tokens(
    log_probs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean over all masked tokens of the batch: every token counts the same, whatever its text.

    This is not the mean of the per-text means, in which a token of a short answer weighs more.
    Raises ValueError when a text has no masked token.
    """
    return sum_per_sequence(log_probs, mask).sum() / mask.sum()


def _check_no_mask_is_empty(mask: Bool[Tensor, "batch seq"]) -> None:
    empty = (~mask.any(dim=-1)).nonzero().flatten().tolist()
    if empty:
        raise UserError(
            f"texts {empty} of the batch have no token to score: their mask is empty, so a mean "
            "would be 0/0; drop them, or check that the answer was not cut off"
        )
