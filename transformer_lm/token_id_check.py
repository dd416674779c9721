"""A check for token ids for which a model has no row, usually those of another tokenizer.

The caller of a model checks ids here, once and before they are on a GPU. On a GPU, reading them
would wait for all queued work, and an unchecked bad id ends the process with a CUDA error. The
model itself checks only where that is cheap (eager, on a CPU); torch.compile would have to split
its graph.
"""

from jaxtyping import Int
from torch import Tensor

from lm_core.user_error import UserError


def check_token_ids(token_ids: Int[Tensor, "..."], vocab_size: int) -> None:
    """Raise ValueError, naming the first id that is below 0 or not below `vocab_size`."""
    outside = (token_ids < 0) | (token_ids >= vocab_size)
    if outside.any():
        raise UserError(
            f"token id {int(token_ids[outside][0])} is outside the model's vocabulary of "
            f"{vocab_size}; encode the text with the model's own tokenizer"
        )
