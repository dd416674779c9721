"""Initialization: the initial loss for any width and depth, and every parameter by the table."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from transformer_lm.initialization import STARTS, draw_normal, initialize, role_of
from transformer_lm.language_model import FEED_FORWARDS, TransformerLM
from transformer_lm.model_config import ModelConfig

VOCAB = 512
FAMILIES = [
    dict(zip(("tie_embeddings", "norm_position", "mlp", "norm"), values, strict=True))
    for values in itertools.product(
        (True, False), ("pre", "post"), ("swiglu", "gelu"), ("rmsnorm", "layernorm")
    )
]
GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True}
FAMILIES += [GPT2 | {"tie_embeddings": tied} for tied in (True, False)]
FAMILIES += [{"qk_norm": True, "tie_embeddings": tied} for tied in (True, False)]
FAMILIES += [{"mlp": mlp} for mlp in FEED_FORWARDS if mlp not in ("swiglu", "gelu")]
FAMILIES += [{"norm": "none", "tie_embeddings": tied} for tied in (True, False)]
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: "-".join(map(str, f.values())))


def new_model(d_model: int, num_layers: int, **changes) -> TransformerLM:
    """Make a model of this width and depth, with narrow branches, whose width does not matter
    here.
    """
    shape = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "d_ff": 32, "context_length": 32}
    shape |= {"vocab_size": VOCAB, "d_model": d_model, "num_layers": num_layers}
    torch.manual_seed(0)
    return TransformerLM(ModelConfig(**(shape | changes)))


@torch.no_grad()
def first_losses(model: TransformerLM, rows: int = 8) -> tuple[float, float]:
    """Return the mean loss on random text, and on a text in which every token occurs twice.

    The second is the mean loss if the next token is always the one that was just read.
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB, (rows, 33), generator=generator)
    logits = model(ids[:, :-1]).flatten(0, 1)
    return tuple(cross_entropy(logits, t.flatten()).item() for t in (ids[:, 1:], ids[:, :-1]))


@families
@pytest.mark.parametrize(("d_model", "num_layers"), [(64, 2), (64, 24), (2048, 2)])
def test_the_first_loss_is_that_of_an_even_guess(family, d_model, num_layers):
    random_text, same_again = first_losses(new_model(d_model, num_layers, **family))
    # 0.125 (LOGIT_STD^2 / 2, 2 % of ln 512) above it is expected, and less than 5 % is required.
    assert random_text == pytest.approx(math.log(VOCAB), rel=0.05)
    # The token that was read is neither more nor less likely than any other.
    assert same_again == pytest.approx(math.log(VOCAB), rel=0.05)


@pytest.mark.slow
@families
def test_the_first_loss_of_a_wide_and_deep_model(family):
    random_text, same_again = first_losses(new_model(2048, 24, **family), rows=2)
    assert random_text == pytest.approx(math.log(VOCAB), rel=0.05)
    assert same_again == pytest.approx(math.log(VOCAB), rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_branches_of_real_width_start_as_evenly(tied):
    """Heads together as wide as the stream, and the usual feed-forward layer: not narrow as
    above.
    """
    shape = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "d_ff": 1408}
    model = new_model(512, 2, tie_embeddings=tied, **shape)
    assert first_losses(model)[0] == pytest.approx(math.log(VOCAB), rel=0.05)


def expected_std(name: str, config: ModelConfig, d_out: int, d_in: int) -> float:
    """Return the standard deviation by an independent copy of the formulas."""
    glorot = math.sqrt(2 / (d_in + d_out))
    tied, width = config.tie_embeddings, config.d_model
    if "embedding" in name:
        return 0.5 / math.sqrt(width) if tied else 1.0
    if name == "output_head.weight":
        return 0.5 / math.sqrt(width)
    if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
        stream = 0.5 / math.sqrt(width) if tied and config.norm_position == "pre" else 1.0
        return stream * glorot / (2 * config.num_layers)
    return glorot


@pytest.mark.parametrize("family", FAMILIES[:-2], ids=lambda f: "-".join(map(str, f.values())))
def test_every_parameter_starts_as_the_table_says(family):
    model = new_model(128, 3, **family)
    last = "final_norm" if family.get("norm_position") != "post" else "blocks.2.feed_forward_norm"
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.ndim == 2:
            std = expected_std(name, model.config, *weight.shape)
            row = STARTS[role_of(name, model.config)]  # `Linear` draws by the formula of its row
            assert row.std(model.config, *weight.shape) == pytest.approx(std), name
            # 0.986: the factor of a normal distribution truncated at three deviations. At least
            # 2,048 entries, so that 6 % are nearly four standard errors.
            assert weight.std().item() == pytest.approx(0.986 * std, rel=0.06), name
            assert weight.abs().max() <= 3 * std * (1 + 1e-6), name
        elif name.endswith(".bias"):
            assert not weight.any(), name
        elif name == f"{last}.weight" and model.config.tie_embeddings:
            assert weight.tolist() == [1.0, -1.0] * 64, name
        else:
            assert (weight == 1).all(), name


def test_without_the_signs_a_tied_head_repeats_what_it_read():
    """The reason for that row of the table: without it, the test of the initial loss fails."""
    model = new_model(2048, 2)
    with torch.no_grad():
        model.final_norm.weight.fill_(1.0)
    random_text, same_again = first_losses(model)
    assert random_text > 2 * math.log(VOCAB)
    assert same_again < 0.1


def test_every_row_of_the_table_is_somebodys():
    roles = set()
    for family in FAMILIES:
        model = new_model(64, 2, **family)
        roles |= {role_of(name, model.config) for name, _ in model.named_parameters()}
    assert roles == set(STARTS)


def test_a_model_without_memory_is_left_without():
    """Pretrained weights replace these at once, so nothing is drawn for them."""
    with torch.device("meta"):
        model = new_model(64, 2)
    state = torch.get_rng_state()
    initialize(model.named_parameters(), model.config)
    assert all(p.is_meta for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_normal_distribution_is_cut_off():
    torch.manual_seed(0)
    weight = torch.empty(100_000)
    draw_normal(weight, 0.02)
    assert weight.abs().max() == pytest.approx(0.06, rel=0.01)
    assert weight.mean().abs() < 0.0003
    within_one = (weight.abs() < 0.02).float().mean().item()
    assert within_one == pytest.approx(0.6827 / 0.9973, abs=0.006)  # a uniform one has 0.58
