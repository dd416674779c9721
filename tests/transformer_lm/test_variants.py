"""Each variant of the shape changes only the stated part; the oracles are torch's own layers,
transformers' tables of rotary frequencies, and the definition written out.
"""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from inference.kv_cache import KVCache
from transformer_lm import model_cost
from transformer_lm.attention import CausalSelfAttention, causal_mask, scaled_dot_product_attention
from transformer_lm.language_model import FEED_FORWARDS, TransformerBlock, TransformerLM
from transformer_lm.layers import GELUMLP, LayerNorm, NoNorm, gelu
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.rotary_embedding import RotaryEmbedding, attention_factor, rotary_frequencies

SHAPE = {
    "vocab_size": 61,
    "context_length": 24,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 48,
}
VARIANTS = [
    {"norm_position": "post"},
    {"norm": "none"},
    {"norm": "layernorm"},
    {"norm": "layernorm", "norm_position": "post"},
    {"position": "none"},
    {"position": "learned"},
    *({"mlp": mlp, "d_ff": 72} for mlp in FEED_FORWARDS if mlp != "swiglu"),
    {"biases": True},
    {"qk_norm": True},
    {"head_dim": 16},
    {"sliding_window": 5},
    {"num_kv_heads": 4},
    {"num_kv_heads": 1},
    {"tie_embeddings": False},
    {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True, "d_ff": 128},
]


def make_config(**changes) -> ModelConfig:
    return ModelConfig(**(SHAPE | changes))


