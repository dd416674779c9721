"""Token ids that a model has no row for: those of another tokenizer, as a rule.

Whoever brings ids to a model checks them here, once and before they are on a GPU: there, looking at
them would wait for all that the GPU still has to do, and an id that was never looked at ends the
process with an error of CUDA's. The model looks for itself where that costs nothing (eager, on a
CPU); torch.compile would have to cut its graph in two.
"""

from jaxtyping import Int
from torch import Tensor

from lm_core.user_error import UserError


def check_token_ids(token_ids: Int[Tensor, "..."], vocab_size: int) -> None:
    """Raise ValueError, with the first id that is below 0 or not below `vocab_size`."""
    outside = (token_ids < 0) | (token_ids >= vocab_size)
    if outside.any():
        raise UserError(
            f"token id {int(token_ids[outside][0])} is outside the model's vocabulary of "
            f"{vocab_size}; encode the text with the model's own tokenizer"
        )
