"""Parameters have no memory, the rotary table does, and no compiler is imported for it."""

import subprocess
import sys

import pytest
import torch

from lm_core.user_error import UserError
from transformer_lm import language_model
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.rotary_embedding import RotaryEmbedding
from transformer_lm.weights.empty_model import empty_model
from transformer_lm.weights.pretrained import with_weights

SHAPE = {"vocab_size": 31, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}
SHAPE |= {"num_kv_heads": 1, "d_ff": 24}
SCALING = RopeScaling(kind="yarn", factor=2, original_context_length=8)
VARIANTS = [
    {"rope_scaling": SCALING},
    {"position": "learned", "biases": True, "norm": "layernorm", "mlp": "gelu"},
    {"position": "none", "qk_norm": True, "tie_embeddings": False, "norm_position": "post"},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_has_the_names_and_shapes_and_no_memory(variant):
    shape = ModelConfig(**(SHAPE | variant))
    full, empty = TransformerLM(shape), empty_model(shape)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    expected = {name: (p.shape, p.dtype) for name, p in full.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in empty.named_parameters()} == expected
    if shape.position == "rotary":
        assert torch.equal(empty.rotary.cosines, full.rotary.cosines)
        assert torch.equal(empty.rotary.sines, full.rotary.sines)
    assert torch.empty(1).device.type == "cpu"


def test_loading_weights_imports_no_compiler():
    """torch._dynamo takes more time to import than SmolLM2 to load."""
    program = (
        "import sys; from transformer_lm.weights.empty_model import empty_model; "
        "from transformer_lm.model_config import ModelConfig; "
        f"empty_model(ModelConfig(**{SHAPE!r})); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_shape_that_no_computer_has_room_for_is_refused():
    with pytest.raises(UserError, match="inner values, 31 tokens and a context of 16 is larger"):
        empty_model(ModelConfig(**(SHAPE | {"d_ff": 1 << 40})))


class FilledTable(RotaryEmbedding):
    """A learner's embedding: it allocates the table first and fills it afterwards."""

    def __init__(self, *shape):
        super().__init__(*shape)
        cosines, sines = torch.zeros(self.cosines.shape), torch.empty(self.sines.shape)
        cosines[:] = self.cosines
        self.sines = torch.add(sines * 0, self.sines)
        self.cosines = cosines


def test_a_rotary_table_that_is_filled_step_by_step_is_whole_too(monkeypatch):
    monkeypatch.setattr(language_model, "RotaryEmbedding", FilledTable)
    model = TransformerLM(ModelConfig(**SHAPE))
    copy = with_weights(empty_model(model.config), model.state_dict())
    ids = torch.arange(12)[None]
    assert torch.equal(copy(ids), model(ids))
