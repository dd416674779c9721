"""The whole model: causality, the cache, tied weights, and its errors."""

import pytest
import torch

from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

SHAPE = {
    "vocab_size": 211,
    "context_length": 24,
    "d_model": 32,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 48,
}


class ListCache:
    """A cache that concatenates.

    `length` grows when the first layer has stored its keys, which must not affect the model before
    its next call.
    """

    def __init__(self) -> None:
        self.layers = {}

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def append(self, layer, keys, values):
        if layer in self.layers:
            keys = torch.cat([self.layers[layer][0], keys], 2)
            values = torch.cat([self.layers[layer][1], values], 2)
        self.layers[layer] = keys, values
        return keys, values


def make_model(**changes) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(ModelConfig(**(SHAPE | changes)))


def random_ids(rows: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 211, (rows, length), generator=torch.Generator().manual_seed(1))


def test_no_position_sees_what_follows_it():
    model, ids = make_model(), random_ids()
    changed = ids.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 211
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    difference = (before - after).abs().amax(dim=(0, 2))
    assert (difference[10:] > 1e-6).all(), "every later position should change"


def test_sequences_of_a_batch_do_not_meet():
    model, ids = make_model(), random_ids(3)
    torch.testing.assert_close(model(ids)[1:2], model(ids[1:2]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 24, [7, 17], [23, 1]])
def test_a_cache_gives_the_same_logits_at_the_right_positions(pieces):
    model, ids = make_model(), random_ids()
    cache = ListCache()
    outputs = [model(piece, cache) for piece in ids.split(pieces, dim=1)]
    # float32 through three blocks; the order of sums differs between the two ways
    torch.testing.assert_close(torch.cat(outputs, 1), model(ids), atol=1e-5, rtol=1e-4)


def test_tied_weights_are_one_parameter_with_both_gradients():
    tied = make_model()
    assert "output_head.weight" not in dict(tied.named_parameters())
    ids = torch.full((1, 4), 7)
    tied(ids)[..., 100].sum().backward()
    gradient = tied.token_embedding.weight.grad
    assert gradient[7].abs().sum() > 0, "as an input"
    assert gradient[100].abs().sum() > 0, "as an output"
    assert gradient[50].abs().sum() == 0


def test_every_parameter_gets_a_gradient():
    model = make_model(tie_embeddings=False)
    model(random_ids()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_backends_agree_through_the_whole_model():
    ids = random_ids()
    logits = {}
    for backend in ("eager", "matmul", "sdpa"):
        torch.manual_seed(0)
        logits[backend] = TransformerLM(ModelConfig(**SHAPE), backend)(ids)
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits["matmul"], logits["eager"], atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked_types")
def test_torch_compile_sees_one_graph():
    """Reading a tensor's values in Python breaks the graph, which is an error with fullgraph."""
    model = make_model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(random_ids()), model(random_ids()))


def test_nothing_in_a_pass_waits_for_the_device():
    """Reading a value of a tensor on "meta" is an error; on a GPU it would be a wait."""
    model = make_model().to("meta")
    model(random_ids().to("meta")).sum().backward()
    with pytest.raises(RuntimeError, match="meta"):
        model(random_ids().to("meta")).sum().item()


def test_too_long_and_unknown_ids_are_refused_by_name():
    model = make_model()
    with pytest.raises(ValueError, match="25 tokens are more than the model's context of 24"):
        model(random_ids(1, 25))
    with pytest.raises(ValueError, match="token id 211 is outside the model's vocabulary of 211"):
        model(torch.tensor([[0, 211]]))
    with pytest.raises(ValueError, match="token id -1"):
        model(torch.tensor([[-1]]))
    cache = ListCache()
    model(random_ids(1, 20), cache)
    with pytest.raises(ValueError, match="25 tokens"):
        model(random_ids(1, 5), cache)
