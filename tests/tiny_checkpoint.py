"""A checkpoint folder of a model with one layer and random weights, for tests of whole commands."""

from pathlib import Path

import torch

from lm_core.formats.checkpoint_files import write_checkpoint
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.pretrained import to_hugging_face


def write_tiny_checkpoint(folder: Path, context_length: int) -> Path:
    """Write the checkpoint, whose tokens are bytes, and return its folder."""
    torch.manual_seed(0)
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [], SPECIAL_TOKENS)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=context_length,
        d_model=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        d_ff=32,
    )
    tensors, described = to_hugging_face(TransformerLM(config), {})
    checkpoint = folder / "step_000001"
    write_checkpoint(checkpoint, tensors, described, hugging_face_files(tokenizer), None)
    return checkpoint
