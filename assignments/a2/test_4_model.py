"""a2.12 and a2.13: the block and the whole model."""

import math

import pytest
import torch

from lm_course.grading.comparisons import check_raises, check_true

MODULE = "transformer_lm.language_model"
SHAPES = {
    "llama": {"num_kv_heads": 2, "tie_embeddings": False},
    "tied": {"num_kv_heads": 1, "qk_norm": True, "tie_embeddings": True},
    "gpt2": {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True},
    "post-norm": {"norm_position": "post", "sliding_window": 3},
    "no-norm": {"norm": "none", "position": "none"},
    "swiglu-with-biases": {"biases": True},
    "rescaled": {"rope_scaling": {"kind": "linear", "factor": 4, "original_context_length": 4}},
}


def config_of(implementation, shape="llama", **changes):
    values = {
        "vocab_size": 23,
        "context_length": 16,
        "d_model": 12,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 4,
        "d_ff": 20,
        "rope_theta": 100.0,
    }
    values |= SHAPES[shape] | changes
    return implementation("transformer_lm.model_config").ModelConfig(**values)


def rotary_of(implementation, config):
    if config.position != "rotary":
        return None
    module = implementation("transformer_lm.rotary_embedding")
    return module.RotaryEmbedding(
        config.head_dim, config.context_length, config.rope_theta, config.rope_scaling
    )


def some_ids(*shape, vocab=23, seed=0):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


# a2.12


@pytest.mark.task("a2.12")
def test_block_whose_branches_give_nothing(implementation, a2):
    config = config_of(implementation)
    module = implementation(MODULE).TransformerBlock(config, 0)
    a2.check_parameters(module, a2.block_shapes(config), "TransformerBlock")
    with torch.no_grad():
        module.attention.output.weight.zero_()
        module.feed_forward.down.weight.zero_()
    x = 5 * a2.random(2, 6, 12)
    once = a2.rms_norm(x, torch.ones(12))
    causes = {
        a2.BLOCK_MISTAKES["norm in the stream"]: once,
        "this is post-norm, but config.norm_position is 'pre'": a2.rms_norm(once, torch.ones(12)),
        a2.BLOCK_MISTAKES["no residual"]: torch.zeros(2, 6, 12),
    }
    got = module(x, rotary_of(implementation, config), torch.arange(6))
    what = "the result of a block whose two branches end in zeros (equal to its input)"
    a2.check(got, x, what, causes)


@pytest.mark.task("a2.12")
@pytest.mark.parametrize("shape", ["gpt2", "post-norm", "swiglu-with-biases"])
def test_block_by_formula(implementation, a2, shape):
    config = config_of(implementation, shape)
    module = implementation(MODULE).TransformerBlock(config, 0)
    weights = a2.fill(module, a2.block_shapes(config), f"TransformerBlock ({shape})")
    x, positions = a2.random(2, 6, 12), torch.arange(6)
    got = module(x, rotary_of(implementation, config), positions)
    arguments = config, weights, x, positions
    causes = a2.wrong_by(a2.block, a2.BLOCK_MISTAKES, list(a2.BLOCK_MISTAKES), *arguments)
    expected = a2.block(*arguments)
    a2.check(got, expected, f"TransformerBlock ({shape})", causes, rtol=1e-4, atol=1e-4)


@pytest.mark.task("a2.12")
def test_block_hands_the_cache_on(implementation, a2):
    config = config_of(implementation)
    module = implementation(MODULE).TransformerBlock(config, 1)
    weights = a2.fill(module, a2.block_shapes(config), "TransformerBlock")
    x, rotary, cache = a2.random(2, 6, 12), rotary_of(implementation, config), a2.GrowingCache()
    expected = a2.block(config, weights, x, torch.arange(6))
    for start, end in ((0, 4), (4, 5), (5, 6)):
        got = module(x[:, start:end], rotary, torch.arange(start, end), cache)
        what = f"the result of the block at positions {start} to {end - 1}, with a cache,"
        a2.check(got, expected[:, start:end], what, rtol=1e-4, atol=1e-4)
    check_true(
        cache.appended == [1, 1, 1],
        "cache.append must be called once per forward pass, with the block's layer number, 1",
        {"got": cache.appended},
    )


# a2.13


def model_of(implementation, a2, config, what="TransformerLM"):
    """Return the model with known weights, and these weights."""
    model = implementation(MODULE).TransformerLM(config)
    return model, a2.fill(model, a2.model_shapes(config), what)


@pytest.mark.task("a2.13")
@pytest.mark.parametrize("shape", ["llama", "gpt2", "rescaled"])
def test_logits_by_formula(implementation, a2, shape):
    config = config_of(implementation, shape)
    model, weights = model_of(implementation, a2, config, f"TransformerLM ({shape})")
    ids = some_ids(2, 9)
    names = list(a2.MODEL_MISTAKES)
    causes = a2.wrong_by(a2.decoder, a2.MODEL_MISTAKES, names, config, weights, ids)
    what = f"the result of TransformerLM ({shape})"
    a2.check(model(ids), a2.decoder(config, weights, ids), what, causes, rtol=1e-4, atol=1e-4)


