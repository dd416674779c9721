"""The room of a server's cache: the default, what was asked for, and what fits."""

import pytest

from lm_core.user_error import UserError
from lm_course.machine_check.memory_fit import Memory
from lm_course.serving import cache_memory
from lm_course.serving.cache_memory import CachedModel, cache_tokens
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

MODEL = CachedModel(CONFIG, 32)


@pytest.fixture
def free(monkeypatch):
    def set_free(number: int | None) -> None:
        monkeypatch.setattr(cache_memory, "computer_memory", lambda: Memory(10**12, number))

    return set_free


@pytest.mark.parametrize(
    ("memory", "expected"), [(10**9, 200), (384 * 100, 80), (384 * 200, 160), (None, 200)]
)
def test_the_default_is_four_contexts_or_what_fits(free, memory, expected) -> None:
    free(memory)
    assert cache_tokens([MODEL], None, 16) == [expected]


def test_what_was_asked_for(free) -> None:
    free(384 * 100)
    assert cache_tokens([MODEL], 80, 16) == [80]
    assert cache_tokens([CachedModel(CONFIG, 16)], 160, 16) == [160]
    with pytest.raises(UserError, match=r"--cache-tokens 81: .* room for 80 tokens.* at most 80"):
        cache_tokens([MODEL], 81, 16)
    free(None)
    assert cache_tokens([MODEL], 10**9, 16) == [10**9], "the system does not tell"


def test_copies_of_the_weights_come_out_of_the_free_memory(free) -> None:
    free(384 * 200)
    copied = MODEL._replace(copied_bytes=384 * 100)
    assert cache_tokens([copied], None, 16) == [80]
    assert cache_tokens([copied._replace(copied_bytes=384 * 60)], None, 16) == [112]
    with pytest.raises(UserError, match="room for 0 tokens"):
        cache_tokens([copied._replace(copied_bytes=384 * 300)], None, 16)


def test_not_one_block(free) -> None:
    free(384 * 10)
    with pytest.raises(UserError, match=r"room for 8 tokens, .* 16: free some memory"):
        cache_tokens([MODEL], None, 16)
    free(None)
    with pytest.raises(UserError, match=r"room for 5 tokens, .* 16: give more --cache-tokens"):
        cache_tokens([MODEL], 5, 16)


def test_several_models_share_the_memory(free) -> None:
    longer = CachedModel(CONFIG.model_copy(update={"context_length": 150}), 16)  # 192 bytes
    free(10**9)
    assert cache_tokens([MODEL, longer], None, 16) == [200, 600]
    free(384 * 250)  # room for 200 tokens of the first, where 200 and half of 600 are wanted
    assert cache_tokens([MODEL, longer], None, 16) == [80, 240]
    assert cache_tokens([MODEL, longer], 133, 16) == [133, 133]
    with pytest.raises(UserError, match=r"134 tokens in each of 2 caches .* at most 128"):
        cache_tokens([MODEL, longer], 134, 16)
