"""a3.11: bytes, FLOPs and steps of training a model of 7B parameters, as written questions."""

import math

import pytest

from lm_course.grading.comparisons import check_true

RANKS = 64
D, D_FF, LAYERS, VOCAB = 4096, 11_008, 32, 32_000
TOKENS = 4 * 4096  # of a rank's micro-batch
BLOCK = 4 * D * D + 3 * D * D_FF + 2 * D
PARAMETERS = LAYERS * BLOCK + 2 * VOCAB * D + D
STATE = 16 * PARAMETERS

# Values that are kept for each token and layer: inputs of both norms and of the matrices, q, k, v,
# the gate, up and their product; and one float32 for each token and head.
KEPT_IN_A_BLOCK = (8 * D + 3 * D_FF) * 2 + 32 * 4
SAVED = TOKENS * ((LAYERS - 1) * KEPT_IN_A_BLOCK - LAYERS * D * 2)

BLOCK_FLOPS = 2 * (4 * D * D + 3 * D * D_FF) + 4 * 4096 * D  # forward, of one token
AGAIN = LAYERS * BLOCK_FLOPS
TRAINING = 3 * (AGAIN + 2 * VOCAB * D)
SPEED, PEAK = 560_000, 989e12
MFU = 100 * SPEED * TRAINING / (RANKS * PEAK)
PER_STEP = TOKENS * RANKS * 8
BUDGET = 140 * 10**9


def check_number(answers, key, expected, causes, relative=0.0):
    """Compare an answer; `causes` maps a likely cause to the wrong number that it gives."""
    found = answers.number(key)
    likely = [
        cause
        for cause, wrong in causes.items()
        if abs(found - wrong) <= max(relative, 1e-6) * abs(wrong)
        and abs(wrong - expected) > relative * expected
    ]
    sentence = f"{key}: {found:,.10g} is not right"
    if likely:
        sentence += f": {likely[0]}"
    elif 0 < abs(found - expected) < 0.01 * expected:
        sentence += ", but less than 1 % off: a small part is missing or counted twice"
    elif found > 0:
        sentence += f": the answer is {'smaller' if found > expected else 'larger'}"
    check_true(abs(found - expected) <= relative * expected, sentence)


@pytest.mark.task("a3.11")
def test_bytes_of_the_state(answers):
    causes = {
        "the float32 masters, or one of AdamW's two float32 numbers, are missing": 12 * PARAMETERS,
        "the gradients, 2 bytes for each parameter, are missing": 14 * PARAMETERS,
        "weights and gradients are in bfloat16, 2 bytes each": 20 * PARAMETERS,
        "the model has 6,738,415,616 parameters, not 7 billion": 16 * 7e9,
        "the head is not tied: it has its own weight": 16 * (PARAMETERS - VOCAB * D),
        "the norms are missing": 16 * (PARAMETERS - (2 * LAYERS + 1) * D),
    }
    check_number(answers, "state_bytes", STATE, causes)


@pytest.mark.task("a3.11")
def test_bytes_of_a_rank_with_a_sharded_optimizer(answers):
    causes = {
        "weights and gradients are whole on every rank: only the rest is divided": STATE / RANKS,
        "the masters are part of the optimizer's state: they are divided too": (
            8 * PARAMETERS + 8 * PARAMETERS / RANKS
        ),
        "gradients are whole on every rank (dividing them too is ZeRO-2)": (
            2 * PARAMETERS + 14 * PARAMETERS / RANKS
        ),
        "the moments and masters of a rank's part are missing": 4 * PARAMETERS,
        "the gradients are missing": 2 * PARAMETERS + 12 * PARAMETERS / RANKS,
    }
    right = 4 * PARAMETERS + 12 * PARAMETERS // RANKS
    check_number(answers, "sharded_optimizer_bytes", right, causes)


