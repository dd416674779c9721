"""Solution of task 8 of a3, written from the handout alone, another way than the reference's.

What is not a task's comes from the stub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import capture_random_state, restore_random_state
from lm_core.user_error import UserError
from training.batching import Batch, EpochSampler


def best_fit_rows(lengths: Sequence[int], context_length: int) -> list[list[int]]:
    """Return rows of document numbers; the lengths of a row add up to context_length at most.

    Every document is in one row. The same lengths always give the same rows.

    Raises:
        ValueError: a document has no token, or more than context_length; `pieces_of_documents` cuts
            those.
    """
    for number, length in enumerate(lengths):
        if length < 1 or length > context_length:
            raise ValueError(f"document {number} of {length} tokens fits no row")
    left = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    rows = []
    while left:
        row = [left.pop(0)]
        space = context_length - lengths[row[0]]
        made = {0: ()}  # sum of lengths -> the documents
        same = {}
        for number in left:
            same[lengths[number]] = same.get(lengths[number], 0) + 1
            if same[lengths[number]] * lengths[number] > space or space in made:
                continue
            for total, documents in list(made.items()):
                if total + lengths[number] <= space:
                    made.setdefault(total + lengths[number], (*documents, number))
        row += made[max(made)]
        left = [number for number in left if number not in row]
        rows.append(row)
    return rows


def packing_efficiency(
    lengths: Sequence[int], rows: Sequence[Sequence[int]], context_length: int
) -> float:
    """Return the share of the rows' space that documents fill, from 0 to 1."""
    return sum(lengths) / (len(rows) * context_length)


