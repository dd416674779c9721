"""Direct preference optimization: training on pairs of a better and a worse answer, without a
reward model.

Rafailov et al. 2023 ("Direct Preference Optimization", arXiv 2305.18290), equation 7. The reward of
an answer y to x is beta * log( policy(y|x) / reference(y|x) ), and the loss rewards a higher one
for the chosen than for the rejected answer:

    loss = -log sigmoid( beta * [ (log policy - log reference)(chosen)
                                - (log policy - log reference)(rejected) ] )

The reference is the fine-tuned model that training starts from. It never changes, so its
log-probabilities are computed once, before training, and it needs no forward pass afterwards.

Three figures are reported on held-out pairs. `heldout_ranking` is the share of pairs in which the
policy itself gives the chosen answer the higher mean log-probability per token; it is defined
before DPO too, so before and after can be compared. The other two are the accuracy and the mean
margin of the implicit reward. Before training they are one half (ties count half) and 0, by
definition.

What this leaves out: other losses of this family, and answers sampled from the policy while it
trains.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from alignment.instruction_data.padded_batches import by_length
from alignment.instruction_data.preference_pairs import (
    EncodedPair,
    PairBatches,
    encode_file,
    pad_pairs,
)
from alignment.supervised_finetuning import check_max_tokens, training_figures
from alignment.token_log_probs import (
    fused_token_log_probs,
    mean_per_sequence,
    sum_per_sequence,
)
from lm_core.artifact_paths import file_sha256
from lm_core.device import pick_device
from lm_core.formats.metric_log import MetricLog
from lm_core.settings import Settings
from tokenizer_bpe.tokenizer import Tokenizer
from training.batching import Batch
from training.runs.run_checkpoints import run_fingerprint
from training.runs.training_settings import TrainingSettings
from training.training_loop import TrainingRun, train
from transformer_lm.language_model import TransformerLM
from transformer_lm.token_id_check import check_token_ids
from transformer_lm.weights.pretrained import load_model

SCORING_BATCH = 16  # pairs per batch when only scoring


class DPOSettings(Settings):
    """The `[dpo]` section of a recipe.

    Attributes:
        training: settings of the training loop; batch_size counts pairs. Reference and held-out
            pairs are scored in float32 for every precision: rounding would rank answers before any
            training.
        beta: how strongly the policy is tied to the reference; a smaller value lets it move
            further.
        sft_weight: weight of the chosen answers' mean -log p per token, which is added to the loss;
            0 is plain DPO. A positive weight keeps the chosen answers from becoming less likely
            along with the rejected ones.
        max_tokens: pairs with a longer text are skipped and counted.
        max_heldout: number of held-out pairs to score each time.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
    """

    training: TrainingSettings
    beta: float = pydantic.Field(default=0.1, gt=0)
    sft_weight: float = pydantic.Field(default=0.0, ge=0)
    max_tokens: int = pydantic.Field(default=256, gt=1)
    max_heldout: int = pydantic.Field(default=256, gt=0)
    device: str = "auto"


def dpo_loss(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    beta: float,
) -> Float[Tensor, ""]:
    """Return equation 7 of the paper, the mean over the pairs.

    All four arguments are log p(answer | prompt): sums over the answer's tokens, in nats. At the
    start, where policy = reference, the loss is log 2.
    """
    margin = implicit_reward_margin(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    # logsigmoid, not log(sigmoid): the latter is -inf for margins below about -104.
    return -torch.nn.functional.logsigmoid(margin).mean()


def implicit_reward_margin(
    policy_chosen: Float[Tensor, " pairs"],
    policy_rejected: Float[Tensor, " pairs"],
    reference_chosen: Float[Tensor, " pairs"],
    reference_rejected: Float[Tensor, " pairs"],
    beta: float,
) -> Float[Tensor, " pairs"]:
    """Return the reward of the chosen minus that of the rejected answer; reward = beta * log
    ratio.
    """
    chosen_ratio = policy_chosen - reference_chosen
    rejected_ratio = policy_rejected - reference_rejected
    return beta * (chosen_ratio - rejected_ratio)


def preference_loss(
    model: TransformerLM, batch: Batch, beta: float, sft_weight: float
) -> Float[Tensor, ""]:
    """Return the DPO loss of a batch from `PairBatches`, plus `sft_weight` times the chosen
    answers' mean -log p per token.

    Chosen and rejected texts go through the model in one pass: rows 0..n-1 and n..2n-1.
    """
    mask = batch["mask"][:, 1:]
    log_probs = fused_token_log_probs(model(batch["token_ids"]), batch["token_ids"])
    chosen, rejected = sum_per_sequence(log_probs, mask).chunk(2)
    reference = batch["reference"]
    loss = dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1], beta)
    if sft_weight:
        chosen_tokens = mask.chunk(2)[0].sum()
        loss = loss - sft_weight * chosen.sum() / chosen_tokens
    return loss


@torch.no_grad()
def score_pairs(
    model: TransformerLM, pairs: Sequence[EncodedPair]
) -> tuple[Float[Tensor, "pairs 2"], Float[Tensor, "pairs 2"]]:
    """Return log p(answer | prompt) of the chosen (column 0) and rejected answers, and its mean per
    token.

    Both are on the CPU, in the order of `pairs`, and in float32 even if the training uses bfloat16.
    """
    device = next(model.parameters()).device
    sums, means = torch.zeros(len(pairs), 2), torch.zeros(len(pairs), 2)
    for numbers in by_length([pair.longest for pair in pairs], SCORING_BATCH):
        ids, mask = pad_pairs([pairs[n] for n in numbers])
        check_token_ids(ids, model.config.vocab_size)
        ids, mask = ids.to(device), mask.to(device)
        with torch.autocast(device.type, enabled=False):
            log_probs = fused_token_log_probs(model(ids), ids)
        sums[numbers] = torch.stack(sum_per_sequence(log_probs, mask[:, 1:]).chunk(2), -1).cpu()
        means[numbers] = torch.stack(mean_per_sequence(log_probs, mask[:, 1:]).chunk(2), -1).cpu()
    return sums, means


def share_ranked_rightly(scores: Float[Tensor, "pairs 2"]) -> float:
    """Return the share of pairs whose chosen answer (column 0) scores higher; a tie counts half."""
    chosen, rejected = scores.unbind(-1)
    return ((chosen > rejected).double() + 0.5 * (chosen == rejected)).mean().item()


class HeldoutPairs:
    """Evaluates a policy on held-out pairs; a call returns the figures by name.

    `reference` holds the sums that `score_pairs` returned for the reference model.
    """

    def __init__(
        self, pairs: Sequence[EncodedPair], reference: Float[Tensor, "pairs 2"], beta: float
    ) -> None:
        self.pairs = pairs
        self.reference = reference
        self.beta = beta

    def __call__(self, model: TransformerLM) -> dict[str, float]:
        sums, means = score_pairs(model, self.pairs)
        rewards = self.beta * (sums - self.reference)  # (pairs, 2)
        scores = (*sums.unbind(-1), *self.reference.unbind(-1))
        return {
            "heldout_ranking": share_ranked_rightly(means),
            "heldout_reward_accuracy": share_ranked_rightly(rewards),
            "heldout_reward_margin": (rewards[:, 0] - rewards[:, 1]).mean().item(),
            "heldout_dpo_loss": dpo_loss(*scores, self.beta).item(),
            "heldout_chosen_log_prob": means[:, 0].mean().item(),
        }


def run_dpo(
    settings: DPOSettings,
    instructions_folder: Path,
    finetuned: Path,
    tokenizer: Tokenizer,
    checkpoint_folder: Path,
    metric_log: MetricLog,
    *,
    companion_files: dict[str, bytes] | None = None,
    special_token_ids: dict[str, Any] | None = None,
    code: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Train the checkpoint `finetuned` on preference_train.jsonl, with itself as the frozen
    reference, and return figures for the report.

    Parameters and errors are those of `run_sft`.
    """
    training = settings.training
    device = pick_device(settings.device)
    model = load_model(finetuned, device)
    check_max_tokens(settings.max_tokens, model.config.context_length)
    files = [instructions_folder / f"preference_{part}.jsonl" for part in ("train", "heldout")]
    # Pairs beyond the last step are never read, so they are neither encoded nor scored.
    wanted = (training.steps * training.batch_size, settings.max_heldout)
    (train_pairs, num_too_long), (heldout, _) = (
        encode_file(tokenizer, file, settings.max_tokens, at_most)
        for file, at_most in zip(files, wanted, strict=True)
    )
    reference, _ = score_pairs(model, train_pairs)
    heldout_reference, _ = score_pairs(model, heldout)
    batches = PairBatches(train_pairs, reference, training.batch_size, training.seed)
    run = TrainingRun(
        model=model,
        loss_of_batch=lambda model, batch: preference_loss(
            model, batch, settings.beta, settings.sft_weight
        ),
        batch_at=batches.batch_at,
        validate=HeldoutPairs(heldout, heldout_reference, settings.beta),
        settings=training,
        checkpoint_folder=checkpoint_folder,
        metric_log=metric_log,
        fingerprint=run_fingerprint(
            stage="dpo",
            code=code,
            settings=settings.model_dump(exclude={"training"}) | {"training": training.deciding()},
            finetuned=file_sha256(finetuned / "model.safetensors"),
            instructions=[file_sha256(file) for file in files],
        ),
        companion_files=companion_files or {},
        special_token_ids=special_token_ids or {},
        device=device,
        description="dpo",
    )
    counts = {"pairs": len(train_pairs), "pairs_too_long": num_too_long}
    return counts | training_figures(train(run))
