"""The block tables of all requests of a step as arrays, which every layer's attention reads.

They are made once per step. The tokens of the step are rows of one matrix, request after request.
What this leaves out: which requests compute in a step (batch_scheduler.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class StepTables(NamedTuple):
    """The requests of a step, as attention needs them.

    Attributes:
        blocks: [requests, most_blocks], int32: each request's block table, then zeros.
        first_rows: [requests], int32: the row of each request's first new token.
        num_queries: [requests], int32: its new tokens.
        num_keys: [requests], int32: its tokens in the cache, the new ones included.
        places: [tokens], int64: where the keys and values of each row are written; see
            `inference.paged_attention.places_of`.
        positions: [tokens], int64: the position of each row in its text.
    """

    blocks: np.ndarray
    first_rows: np.ndarray
    num_queries: np.ndarray
    num_keys: np.ndarray
    places: np.ndarray
    positions: np.ndarray

    @property
    def num_rows(self) -> int:
        """Return the tokens of the step."""
        return len(self.places)

    def of_requests(self, chosen: Sequence[int]) -> "StepTables":
        """Return the tables with some of the requests; the rows stay where they are."""
        each = (self.blocks, self.first_rows, self.num_queries, self.num_keys)
        picked = [array[np.array(chosen, np.int64)] for array in each]
        return StepTables(*picked, self.places, self.positions)


def step_tables(
    block_tables: Sequence[Sequence[int]],
    cached_tokens: Sequence[int],
    new_tokens: Sequence[int],
    block_size: int,
) -> StepTables:
    """Return the tables of a step.

    Args:
        block_tables: the blocks of each request, with places for its new tokens.
        cached_tokens: tokens of each request that are in the cache before the step.
        new_tokens: tokens that it computes; their rows follow those of the request before.
        block_size: places in a block.
    """
    cached, new = np.array(cached_tokens, np.int64), np.array(new_tokens, np.int64)
    num_keys = cached + new
    lengths = np.array([len(blocks) for blocks in block_tables], np.int64)
    assert len(lengths) == len(cached) == len(new), "one entry for each request"
    assert (num_keys <= lengths * block_size).all(), "a block table has too few blocks"
    matrix = np.zeros((len(lengths), int(lengths.max(initial=1))), np.int32)
    for row, blocks in zip(matrix, block_tables, strict=True):
        row[: len(blocks)] = blocks
    ends = np.cumsum(new)
    starts = ends - new
    request = np.repeat(np.arange(len(new)), new)  # of each row
    position = np.arange(len(request)) - starts[request] + cached[request]
    places = matrix[request, position // block_size].astype(np.int64) * block_size
    return StepTables(
        blocks=matrix,
        first_rows=starts.astype(np.int32),
        num_queries=new.astype(np.int32),
        num_keys=num_keys.astype(np.int32),
        places=places + position % block_size,
        positions=position,
    )
