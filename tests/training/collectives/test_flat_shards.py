"""Shards by hand, and every number in its place for sizes that the ranks do not divide."""

import pytest
import torch

from training.collectives.flat_shards import ShardLayout


def test_two_tensors_on_two_ranks_by_hand() -> None:
    layout = ShardLayout([torch.Size([5]), torch.Size([2, 1])], ranks=2)
    tensors = [torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([[6.0], [7]])]
    shards = [layout.cut(tensors, rank, torch.float32) for rank in range(2)]
    assert [shard.tolist() for shard in shards] == [[1, 2, 3, 6], [4, 5, 0, 7]]
    pieces = layout.views(shards[1])
    assert [piece.tolist() for piece in pieces] == [[4, 5, 0], [[7]]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("shapes", [[(7,)], [(3, 5), (), (0, 2), (4,), (2, 3, 5)]])
def test_joined_shards_are_the_tensors(ranks: int, shapes: list[tuple[int, ...]]) -> None:
    layout = ShardLayout([torch.Size(shape) for shape in shapes], ranks)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    shards = [layout.cut(tensors, rank, torch.float64) for rank in range(ranks)]
    found = layout.tensors(layout.join(torch.cat(shards)))
    assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))
    assert [v.ndim for v in layout.views(shards[0])] == [max(1, t.ndim) for t in tensors]


def test_added_tensors_are_in_the_layout_of_the_shards() -> None:
    shapes = [torch.Size([3, 5]), torch.Size([4]), torch.Size([])]
    layout = ShardLayout(shapes, ranks=2)
    tensors = [torch.randn(shape) for shape in shapes]
    total = torch.zeros(2, layout.length)
    for index, tensor in enumerate(tensors):
        layout.add(total, index, tensor)
        layout.add(total, index, tensor)
    for rank in range(2):
        assert torch.equal(total[rank], 2 * layout.cut(tensors, rank, torch.float32))
