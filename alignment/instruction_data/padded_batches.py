"""Texts of different lengths -> rectangular batches with little padding, in a resumable order.

Texts are padded on the right. Attention is causal, so no real token ever sees the padding, and the
mask keeps it out of the loss: no attention mask is needed. Batching texts of similar length keeps
the padding small; doing so within blocks of a shuffled order makes the batches differ from epoch to
epoch.

What this leaves out: packing several texts into one row, which needs an attention mask to keep them
apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lm_core.random_state import derived_seed
from lm_core.user_error import UserError
from tokenizer_bpe.chat_template import encode_chat
from tokenizer_bpe.tokenizer import Tokenizer
from training.batching import epoch_order

PADDING_ID = 0  # any id is possible, because nothing reads it
BATCHES_PER_BLOCK = 16  # texts are sorted by length within this many batches


@dataclass(frozen=True)
class MaskedText:
    """A text as token ids, with a mask of the assistant's tokens (end of message included)."""

    ids: list[int]
    mask: list[bool]

    def __len__(self) -> int:
        return len(self.ids)


def encode_conversation(
    tokenizer: Tokenizer, messages: Sequence[dict[str, str]], max_tokens: int
) -> MaskedText | None:
    """Encode a conversation in the chat template; None if it has more than `max_tokens` tokens.

    It is dropped rather than cut: an answer without its end teaches the model not to stop.
    """
    ids, mask = encode_chat(tokenizer, list(messages))
    return MaskedText(ids, mask) if len(ids) <= max_tokens else None


def pad(
    texts: Sequence[MaskedText],
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Return ids and masks as rectangles as wide as the longest text; padding is masked out.

    Raises:
        ValueError: the mask of a text leaves no token to predict; the mean of its log-probabilities
            would be 0/0. The first token does not count: nothing predicts it.
    """
    empty = [row for row, text in enumerate(texts) if not any(text.mask[1:])]
    if empty:
        raise UserError(
            f"texts {empty} of the batch have no token to score: their masks have none after the "
            "first; drop them, or check that the answer was not cut off"
        )
    width = max(len(text) for text in texts)
    ids = torch.full((len(texts), width), PADDING_ID)
    mask = torch.zeros((len(texts), width), dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text.ids)
        mask[row, : len(text)] = torch.tensor(text.mask)
    return ids, mask


class LengthGroupedOrder:
    """Chooses the texts of each step's batch; every epoch contains every text once.

    It is a pure function of (lengths, batch_size, seed, step), so a resumed run can ask for step
    700.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        assert len(lengths) > 0, "there must be at least one text to put into a batch"
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_epoch = -(-len(lengths) // batch_size)
        self._batches = lru_cache(maxsize=1)(self._batches_of_epoch)

    def indices_at(self, step: int) -> list[int]:
        """Return the numbers of the texts in the batch of `step`, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        return self._batches(epoch)[place]

    def _batches_of_epoch(self, epoch: int) -> list[list[int]]:
        shuffled = epoch_order(len(self.lengths), self.seed, epoch).tolist()
        block_size = self.batch_size * BATCHES_PER_BLOCK
        batches = []
        for first in range(0, len(shuffled), block_size):
            block = sorted(shuffled[first : first + block_size], key=self.lengths.__getitem__)
            batches += cut(block, self.batch_size)
        # Within a block, short batches come first; a second shuffle mixes short and long steps.
        order = epoch_order(len(batches), derived_seed(self.seed, "batches"), epoch)
        return [batches[number] for number in order]


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return every text once, in batches of similar length; validation has no fixed order."""
    return cut(sorted(range(len(lengths)), key=lengths.__getitem__), batch_size)


def cut(numbers: list[int], batch_size: int) -> list[list[int]]:
    """Return runs of `batch_size` numbers; the last may be shorter."""
    return [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
