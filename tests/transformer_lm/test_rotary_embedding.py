"""Rotary positions against hand-worked angles and a rotation matrix in float64."""

import math

import pytest
import torch

from transformer_lm.rotary_embedding import RotaryEmbedding


def rotate_in_float64(x: torch.Tensor, positions: list[int], theta: float) -> torch.Tensor:
    """Apply one 2 x 2 rotation matrix for each position and adjacent pair: Su et al., equation
    15.
    """
    result = torch.empty(x.shape, dtype=torch.float64)
    head_dim = x.shape[-1]
    for row, position in enumerate(positions):
        for pair in range(head_dim // 2):
            angle = position * theta ** (-2 * pair / head_dim)
            matrix = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
                dtype=torch.float64,
            )
            pair_of_values = x[..., row, 2 * pair : 2 * pair + 2].double()
            result[..., row, 2 * pair : 2 * pair + 2] = pair_of_values @ matrix.T
    return result


def test_adjacent_pairs_turn_by_hand():
    # theta = 1: every pair is rotated by its position in radians. (1, 0) -> (cos 2, sin 2); the
    # second pair (0, 1) -> (-sin 2, cos 2).
    rotary = RotaryEmbedding(4, 8, theta=1.0)
    turned = rotary(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([2]))
    expected = [[math.cos(2), math.sin(2), -math.sin(2), math.cos(2)]]
    torch.testing.assert_close(turned, torch.tensor(expected))


@pytest.mark.parametrize("positions", [[0, 1, 2], [5, 3, 11], [63, 63, 0]])
def test_every_pair_has_its_own_frequency_and_given_positions_are_used(positions):
    x = torch.randn(2, 3, 3, 8, generator=torch.Generator().manual_seed(1))
    turned = RotaryEmbedding(8, 64, 100.0)(x, torch.tensor(positions))
    expected = rotate_in_float64(x, positions, 100.0)
    # a product of float32 values below 5 with a float32 cosine: errors of a few 1e-7
    torch.testing.assert_close(turned.double(), expected, atol=2e-6, rtol=0)


def test_positions_may_differ_between_sequences():
    rotary = RotaryEmbedding(4, 16)
    x = torch.randn(2, 3, 5, 4)  # batch, heads, seq, head_dim
    positions = torch.stack([torch.arange(5), torch.arange(5) + 7])
    turned = rotary(x, positions[:, None])
    for sequence in range(2):
        torch.testing.assert_close(turned[sequence], rotary(x[sequence], positions[sequence]))


def test_vectors_are_turned_however_they_lie_in_memory():
    rotary, positions = RotaryEmbedding(4, 16), torch.tensor([3, 0, 7])
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    wider = torch.zeros(3, 7)
    wider[:, 1:5] = x  # an odd start, and rows of an odd length
    for alike in (x.T.contiguous().T, wider[:, 1:5]):
        torch.testing.assert_close(rotary(alike, positions), rotary(x, positions))


def test_products_depend_on_the_distance_only_and_lengths_are_kept():
    rotary = RotaryEmbedding(16, 512)
    q, k = torch.randn(1, 16), torch.randn(1, 16)

    def product(query_position: int, key_position: int) -> torch.Tensor:
        turned_query = rotary(q, torch.tensor([query_position]))
        return (turned_query * rotary(k, torch.tensor([key_position]))).sum()

    torch.testing.assert_close(product(9, 4), product(409, 404), atol=1e-5, rtol=0)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3
    torch.testing.assert_close(rotary(q, torch.tensor([300])).norm(), q.norm())


def test_bfloat16_stays_bfloat16_and_nothing_is_saved_in_a_checkpoint():
    rotary = RotaryEmbedding(4, 8)
    assert rotary(torch.ones(3, 4).bfloat16(), torch.arange(3)).dtype == torch.bfloat16
    assert rotary.state_dict() == {}


def test_a_module_in_bfloat16_keeps_its_tables():
    rotary = RotaryEmbedding(64, 4096)
    x = torch.randn(2, 50, 64)
    positions = torch.arange(4000, 4050)
    expected = rotary(x, positions)
    assert torch.equal(rotary.bfloat16()(x, positions), expected)
    assert rotary(x.bfloat16(), positions).dtype == torch.bfloat16