def make_model(**changes) -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(make_config(**changes), attention_backend="eager")
    with torch.no_grad():  # far from norms of 1 and biases of 0
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def some_ids(length: int = 24) -> torch.Tensor:
    return torch.randint(0, 61, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_is_causal_counted_and_all_of_it_learns(changes):
    model = make_model(**changes)
    ids = some_ids()
    logits = model(ids)
    changed = ids.clone()
    changed[:, 15] = (changed[:, 15] + 1) % 61
    torch.testing.assert_close(model(changed)[:, :15], logits[:, :15], atol=1e-5, rtol=0)
    assert (model(changed)[:, 15] - logits[:, 15]).abs().max() > 1e-3
    logits.logsumexp(-1).mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    counted = model_cost.parameters_by_part(model.config)
    assert sum(counted.values()) == sum(p.numel() for p in model.parameters())


def beginning_of(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Copy the overlapping part of `weight` into a tensor of zeros of another shape."""
    found = torch.zeros(shape)
    part = tuple(slice(0, min(pair)) for pair in zip(weight.shape, shape, strict=True))
    found[part] = weight[part]
    return found


def with_weights_of(model: TransformerLM, plain: TransformerLM) -> TransformerLM:
    """Copy the plain model's weights of the same name.

    The other weights, of parts that the plain model lacks, are drawn with the same seed for all.
    """
    shared = dict(plain.named_parameters())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in shared:
                parameter.copy_(beginning_of(shared[name], parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_a_variant_that_is_ignored_would_be_seen():
    """The next test can fail: with shared weights, an ignored variant gives equal logits."""
    plain = make_model()
    torch.manual_seed(5)
    other = with_weights_of(TransformerLM(make_config(), attention_backend="eager"), plain)
    assert torch.equal(other(some_ids()), plain(some_ids()))
    wider = with_weights_of(make_model(d_ff=72), plain)  # the new columns and rows are zeros
    torch.testing.assert_close(wider(some_ids()), plain(some_ids()))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_is_another_function(changes):
    plain = make_model()
    changed = with_weights_of(make_model(**changes), plain)
    assert (changed(some_ids()) - plain(some_ids())).abs().max() > 1e-3


@pytest.mark.parametrize("backend", ["matmul", "sdpa"])
@pytest.mark.parametrize("changes", [{"sliding_window": 5}, {"sliding_window": 24}], ids=str)
def test_backends_agree_on_the_window(changes, backend):
    model = make_model(**changes)
    for block in model.blocks:
        block.attention.attention_backend = "eager"
    expected = model(some_ids())
    for block in model.blocks:
        block.attention.attention_backend = backend
    torch.testing.assert_close(model(some_ids()), expected, atol=1e-5, rtol=1e-5)


def test_the_window_by_hand():
    allowed = causal_mask(2, 5, torch.device("cpu"), sliding_window=3)  # positions 3 and 4 of 0..4
    assert allowed.tolist() == [[False, True, True, True, False], [False, False, True, True, True]]


def test_what_lies_before_the_window_changes_nothing():
    torch.manual_seed(0)
    attention = CausalSelfAttention(make_config(sliding_window=4), 0, "eager")
    x = torch.randn(1, 10, 32)
    changed = x.clone()
    changed[:, 3] += 1
    rotary = RotaryEmbedding(8, 24)
    difference = attention(changed, rotary, torch.arange(10)) - attention(
        x, rotary, torch.arange(10)
    )
    moved = difference.abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 4 + [False] * 3


def test_without_positions_the_order_of_the_past_is_not_seen():
    """Attention without positions reads the past as a set."""
    torch.manual_seed(0)
    attention = CausalSelfAttention(make_config(), 0, "eager")
    x = torch.randn(1, 6, 32)
    shuffled = x[:, [2, 0, 4, 1, 3, 5]]
    last = attention(x, None, torch.arange(6))[:, -1]
    torch.testing.assert_close(attention(shuffled, None, torch.arange(6))[:, -1], last)
    rotary = RotaryEmbedding(8, 24)
    seen = attention(x, rotary, torch.arange(6)) - attention(shuffled, rotary, torch.arange(6))
    assert seen[:, -1].abs().max() > 1e-3


def test_learned_positions_are_added_once_and_go_on_after_a_cache():
    model = make_model(position="learned", norm="none", num_layers=1)
    with torch.no_grad():
        for name, parameter in model.blocks.named_parameters():
            if "output" in name or "down" in name:
                parameter.zero_()  # the blocks add nothing: the stream is token + position
    ids = some_ids(3)
    rows = model.token_embedding.weight[ids] + model.position_embedding.weight[:3]
    expected = rows @ model.token_embedding.weight.T
    torch.testing.assert_close(model(ids), expected)
    cache = KVCache.for_model(model.config, batch_size=2)
    for start, end in ((0, 2), (2, 3)):
        torch.testing.assert_close(model(ids[:, start:end], cache), expected[:, start:end])


def test_layer_norm_is_torchs():
    x = torch.randn(3, 5, 32, dtype=torch.float64) * 3 + 1
    norm = LayerNorm(32, 1e-3).double()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    expected = torch.nn.functional.layer_norm(x, (32,), norm.weight, norm.bias, 1e-3)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)  # computed in float32
    low = LayerNorm(32)(x.bfloat16())
    assert low.dtype == torch.bfloat16


def test_gelu_is_torchs_tanh_form():
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(gelu(x), expected, atol=1e-15, rtol=1e-12)
    assert (gelu(x) - torch.nn.functional.gelu(x)).abs().max() < 5e-4


def test_gelu_mlp_is_two_products():
    torch.manual_seed(0)
    mlp = GELUMLP(4, 6, bias=True)
    with torch.no_grad():
        mlp.up.bias.normal_()
        mlp.down.bias.normal_()
    x = torch.randn(2, 4)
    inner = torch.nn.functional.gelu(x @ mlp.up.weight.T + mlp.up.bias, approximate="tanh")
    torch.testing.assert_close(mlp(x), inner @ mlp.down.weight.T + mlp.down.bias)


def test_the_gelu_mlp_of_three_halves_the_width_costs_what_swiglu_does():
    swiglu = model_cost.parameters_by_part(make_config(d_ff=48))["feed-forward"]
    gelu_mlp = model_cost.parameters_by_part(make_config(d_ff=72, mlp="gelu"))["feed-forward"]
    assert swiglu == gelu_mlp


def test_post_norm_normalises_the_sum_and_needs_no_last_norm():
    torch.manual_seed(0)
    config = make_config(norm_position="post")
    block = TransformerBlock(config, 0, "eager")
    x = 100 * torch.randn(1, 5, 32)
    mean_square = block(x, RotaryEmbedding(8, 24), torch.arange(5)).square().mean(-1)
    torch.testing.assert_close(mean_square, torch.ones(1, 5), atol=1e-3, rtol=0)
    assert isinstance(TransformerLM(config).final_norm, NoNorm)


def test_query_and_key_are_normalised_before_they_are_turned():
    torch.manual_seed(0)
    attention = CausalSelfAttention(make_config(qk_norm=True, num_kv_heads=4), 0, "eager")
    with torch.no_grad():
        attention.query_norm.weight.normal_()
        attention.key_norm.weight.normal_()
    x, rotary, positions = torch.randn(1, 6, 32), RotaryEmbedding(8, 24), torch.arange(6)
    heads = [
        (x @ part.weight.T).view(1, 6, 4, 8).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    ]
    q, k = (
        rotary(torch.nn.functional.rms_norm(h, (8,), norm.weight, 1e-5), positions)
        for h, norm in zip(heads[:2], (attention.query_norm, attention.key_norm), strict=True)
    )
    mask = causal_mask(6, 6, x.device)
    joined = scaled_dot_product_attention(q, k, heads[2], mask).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(attention(x, rotary, positions), joined @ attention.output.weight.T)


SCALINGS = {
    "linear": ({"factor": 4.0}, {"factor": 4.0}),
    "llama3": (
        {"factor": 32.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0},
        {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "yarn": ({"factor": 16.0}, {"factor": 16.0}),
}


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize(("head_dim", "theta"), [(64, 10000.0), (128, 500000.0)])
def test_rescaled_frequencies_are_those_of_transformers(kind, head_dim, theta):
    ours, theirs = SCALINGS[kind]
    scaling = RopeScaling(kind=kind, original_context_length=2048, **ours)
    rope = {"rope_type": kind, "rope_theta": theta, "original_max_position_embeddings": 2048}
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=2048 * int(ours["factor"]),
        rope_parameters=rope | theirs,
    )
    expected, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    frequencies = rotary_frequencies(head_dim, theta, scaling)
    torch.testing.assert_close(frequencies.float(), expected, rtol=1e-5, atol=0)
    assert math.isclose(attention_factor(scaling), factor, rel_tol=1e-12)
    unscaled = rotary_frequencies(head_dim, theta)
    assert not torch.allclose(frequencies, unscaled, rtol=1e-3, atol=0)


def test_yarn_scales_the_turned_vector():
    scaling = RopeScaling(kind="yarn", factor=8.0, original_context_length=16)
    x = torch.randn(1, 5, 8)
    turned = RotaryEmbedding(8, 128, scaling=scaling)(x, torch.arange(5))
    expected = x.norm(dim=-1) * (0.1 * math.log(8) + 1)
    torch.testing.assert_close(turned.norm(dim=-1), expected)


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        *({"mlp": mlp, "d_ff": 72} for mlp in FEED_FORWARDS),
        {"norm": "none"},
        {"norm_position": "post"},
        {"qk_norm": True},
    ],
    ids=str,
)
def test_activations_are_at_least_those_counted(changes, table):
    """Compare with the tensors that autograd keeps. Line-by-line norms and softmax keep more."""
    config = make_config(**changes)
    torch.manual_seed(0)
    model = TransformerLM(config, attention_backend="eager" if table else "sdpa")
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(
            model(some_ids()).flatten(0, 1), some_ids().view(-1)
        )
    counted = model_cost.activation_bytes_by_part(config, 2, 24, 4, keeps_attention_table=table)
    assert loss.requires_grad
    assert sum(counted.values()) <= sum(kept.values()) <= 2.5 * sum(counted.values())


def test_shares_sum_to_one():
    parts = model_cost.parameters_by_part(make_config())
    found = model_cost.shares(parts)
    assert math.isclose(sum(found.values()), 1)
    assert found["token embedding"] == parts["token embedding"] / sum(parts.values())


def test_gpt2_has_its_known_size():
    gpt2 = ModelConfig(
        vocab_size=50257,
        context_length=1024,
        d_model=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        d_ff=3072,
        norm="layernorm",
        position="learned",
        mlp="gelu",
        biases=True,
    )
    assert model_cost.count_parameters(gpt2) == 124_439_808