@pytest.mark.task("a3.11")
def test_bytes_of_a_rank_with_everything_sharded(answers):
    causes = {
        "weights and gradients are divided too": 4 * PARAMETERS + 12 * PARAMETERS / RANKS,
        "these are the bytes of all ranks": STATE,
        "gradients are divided too": 2 * PARAMETERS + 14 * PARAMETERS / RANKS,
        "the masters are missing": 12 * PARAMETERS / RANKS,
    }
    check_number(answers, "fully_sharded_bytes", STATE // RANKS, causes)


@pytest.mark.task("a3.11")
def test_bytes_that_data_parallel_sends(answers):
    whole = 2 * PARAMETERS
    right = 2 * whole * (RANKS - 1) // RANKS
    causes = {
        "an all-reduce is a reduce-scatter and an all-gather": right / 2,
        "of N parts, a rank sends N - 1": 2 * whole,
        "in a ring, a rank does not send the whole to each other rank": whole * (RANKS - 1),
        "gradients are in bfloat16 here": 2 * right,
        "these are the bytes of all ranks": RANKS * right,
    }
    check_number(answers, "data_parallel_sent_bytes", right, causes)


@pytest.mark.task("a3.11")
def test_bytes_that_fully_sharded_sends(answers):
    each = 2 * PARAMETERS * (RANKS - 1) // RANKS
    causes = {
        "weights are gathered twice: for forward and for backward": 2 * each,
        "gradients are reduce-scattered in bfloat16, which is half of an all-reduce": 4 * each,
        "of N parts, a rank sends N - 1": 6 * PARAMETERS,
        "weights and gradients are in bfloat16 here": 6 * each,
        "the gradients are missing": 2 * each,
        "these are the bytes of all ranks": 3 * each * RANKS,
    }
    check_number(answers, "fully_sharded_sent_bytes", 3 * each, causes)


@pytest.mark.task("a3.11")
def test_bytes_that_checkpointing_saves(answers):
    causes = {
        "one block is kept while it is computed again": TOKENS * LAYERS * (KEPT_IN_A_BLOCK - 2 * D),
        "the inputs of the blocks are still kept": TOKENS * (LAYERS - 1) * KEPT_IN_A_BLOCK,
        "the input of every block is kept": TOKENS * (LAYERS - 1) * (KEPT_IN_A_BLOCK - D * 2),
        "this is for one sequence; the micro-batch has four": SAVED / 4,
        "a bfloat16 has 2 bytes": SAVED * 2,
        "the attention weights are not kept (FlashAttention)": (
            SAVED + (LAYERS - 1) * TOKENS * 32 * (4096 * 2 - 4)
        ),
        "this is what is left, not what is saved": 7_769_948_160,
        "this is what is kept without checkpointing": 70_372_032_512,
    }
    check_number(answers, "checkpointing_saved_bytes", SAVED, causes)


@pytest.mark.task("a3.11")
def test_flops_that_are_computed_again(answers):
    right = 100 * AGAIN / TRAINING
    causes = {
        "divide by the FLOPs of the step without checkpointing": 100 * AGAIN / (TRAINING + AGAIN),
        "the output head is not computed again, only the blocks": 100 / 3,
        "divide by forward and backward, three times the forward pass": 3 * right,
        "this is a share, not percent": right / 100,
        "the attention scores are computed again, too": (
            100 * LAYERS * (BLOCK_FLOPS - 4 * 4096 * D) / TRAINING
        ),
    }
    check_number(answers, "recomputed_percent", right, causes, relative=0.002)


@pytest.mark.task("a3.11")
def test_model_flops_utilization(answers):
    causes = {
        "FLOPs that checkpointing adds are not the model's own work: leave them out": (
            MFU * (1 + AGAIN / TRAINING)
        ),
        "560,000 tokens per second are those of all 64 GPUs: the peak is theirs, too": MFU * RANKS,
        "6 N counts the embedding, and omits the attention scores": (
            MFU * 6 * PARAMETERS / TRAINING
        ),
        "the backward pass counts too, twice the forward pass": MFU / 3,
        "this is a share, not percent": MFU / 100,
        "the peak is that of dense bfloat16, 989 TFLOP/s, not with sparsity": MFU / 2,
    }
    check_number(answers, "mfu_percent", MFU, causes, relative=0.003)


@pytest.mark.task("a3.11")
def test_number_of_steps(answers):
    right = math.ceil(BUDGET / PER_STEP)
    causes = {
        "the last step, which is begun but not full, is missing": BUDGET // PER_STEP,
        "the accumulation of 8 micro-batches is missing": math.ceil(BUDGET / PER_STEP * 8),
        "64 ranks read at the same time": math.ceil(BUDGET / PER_STEP * RANKS),
        "a micro-batch has 4 sequences": math.ceil(BUDGET / PER_STEP * 4),
        "a sequence has 4,096 tokens": math.ceil(BUDGET / PER_STEP * 4096),
        "this counts micro-batches: a step is one update": math.ceil(BUDGET / TOKENS / RANKS),
        "this is 20 tokens for each parameter; the question names the budget": (
            math.ceil(20 * PARAMETERS / PER_STEP)
        ),
    }
    check_number(answers, "optimizer_steps", right, causes)
