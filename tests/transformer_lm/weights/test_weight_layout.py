"""The table's mechanism on tensors small enough to write out."""

import pytest
import torch

from transformer_lm.weights.weight_layout import (
    Source,
    check_tensors,
    halves_to_pairs,
    pairs_to_halves,
    their_shapes,
    to_our_layout,
    to_their_layout,
)

SOURCES = {
    "query": Source("joined", part=0, parts=2, transposed=True),
    "key": Source("joined", part=1, parts=2, transposed=True),
    "norm": Source("scale", halves=True),
}
OURS = {
    "query": torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
    "key": torch.tensor([[7.0, 8, 9], [10, 11, 12]]),
    "norm": torch.tensor([0.0, 1, 2, 3]),
}


def test_by_hand():
    theirs = to_their_layout(OURS, SOURCES, head_dim=4)
    assert theirs["joined"].tolist() == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]
    assert theirs["scale"].tolist() == [0, 2, 1, 3]
    shapes = their_shapes({name: tensor.shape for name, tensor in OURS.items()}, SOURCES)
    assert shapes == {"joined": (3, 4), "scale": (4,)}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


def test_back():
    theirs = to_their_layout(OURS, SOURCES, head_dim=4)
    for name, source in SOURCES.items():
        assert torch.equal(to_our_layout(theirs[source.name], source, head_dim=4), OURS[name])


def test_the_order_of_the_table_does_not_matter():
    turned = dict(reversed(SOURCES.items()))
    assert torch.equal(
        to_their_layout(OURS, turned, 4)["joined"], to_their_layout(OURS, SOURCES, 4)["joined"]
    )


@pytest.mark.parametrize("shape", [(12,), (12, 5)])
def test_rows_of_heads_with_or_without_columns(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(halves_to_pairs(pairs_to_halves(rows, 6), 6), rows)
    assert torch.equal(pairs_to_halves(rows, 6)[:6], rows[[0, 2, 4, 1, 3, 5]])


def test_nothing_is_said_of_tensors_that_fit():
    check_tensors({"a": torch.ones(2)}, {"a": (2,)}, "config.json")
    with pytest.raises(ValueError, match=r"fit its x: b is missing; a has shape \(2,\), expected"):
        check_tensors({"a": torch.ones(2)}, {"a": (3,), "b": (1,)}, "x")
