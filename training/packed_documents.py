"""Packed documents: several documents in a row of context_length tokens, instead of padding.

Most documents are shorter than the context. Padded to its length, most of a batch is padding, which
the model computes and nobody uses. Here a row holds as many whole documents as fit, and the model
gets their borders (`cu_seqlens`): attention stays within a document, and positions start again at
0. A document's loss and gradient are then the same as if it were alone.

Each row begins with the longest document that is left, and the others that fit best fill it: those
whose lengths add up to the most without exceeding the space. The rows of a batch become one
sequence, without any padding.

What this leaves out: documents in the order of the corpus. Since none sees another, it would only
change which documents share a batch.

Packing whole documents instead of cutting them: Ding et al., 2024 ("Fewer truncations improve
language modeling"). They put each document, the longest first, into the fullest row with enough
space. If most documents are about as long, that leaves a gap in every row: 2.7 % of rows of 256
tokens with docstring answers of 44 tokens on average, against 0.05 % here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lm_core.formats.token_shards import TokenShards
from lm_core.random_state import capture_random_state, restore_random_state
from lm_core.user_error import UserError
from training.batching import Batch, EpochSampler


def best_fit_rows(lengths: Sequence[int], context_length: int) -> list[list[int]]:
    """Return rows of document numbers; the lengths of a row add up to context_length at most.

    Every document is in one row. A row begins with the longest document that is left; the others
    are those whose lengths add up to the most that fits. The same lengths always give the same
    rows.

    Raises:
        ValueError: a document has no token, or more than context_length; the message has its number
            and its length. `pieces_of_documents` cuts long ones.
    """
    of_length: dict[int, list[int]] = {}  # the documents that are left, the longest first
    for document in sorted(range(len(lengths)), key=lambda number: (-lengths[number], -number)):
        if not 0 < lengths[document] <= context_length:
            raise UserError(
                f"document {document} has {lengths[document]} tokens; expected 1 to "
                f"{context_length}"
            )
        of_length.setdefault(lengths[document], []).append(document)
    rows = []
    while of_length:
        longest = next(iter(of_length))
        row = [_take(of_length, longest)]
        counts = {length: len(documents) for length, documents in of_length.items()}
        row += [_take(of_length, n) for n in _fullest(counts, context_length - longest)]
        rows.append(row)
    return rows


def _take(of_length: dict[int, list[int]], length: int) -> int:
    """Remove a document of this length, and return its number."""
    document = of_length[length].pop()
    if not of_length[length]:
        del of_length[length]
    return document


def _fullest(counts: Mapping[int, int], space: int) -> list[int]:
    """Return the lengths with the largest sum up to `space`, each at most counts[length] times.

    The bits of `sums` are the sums that the lengths so far can have; a sum is undone by going back
    to the length that first made it possible.
    """
    sums, within = 1, (1 << space + 1) - 1
    before: list[tuple[int, int]] = []  # a length that was added, and the sums without it
    for length, count in counts.items():
        for _ in range(min(count, space // length)):
            added = (sums | sums << length) & within
            if added == sums:
                break
            before.append((length, sums))
            sums = added
        if sums >> space:
            break
    chosen, total = [], sums.bit_length() - 1
    for length, without in reversed(before):
        if not without >> total & 1:
            chosen.append(length)
            total -= length
    return chosen


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
    _check_lengths(documents)
    lengths = [len(document) - 1 for document in documents]
    tensors = {
        "token_ids": _ids(np.concatenate([document[:-1] for document in documents]))[None],
        "targets": _ids(np.concatenate([document[1:] for document in documents]))[None],
        "cu_seqlens": torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
    }
    return PackedBatch(tensors, sum(lengths))


def padded_batch(
    documents: Sequence[np.ndarray], width: int | None = None, padding_id: int = 0
) -> Batch:
    """Return the same documents with padding on the right, for comparison.

    Args:
        documents: as above.
        width: inputs in a row; by default, those of the longest document.
        padding_id: any id; causal attention never looks at the padding, and "mask" leaves its
            targets out of the loss.

    Raises:
        ValueError: a document has fewer than two tokens, or more than width + 1.
    """
    _check_lengths(documents)
    lengths = [len(document) - 1 for document in documents]
    if width is None:
        width = max(lengths)
    if max(lengths) > width:
        raise UserError(
            f"a document has {max(lengths) + 1} tokens; expected at most width + 1 = {width + 1}"
        )
    shape = len(documents), width
    token_ids, targets = torch.full(shape, padding_id), torch.full(shape, padding_id)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
        token_ids[row, :length] = _ids(document[:-1])
        targets[row, :length] = _ids(document[1:])
        mask[row, :length] = True
    return Batch({"token_ids": token_ids, "targets": targets, "mask": mask}, sum(lengths))


def _ids(tokens: np.ndarray) -> Int[Tensor, " tokens"]:
    return torch.from_numpy(np.array(tokens, dtype=np.int64))  # a copy: `tokens` may be read-only


def _check_lengths(documents: Sequence[np.ndarray]) -> None:
    shortest = min((len(document) for document in documents), default=0)
    if shortest < 2:
        raise UserError(
            f"the shortest of {len(documents)} documents has {shortest} tokens; at least 2 are "
            "needed to predict one from the other"
        )


def pieces_of_documents(
    starts: Int[np.ndarray, " documents"], num_tokens: int, context_length: int
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
