"""Rows by a dictionary of the sums that can be reached, each with how it was reached."""

import numpy as np
import torch


def best_fit_rows(lengths, context_length):
    for number, length in enumerate(lengths):
        if length < 1 or length > context_length:
            raise ValueError(f"document {number} has {length} tokens")
    left = sorted(range(len(lengths)), key=lambda number: lengths[number])
    rows = []
    while left:
        row = [left.pop()]
        space = context_length - lengths[row[0]]
        reached = {0: None}  # sum: (the sum before, the document's place)
        for place, number in enumerate(left):
            if space in reached:
                break
            more = {}
            for total in reached:
                larger = total + lengths[number]
                if larger <= space and larger not in reached:
                    more[larger] = total, place
            reached |= more
            if not more and lengths[number] > space:
                break
        total, taken = max(reached), []
        while reached[total] is not None:
            total, place = reached[total]
            taken.append(place)
        row += [left[place] for place in taken]
        for place in taken:  # from the last to the first
            del left[place]
        rows.append(row)
    return rows


def check(documents):
    if not documents or any(len(document) < 2 for document in documents):
        raise ValueError("expected documents of two tokens or more")


def packed_batch(documents):
    check(documents)
    rows = [[int(token) for token in document] for document in documents]
    borders = np.zeros(len(rows) + 1, dtype=np.int32)
    borders[1:] = np.cumsum([len(row) - 1 for row in rows])
    tensors = {
        "cu_seqlens": torch.tensor(borders),
        "targets": torch.tensor([[token for row in rows for token in row[1:]]]),
        "token_ids": torch.tensor([[token for row in rows for token in row[:-1]]]),
    }
    return PackedBatch(tensors, int(borders[-1]))  # noqa: F821


def padded_batch(documents, width=None, padding_id=0):
    check(documents)
    rows = [[int(token) for token in document] for document in documents]
    longest = max(map(len, rows)) - 1
    width = longest if width is None else width
    if longest > width:
        raise ValueError(f"{longest} inputs do not fit into {width}")
    padded = torch.tensor([row + [padding_id] * (width + 1 - len(row)) for row in rows])
    ends = torch.tensor([[len(row) - 1] for row in rows])
    mask = torch.arange(width) < ends
    token_ids = torch.where(mask, padded[:, :-1], padding_id)  # the last token is not an input
    tensors = {"mask": mask, "targets": padded[:, 1:].clone(), "token_ids": token_ids}
    return Batch(tensors, int(ends.sum()))  # noqa: F821
