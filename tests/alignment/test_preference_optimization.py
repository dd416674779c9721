"""DPO: the loss by hand, in float64 and by its gradient; runs that learn, resume and reject
inputs.
"""

import math
from statistics import mean

import pytest
import torch

from alignment import preference_optimization
from alignment.instruction_data.padded_batches import MaskedText
from alignment.instruction_data.preference_pairs import EncodedPair, PairBatches, encode_file
from alignment.preference_optimization import (
    DPOSettings,
    HeldoutPairs,
    dpo_loss,
    implicit_reward_margin,
    preference_loss,
    run_dpo,
    score_pairs,
    share_ranked_rightly,
)
from lm_core.formats.checkpoint_files import latest_checkpoint
from lm_core.formats.metric_log import MetricLog, read_metrics
from lm_core.user_error import UserError
from training.runs.training_settings import TrainingSettings
from transformer_lm.weights.pretrained import load_model

PAIRS = [
    EncodedPair(
        MaskedText([3, 1, 4, 1, 5], [False, False, False, True, True]),
        MaskedText([3, 1, 4, 2], [False, False, False, True]),
    ),
    EncodedPair(
        MaskedText([2, 7, 1], [False, False, True]),
        MaskedText([2, 7, 5, 9, 8, 8], [False, False, True, True, True, True]),
    ),
]


def settings(beta=0.3, sft_weight=0.0, max_tokens=64, max_heldout=256, **changes) -> DPOSettings:
    training = {
        "steps": 24,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "checkpoint_every": 10,
        "validate_every": 12,
        "precision": "float32",
    }
    return DPOSettings(
        training=TrainingSettings(**(training | changes)),
        beta=beta,
        sft_weight=sft_weight,
        max_tokens=max_tokens,
        max_heldout=max_heldout,
        device="cpu",
    )


def optimise(folder, alphabets, pretrained, tokenizer, chosen=None, **given):
    log = MetricLog(folder / "metrics.jsonl", "dpo")
    chosen = chosen or settings()
    return run_dpo(chosen, alphabets, pretrained, tokenizer, folder / "dpo", log, **given)


def numbers(folder) -> list[dict]:
    clock = {"seconds", "tokens_per_second"}
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: row[name] for name in row if name not in clock} for row in rows]


@torch.no_grad()
def answer_log_probs(model, text: MaskedText) -> list[float]:
    """The oracle: the model reads the tokens before a token, alone and without padding."""
    places = [t for t, learn in enumerate(text.mask) if learn]
    prefixes = {t: torch.tensor([text.ids[:t]]) for t in places}
    return [model(prefixes[t])[0, -1].double().log_softmax(-1)[text.ids[t]].item() for t in places]


