"""Speculative decoding: the same text or the same distribution as without it, in fewer passes."""

import copy
from collections import Counter
from itertools import product

import pytest
import torch

from inference.generation import generate
from inference.sampling import SamplingSettings, pick, uniform
from inference.speculative_decoding import (
    accept_drafts,
    accept_lookup,
    prompt_lookup,
    residual,
    speculative_generate,
)
from lm_core.random_state import seed_everything
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

PROMPT = [3, 1, 4, 1, 5]


def tiny_model(seed: int, scale: float = 4.0, **changes) -> TransformerLM:
    shape = {"vocab_size": 11, "context_length": 32, "d_model": 8, "num_layers": 1}
    heads = {"num_heads": 2, "num_kv_heads": 1, "d_ff": 12}
    seed_everything(seed)
    model = TransformerLM(ModelConfig(**{**shape, **heads, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)  # the larger, the more certain the model
    return model


def bigram_model(rows: torch.Tensor) -> TransformerLM:
    """Return a model whose logits after token i are row i of an (8, 8) tensor."""
    model = tiny_model(0, 0.0, vocab_size=8, tie_embeddings=False)
    with torch.no_grad():
        model.token_embedding.weight.copy_(torch.eye(8))
        model.output_head.weight.copy_(rows.T)
        model.final_norm.weight.fill_(8**-0.5)  # the root mean square of a row of eye(8) is that
    return model


@pytest.fixture(scope="module")
def target() -> TransformerLM:
    return tiny_model(0, num_layers=2)


@pytest.fixture(scope="module")
def small() -> TransformerLM:
    return tiny_model(1)


def counted(model: TransformerLM) -> list[int]:
    """Return a list to which each pass appends the number of tokens that it reads."""
    lengths: list[int] = []
    model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    return lengths


# Drafts from the text


def test_prompt_lookup_on_every_short_text() -> None:
    def slow(text, max_ngram, num_drafts, min_ngram):
        for n in range(max_ngram, min_ngram - 1, -1):
            starts = [s for s in range(len(text) - n) if text[s : s + n] == text[len(text) - n :]]
            if starts:
                return text[starts[-1] + n :][:num_drafts]
        return []

    for length in range(7):
        for text in product(range(2), repeat=length):
            for max_ngram, min_ngram in ((1, 1), (2, 1), (3, 2), (5, 1)):
                expected = slow(list(text), max_ngram, 3, min_ngram)
                assert prompt_lookup(text, max_ngram, 3, min_ngram) == expected


def test_prompt_lookup_refuses_impossible_lengths() -> None:
    for arguments in ((0, 4), (3, 4, 0), (3, 4, 4), (3, -1)):
        with pytest.raises(UserError, match="got"):
            prompt_lookup([1, 2], *arguments)


# Acceptance


def test_accepted_drafts_and_the_residual_add_up_to_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        p, q = torch.randn((2, 20), generator=generator, dtype=torch.float64).mul(2).softmax(-1)
        both = torch.minimum(p, q)
        torch.testing.assert_close(both + (1 - both.sum()) * residual(p, q), p)


def test_the_residual_of_equal_distributions_is_the_target() -> None:
    p = torch.tensor([0.5, 0.5, 0.0])
    assert residual(p, p).equal(p)
    assert residual(p, p).data_ptr() != p.data_ptr()


def chi_square(counts: Counter, expected: dict[tuple[int, ...], float]) -> float:
    number = counts.total()
    assert not set(counts) - set(expected)
    return sum((counts[text] - number * p) ** 2 / (number * p) for text, p in expected.items())


@pytest.fixture(scope="module")
def tables() -> tuple[dict, dict]:
    """The distributions of two models over four tokens, after each text of up to two tokens."""
    generator = torch.Generator().manual_seed(3)
    texts = [text for length in range(3) for text in product(range(4), repeat=length)]
    return tuple(
        {text: torch.randn(4, generator=generator).softmax(-1) for text in texts} for _ in "pq"
    )


def probabilities_of_answers(target: dict) -> dict[tuple[int, ...], float]:
    return {
        text: float(target[()][text[0]] * target[text[:1]][text[1]] * target[text[:2]][text[2]])
        for text in product(range(4), repeat=3)
    }


LIMIT = 63 + 5 * (2 * 63) ** 0.5  # 63 degrees of freedom; chance exceeds it once in 100,000


def test_answers_with_a_draft_model_are_distributed_as_the_targets(tables) -> None:
    target, draft = tables
    counts: Counter = Counter()
    lengths = 0
    for seed in range(4000):
        drafts: list[int] = []
        for place in range(2):
            drafts.append(pick(draft[tuple(drafts)], uniform(3 * seed, place)))
        before = [(), tuple(drafts[:1]), tuple(drafts)]
        numbers = [(uniform(3 * seed + 1, i), uniform(3 * seed + 2, i)) for i in range(3)]
        wrote = torch.stack([draft[text] for text in before[:2]])
        text = accept_drafts(drafts, wrote, torch.stack([target[t] for t in before]), numbers)
        lengths += len(text)
        while len(text) < 3:
            text.append(pick(target[tuple(text)], uniform(-1 - seed, len(text))))
        counts[tuple(text)] += 1
    assert chi_square(counts, probabilities_of_answers(target)) < LIMIT
    first = float(torch.minimum(target[()], draft[()]).sum())
    assert lengths / 4000 > 1 + first - 0.03  # Leviathan et al., theorem 3.5


def test_drafts_of_a_lookup_are_accepted_as_often_as_by_rejection_sampling(tables) -> None:
    """For a draft that is certain, q is 1 and p / q is p."""
    target, _ = tables
    accepted = 0
    counts: Counter = Counter()
    rows = torch.stack([target[()], target[(1,)], target[(1, 2)]])
    for seed in range(4000):
        text = accept_lookup([1, 2], rows, [uniform(seed, place) for place in range(3)])
        accepted += text[0] == 1
        while len(text) < 3:
            text.append(pick(target[tuple(text)], uniform(seed, len(text))))
        counts[tuple(text)] += 1
    assert chi_square(counts, probabilities_of_answers(target)) < LIMIT
    assert accepted / 4000 == pytest.approx(float(target[()][1]), abs=0.03)


# Whole answers


@pytest.mark.parametrize("changes", [{}, {"frequency_penalty": 0.4, "repetition_penalty": 1.2}])
def test_with_a_lookup_the_answer_is_that_of_generate(target, changes) -> None:
    accepted = 0
    for seed in range(6):
        settings = SamplingSettings(temperature=0.8, top_p=0.9, seed=seed, **changes)
        plain = generate(target, torch.tensor([PROMPT]), settings, 20, stop_ids={7})[0]
        answer, num_passes = speculative_generate(target, None, PROMPT, settings, 20, {7})
        assert answer == plain
        accepted += len(answer) + 1 > num_passes
    assert accepted


def test_greedy_decoding_is_the_same_with_any_drafts(target, small) -> None:
    settings = SamplingSettings(temperature=0.0)
    plain = generate(target, torch.tensor([PROMPT]), settings, 20)[0]
    for draft_model, num_drafts in product((None, small, target), (0, 1, 4, 9)):
        answer, _ = speculative_generate(
            target, draft_model, PROMPT, settings, 20, num_drafts=num_drafts
        )
        assert answer == plain


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        ([0.6, 0.2, 0.2], [0.1, 0.45, 0.45]),  # shows if one number drafts and accepts
        ([0.5, 0.25, 0.25], [0.96, 0.02, 0.02]),  # if one accepts and picks
        ([0.02, 0.49, 0.49], [0.5, 0.25, 0.25]),  # if one drafts and picks
    ],
)
def test_the_token_of_a_draft_model_is_distributed_as_the_targets(target, draft) -> None:
    models = []
    for distribution in (target, draft):
        logits = torch.full((8, 8), -50.0)
        logits[:, :3] = torch.tensor(distribution).log()
        models.append(bigram_model(logits))
    counts: Counter = Counter()
    for seed in range(120):
        settings = SamplingSettings(temperature=1.0, seed=seed)
        answer, _ = speculative_generate(*models, [0], settings, 3)  # one draft, for token 1
        counts[answer[1],] += 1
    assert chi_square(counts, {(token,): p for token, p in enumerate(target)}) < 14  # 1 in 1,000


