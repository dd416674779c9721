"""Models for the checks of speculative decoding whose logits are rows of a table.

The row of a place depends on the last tokens *in the cache*, so whatever is wrong there shows in
the next logits. A pass takes microseconds, and each model writes down what it was asked to read.
What this leaves out: a model with weights; one check of a6.17 uses such a one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

NUM_ROWS = 61
CYCLE = {1: 2, 2: 3, 3: 1}


def config_of(vocab_size: int, context_length: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        d_model=4,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        d_ff=4,
    )


class TableModel(TransformerLM):
    """A model that looks its logits up.

    Attributes:
        config: the shape.
        passes: what each call was given: (tokens in the cache before it, tokens to read).
    """

    def __init__(self, config: ModelConfig, rows: Tensor, order: int) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows = rows  # (rows, vocab)
        self.order = order
        self.passes: list[tuple[list[int], list[int]]] = []

    def row(self, text: list[int]) -> Tensor:
        """Return the logits after a text, which depend on its last `order` tokens."""
        number = 0
        for token in text[-self.order :]:
            number = (7 * number + token + 1) % len(self.rows)
        return self.rows[number]

    def forward(self, token_ids: Tensor, cache: Any = None, cu_seqlens: Any = None) -> Tensor:
        given = token_ids[0].tolist()
        text, past = given, 0
        if cache is not None:
            past = cache.length
            size = (1, 1, len(given), self.config.head_dim)
            stored = token_ids.float()[:, None, :, None].expand(size)
            keys, _ = cache.append(0, stored, stored)
            text = keys[0, 0, :, 0].long().tolist()
        if len(text) > self.config.context_length:
            raise ValueError(
                f"the text has {len(text)} tokens, the context holds {self.config.context_length}"
            )
        self.passes.append((text[:past], given))
        rows = [self.row(text[: place + 1]) for place in range(past, len(text))]
        return torch.stack(rows)[None]

    @property
    def given(self) -> list[list[int]]:
        """The tokens that each pass was given to read."""
        return [given for _, given in self.passes]

    @property
    def texts(self) -> list[list[int]]:
        """For each pass, the tokens in the cache, followed by the tokens to read."""
        return [before + given for before, given in self.passes]


@dataclass(frozen=True)
class Table:
    """The description of a TableModel with random rows.

    Attributes:
        seed: of the rows.
        size: standard deviation of the logits; the larger, the more certain the model.
        order: how many of the last tokens decide.
        noise: what is added to each row, as a share of `size`: a draft model is its target's table
            with noise.
    """

    seed: int = 0
    size: float = 2.0
    order: int = 2
    noise: float = 0.0
    vocab_size: int = 7
    context_length: int = 40

    def model(self) -> TableModel:
        shape = (NUM_ROWS, self.vocab_size)
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        other = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + self.seed))
        rows = self.size * (rows + self.noise * other)
        return TableModel(config_of(self.vocab_size, self.context_length), rows, self.order)


def cyclic_model(context_length: int = 40) -> TableModel:
    """Return the model of the handout: 1, 2, 3, 1, 2, 3, ..., each with probability 1."""
    rows = torch.full((NUM_ROWS, 5), float("-inf"))
    for token in range(5):
        rows[token + 1, CYCLE.get(token, 1)] = 0.0
    return TableModel(config_of(5, context_length), rows, order=1)
