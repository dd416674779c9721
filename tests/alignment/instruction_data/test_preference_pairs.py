"""Pairs: the mask, the order of the rows, and a reference that stays with its pair."""

import pytest
import torch

from alignment.instruction_data.instruction_files import PreferencePair
from alignment.instruction_data.preference_pairs import (
    PairBatches,
    encode_file,
    encode_pair,
    pad_pairs,
)

PROMPT = [{"role": "user", "content": "Q"}]


def masked_in(tokenizer, ids, mask) -> str:
    return tokenizer.decode([int(i) for i, learn in zip(ids, mask, strict=True) if learn])


def test_only_the_last_answer_is_masked_in(tokenizer):
    earlier = [{"role": "assistant", "content": "before"}, {"role": "user", "content": "again"}]
    pair = encode_pair(tokenizer, PreferencePair([*PROMPT, *earlier], "good", "b"), 99)
    assert masked_in(tokenizer, pair.chosen.ids, pair.chosen.mask) == "good<|im_end|>"
    assert masked_in(tokenizer, pair.rejected.ids, pair.rejected.mask) == "b<|im_end|>"
    assert pair.longest == len(pair.chosen.ids) == len(pair.rejected.ids) + 3


@pytest.mark.parametrize("answers", [("a" * 9, "b"), ("a", "b" * 9)])
def test_a_pair_with_one_long_answer_is_left_out(tokenizer, answers):
    pair = PreferencePair(PROMPT, *answers)
    assert encode_pair(tokenizer, pair, 30) is None
    assert encode_pair(tokenizer, pair, 31).longest == 31


def test_a_file_without_a_pair_that_fits(tokenizer, alphabets):
    file = alphabets / "preference_train.jsonl"
    pairs, left_out = encode_file(tokenizer, file, 29)
    assert len(pairs) + left_out == 64 and pairs and left_out
    assert encode_file(tokenizer, file, 29, at_most=5)[0] == pairs[:5]
    with pytest.raises(ValueError, match="none of its 64 pairs fits into max_tokens = 12") as e:
        encode_file(tokenizer, file, 12)
    assert str(file) in str(e.value) and "\n" not in str(e.value)


def test_a_message_that_cannot_be_encoded_is_found_again(tokenizer, tmp_path):
    file = tmp_path / "preference_train.jsonl"
    good = '{"prompt": [{"role": "user", "content": "Q"}], "chosen": "a", "rejected": "b"}\n'
    file.write_text(good + good.replace("user", "robot"))
    with pytest.raises(ValueError, match=r"preference_train.jsonl, row 2: .* role 'robot'"):
        encode_file(tokenizer, file, 99)


def test_batches_keep_answer_mask_and_reference_together(tokenizer):
    answers = ["a" * n for n in range(1, 12)]
    pairs = [encode_pair(tokenizer, PreferencePair(PROMPT, a, "b" + a), 99) for a in answers]
    reference = torch.tensor([[len(a), -len(a)] for a in answers], dtype=torch.float32)
    batches = PairBatches(pairs, reference, batch_size=4, seed=0)
    seen = []
    for step in range(3):
        batch = batches.batch_at(step)
        ids, mask = batch["token_ids"], batch["mask"]
        count = len(ids) // 2
        for row in range(count):
            chosen = masked_in(tokenizer, ids[row], mask[row])
            rejected = masked_in(tokenizer, ids[count + row], mask[count + row])
            assert rejected == "b" + chosen
            length = len(chosen) - len("<|im_end|>")
            assert batch["reference"][row].tolist() == [length, -length]
            seen.append(length)
        texts = [len(pair.chosen) + len(pair.rejected) for pair in pairs]
        assert batch.num_tokens <= ids.numel() < sum(texts)
    assert sorted(seen) == list(range(1, 12))
    assert sum(batches.batch_at(step).num_tokens for step in range(3)) == sum(texts)


def test_padding_is_masked_out(tokenizer):
    pairs = [encode_pair(tokenizer, PreferencePair(PROMPT, "a", "b" * 9), 99)]
    ids, mask = pad_pairs(pairs)
    assert ids.shape == mask.shape == (2, pairs[0].longest)
    assert mask.sum(-1).tolist() == [2, 10]  # the answer and its end
    assert not mask[0, len(pairs[0].chosen) :].any()
