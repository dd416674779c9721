"""Fine-tuning: the loss against an oracle that reads prefixes; runs that learn, resume and
reject.
"""

import json
import math

import pytest
import torch

from alignment import supervised_finetuning
from alignment.instruction_data.padded_batches import MaskedText, encode_conversation, pad
from alignment.supervised_finetuning import (
    ConversationBatches,
    SFTSettings,
    answer_loss,
    run_sft,
    sft_loss,
    sft_loss_sum,
)
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.user_error import UserError
from training.batching import Batch
from training.runs.training_settings import TrainingSettings
from transformer_lm.weights.pretrained import load_model

TEXTS = [
    MaskedText([3, 1, 4, 1, 5, 9], [False, False, False, True, True, True]),
    MaskedText([2, 7, 1], [False, False, True]),
]


def settings(max_tokens: int = 64, **changes) -> SFTSettings:
    training = {
        "steps": 40,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "checkpoint_every": 10,
        "validate_every": 20,
        "precision": "float32",
    }
    training = TrainingSettings(**(training | changes))
    return SFTSettings(training=training, max_tokens=max_tokens, device="cpu")


def fine_tune(folder, alphabets, pretrained, tokenizer, chosen=None, **given):
    log = MetricLog(folder / "metrics.jsonl", "sft")
    chosen = chosen or settings()
    return run_sft(chosen, alphabets, pretrained, tokenizer, folder / "sft", log, **given)


def numbers(folder) -> list[dict]:
    clock = {"seconds", "tokens_per_second"}
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: row[name] for name in row if name not in clock} for row in rows]


@torch.no_grad()
def masked_log_probs(model, text: MaskedText) -> list[float]:
    """The oracle: the model reads the tokens before a token, alone and without padding."""
    places = [t for t, learn in enumerate(text.mask) if learn]
    prefixes = {t: torch.tensor([text.ids[:t]]) for t in places}
    return [model(prefixes[t])[0, -1].double().log_softmax(-1)[text.ids[t]].item() for t in places]


def test_loss_is_the_mean_over_the_answers_tokens(model):
    log_probs = [value for text in TEXTS for value in masked_log_probs(model, text)]
    assert len(log_probs) == 4
    ids, mask = pad(TEXTS)
    loss = sft_loss(model, Batch({"token_ids": ids, "mask": mask}, 9)).item()
    assert loss == pytest.approx(-sum(log_probs) / 4, abs=1e-4)
    assert answer_loss(model, TEXTS) == pytest.approx(loss, abs=1e-6)
    total, count = sft_loss_sum(model, Batch({"token_ids": ids, "mask": mask}, 9))
    assert count == 4 and total.item() / 4 == pytest.approx(loss, abs=1e-6)


def test_answer_loss_is_over_tokens_whatever_the_batches(model, monkeypatch):
    together = answer_loss(model, TEXTS)
    monkeypatch.setattr(supervised_finetuning, "VALIDATION_BATCH", 1)
    # A mean of the batches' means would weigh the one token of the short text as much as three.
    assert answer_loss(model, TEXTS) == pytest.approx(together, abs=1e-6)


@pytest.mark.usefixtures("unchecked_types")
def test_prompt_and_padding_get_no_gradient(model):
    """The logits get no gradient where the next token is the user's, the template's or padding."""
    ids, mask = pad(TEXTS)
    logits = model(ids).detach().requires_grad_()
    sft_loss(lambda _: logits, Batch({"token_ids": ids, "mask": mask}, 9)).backward()
    learned = logits.grad.abs().sum(-1) > 0
    assert learned.tolist() == [
        [False, False, True, True, True, False],
        [False, True, False, False, False, False],
    ]


def test_batches_leave_padding_out_of_the_count(tokenizer):
    batch = ConversationBatches(TEXTS, batch_size=2, seed=0).batch_at(0)
    assert batch.num_tokens == 9
    assert batch["token_ids"].shape == batch["mask"].shape == (2, 6)


def test_a_run_learns_the_answers_alphabet(tmp_path, alphabets, pretrained, tokenizer):
    figures = fine_tune(tmp_path, alphabets, pretrained, tokenizer)
    # At first, all 259 tokens are equally likely; after training, three letters and the end are
    # left.
    assert figures["heldout_loss_before"] == pytest.approx(math.log(259), abs=0.3)
    assert figures["heldout_loss_after"] < math.log(4) + 0.1  # measured 1.25; ln 4 is 1.39
    assert figures["conversations"] == 64 and figures["conversations_too_long"] == 0
    rows = numbers(tmp_path)
    assert [row["step"] for row in rows] == list(range(41))
    assert rows[40]["heldout_loss"] == figures["heldout_loss_after"]
    assert latest_checkpoint(tmp_path / "sft").name == "step_000040"