def test_loss_by_hand():
    # Pair 1: the ratios are +1 and -1, margin 0.5 * 2 = 1. Pair 2: -2 and +2, margin -2.
    chosen, rejected = torch.tensor([-4.0, -7.0]), torch.tensor([-6.0, -3.0])
    references = torch.tensor([-5.0, -5.0])
    margin = implicit_reward_margin(chosen, rejected, references, references, 0.5)
    assert margin.tolist() == [1.0, -2.0]
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    loss = dpo_loss(chosen, rejected, references, references, 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_loss_against_float64_and_at_large_margins():
    torch.manual_seed(0)
    scores = [-100 * torch.rand(64) for _ in range(4)]
    a, b, c, d = (score.double() for score in scores)
    expected = -torch.sigmoid(0.1 * ((a - b) - (c - d))).log().mean()
    # Values to 100 have float32 steps of 8e-6, four of them times beta = 0.1.
    assert dpo_loss(*scores, 0.1).item() == pytest.approx(expected.item(), abs=1e-5)
    far, zero = torch.tensor([-5000.0]), torch.zeros(1)
    assert dpo_loss(far, zero, zero, zero, 0.1).item() == pytest.approx(500)
    assert dpo_loss(zero, far, zero, zero, 0.1).item() == 0


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_log_2_where_the_policy_is_the_reference(beta):
    chosen, rejected = torch.tensor([-3.0, -40.0]), torch.tensor([-9.0, -2.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, beta).item() == pytest.approx(math.log(2))


def test_gradient_raises_the_chosen_and_lowers_the_rejected():
    chosen, rejected = (torch.full((2,), -5.0, requires_grad=True) for _ in range(2))
    reference_chosen = torch.tensor([-5.0, -35.0])  # the second pair is already far ahead
    dpo_loss(chosen, rejected, reference_chosen, torch.full((2,), -5.0), 0.1).backward()
    assert (chosen.grad < 0).all() and (rejected.grad > 0).all()
    # -beta sigmoid(-margin) / pairs: margins 0 and 3; a pair that is already ranked correctly
    # counts less.
    expected = [-0.1 / 2 / 2, -0.1 / (1 + math.exp(3)) / 2]
    assert chosen.grad.tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(chosen.grad, -rejected.grad)


def test_scores_are_sums_and_means_over_the_answers(model):
    sums, means = score_pairs(model, PAIRS)
    for number, pair in enumerate(PAIRS):
        for column, text in enumerate((pair.chosen, pair.rejected)):
            expected = answer_log_probs(model, text)
            assert sums[number, column].item() == pytest.approx(sum(expected), abs=1e-4)
            mean = sum(expected) / len(expected)
            assert means[number, column].item() == pytest.approx(mean, abs=1e-4)


def test_scores_come_in_the_order_of_the_pairs(model, monkeypatch):
    sums, _ = score_pairs(model, PAIRS)
    monkeypatch.setattr(preference_optimization, "SCORING_BATCH", 1)
    torch.testing.assert_close(score_pairs(model, PAIRS[::-1])[0].flip(0), sums)


def test_scores_are_float32_also_within_bfloat16(model):
    """Otherwise a policy equal to its reference ranks pairs by rounding, as once happened: 46.9 %
    of 256.
    """
    reference, _ = score_pairs(model, PAIRS)
    with torch.autocast("cpu", torch.bfloat16):
        figures = HeldoutPairs(PAIRS, reference, 0.1)(model)
    assert figures["heldout_reward_accuracy"] == 0.5
    assert figures["heldout_reward_margin"] == 0


def test_shares_by_hand():
    scores = torch.tensor([[-1.0, -2.0], [-3.0, -2.0], [-1.0, -1.0], [0.0, -9.0]])
    assert share_ranked_rightly(scores) == 2.5 / 4


@pytest.mark.usefixtures("unchecked_types")
def test_heldout_figures_by_hand(monkeypatch):
    sums = torch.tensor([[-4.0, -6.0], [-7.0, -3.0]])
    means = torch.tensor([[-2.0, -1.0], [-1.0, -3.0]])
    monkeypatch.setattr(preference_optimization, "score_pairs", lambda *_: (sums, means))
    reference = torch.tensor([[-5.0, -5.0], [-8.0, -3.0]])
    figures = HeldoutPairs(PAIRS, reference, 0.5)(None)
    assert figures["heldout_ranking"] == 0.5  # by the means: wrong, right
    assert figures["heldout_reward_accuracy"] == 1  # rewards 0.5 > -0.5 and 0.5 > 0
    assert figures["heldout_reward_margin"] == 0.75
    assert figures["heldout_chosen_log_prob"] == -1.5
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-0.5))) / 2
    assert figures["heldout_dpo_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_loss_of_a_batch(model, sft_weight):
    reference, _ = score_pairs(model, PAIRS)
    moved = reference + torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # margins -beta and +2 beta
    loss = preference_loss(model, PairBatches(PAIRS, moved, 2, 0).batch_at(0), 0.5, sft_weight)
    expected = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(-1))) / 2
    chosen = [value for pair in PAIRS for value in answer_log_probs(model, pair.chosen)]
    expected -= sft_weight * sum(chosen) / 3  # tokens: two and one
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_a_run_learns_to_rank(tmp_path, alphabets, pretrained, tokenizer):
    figures = optimise(tmp_path, alphabets, pretrained, tokenizer)
    assert figures["heldout_reward_accuracy_before"] == 0.5
    assert figures["heldout_reward_margin_before"] == 0
    assert figures["heldout_dpo_loss_before"] == pytest.approx(math.log(2))
    heldout, _ = encode_file(tokenizer, alphabets / "preference_heldout.jsonl", 64)
    untrained = load_model(pretrained)
    means = [
        [mean(answer_log_probs(untrained, text)) for text in (pair.chosen, pair.rejected)]
        for pair in heldout
    ]
    ranked = [chosen > rejected for chosen, rejected in means]
    assert len(ranked) == 32 and 0 < sum(ranked) < 29, "some pairs are left to learn"
    assert figures["heldout_ranking_before"] == mean(ranked)
    assert figures["heldout_ranking_after"] > 0.95
    assert figures["heldout_reward_accuracy_after"] > 0.95
    assert figures["heldout_reward_margin_after"] > 0.5
    rows = numbers(tmp_path)
    assert rows[1]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[24]["heldout_ranking"] == figures["heldout_ranking_after"]
    assert figures["pairs"] == 64 and figures["pairs_too_long"] == 0


