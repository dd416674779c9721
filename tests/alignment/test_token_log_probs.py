"""Log-probabilities of tokens: by hand, against torch's log_softmax in float64, and under masks."""

import math

import pytest
import torch

from alignment.token_log_probs import (
    fused_token_log_probs,
    mean_over_tokens,
    mean_per_sequence,
    sum_per_sequence,
    token_log_probs,
)

LOG_PROBS = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]])
MASK = torch.tensor([[True, True, False], [False, False, True]])


def test_by_hand_column_t_belongs_to_token_t_plus_1() -> None:
    # Two words; after token 0 the odds are 3 : 1 for word 0, after token 1 they are 1 : 3.
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, math.log(3)], [9.0, 9.0]]])
    got = token_log_probs(logits, torch.tensor([[1, 0, 0]]))
    expected = torch.tensor([[math.log(3 / 4), math.log(1 / 4)]])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_against_log_softmax_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(3, 7, 50, generator=generator)
    ids = torch.randint(0, 50, (3, 7), generator=generator)
    table = logits.double().log_softmax(-1)[:, :-1]
    expected = table.gather(-1, ids[:, 1:, None]).squeeze(-1)
    # Float32 keeps 7 digits of values up to about 100.
    torch.testing.assert_close(token_log_probs(logits, ids).double(), expected, atol=1e-4, rtol=0)
    assert token_log_probs(logits.bfloat16(), ids).dtype == torch.float32


def test_sum_and_the_two_means_by_hand() -> None:
    assert sum_per_sequence(LOG_PROBS, MASK).tolist() == [-3.0, -6.0]
    assert mean_per_sequence(LOG_PROBS, MASK).tolist() == [-1.5, -6.0]
    assert mean_over_tokens(LOG_PROBS, MASK).item() == -3.0


def test_what_is_masked_out_does_not_matter_even_if_it_is_infinite() -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    with torch.no_grad():
        log_probs[0, 2] = -math.inf
    total = sum_per_sequence(log_probs, MASK).sum()
    total.backward()
    assert total.item() == -9.0
    assert log_probs.grad.tolist() == MASK.float().tolist()


def test_a_token_is_predicted_from_those_before_it(model) -> None:
    """The oracle reads one prefix at a time, so an off-by-one error is impossible."""
    ids = torch.randint(0, 259, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = token_log_probs(model(ids), ids)[0]
        for t in range(1, 9):
            expected = model(ids[:, :t])[0, -1].log_softmax(-1)[ids[0, t]]
            assert abs(found[t - 1] - expected) < 1e-4, f"token {t}"


def test_the_mean_over_tokens_is_not_the_mean_of_the_means() -> None:
    assert mean_over_tokens(LOG_PROBS, MASK) != mean_per_sequence(LOG_PROBS, MASK).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_way_gives_the_same_values_and_gradients(dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    start = (5 * torch.randn(4, 9, 300, generator=generator)).to(dtype)
    ids = torch.randint(0, 300, (4, 9), generator=generator)
    weights = torch.randn(4, 8, generator=generator)
    results = []
    for function in (token_log_probs, fused_token_log_probs):
        logits = start.clone().requires_grad_()
        log_probs = function(logits, ids)
        (log_probs * weights).sum().backward()
        results.append((log_probs.detach(), logits.grad))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    # A gradient in bfloat16 has 8 bits: 2 ** -8 of its value.
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(results[0][1], results[1][1], atol=tolerance, rtol=tolerance)