@dataclass(frozen=True)
class PackedBatch(Batch):
    """A batch of documents in one sequence.

    Attributes:
        tensors: "token_ids" and "targets" of shape [1, tokens], and "cu_seqlens", the borders of
            the documents, int32 of shape [documents + 1], which always stays on the CPU.
    """

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch on `device`, except for the borders."""
        moved = Batch(
            {name: tensor for name, tensor in self.tensors.items() if name != "cu_seqlens"},
            self.num_tokens,
        ).to(device)
        return PackedBatch({**moved.tensors, "cu_seqlens": self["cu_seqlens"]}, self.num_tokens)

    def split(self, parts: int) -> Sequence["PackedBatch"]:
        """Return up to `parts` batches of whole documents, of about as many tokens each."""
        borders = self["cu_seqlens"]
        shares = torch.arange(1, parts) * int(borders[-1]) / parts
        nearest = (borders[None, :] - shares[:, None]).abs().argmin(1).tolist()
        cuts = sorted({0, *nearest, len(borders) - 1})
        return [self._documents(first, end) for first, end in pairwise(cuts)]

    def _documents(self, first: int, end: int) -> "PackedBatch":
        """Return documents first .. end - 1."""
        borders = self["cu_seqlens"][first : end + 1]
        start, stop = int(borders[0]), int(borders[-1])
        tensors = {
            name: tensor[:, start:stop]
            for name, tensor in self.tensors.items()
            if name != "cu_seqlens"
        }
        return PackedBatch({**tensors, "cu_seqlens": borders - start}, stop - start)


def packed_batch(documents: Sequence[np.ndarray]) -> PackedBatch:
    """Return the documents as one sequence.

    Inputs are all tokens of a document but its last, and targets all but its first, so no target is
    in another document than its input.

    Args:
        documents: integers with one axis, of any length from 2.

    Raises:
        ValueError: a document has fewer than two tokens, so it has nothing to predict.
    """
    if not documents or min(map(len, documents)) < 2:
        raise ValueError("every document needs two tokens")
    ids, targets, borders = [], [], [0]
    for document in documents:
        tokens = [int(token) for token in document]
        ids += tokens[:-1]
        targets += tokens[1:]
        borders.append(len(ids))
    tensors = {
        "token_ids": torch.tensor([ids]),
        "targets": torch.tensor([targets]),
        "cu_seqlens": torch.tensor(borders).to(torch.int32),
    }
    return PackedBatch(tensors, len(ids))


def padded_batch(
    documents: Sequence[np.ndarray], width: int | None = None, padding_id: int = 0
) -> Batch:
    """Return the same documents with padding on the right, for comparison.

    Args:
        documents: as above; a document has at most width + 1 tokens.
        width: inputs in a row; by default, those of the longest document.
        padding_id: any id; causal attention never looks at the padding, and "mask" leaves its
            targets out of the loss.
    """
    if not documents or min(map(len, documents)) < 2:
        raise ValueError("every document needs two tokens")
    longest = max(map(len, documents)) - 1
    width = longest if width is None else width
    if longest > width:
        raise ValueError(f"a document of {longest + 1} tokens does not fit into {width + 1}")
    rows: dict[str, list] = {"token_ids": [], "targets": [], "mask": []}
    for document in documents:
        tokens = [int(token) for token in document]
        padding = width + 1 - len(tokens)
        rows["token_ids"].append(tokens[:-1] + [padding_id] * padding)
        rows["targets"].append(tokens[1:] + [padding_id] * padding)
        rows["mask"].append([True] * (len(tokens) - 1) + [False] * padding)
    tensors = {name: torch.tensor(each) for name, each in rows.items()}
    return Batch(tensors, int(tensors["mask"].sum()))


def pieces_of_documents(
    starts: np.ndarray, num_tokens: int, context_length: int
) -> list[tuple[int, int]]:
    """Return (start, count) of the pieces that are trained on: inputs start .. start + count - 1,
    targets one further.

    A document begins with the end-of-text token before it, so that its first token is predicted
    too; the very first document has none. A document of more than context_length inputs is cut, and
    a piece begins with the last target of the one before, so every token is predicted once.

    Args:
        starts: the index of each document's first token.
        num_tokens: of all documents.
        context_length: the most inputs of a piece.
    """
    ends = [*starts[1:].tolist(), num_tokens]
    pieces = []
    for start, end in zip(starts.tolist(), ends, strict=True):
        first, last = max(start - 1, 0), end - 1
        pieces += [
            (begin, min(context_length, last - begin))
            for begin in range(first, last, context_length)
        ]
    return pieces


class DocumentBatches:
    """Batches of packed documents from token shards; every epoch contains every document once.

    Args:
        shards: the training split.
        context_length: the most tokens that the model reads of a document, and the size of a row.
        batch_size: rows per step.
        seed: decides the order of the rows.

    Raises:
        ValueError: the shards contain nothing to predict.
    """

    def __init__(
        self, shards: TokenShards, context_length: int, batch_size: int, seed: int
    ) -> None:
        self.shards = shards
        self.pieces = pieces_of_documents(shards.document_starts, shards.num_tokens, context_length)
        if not self.pieces:
            raise UserError(
                f"{shards.folder}: {shards.num_tokens} tokens of {shards.split} leave nothing to "
                "predict; add text"
            )
        lengths = [count for _, count in self.pieces]
        self.rows = best_fit_rows(lengths, context_length)
        self.efficiency = packing_efficiency(lengths, self.rows, context_length)
        self.sampler = EpochSampler(len(self.rows), batch_size, seed)

    def batch_at(self, step: int) -> PackedBatch:
        """Return the batch of a step, counted from 0."""
        chosen = [piece for row in self.sampler.indices_at(step) for piece in self.rows[row]]
        places = [self.pieces[piece] for piece in chosen]
        return packed_batch([self.shards.read(start, count + 1) for start, count in places])


@torch.no_grad()
def check_documents_stay_apart(model: nn.Module) -> None:
    """Raise UserError if a document's logits depend on another document of the same sequence.

    A learner's model may not know `cu_seqlens`, or ignore it. The check leaves no trace in the
    random generators.
    """
    device = next(model.parameters()).device
    borders = torch.tensor([0, 2, 4], dtype=torch.int32)
    sequences = torch.tensor([[[0, 0, 1, 0]], [[1, 1, 1, 0]]], device=device)  # the first differs
    before = capture_random_state()
    model.eval()
    try:
        logits = [model(sequence, cu_seqlens=borders)[:, 2:] for sequence in sequences]
        apart = torch.equal(*logits)
    except TypeError as error:
        if "cu_seqlens" not in str(error):
            raise
        apart = False
    model.train()
    restore_random_state(before)
    if not apart:
        raise UserError(
            "this model does not keep packed documents apart: language_model.py or attention.py "
            'ignores cu_seqlens; write that, or set batches = "windows"'
        )
