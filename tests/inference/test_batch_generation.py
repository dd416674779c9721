"""Tokens of several texts in one row give what the model gives for each text alone; so do the
texts that are generated together.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from inference.batch_generation import RaggedKVCache, forward_tokens, generate_batch, logits_of
from inference.generation import generate
from inference.sampling import SamplingSettings
from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.user_error import UserError
from transformer_lm.attention import causal_mask, scaled_dot_product_attention
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.weights.pretrained import to_hugging_face

GREEDY = SamplingSettings(temperature=0.0)
YARN = RopeScaling(kind="yarn", factor=4, original_context_length=8)
VARIANTS = {
    "as Llama": {},
    "as GPT-2": {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True},
    "post-norm": {"norm_position": "post"},
    "post-norm without norms": {"norm_position": "post", "norm": "none"},
    "pre-norm without norms": {"norm": "none"},
    "no positions": {"position": "none"},
    "qk_norm": {"qk_norm": True},
    "qk_norm of a post-norm model": {"qk_norm": True, "norm_position": "post", "biases": True},
    "squared ReLU": {"mlp": "squared_relu"},
    "GEGLU": {"mlp": "geglu", "biases": True},
    "window of 1": {"sliding_window": 1},
    "window of 3": {"sliding_window": 3, "position": "learned"},
    "untied": {"tie_embeddings": False},
    "yarn": {"rope_scaling": YARN, "rope_theta": 50.0},
    "one key head": {"num_kv_heads": 1},
    "a key head for each": {"num_kv_heads": 4, "head_dim": 6, "norm_eps": 0.3},
}


def model_of(changes: dict, seed: int = 0) -> TransformerLM:
    shape = {"vocab_size": 13, "context_length": 20, "d_model": 8, "num_layers": 3, "d_ff": 12}
    heads = {"num_heads": 4, "num_kv_heads": 2}
    torch.manual_seed(seed)
    made = TransformerLM(ModelConfig(**{**shape, **heads, **changes}), "eager").eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.4)
    return made.double()


def texts_of(model: TransformerLM, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(model.config.vocab_size, (length,), generator=generator).tolist()
        for length in lengths
    ]


def alone(model: TransformerLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


@pytest.fixture(params=VARIANTS)
def variant(request) -> TransformerLM:
    return model_of(VARIANTS[request.param])


def test_tokens_in_one_row_give_the_logits_of_each_text_alone(variant) -> None:
    texts = texts_of(variant, [5, 1, 9])
    config = variant.config

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        results = []
        for part in zip(*(x.split([5, 1, 9]) for x in (q, k, v)), strict=True):
            queries, keys, values = (x.transpose(0, 1) for x in part)
            group_size = config.num_heads // config.num_kv_heads
            keys, values = (x.repeat_interleave(group_size, 0) for x in (keys, values))
            length = keys.shape[1]
            mask = causal_mask(length, length, torch.device("cpu"), config.sliding_window)
            attended = scaled_dot_product_attention(queries, keys, values, mask)
            results.append(attended.transpose(0, 1))
        return torch.cat(results)

    flat = torch.tensor([token for text in texts for token in text])
    positions = torch.tensor([place for text in texts for place in range(len(text))])
    got = logits_of(variant, forward_tokens(variant, flat, positions, attend))
    expected = torch.cat([alone(variant, text) for text in texts])
    # Norms and the rotation compute in float32 in both; the sums differ in their order.
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert not got.requires_grad


def test_attend_is_called_once_for_each_layer_with_one_copy_of_each_key(variant) -> None:
    calls = []

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append((layer, q.shape, k.shape, v.shape))
        return q

    forward_tokens(variant, torch.tensor([1, 2, 3]), torch.tensor([4, 0, 19]), attend)
    config = variant.config
    keys = (3, config.num_kv_heads, config.head_dim)
    queries = (3, config.num_heads, config.head_dim)
    assert calls == [(layer, queries, keys, keys) for layer in range(3)]


def test_an_a2_model_may_name_its_own_parts_as_it_likes() -> None:
    """Only the names that the handout of a2 fixes are read."""
    model = model_of({"norm_position": "post"})
    expected = alone(model, [1, 2, 3])[-1]
    rotary = model.rotary
    del model.rotary, model.final_norm
    model.turning = rotary
    for block in model.blocks:
        for own in ("num_heads", "num_kv_heads", "head_dim", "sliding_window", "qk_norm", "layer"):
            delattr(block.attention, own)
    cache = RaggedKVCache.for_model(model.config, 1, dtype=torch.float64)
    got = step(model, cache, [0], [[1, 2, 3]])[-1]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def step(model: TransformerLM, cache: RaggedKVCache, rows: list[int], new: list[list[int]]):
    """Read further tokens of some rows, and return the logits after each."""
    counts = [len(part) for part in new]
    flat = torch.tensor([token for part in new for token in part])
    positions = cache.positions(rows, counts)
    attend = cache.attend(rows, counts, model.config.sliding_window)
    before = list(cache.lengths)
    logits = logits_of(model, forward_tokens(model, flat, positions, attend))
    assert cache.lengths == before
    cache.advance(rows, counts)
    return logits


# Rows of different lengths, in pieces: (row, tokens) of each pass, not in the order of the rows.
SCHEDULES = [
    [[(0, 7), (1, 2), (2, 1)], [(0, 1), (1, 1), (2, 1)], [(0, 1), (2, 1)], [(2, 1)]],
    [[(2, 3)], [(0, 4), (2, 2)], [(1, 9), (0, 1)], [(2, 1), (0, 3), (1, 1)]],
    [[(1, 20)], [(0, 19), (2, 1)], [(2, 6), (0, 1)]],
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_of_different_lengths_see_their_own_past(variant, schedule) -> None:
    texts = texts_of(variant, [20, 20, 20])
    cache = RaggedKVCache.for_model(variant.config, 3, dtype=torch.float64)
    for layer in range(3):  # what an earlier text left behind must not be seen
        cache.attend([0, 1, 2], [20] * 3)(layer, *(1e3 * x for x in random_qkv(variant, 60)))
    got: list[list[torch.Tensor]] = [[], [], []]
    for rows in schedule:
        new = [texts[row][cache.lengths[row] : cache.lengths[row] + count] for row, count in rows]
        logits = step(variant, cache, [row for row, _ in rows], new)
        for (row, _), part in zip(rows, logits.split([n for _, n in rows]), strict=True):
            got[row].append(part)
    for row, parts in enumerate(got):
        expected = alone(variant, texts[row])[: cache.lengths[row]]
        torch.testing.assert_close(torch.cat(parts), expected, atol=1e-5, rtol=1e-5)


def random_qkv(model: TransformerLM, tokens: int) -> list[torch.Tensor]:
    config = model.config
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    return [torch.randn(tokens, count, config.head_dim, dtype=torch.float64) for count in heads]


def test_a_row_without_room_is_our_own_mistake() -> None:
    cache = RaggedKVCache(1, 2, 1, 4, 2)
    cache.advance([1], [3])
    with pytest.raises(AssertionError, match="room for 4 tokens, not for 5"):
        cache.attend([0, 1], [4, 2])


PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 1], [1, 2, 3, 4, 5, 6, 7]]


def each_alone(model, prompts, settings, limits, stop_ids=()) -> list[list[int]]:
    return [
        generate(model, torch.tensor([prompt]), own, limit, stop_ids)[0]
        for prompt, own, limit in zip(prompts, settings, limits, strict=True)
    ]


def test_greedy_texts_equal_those_of_each_prompt_alone(variant) -> None:
    limits = [30, 5, 12, 1]
    expected = each_alone(variant, PROMPTS, [GREEDY] * 4, limits)
    assert generate_batch(variant, PROMPTS, [GREEDY] * 4, limits) == expected
    assert [len(text) for text in expected] == [14, 5, 12, 1]


def test_greedy_texts_equal_those_of_transformers(model, tmp_path) -> None:
    tensors, config = to_hugging_face(model, {})
    write_checkpoint(tmp_path / "step_000001", tensors, config, {}, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "step_000001", dtype=torch.float32)
    prompts = [list(b"Hello"), list(b"!"), list(b"a longer prompt")]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "eos_token_id": 999}
        whole = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
        expected.append(whole[0, len(prompt) :].tolist())
    assert generate_batch(model, prompts, [GREEDY] * 3, [20] * 3) == expected


MODEL = model_of({})
one_setting = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 0, 4]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.9]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.1]),
    seed=st.integers(0, 5),
)
one_prompt = st.lists(st.integers(0, 12), min_size=1, max_size=20)
one_text = st.tuples(one_prompt, one_setting, st.integers(1, 25))


@given(st.lists(one_text, max_size=5), st.sets(st.integers(0, 12), max_size=2))
@settings(max_examples=40, deadline=None)
def test_drawn_texts_do_not_depend_on_the_others(texts, stop_ids) -> None:
    prompts, settings_of_each, limits = (
        [list(part) for part in zip(*texts, strict=True)] if texts else ([], [], [])
    )
    got = generate_batch(MODEL, prompts, settings_of_each, limits, stop_ids)
    assert got == each_alone(MODEL, prompts, settings_of_each, limits, stop_ids)


def test_a_text_that_has_ended_computes_nothing_more(monkeypatch) -> None:
    model = model_of({})
    rows = []
    monkeypatch.setattr(
        model.token_embedding,
        "forward",
        lambda ids: (rows.append(len(ids)), model.token_embedding.weight[ids])[1],
    )
    generate_batch(model, PROMPTS[:3], [GREEDY] * 3, [1, 4, 2])
    assert rows == [11, 2, 1, 1]


def test_only_last_positions_go_through_the_output_head(monkeypatch) -> None:
    model = model_of({"tie_embeddings": False})
    rows = []
    model.output_head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    generate_batch(model, PROMPTS, [GREEDY] * 4, [1, 3, 1, 2])
    assert rows == [4, 2, 1]


def test_long_prompts_are_read_in_parts(monkeypatch) -> None:
    model = model_of({})
    prompts = [*PROMPTS, [4] * 20, [5]]
    whole = generate_batch(model, prompts, [GREEDY] * 6, [4] * 6)
    monkeypatch.setattr("inference.batch_generation.PREFILL_TOKENS", 6)
    rows = []
    handle = model.blocks[0].attention.query.register_forward_pre_hook(
        lambda _, args: rows.append(len(args[0]))
    )
    assert generate_batch(model, prompts, [GREEDY] * 6, [4] * 6) == whole
    handle.remove()
    assert rows == [6] * 6 + [3] + [5] * 3  # the full text of 20 tokens gets one more, not four


def test_what_cannot_be_generated_is_refused() -> None:
    with pytest.raises(UserError, match="2 prompts need as many settings and limits; got 1 sett"):
        generate_batch(MODEL, [[1], [2]], [GREEDY], [1, 1])
    with pytest.raises(UserError, match="has no tokens"):
        generate_batch(MODEL, [[1], []], [GREEDY] * 2, [1, 1])
    with pytest.raises(UserError, match=r"has 21 tokens.*holds 20"):
        generate_batch(MODEL, [[1], [1] * 21], [GREEDY] * 2, [1, 1])
    with pytest.raises(UserError, match="token id 13 is outside"):
        generate_batch(MODEL, [[1], [13]], [GREEDY] * 2, [1, 1])
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, got 0"):
        generate_batch(MODEL, [[1], [2]], [GREEDY] * 2, [1, 0])
    assert generate_batch(MODEL, [], [], []) == []
