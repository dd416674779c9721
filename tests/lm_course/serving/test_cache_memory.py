"""The room of a server's cache: the default, what was asked for, and what fits."""

import pytest

from lm_core.user_error import UserError
from lm_course.machine_check.memory_fit import Memory
from lm_course.serving import cache_memory
from lm_course.serving.cache_memory import cache_tokens, tokens_that_fit
from transformer_lm.model_config import ModelConfig

# A token takes 2 x 3 layers x 2 heads x 8 numbers of 4 bytes: 384 bytes.
CONFIG = ModelConfig(
    vocab_size=100,
    context_length=50,
    d_model=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    d_ff=48,
)


@pytest.fixture
def free(monkeypatch):
    def set_free(number: int | None) -> None:
        monkeypatch.setattr(cache_memory, "computer_memory", lambda: Memory(10**12, number))

    return set_free


def test_what_fits() -> None:
    assert tokens_that_fit(CONFIG, 4, 384 * 1000) == 800, "a fifth stays free"
    assert tokens_that_fit(CONFIG, 2, 384 * 1000) == 1600
    assert tokens_that_fit(CONFIG, 4, None) is None


@pytest.mark.parametrize(("memory", "expected"), [(10**9, 200), (384 * 100, 80), (None, 200)])
def test_the_default_is_four_contexts_or_what_fits(free, memory, expected) -> None:
    free(memory)
    assert cache_tokens(CONFIG, None, 4, 16) == expected


def test_what_was_asked_for(free) -> None:
    free(384 * 100)
    assert cache_tokens(CONFIG, 80, 4, 16) == 80
    with pytest.raises(UserError, match=r"--cache-tokens 81: .* room for 80 tokens.* at most 80"):
        cache_tokens(CONFIG, 81, 4, 16)
    free(None)
    assert cache_tokens(CONFIG, 10**9, 4, 16) == 10**9, "the system does not tell"


def test_not_one_block(free) -> None:
    free(384 * 10)
    with pytest.raises(UserError, match="room for 8 tokens, but a block has 16"):
        cache_tokens(CONFIG, None, 4, 16)