def test_the_figures_are_of_the_heldout_file(tmp_path, alphabets, pretrained, tokenizer):
    """With right and wrong swapped in that file only, training lowers the ranking."""
    file = alphabets / "preference_heldout.jsonl"
    text = file.read_text().replace('"chosen"', '"x"').replace('"rejected"', '"chosen"')
    file.write_text(text.replace('"x"', '"rejected"'))
    figures = optimise(tmp_path, alphabets, pretrained, tokenizer)
    assert figures["heldout_ranking_after"] < 0.05
    assert figures["heldout_reward_accuracy_after"] < 0.05


def test_a_smaller_beta_lets_the_policy_move_further(tmp_path, alphabets, pretrained, tokenizer):
    moved = {}
    for beta in (0.03, 3.0):
        folder = tmp_path / str(beta)
        done = optimise(folder, alphabets, pretrained, tokenizer, settings(beta))
        moved[beta] = done["heldout_reward_margin_after"] / beta  # in nats
    assert moved[0.03] > 1.5 * moved[3.0] > 0


def test_sft_weight_keeps_the_chosen_answers_likely(tmp_path, alphabets, pretrained, tokenizer):
    likely = {}
    for weight in (0.0, 1.0):
        chosen = settings(sft_weight=weight)
        done = optimise(tmp_path / str(weight), alphabets, pretrained, tokenizer, chosen)
        likely[weight] = done["heldout_chosen_log_prob_after"]
    assert likely[1.0] > likely[0.0] + 0.1


def test_only_pairs_that_are_read_are_scored(
    tmp_path, alphabets, pretrained, tokenizer, monkeypatch
):
    scored = []

    def counting(model, pairs):
        scored.append(len(pairs))
        return original(model, pairs)

    original = preference_optimization.score_pairs
    monkeypatch.setattr(preference_optimization, "score_pairs", counting)
    chosen = settings(steps=3, max_heldout=5)
    assert optimise(tmp_path, alphabets, pretrained, tokenizer, chosen)["pairs"] == 24
    assert scored == [24, 5, 5, 5]  # the reference on both, then the policy before and after


def test_a_killed_run_goes_on_number_for_number(tmp_path, alphabets, pretrained, tokenizer):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    given = (alphabets, pretrained, tokenizer)
    expected = optimise(straight, *given)

    class KilledLog(MetricLog):
        def append(self, row):
            super().append(row)
            if row["step"] == 17:
                raise KeyboardInterrupt

    log = KilledLog(killed / "metrics.jsonl", "dpo")
    with pytest.raises(KeyboardInterrupt):
        run_dpo(settings(), *given, killed / "dpo", log)
    assert latest_checkpoint(killed / "dpo").name == "step_000010"
    found = optimise(killed, *given)
    assert found["heldout_dpo_loss_after"] == expected["heldout_dpo_loss_after"]
    assert numbers(killed) == numbers(straight)


def test_what_is_resumed_and_what_starts_anew(
    tmp_path, alphabets, pretrained, tokenizer, monkeypatch
):
    resumed = []

    def train(run):
        resumed.append((done := original(run)).resumed_from)
        return done

    original = preference_optimization.train
    monkeypatch.setattr(preference_optimization, "train", train)
    given = (tmp_path, alphabets, pretrained, tokenizer)
    optimise(*given, settings(steps=3), code={"alignment": "1"})
    optimise(*given, settings(steps=3), code={"alignment": "1"})
    optimise(*given, settings(steps=3), code={"alignment": "2"})
    optimise(*given, settings(steps=3, beta=0.4), code={"alignment": "2"})
    assert resumed == [None, 3, None, None]


def test_inputs_that_cannot_be_used(tmp_path, alphabets, pretrained, tokenizer):
    given = (tmp_path, alphabets, pretrained, tokenizer)
    with pytest.raises(ValueError, match=r"max_tokens = 65 is more than .* length of 64; lower"):
        optimise(*given, settings(max_tokens=65))
    with pytest.raises(ValueError, match="none of its 64 pairs fits into max_tokens = 12"):
        optimise(*given, settings(max_tokens=12))
    (alphabets / "preference_heldout.jsonl").unlink()
    with pytest.raises(ValueError, match=r"preference_heldout.jsonl does not exist; make it with"):
        optimise(*given)
    assert not (tmp_path / "dpo").exists(), "no training may begin on rejected inputs"


def test_pairs_of_another_vocabulary_are_refused_before_the_model_sees_them(model, monkeypatch):
    monkeypatch.setattr(model, "forward", None)
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"vocab_size": 3}))
    with pytest.raises(UserError, match="is outside the model's vocabulary of 3"):
        score_pairs(model, PAIRS)
