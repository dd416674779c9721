"""The engine of `lm chat` says what the engine for one text says, and computes only what is new."""

import pytest

from inference.engine.batch_requests import BatchSettings
from inference.engine.chat_engine import ChatEngine
from inference.sampling import SamplingSettings
from lm_core.user_error import UserError

GREEDY = SamplingSettings(temperature=0.0)
SETTINGS = BatchSettings(block_size=4, cache_tokens=64, num_drafts=3)


@pytest.fixture
def chat_engine(engine):
    return ChatEngine(engine, SETTINGS)


@pytest.mark.parametrize("settings", [GREEDY, SamplingSettings(temperature=1.5, seed=3)])
def test_the_same_texts(engine, chat_engine, settings) -> None:
    for text in ("Hello", "Hello you", "a"):
        assert chat_engine.complete(text, settings, 9) == engine.complete(text, settings, 9)
    messages = [{"role": "user", "content": "Hi"}]
    assert chat_engine.chat(messages, settings, 9) == engine.chat(messages, settings, 9)


def test_what_was_computed_is_not_computed_again(chat_engine, monkeypatch) -> None:
    counts = []
    hidden = chat_engine.batch.forward.hidden

    def counted(chunks):
        counts.append(sum(len(chunk.token_ids) for chunk in chunks))
        return hidden(chunks)

    monkeypatch.setattr(chat_engine.batch.forward, "hidden", counted)
    first = chat_engine.text_ids("Hello, who are you?")
    list(chat_engine.new_ids(first, GREEDY, 1))
    assert counts == [len(first)]
    list(chat_engine.new_ids([*first, 1, 2], GREEDY, 1))
    assert counts[1] == len(first) + 2 - len(first) // 4 * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_interruption_it_goes_on(engine, chat_engine, monkeypatch, error) -> None:
    """Wherever the step was: here a block has left the pool, and no request has it yet."""
    allocate = chat_engine.batch.pool.allocate

    def interrupted():
        allocate()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(chat_engine.batch.pool, "allocate", interrupted)
        with pytest.raises(error):
            chat_engine.complete("Hello", GREEDY, 5)
    assert chat_engine.complete("Hello", GREEDY, 5) == engine.complete("Hello", GREEDY, 5)
    assert chat_engine.batch.pool.num_available == chat_engine.batch.pool.num_blocks


def test_a_stream_that_is_left_frees_its_blocks(chat_engine) -> None:
    ids = chat_engine.new_ids(chat_engine.text_ids("Hello"), GREEDY, 20)
    next(ids)
    assert chat_engine.batch.pool.num_available < chat_engine.batch.pool.num_blocks
    ids.close()
    assert not chat_engine.batch.has_work
    assert chat_engine.batch.pool.num_available == chat_engine.batch.pool.num_blocks


def test_a_text_that_can_never_fit(engine) -> None:
    small = ChatEngine(engine, BatchSettings(block_size=4, cache_tokens=8))
    with pytest.raises(UserError, match="23 places in the blocks, which have 8"):
        small.complete("Hello, who are you?", GREEDY, 5)
