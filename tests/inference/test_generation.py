"""Greedy generation equals `transformers`, ends where it should, and samples are independent."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from inference import generation
from inference.generation import generate, generate_steps, next_token_ids
from inference.kv_cache import KVCache
from inference.sampling import SamplingSettings, penalize, sample, seed_of_sample
from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.user_error import UserError
from transformer_lm.weights.pretrained import to_hugging_face

GREEDY = SamplingSettings(temperature=0.0)
PROMPT = torch.tensor([[72, 101, 108, 108, 111]])


def slow_greedy(model, prompt: torch.Tensor, count: int) -> list[int]:
    """Generate without a cache: read the whole text again for every token."""
    ids = prompt.clone()
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[0, prompt.shape[1] :].tolist()


def test_greedy_text_equals_transformers_and_the_slow_way(model, tmp_path) -> None:
    tensors, config = to_hugging_face(model, {})
    write_checkpoint(tmp_path / "step_000001", tensors, config, {}, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "step_000001", dtype=torch.float32)
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "eos_token_id": 999}
    mask = torch.ones_like(PROMPT)
    expected = theirs.generate(PROMPT, attention_mask=mask, **options)[0, 5:].tolist()
    ours = generate(model, PROMPT, GREEDY, 20)[0]
    assert ours == expected
    assert ours == slow_greedy(model, PROMPT, 20)
    assert len(set(ours)) > 1


def test_a_batch_of_prompts_gives_each_its_own_text(model) -> None:
    prompts = torch.tensor([[72, 101, 108], [33, 34, 35]])
    together = generate(model, prompts, GREEDY, 10)
    assert together == [generate(model, prompt[None], GREEDY, 10)[0] for prompt in prompts]
    assert together[0] != together[1]


def test_samples_of_one_prompt_differ_from_their_first_token_on(model) -> None:
    settings = SamplingSettings(temperature=2.0, seed=3)
    texts = generate(model, PROMPT, settings, 4, samples_per_prompt=16)
    assert len(texts) == 16
    assert len({text[0] for text in texts}) > 4


def test_text_number_i_continues_prompt_i_over_samples_per_prompt(model) -> None:
    prompts = torch.tensor([[72, 101, 108], [33, 34, 35]])
    alone = generate(model, prompts, GREEDY, 8)
    got = generate(model, prompts, GREEDY, 8, samples_per_prompt=3)
    assert got == [alone[0]] * 3 + [alone[1]] * 3
    assert alone[0] != alone[1]


def test_a_prompt_is_read_once_for_all_of_its_samples(model) -> None:
    shapes = []
    handle = model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    generate(model, PROMPT, SamplingSettings(seed=1), 3, samples_per_prompt=4)
    handle.remove()
    assert shapes == [(1, 5), (4, 1), (4, 1)]


def test_first_draws_have_the_models_own_distribution(model) -> None:
    settings = SamplingSettings(temperature=1.0, seed=5)
    texts = generate(model, PROMPT, settings, 1, samples_per_prompt=4_000)
    drawn = torch.tensor(texts).flatten().bincount(minlength=model.config.vocab_size) / 4_000
    with torch.no_grad():
        expected = model(PROMPT)[0, -1].softmax(-1)
    # 0.04 is five standard errors of the largest possible share.
    torch.testing.assert_close(drawn, expected, atol=0.04, rtol=0)


def test_a_text_does_not_depend_on_the_others(model) -> None:
    """The same numbers are drawn alone, among other prompts, and among other samples."""
    settings = SamplingSettings(temperature=1.5, seed=3, frequency_penalty=0.3)
    prompts = torch.tensor([[72, 101, 108], [33, 34, 35], [72, 101, 108]])
    together = generate(model, prompts, settings, 10, samples_per_prompt=3)
    for number, text in enumerate(together):
        seed = seed_of_sample(3, number % 3)
        own = settings.model_copy(update={"seed": seed})
        assert text == generate(model, prompts[number // 3][None], own, 10)[0]
    assert together[:3] == together[6:]
    assert len(set(map(tuple, together))) == 6


def test_samples_of_a_stopped_neighbour_go_on(model) -> None:
    settings = SamplingSettings(temperature=2.0, seed=1)
    whole = generate(model, PROMPT, settings, 12, samples_per_prompt=4)
    stop = whole[2][3]
    expected = [text[: text.index(stop)] if stop in text else text for text in whole]
    assert generate(model, PROMPT, settings, 12, {stop}, samples_per_prompt=4) == expected
    assert len(expected[2]) <= 3 < max(map(len, expected))


def test_penalties_use_the_prompt_and_the_texts_own_answer() -> None:
    logits = torch.tensor([[2.0, 1.9, 1.8], [2.0, 1.9, 1.8]])
    plain = SamplingSettings(temperature=0.0)
    repeated = SamplingSettings(temperature=0.0, repetition_penalty=1.5)
    frequent = SamplingSettings(temperature=0.0, frequency_penalty=0.06)
    assert next_token_ids(logits, [plain, repeated], [[0], [0]], [[], []]) == [0, 1]
    assert next_token_ids(logits, [repeated, repeated], [[0], [2]], [[1], [0]]) == [2, 1]
    assert next_token_ids(logits, [frequent, frequent], [[0, 0], []], [[0], [0, 0]]) == [0, 1]


def test_a_greedy_text_with_penalties_equals_the_slow_way(model) -> None:
    settings = SamplingSettings(temperature=0.0, repetition_penalty=1.2, presence_penalty=2.0)
    answer: list[int] = []
    with torch.no_grad():
        for _ in range(12):
            logits = model(torch.tensor([[*PROMPT[0].tolist(), *answer]]))[0, -1]
            answer.append(int(penalize(logits, PROMPT[0].tolist(), answer, settings).argmax()))
    assert generate(model, PROMPT, settings, 12)[0] == answer
    assert answer != generate(model, PROMPT, GREEDY, 12)[0]


def test_each_draw_has_the_number_of_its_place(model) -> None:
    """A text that is interrupted and begins again with a longer prompt needs the same numbers."""
    settings = SamplingSettings(temperature=1.5, seed=4)
    whole = generate(model, PROMPT, settings, 8)[0]
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT[0].tolist(), *whole[:5]]]))[:, -1]
    assert sample(logits, [settings], [5]) == whole[5:6]


def test_the_seed_decides(model) -> None:
    settings = SamplingSettings(temperature=1.5, seed=7)
    first = generate(model, PROMPT, settings, 12)
    assert first == generate(model, PROMPT, settings, 12)
    assert first != generate(model, PROMPT, settings.model_copy(update={"seed": 8}), 12)


def test_a_stop_id_ends_one_text_and_is_not_given(model) -> None:
    whole = generate(model, PROMPT, GREEDY, 20)[0]
    stop = next(token for token in whole if token != whole[0])
    assert generate(model, PROMPT, GREEDY, 20, stop_ids={stop})[0] == whole[: whole.index(stop)]
    prompts = torch.tensor([[72, 101, 108], [33, 34, 35]])
    texts = generate(model, prompts, GREEDY, 10)
    stop = next(token for token in texts[0] if token not in texts[1])
    stopped = generate(model, prompts, GREEDY, 10, stop_ids={stop})
    assert stopped == [texts[0][: texts[0].index(stop)], texts[1]]


def test_it_ends_where_the_context_ends(model) -> None:
    # 46 prompt tokens in a context of 48: tokens 47 and 48 are read, and one more is predicted.
    prompt = torch.arange(46)[None]
    assert len(generate(model, prompt, GREEDY, 100)[0]) == 3
    assert len(generate(model, torch.arange(48)[None], GREEDY, 100)[0]) == 1
    with pytest.raises(
        ValueError, match=r"has 50 tokens.*holds 48: shorten the prompt by at least 2"
    ):
        generate(model, torch.arange(50)[None], GREEDY, 1)
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        generate(model, torch.zeros(1, 0, dtype=torch.int64), GREEDY, 1)


def test_a_fully_cached_prompt_has_nothing_left_to_prefill_and_still_works(model) -> None:
    cache = KVCache.for_model(model.config, 1)
    with torch.no_grad():
        model(PROMPT, cache=cache)
    steps = generate_steps(model, PROMPT, GREEDY, 6, cache=cache)
    assert [ids[0] for ids in steps] == generate(model, PROMPT, GREEDY, 6)[0]


@pytest.mark.parametrize("cached", [1, 4])
def test_a_beginning_that_lies_in_the_cache_is_not_computed_again(model, cached: int) -> None:
    cache = KVCache.for_model(model.config, 1)
    with torch.no_grad():
        model(PROMPT[:, :cached], cache=cache)
    lengths = []
    handle = model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    steps = [ids[0] for ids in generate_steps(model, PROMPT, GREEDY, 3, cache=cache)]
    handle.remove()
    assert lengths == [5 - cached, 1, 1]
    assert steps == generate(model, PROMPT, GREEDY, 3)[0]


def test_a_long_prompt_is_read_in_parts(model, monkeypatch) -> None:
    """With a real vocabulary, the logits of all positions at once would take gigabytes."""
    prompt = torch.arange(30)[None]
    whole = generate(model, prompt, GREEDY, 8)
    monkeypatch.setattr(generation, "PREFILL_TOKENS", 7)
    shapes = []
    handle = model.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[1]))
    assert generate(model, prompt, GREEDY, 8) == whole
    handle.remove()
    assert shapes == [7, 7, 7, 7, 2] + [1] * 7


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_token_is_refused(model, limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_new_tokens must be at least 1, got {limit}"):
        generate(model, PROMPT, GREEDY, limit)


def test_each_step_computes_one_position(model) -> None:
    lengths = []
    handle = model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    generate(model, PROMPT, GREEDY, 4)
    handle.remove()
    assert lengths == [5, 1, 1, 1]


def test_on_token_hears_every_token_in_order(model) -> None:
    heard: list[tuple[int, int]] = []
    texts = generate(model, PROMPT, GREEDY, 5, on_token=lambda *call: heard.append(call))
    assert heard == [(0, token) for token in texts[0]]


def test_ids_of_another_vocabulary_are_refused_before_the_model_sees_them(
    model, monkeypatch
) -> None:
    monkeypatch.setattr(model, "forward", None)
    vocab_size = model.config.vocab_size
    prompt = torch.tensor([[1, vocab_size]])
    with pytest.raises(UserError, match=f"token id {vocab_size} is outside"):
        generate(model, prompt, GREEDY, 2)
