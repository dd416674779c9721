"""The decoder: from token ids to the logits of the next token at each position.

Blocks are pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)) (Xiong et al., 2020,
figure 1b), with one more norm before the output head. The variants of `ModelShape` change one part
each.

What this leaves out: dropout, and sampling (inference/generation.py).
"""

from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lm_core.user_error import UserError
from transformer_lm.attention import AttentionBackend, CausalSelfAttention, KeyValueCache
from transformer_lm.initialization import initialize
from transformer_lm.kernels.packed_attention import check_packed, document_positions
from transformer_lm.layers import (
    GELUMLP,
    Embedding,
    LayerNorm,
    Linear,
    NoNorm,
    RMSNorm,
    SwiGLU,
)
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding
from transformer_lm.token_id_check import check_token_ids
from transformer_lm.variants.geglu import GEGLU
from transformer_lm.variants.squared_relu import SquaredReLU

# A variant is a row of a table. A value of `ModelShape` without a row is an error; it never selects
# another variant.
NORMS = {"rmsnorm": RMSNorm, "layernorm": LayerNorm, "none": lambda d_model, eps: NoNorm()}
FEED_FORWARDS = {
    "swiglu": SwiGLU,
    "gelu": GELUMLP,
    "squared_relu": SquaredReLU,
    "geglu": GEGLU,
}


def make_norm(config: ModelConfig) -> nn.Module:
    """Return the norm that the config names, for vectors of size d_model."""
    assert config.norm in NORMS, f"language_model.NORMS has no row {config.norm!r}"
    return NORMS[config.norm](config.d_model, config.norm_eps)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer, each added to the residual stream that it read.

    Pre-norm does not normalize the stream itself between the embedding and the last norm; post-norm
    (Vaswani et al., 2017) normalizes it after every addition.
    """

    def __init__(
        self, config: ModelConfig, layer: int, attention_backend: AttentionBackend = "auto"
    ) -> None:
        super().__init__()
        self.norm_position = config.norm_position
        self.attention_norm = make_norm(config)
        self.attention = CausalSelfAttention(config, layer, attention_backend)
        self.feed_forward_norm = make_norm(config)
        assert config.mlp in FEED_FORWARDS, (
            f"language_model.FEED_FORWARDS has no row {config.mlp!r}"
        )
        self.feed_forward = FEED_FORWARDS[config.mlp](config.d_model, config.d_ff, config.biases)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotary: RotaryEmbedding | None,
        positions: Int[Tensor, " seq"],
        cache: KeyValueCache | None = None,
        **packed: Tensor,  # cu_seqlens, if x holds packed documents
    ) -> Float[Tensor, "batch seq d_model"]:
        match self.norm_position:
            case "pre":
                x = x + self.attention(self.attention_norm(x), rotary, positions, cache, **packed)
                return x + self.feed_forward(self.feed_forward_norm(x))
            case "post":
                x = self.attention_norm(x + self.attention(x, rotary, positions, cache, **packed))
                return self.feed_forward_norm(x + self.feed_forward(x))
            case unknown:
                assert_never(unknown)


class TransformerLM(nn.Module):
    """The whole model. `config` is an attribute, which a checkpoint stores.

    Args:
        config: the shape.
        attention_backend: see `CausalSelfAttention`.
    """

    def __init__(self, config: ModelConfig, attention_backend: AttentionBackend = "auto") -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.d_model)
        self.rotary: RotaryEmbedding | None = None
        match config.position:
            case "rotary":
                self.rotary = RotaryEmbedding(
                    config.head_dim, config.context_length, config.rope_theta, config.rope_scaling
                )
            case "learned":
                self.position_embedding = Embedding(config.context_length, config.d_model)
            case "none":
                pass
            case unknown:
                assert_never(unknown)
        self.blocks = nn.ModuleList(
            TransformerBlock(config, layer, attention_backend) for layer in range(config.num_layers)
        )
        # After the last block of a post-norm model, the stream is already normalized.
        self.final_norm = make_norm(config) if config.norm_position == "pre" else NoNorm()
        if not config.tie_embeddings:
            self.output_head = Linear(config.d_model, config.vocab_size)
        initialize(self.named_parameters(), config)

    def forward(
        self,
        token_ids: Int[Tensor, "batch seq"],
        cache: KeyValueCache | None = None,
        cu_seqlens: Int[Tensor, " documents_and_one"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the logits of the next token at every position.

        Args:
            token_ids: the tokens; with a cache, those after the cached ones.
            cache: keys and values of the earlier tokens; the new ones are appended to it.
            cu_seqlens: the borders of packed documents, for `packed_logits`, without a cache.

        Raises:
            ValueError: the sequence, cached tokens included, is longer than the context length, or
                an id is not in the vocabulary (checked here only on a CPU without compilation;
                otherwise the caller must check).
        """
        if cu_seqlens is not None:
            return self.packed_logits(token_ids, cu_seqlens)
        past = 0 if cache is None else cache.length
        self._check(token_ids, past)
        positions = torch.arange(past, past + token_ids.shape[1], device=token_ids.device)
        x = self.token_embedding(token_ids)
        if self.config.position == "learned":
            x = x + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x, self.rotary, positions, cache)
        return self._logits(self.final_norm(x))

    def packed_logits(
        self, token_ids: Int[Tensor, "batch tokens"], cu_seqlens: Int[Tensor, " documents_and_one"]
    ) -> Float[Tensor, "batch tokens vocab"]:
        """Return the logits of several documents in one sequence, as if each were alone.

        Attention stays within a document, and positions start again at 0.

        Args:
            token_ids: the documents, one after another, [1, tokens].
            cu_seqlens: document i has the tokens from cu_seqlens[i] to cu_seqlens[i + 1]; the last
                is the number of tokens. On the CPU, whatever the device of the model.

        Raises:
            ValueError: the borders do not fit the tokens, or a document is longer than the context
                length; ids as in `forward`.
        """
        check_packed(token_ids, cu_seqlens, self.config)
        positions = document_positions(cu_seqlens, token_ids.device)
        x = self.token_embedding(token_ids)
        if self.config.position == "learned":
            x = x + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x, self.rotary, positions, cu_seqlens=cu_seqlens)
        x = self.final_norm(x)
        return self._logits(x)

    def _logits(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq vocab"]:
        if self.config.tie_embeddings:
            return x @ self.token_embedding.weight.T
        return self.output_head(x)

    def _check(self, token_ids: Int[Tensor, "batch seq"], past: int) -> None:
        length = past + token_ids.shape[1]
        if length > self.config.context_length:
            raise UserError(
                f"{length} tokens are more than the model's context of "
                f"{self.config.context_length}; shorten the input"
            )
        if token_ids.is_cpu and not torch.compiler.is_compiling():
            check_token_ids(token_ids, self.config.vocab_size)
