"""a6.6: tokens of several texts in one row."""

import pytest
import torch
from drawn_texts import model_of
from generation_oracle import logits_after
from ragged_oracle import RaggedOracle, flat

pytestmark = pytest.mark.task("a6.6")
MODULE = "inference.batch_generation"
TEXTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3]]
VARIANTS = {
    "as Llama": {"num_layers": 2},
    "as GPT-2": {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True},
    "post-norm": {"norm_position": "post", "num_layers": 2},
    "without norms": {"norm": "none", "position": "none", "mlp": "squared_relu"},
    "qk_norm": {"qk_norm": True, "mlp": "geglu"},
    "untied": {"tie_embeddings": False, "head_dim": 6},
    "rescaled": {
        "rope_scaling": {"kind": "linear", "factor": 4.0, "original_context_length": 8},
        "rope_theta": 50.0,
        "head_dim": 6,
    },
}


def attend_of(config, texts):
    oracle, counts = RaggedOracle(config.num_layers, len(texts)), [len(text) for text in texts]
    return oracle.attend(range(len(texts)), counts, config.sliding_window)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_logits_of_each_text_alone(implementation, a6, variant):
    module, model = implementation(MODULE), model_of(VARIANTS[variant], 1)
    ids, positions = flat(TEXTS)
    hidden = module.forward_tokens(model, ids, positions, attend_of(model.config, TEXTS))
    width = model.config.d_model
    a6.true(
        isinstance(hidden, torch.Tensor) and tuple(hidden.shape) == (10, width),
        f"forward_tokens of 10 tokens: expected a tensor [10, {width}], the stream after the last "
        "norm, before the output head",
        {"got": tuple(getattr(hidden, "shape", ()))},
    )
    got = module.logits_of(model, hidden)
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([text]))[0] for text in TEXTS])
    causes = {
        "the second and third text are wrong: positions must be those that are given": (
            lambda found: torch.allclose(found[:5], expected[:5], atol=1e-3)
        ),
        "this is a post-norm model: attention_norm(x + attention(x)), and no final norm": (
            lambda _: variant == "post-norm"
        ),
        "positions are learned here: add model.position_embedding(positions)": (
            lambda _: variant == "as GPT-2"
        ),
        "config.qk_norm: query_norm and key_norm come before the rotation": (
            lambda _: variant == "qk_norm"
        ),
        "rotary positions are rescaled here: pass rope_theta and rope_scaling": (
            lambda _: variant == "rescaled"
        ),
    }
    what = f"the logits of three texts in one row, model {variant!r},"
    a6.tensor(got, expected, what, causes, rtol=1e-3, atol=1e-4)
    a6.true(
        not hidden.requires_grad and not got.requires_grad,
        "forward_tokens and logits_of must run under torch.no_grad(): a cache that keeps what they "
        "compute would keep the graph of every pass",
    )


@pytest.mark.parametrize("variant", ["as Llama", "qk_norm", "as GPT-2"])
def test_what_attend_gets(implementation, a6, variant):
    model = model_of({**VARIANTS[variant], "num_layers": 2}, 2)
    config, calls = model.config, []

    def attend(layer, q, k, v):
        calls.append((layer, q.clone(), k.clone(), v.clone()))
        return torch.zeros_like(q)

    ids, positions = torch.tensor([3, 3, 7]), torch.tensor([0, 9, 4])
    implementation(MODULE).forward_tokens(model, ids, positions, attend)
    a6.expect([call[0] for call in calls], [0, 1], "the layers of the calls of attend")
    _, *got = calls[0]
    shapes = [tuple(x.shape) for x in got]
    causes = {
        "keys are not repeated for the query heads": [(3, 4, 2)] * 3,
        "tokens first: [tokens, heads, head_dim]": lambda found: found[0][0] != 3,
    }
    a6.expect(shapes, [(3, 4, 2), (3, 2, 2), (3, 2, 2)], "the shapes of q, k and v", causes)
    block = model.blocks[0]
    with torch.no_grad():
        x = model.token_embedding(ids)
        if config.position == "learned":
            x = x + model.position_embedding(positions)
        normed = block.attention_norm(x)
        for name, found, heads in zip(("query", "key", "value"), got, (4, 2, 2), strict=True):
            plain = getattr(block.attention, name)(normed).unflatten(-1, (heads, 2))
            unnormed = plain
            if config.qk_norm and name != "value":
                plain = getattr(block.attention, f"{name}_norm")(plain)
            turned = in_order = plain
            if config.position == "rotary" and name != "value":
                turned, in_order = (
                    model.rotary(plain.transpose(0, 1), at).transpose(0, 1)
                    for at in (positions, torch.arange(3))
                )
            causes = {
                "it is not rotated by the positions": plain,
                "use the positions that are given, not 0, 1, 2": in_order,
                "config.qk_norm: the norm of each head is missing": unnormed,
            }
            what = f"the {name} that attend gets in layer 0, model {variant!r},"
            a6.tensor(found, turned, what, causes, rtol=1e-3, atol=1e-4)


