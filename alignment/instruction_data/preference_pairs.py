"""Preference pairs as batches, with the chosen and the rejected conversation in the same batch.

Both texts of a pair go through the model in one pass, as rows i and n + i of a batch.

What this leaves out: computing the prompt, with which both texts begin, only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.instruction_data.instruction_files import (
    PreferencePair,
    encode_rows,
    read_preferences,
)
from alignment.instruction_data.padded_batches import (
    LengthGroupedOrder,
    MaskedText,
    encode_conversation,
    pad,
)
from lm_core.user_error import UserError
from tokenizer_bpe.chat_template import encode_chat
from tokenizer_bpe.tokenizer import Tokenizer
from training.batching import Batch


@dataclass(frozen=True)
class EncodedPair:
    """The two conversations of a pair, which differ in the assistant's last message."""

    chosen: MaskedText
    rejected: MaskedText

    @property
    def longest(self) -> int:
        return max(len(self.chosen), len(self.rejected))


def encode_pair(tokenizer: Tokenizer, pair: PreferencePair, max_tokens: int) -> EncodedPair | None:
    """Encode both conversations of a pair; return None if one has more than `max_tokens` tokens.

    Only the last answer is masked in: the assistant's earlier messages in the prompt are not part
    of the choice.
    """
    prompt_ids, _ = encode_chat(tokenizer, pair.prompt, add_generation_prompt=True)
    texts = []
    for answer in (pair.chosen, pair.rejected):
        messages = [*pair.prompt, {"role": "assistant", "content": answer}]
        text = encode_conversation(tokenizer, messages, max_tokens)
        if text is None:
            return None
        mask = [is_answer and n >= len(prompt_ids) for n, is_answer in enumerate(text.mask)]
        texts.append(MaskedText(text.ids, mask))
    return EncodedPair(*texts)


def encode_file(
    tokenizer: Tokenizer, file: Path, max_tokens: int, at_most: int | None = None
) -> tuple[list[EncodedPair], int]:
    """Return the first `at_most` pairs of a file that fit, and the number of skipped pairs before
    them.

    Raises ValueError if none fits.
    """
    rows = read_preferences(file)
    pairs, num_too_long = encode_rows(
        file, rows, lambda pair: encode_pair(tokenizer, pair, max_tokens), at_most
    )
    if not pairs:
        raise UserError(
            f"{file}: none of its {len(rows)} pairs fits into max_tokens = {max_tokens}; raise "
            "it, up to the model's context length"
        )
    return pairs, num_too_long


def pad_pairs(
    pairs: Sequence[EncodedPair],
) -> tuple[Int[Tensor, "texts seq"], Bool[Tensor, "texts seq"]]:
    """Return ids and masks of all chosen texts, followed by those of all rejected ones."""
    return pad([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])


class PairBatches:
    """Padded batches of pairs: "token_ids" and "mask" with the chosen texts first, "reference"."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        reference: Float[Tensor, "pairs 2"],
        batch_size: int,
        seed: int,
    ) -> None:
        self.pairs = pairs
        self.reference = reference
        self.order = LengthGroupedOrder([pair.longest for pair in pairs], batch_size, seed)

    def batch_at(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0; its num_tokens does not count the padding."""
        numbers = self.order.indices_at(step)
        chosen = [self.pairs[number] for number in numbers]
        ids, mask = pad_pairs(chosen)
        num_tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in chosen)
        tensors = {"token_ids": ids, "mask": mask, "reference": self.reference[numbers]}
        return Batch(tensors, num_tokens)
