"""Batches have little padding, contain every text once per epoch, and depend on the step alone."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.instruction_data.padded_batches import (
    LengthGroupedOrder,
    MaskedText,
    by_length,
    encode_conversation,
    pad,
)
from lm_core.user_error import UserError


def test_padding_by_hand() -> None:
    ids, mask = pad([MaskedText([5, 6, 8], [False, True, True]), MaskedText([7, 9], [False, True])])
    assert ids.tolist() == [[5, 6, 8], [7, 9, 0]]
    assert mask.tolist() == [[False, True, True], [False, True, False]]
    assert ids.dtype == torch.int64


def test_a_text_without_a_token_to_score_is_refused() -> None:
    whole = MaskedText([5, 6], [False, True])
    for mask in ([False, False], [True, False]):  # nothing predicts the first token
        with pytest.raises(UserError, match=r"texts \[1\] of the batch have no token to score"):
            pad([whole, MaskedText([5, 6], mask)])


def test_every_text_once_an_epoch_and_epochs_differ() -> None:
    pick = random.Random(0)
    lengths = [pick.randint(1, 99) for _ in range(101)]
    order = LengthGroupedOrder(lengths, batch_size=8, seed=1)
    epochs = [[order.indices_at(epoch * 13 + step) for step in range(13)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(number for batch in epoch for number in batch) == list(range(101))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_step_does_not_depend_on_those_before_it() -> None:
    lengths = list(range(1, 60))
    forward = LengthGroupedOrder(lengths, 4, seed=2)
    expected = [forward.indices_at(step) for step in range(40)]
    assert LengthGroupedOrder(lengths, 4, seed=2).indices_at(33) == expected[33]
    assert LengthGroupedOrder(lengths, 4, seed=3).indices_at(33) != expected[33]


def test_grouping_by_length_saves_most_of_the_padding() -> None:
    pick = random.Random(1)
    lengths = [pick.randint(10, 250) for _ in range(512)]

    def padding(batches: list[list[int]]) -> int:
        return sum(max(lengths[n] for n in batch) * len(batch) for batch in batches) - sum(lengths)

    order = LengthGroupedOrder(lengths, 16, seed=0)
    grouped = padding([order.indices_at(step) for step in range(32)])
    ungrouped = padding([list(range(i, i + 16)) for i in range(0, 512, 16)])
    assert grouped < 0.5 * ungrouped
    assert padding(by_length(lengths, 16)) <= grouped


def test_a_conversation_is_kept_whole_or_left_out(tokenizer) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]
    # "<|im_start|>user\nhi<|im_end|>\n" is 10 tokens, the assistant's message 15.
    text = encode_conversation(tokenizer, messages, max_tokens=25)
    learned = [token for token, learn in zip(text.ids, text.mask, strict=True) if learn]
    assert tokenizer.decode(learned) == "ok<|im_end|>"
    assert len(text) == 25
    assert encode_conversation(tokenizer, messages, max_tokens=24) is None


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_every_text_once_whatever_the_sizes(lengths, batch_size, seed) -> None:
    order = LengthGroupedOrder(lengths, batch_size, seed)
    first = 3 * order.batches_per_epoch
    batches = [order.indices_at(first + i) for i in range(order.batches_per_epoch)]
    for covering in (batches, by_length(lengths, batch_size)):
        assert sorted(number for batch in covering for number in batch) == list(range(len(lengths)))
        sizes = sorted(len(batch) for batch in covering)
        assert sizes[1:] == [batch_size] * (len(sizes) - 1)


def test_short_and_long_batches_alternate() -> None:
    """Batches in sorted order would train on short texts first and long ones last."""
    order = LengthGroupedOrder(list(range(160)), 10, seed=0)
    firsts = [min(order.indices_at(step)) for step in range(16)]
    assert firsts != sorted(firsts)


def test_in_another_epoch_texts_meet_others() -> None:
    """Two texts of the same length share a batch in one epoch and not in the next."""
    order = LengthGroupedOrder([5] * 60, 6, seed=0)
    first, second = ({frozenset(order.indices_at(e * 10 + i)) for i in range(10)} for e in range(2))
    assert not first & second