def test_the_result_of_attend_is_projected_and_added(implementation, a6):
    model = model_of({}, 3)
    block, ids = model.blocks[0], torch.tensor([4, 2])
    given = a6.random(2, 4, 2, seed=4)
    got = implementation(MODULE).forward_tokens(
        model, ids, torch.tensor([0, 0]), lambda *_: given.clone()
    )
    with torch.no_grad():
        x = model.token_embedding(ids) + block.attention.output(given.flatten(1))
        expected = model.final_norm(x + block.feed_forward(block.feed_forward_norm(x)))
    swapped = given.transpose(1, 2).flatten(1)
    with torch.no_grad():
        y = model.token_embedding(ids) + block.attention.output(swapped)
        wrong = model.final_norm(y + block.feed_forward(block.feed_forward_norm(y)))
        unnormed = x + block.feed_forward(block.feed_forward_norm(x))
    causes = {
        "the heads are joined in order: head 0 first": wrong,
        "the final norm of a pre-norm model is missing": unnormed,
    }
    a6.tensor(
        got, expected, "forward_tokens of a model with one layer", causes, rtol=1e-3, atol=1e-4
    )


def test_a_model_of_a2_with_other_private_names(implementation, a6):
    """a2 fixes parameters, not where a model keeps its rotary table or the numbers of its heads."""
    model = model_of({"context_length": 15}, 5)  # no other check uses this one
    expected = logits_after(model, TEXTS[0])
    vars(model).pop("rotary", None)
    model._modules.pop("rotary", None)
    for block in model.blocks:
        for name in ("num_heads", "num_kv_heads", "head_dim", "sliding_window", "qk_norm", "layer"):
            vars(block.attention).pop(name)
    module = implementation(MODULE)
    ids, positions = flat(TEXTS[:1])
    try:
        hidden = module.forward_tokens(model, ids, positions, attend_of(model.config, TEXTS[:1]))
    except AttributeError as error:
        raise a6.GradedFailure(
            f"forward_tokens uses a name that a2 does not fix: {error}\n"
            "  likely  make a RotaryEmbedding from the fields of model.config, and read numbers "
            "of heads there"
        ) from None
    got = module.logits_of(model, hidden)[-1]
    what = "the logits of a model with other private names"
    a6.tensor(got, expected, what, rtol=1e-3, atol=1e-4)


def test_forward_tokens_leaves_the_output_head_out(implementation, a6):
    model = model_of({"vocab_size": 4000}, 1)
    module, (ids, positions) = implementation(MODULE), flat(TEXTS)
    attend = attend_of(model.config, TEXTS)
    with a6.watched("forward_tokens") as counter:
        hidden = module.forward_tokens(model, ids, positions, attend)
    a6.true(
        counter.flops < 2 * 10 * 8 * 4000,
        "forward_tokens of 10 tokens must not compute logits: nobody samples from most of them, "
        "and with 4,000 tokens in the vocabulary they cost more than the rest",
        {"FLOPs": counter.flops},
    )
    with a6.watched("logits_of") as counter:
        module.logits_of(model, hidden[[4, 5, 9]])
    a6.true(
        counter.flops == 2 * 3 * 8 * 4000,
        "logits_of of 3 tokens is one product with the output head",
        {"expected": f"{2 * 3 * 8 * 4000:,} FLOPs", "got": f"{counter.flops:,} FLOPs"},
    )


def test_logits_of(implementation, a6):
    for tied in (True, False):
        model, hidden = model_of({"tie_embeddings": tied}, 4), a6.random(3, 8)
        got = implementation(MODULE).logits_of(model, hidden)
        head = model.token_embedding if tied else model.output_head
        causes = {
            "this model has an output head of its own": hidden @ model.token_embedding.weight.T
        }
        what = f"logits_of with tie_embeddings = {tied}"
        a6.tensor(got, hidden @ head.weight.T, what, causes, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays(implementation, a6):
    model, module = model_of({}, 1, "bfloat16"), implementation(MODULE)
    ids, positions = flat(TEXTS)
    hidden = module.forward_tokens(model, ids, positions, attend_of(model.config, TEXTS))
    got = module.logits_of(model, hidden)
    expected = torch.stack([logits_after(model, text) for text in TEXTS])
    what = "the logits of three last tokens in bfloat16"
    a6.tensor(got[[4, 5, 9]], expected, what, dtype=torch.bfloat16, rtol=0.1, atol=0.2)


def test_another_model_afterwards(implementation, a6):
    """Two models, one after the other: what is kept of the first must not serve the second."""
    module, (ids, positions) = implementation(MODULE), flat(TEXTS[:1])
    for theta in (10000.0, 7.0):
        model = model_of({"rope_theta": theta, "head_dim": 6}, 1)
        hidden = module.forward_tokens(model, ids, positions, attend_of(model.config, TEXTS[:1]))
        expected = logits_after(model, TEXTS[0])
        what = f"the logits of a model with rope_theta = {theta:g}"
        causes = {
            "the rotary table of an earlier model is used: keep one for each config": (
                lambda _, theta=theta: theta == 7.0
            )
        }
        got = module.logits_of(model, hidden)[-1]
        a6.tensor(got, expected, what, causes, rtol=1e-3, atol=1e-4)