@pytest.mark.task("a2.13")
def test_logits_by_hand(implementation, a2):
    """With branches of zeros, only the embedding, the norm and the head are left."""
    config = config_of(implementation, "tied", qk_norm=False, d_model=4, vocab_size=3)
    model = implementation(MODULE).TransformerLM(config)
    a2.check_parameters(model, a2.model_shapes(config), "TransformerLM")
    rows = torch.tensor([[3.0, 0, 0, 0], [0, 2, 2, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
            block.feed_forward.down.weight.zero_()
        model.token_embedding.weight.copy_(rows)
        model.final_norm.weight.fill_(1.0)
    expected = torch.tensor([[[6.0, 0, 2], [0, 4 * 2**0.5, 2 * 2**0.5], [3, 4, 4]]])
    got = model(torch.tensor([[0, 1, 2]]))
    causes = {a2.MODEL_MISTAKES["no final norm"]: (rows @ rows.T)[None]}
    what = "the result of a model whose blocks add nothing (the handout's example)"
    a2.check(got, expected, what, causes, rtol=1e-3, atol=1e-3)


@pytest.mark.task("a2.13")
def test_a_tied_head_is_the_embedding(implementation, a2):
    model, _ = model_of(implementation, a2, config_of(implementation, "tied"))
    model(some_ids(1, 4)).sum().backward()
    for name, parameter in model.named_parameters():
        check_true(
            parameter.grad is not None and bool(parameter.grad.any()),
            f"the parameter {name} gets no gradient: is it used?",
        )
    before = model(some_ids(1, 4)).detach()
    with torch.no_grad():
        model.token_embedding.weight[22] = 0
    got = model(some_ids(1, 4)).detach()[..., 22]
    what = "the logit of a token whose embedding was set to 0, with a tied head,"
    causes = {"the head is a copy: multiply by the embedding's own weight": before[..., 22]}
    check_true(22 not in some_ids(1, 4), "the check has token 22 in its text")
    a2.check(got, torch.zeros(1, 4), what, causes)


def table_std(name, config, weight):
    """Return the standard deviation of a new matrix by the handout's table, before the cut-off."""
    d_out, d_in = weight.shape
    tied, post = config.tie_embeddings, config.norm_position == "post"
    small = 0.5 / math.sqrt(config.d_model)
    if "embedding" in name:
        return small if tied else 1.0
    if name.startswith("output_head"):
        return small
    linear = math.sqrt(2 / (d_in + d_out))
    if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
        return linear * (small if tied and not post else 1.0) / (2 * config.num_layers)
    return linear


def likely_start(name, found, config):
    """Return the likely cause of a wrong deviation, given as a multiple of the right one."""
    layers, width = config.num_layers, config.d_model
    is_branch = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
    stream = 0.5 / math.sqrt(width) if config.tie_embeddings else 1.0
    causes = {}
    if is_branch:
        causes = {
            "nothing is scaled: multiply Linear's deviation by s / (2 num_layers)": 2 * layers,
            "you divide by the root of 2 num_layers: divide by 2 num_layers": math.sqrt(2 * layers),
            "each block has two branches: divide by 2 num_layers": 2,
            "the size s of the stream is missing": 1 / stream,
            "nothing is scaled: multiply Linear's deviation by s / (2 num_layers), with s here": 2
            * layers
            / stream,
        }
        if config.norm_position == "post":
            causes |= {
                "after a norm the stream has size 1, so s is 1 in a post-norm model": 0.5
                / math.sqrt(width)
            }
    elif "embedding" in name and not config.tie_embeddings:
        causes = {
            "an embedding that is not the output head has standard deviation 1": 0.5
            / math.sqrt(width)
        }
    elif not any(part in name for part in ("embedding", "output_head")):
        causes = {"only output and down are divided by 2 num_layers": 1 / (2 * layers)}
    return next((text for text, wrong in causes.items() if abs(found / wrong - 1) < 0.1), None)


@pytest.mark.task("a2.13")
@pytest.mark.parametrize("shape", ["llama", "tied", "gpt2", "post-norm"])
def test_a_new_model_starts_by_the_table(implementation, a2, shape):
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "context_length": 64, "d_model": 64, "head_dim": 16, "d_ff": 160}
    config = config_of(implementation, shape, num_layers=8, **sizes)
    model = implementation(MODULE).TransformerLM(config)
    a2.check_parameters(model, a2.model_shapes(config), "TransformerLM")
    last = "blocks.7.feed_forward_norm" if config.norm_position == "post" else "final_norm"
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.ndim == 2:
            found = float(weight.std()) / table_std(name, config, weight)
            details = {"expected": "0.99, because of the cut-off", "got": f"{found:.3f}"}
            if likely := likely_start(name, found, config):
                details["likely"] = likely
            sentence = f"new weights of {name} ({shape}): wrong multiple of the handout's deviation"
            check_true(0.9 < found < 1.08, sentence, details)
        elif name == f"{last}.weight" and config.tie_embeddings:
            signs = weight.tolist() == [1.0, -1.0] * 32
            check_true(
                signs,
                f"{name} before a tied head ({shape}) must be initialized to 1, -1, 1, -1, ...",
            )
        else:
            start = 0.0 if name.endswith("bias") else 1.0
            check_true(
                bool((weight == start).all()), f"{name} ({shape}) must be initialized to {start:g}"
            )


@pytest.mark.task("a2.13")
@pytest.mark.parametrize("d_model", [64, 512])
@pytest.mark.parametrize("shape", ["llama", "tied"])
def test_a_new_model_guesses_evenly(implementation, a2, shape, d_model):
    torch.manual_seed(0)
    config = config_of(implementation, shape, vocab_size=500, d_model=d_model, d_ff=96)
    ids = some_ids(16, 16, vocab=500)
    with torch.no_grad():
        logits = implementation(MODULE).TransformerLM(config)(ids).flatten(0, 1)
    even = math.log(500)
    random_text = some_ids(16 * 16, vocab=500, seed=1)
    for targets, what in ((random_text, "random text"), (ids.flatten(), "the tokens that it read")):
        loss = float(torch.nn.functional.cross_entropy(logits, targets))
        details = {"expected": f"{0.95 * even:.2f} to {1.05 * even:.2f}", "got": f"{loss:.2f}"}
        if targets is not random_text and loss < even:
            details["likely"] = (
                "a token's logit for itself is large: check the signs of the last norm"
            )
        check_true(
            abs(loss - even) < 0.05 * even,
            f"the first loss of a new model ({shape}, width {d_model}) on {what} is not ln(500)",
            details,
        )


@pytest.mark.task("a2.13")
@pytest.mark.parametrize("shape", ["llama", "gpt2"])
@pytest.mark.parametrize("pieces", [[1] * 9], ids=["ones"])
def test_model_with_a_cache_as_without(implementation, a2, shape, pieces):
    config = config_of(implementation, shape)
    model, weights = model_of(implementation, a2, config)
    ids, cache = some_ids(2, 9), a2.GrowingCache()
    expected = a2.decoder(config, weights, ids)
    start = 0
    for size in pieces:
        got = model(ids[:, start : start + size], cache)
        alone = a2.decoder(config, weights, ids[:, start : start + size])
        causes = {"the cached tokens are not used, and positions begin at 0 again": alone}
        what = f"the result of {size} tokens after {start} in the cache ({shape})"
        right = expected[:, start : start + size]
        a2.check(got, right, what, causes, rtol=1e-4, atol=1e-4)
        start += size
    check_true(
        cache.appended == [0, 1] * len(pieces),
        "cache.append must be called once for each layer in a forward pass, in order",
        {"expected": [0, 1] * len(pieces), "got": cache.appended},
    )


@pytest.mark.task("a2.13")
def test_the_config_is_kept(implementation):
    config = config_of(implementation)
    model = implementation(MODULE).TransformerLM(config)
    check_true(
        getattr(model, "config", None) == config, "the model must keep `config` as an attribute"
    )
    saved = set(model.state_dict())
    named = {name for name, _ in model.named_parameters()}
    check_true(
        saved == named,
        f"state_dict also holds {', '.join(sorted(saved - named))}: it may hold only parameters",
    )


@pytest.mark.task("a2.13")
@pytest.mark.parametrize("cached", [0, 10], ids=["alone", "behind-a-cache"])
def test_a_text_longer_than_the_context_is_refused(implementation, a2, cached):
    model, _ = model_of(implementation, a2, config_of(implementation))
    cache = a2.GrowingCache()
    if cached:
        model(some_ids(1, cached), cache)
    model(some_ids(1, 16 - cached, seed=1), cache)  # just fits
    cache = a2.GrowingCache()
    if cached:
        model(some_ids(1, cached), cache)
    what = f"{17 - cached} tokens after {cached} in the cache, for a context of 16,"
    names = ["17", "16"]
    check_raises(ValueError, lambda: model(some_ids(1, 17 - cached), cache), what, names)


@pytest.mark.task("a2.13")
@pytest.mark.parametrize("token_id", [23, -1])
def test_ids_outside_the_vocabulary_are_refused(implementation, a2, token_id):
    model, _ = model_of(implementation, a2, config_of(implementation))
    ids = torch.tensor([[1, 22, token_id, 0]])
    what = f"token id {token_id} in a vocabulary of 23"
    check_raises(ValueError, lambda: model(ids), what, [str(token_id), "23"])