def test_a_draft_model_that_is_the_model_is_always_right(target) -> None:
    for temperature in (0.0, 1.0):
        settings = SamplingSettings(temperature=temperature, top_k=4, seed=5)
        answer, num_passes = speculative_generate(
            target, target, PROMPT, settings, 16, num_drafts=4
        )
        assert (len(answer), num_passes) == (16, 1 + 3)


def test_each_pass_reads_the_last_token_and_the_drafts(target) -> None:
    model = copy.deepcopy(target)
    lengths = counted(model)
    settings = SamplingSettings(temperature=0.3, seed=1)
    answer, num_passes = speculative_generate(model, target, PROMPT, settings, 15, num_drafts=3)
    assert len(answer) == 15
    assert lengths == [len(PROMPT), 4, 4, 4, 2]
    assert num_passes == len(lengths)


def test_a_repeating_text_needs_few_passes() -> None:
    model = bigram_model(torch.eye(8).roll(1, dims=1))  # 0, 1, ..., 7, 0, 1, ...
    lengths = counted(model)
    settings = SamplingSettings(temperature=0.0)
    answer, num_passes = speculative_generate(model, None, [5], settings, 30, num_drafts=7)
    assert answer == [number % 8 for number in range(6, 36)]
    # Until 5 occurs again, no draft: a pass for each of 8 tokens. The others come 8 at a time.
    assert num_passes == len(lengths) == 8 + 3


def test_the_answer_ends_at_every_limit_and_stop_token(target, small) -> None:
    settings = SamplingSettings(temperature=0.0)
    plain = generate(target, torch.tensor([PROMPT]), settings, 40)[0]
    assert len(plain) == 32 - 5 + 1  # the last token is not read
    for draft_model in (None, small, target):
        for most in (1, 2, 6, 27, 40):
            answer, _ = speculative_generate(target, draft_model, PROMPT, settings, most)
            assert answer == plain[:most]
        for stop in set(plain[:12]):
            answer, _ = speculative_generate(target, draft_model, PROMPT, settings, 12, {stop})
            assert answer == plain[: plain.index(stop)]
    answer, num_passes = speculative_generate(target, small, plain[:28] + [1] * 4, settings, 9)
    assert (len(answer), num_passes) == (1, 1)


def test_what_is_refused(target, small) -> None:
    settings = SamplingSettings()
    for draft_model, prompt, most, options in (
        (None, [], 4, {}),
        (None, [1] * 33, 4, {}),
        (None, [11], 4, {}),
        (None, PROMPT, 0, {}),
        (None, PROMPT, 4, {"num_drafts": -1}),
        (small, PROMPT, 4, {"max_ngram": 0}),
        (tiny_model(0, vocab_size=12), PROMPT, 4, {}),
        (tiny_model(0, context_length=16), PROMPT, 4, {}),
    ):
        with pytest.raises(UserError):
            speculative_generate(target, draft_model, prompt, settings, most, **options)