def test_the_heldout_loss_is_of_the_heldout_file(tmp_path, alphabets, pretrained, tokenizer):
    file = alphabets / "sft_heldout.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[:8]:
        row["messages"][1]["content"] = "zyx"  # letters that no training answer has
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_eight = SFTSettings(**(dict(settings()) | {"max_heldout": 8}))
    figures = fine_tune(tmp_path, alphabets, pretrained, tokenizer, of_eight)
    assert figures["heldout_loss_after"] > 3  # 1.3 on the training's alphabet; all 32 give less


def test_the_users_words_are_not_learned(tmp_path, model, alphabets, pretrained, tokenizer):
    """The loss of a conversation's user part must hardly change, because it is not trained on."""
    messages = [{"role": "user", "content": "Q7?"}, {"role": "assistant", "content": "a"}]
    text = encode_conversation(tokenizer, messages, 64)
    users = MaskedText(text.ids, [False, *(not learn for learn in text.mask[1:])])
    before = answer_loss(model, [users])
    fine_tune(tmp_path, alphabets, pretrained, tokenizer)
    trained = load_model(latest_checkpoint(tmp_path / "sft"))
    assert (
        answer_loss(trained, [users]) > before - 0.5
    )  # falls by 4 nats where the mask is all True


def test_a_killed_run_goes_on_number_for_number(tmp_path, alphabets, pretrained, tokenizer):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    given = (alphabets, pretrained, tokenizer)
    expected = fine_tune(straight, *given)

    class KilledLog(MetricLog):
        def append(self, row):
            super().append(row)
            if row["step"] == 27:
                raise KeyboardInterrupt

    log = KilledLog(killed / "metrics.jsonl", "sft")
    with pytest.raises(KeyboardInterrupt):
        run_sft(settings(), *given, killed / "sft", log)
    assert latest_checkpoint(killed / "sft").name == "step_000020"
    found = fine_tune(killed, *given)
    assert found["heldout_loss_after"] == expected["heldout_loss_after"]
    assert numbers(killed) == numbers(straight)


def test_what_is_resumed_and_what_starts_anew(
    tmp_path, alphabets, pretrained, tokenizer, monkeypatch
):
    resumed = []

    def train(run):
        resumed.append((done := original(run)).resumed_from)
        return done

    original = supervised_finetuning.train
    monkeypatch.setattr(supervised_finetuning, "train", train)
    given = (tmp_path, alphabets, pretrained, tokenizer, settings(steps=4))
    fine_tune(*given, code={"alignment": "1"})
    fine_tune(*given, code={"alignment": "1"})
    fine_tune(*given, code={"alignment": "2"})
    with (alphabets / "sft_train.jsonl").open("a") as file:
        file.write(json.dumps({"messages": [{"role": "assistant", "content": "b"}]}) + "\n")
    fine_tune(*given, code={"alignment": "2"})
    assert resumed == [None, 4, None, None]


def test_inputs_that_cannot_be_used(tmp_path, alphabets, pretrained, tokenizer):
    given = (tmp_path, alphabets, pretrained, tokenizer)
    with pytest.raises(ValueError, match=r"max_tokens = 65 is more than .* length of 64; lower"):
        fine_tune(*given, settings(max_tokens=65))
    with pytest.raises(ValueError, match=r"none of its 64 conversations .* max_tokens = 12") as e:
        fine_tune(*given, settings(max_tokens=12))
    assert "\n" not in str(e.value)
    question = {"role": "user", "content": "Q"}
    file = alphabets / "sft_heldout.jsonl"
    file.write_text(json.dumps({"messages": [question]}))
    with pytest.raises(ValueError, match=r"sft_heldout.jsonl: none of its 1 conv.* has an answer"):
        fine_tune(*given)
    file.write_text(json.dumps({"messages": [question | {"role": "robot"}]}))
    with pytest.raises(ValueError, match=r"sft_heldout.jsonl, row 1: message 0: role 'robot'"):
        fine_tune(*given)
    assert not (tmp_path / "sft").exists(), "no training may begin on rejected inputs"


def test_heldout_ids_of_another_vocabulary_are_refused_before_the_model_sees_them(
    model, monkeypatch
):
    monkeypatch.setattr(model, "forward", None)
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"vocab_size": 3}))
    with pytest.raises(UserError, match="is outside the model's vocabulary of 3"):
        answer_loss(model, TEXTS)
