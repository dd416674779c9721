"""A tiny model with random weights and a tokenizer of bytes alone; one thread, as for all tiny
models.
"""

from collections.abc import Iterator

import pytest
import torch

from inference.engine.engine import Engine
from lm_core.random_state import seed_everything
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.tokenizer import Tokenizer
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocab = dict(enumerate([bytes([byte]) for byte in range(256)]))
    return Tokenizer(vocab, [], SPECIAL_TOKENS)


@pytest.fixture
def model(tokenizer: Tokenizer) -> TransformerLM:
    seed_everything(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=48,
        d_model=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        d_ff=48,
    )
    made = TransformerLM(config).eval()
    with torch.no_grad():  # larger weights, so that the likeliest token is not a coin toss
        for weight in made.parameters():
            weight.mul_(3)
    return made


@pytest.fixture
def engine(model: TransformerLM, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)
