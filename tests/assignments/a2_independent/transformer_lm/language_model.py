"""The decoder: token ids in, for each position the logits of the token that follows it.

Blocks are pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)) (Xiong et al., 2020,
figure 1b), with one more norm before the output head. The variants of `ModelShape` change one part
each. What this leaves out: dropout, and sampling (inference/generation.py).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lm.attention import AttentionBackend, CausalSelfAttention, KeyValueCache
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


def make_norm(config: ModelConfig) -> nn.Module:
    """The norm that the config names, for vectors of d_model."""
    if config.norm == "none":
        return NoNorm()
    kind = RMSNorm if config.norm == "rmsnorm" else LayerNorm
    return kind(config.d_model, config.norm_eps)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer, each added to the stream that it read.

    Pre-norm leaves the stream itself alone, from the embedding to the last norm; post-norm (Vaswani
    et al., 2017) normalises it after every addition.
    """

    def __init__(
        self, config: ModelConfig, layer: int, attention_backend: AttentionBackend = "auto"
    ) -> None:
        super().__init__()
        self.is_pre_norm = config.norm_position == "pre"
        self.attention_norm = make_norm(config)
        self.attention = CausalSelfAttention(config, layer, attention_backend)
        self.feed_forward_norm = make_norm(config)
        kind = SwiGLU if config.mlp == "swiglu" else GELUMLP
        self.feed_forward = kind(config.d_model, config.d_ff, config.biases)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotary: RotaryEmbedding | None,
        positions: Int[Tensor, " seq"],
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        def attend(stream: Tensor) -> Tensor:
            return self.attention(stream, rotary, positions, cache)

        branches = ((attend, self.attention_norm), (self.feed_forward, self.feed_forward_norm))
        for branch, norm in branches:
            x = x + branch(norm(x)) if self.is_pre_norm else norm(x + branch(x))
        return x


class TransformerLM(nn.Module):
    """The whole model. `config` is kept as an attribute; a checkpoint is made from it.

    Args:
        config: the shape.
        attention_backend: see `CausalSelfAttention`.
    """

    def __init__(self, config: ModelConfig, attention_backend: AttentionBackend = "auto") -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.d_model)
        self.position_embedding = self.rotary = self.output_head = None
        if config.position == "learned":
            self.position_embedding = Embedding(config.context_length, config.d_model)
        elif config.position == "rotary":
            self.rotary = RotaryEmbedding(
                config.head_dim, config.context_length, config.rope_theta, config.rope_scaling
            )
        self.blocks = nn.ModuleList(
            TransformerBlock(config, layer, attention_backend) for layer in range(config.num_layers)
        )
        self.final_norm = make_norm(config) if config.norm_position == "pre" else NoNorm()
        if not config.tie_embeddings:
            self.output_head = Linear(config.d_model, config.vocab_size)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """By the handout's table; the other matrices, biases and norms start as their layers do."""
        config = self.config
        small = 0.5 * config.d_model**-0.5
        stream = small if config.tie_embeddings else 1.0
        for embedding in (self.token_embedding, self.position_embedding):
            if embedding is not None:
                self._redraw(embedding.weight, stream)
        if self.output_head is not None:
            self._redraw(self.output_head.weight, small)
        if config.norm_position == "post" and config.norm != "none":
            stream = 1.0
        for block in self.blocks:
            block.attention.output.weight *= stream / (2 * config.num_layers)
            block.feed_forward.down.weight *= stream / (2 * config.num_layers)
        norms = [block.feed_forward_norm for block in self.blocks]
        last = self.final_norm if config.norm_position == "pre" else norms[-1]
        if config.tie_embeddings and config.norm != "none":
            # A token's logit for itself is then near 0, as all others are.
            last.weight.copy_(1 - 2 * (torch.arange(config.d_model) % 2))

    @staticmethod
    def _redraw(weight: Tensor, deviation: float) -> None:
        nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)

    def forward(
        self, token_ids: Int[Tensor, "batch seq"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token at every position.

        Args:
            token_ids: the tokens; with a cache, those that follow the cached ones.
            cache: keys and values of the tokens before; the new ones are appended to it.

        Raises:
            ValueError: the sequence, cached tokens included, is longer than the context, or an id
                is not in the vocabulary.
        """
        past = 0 if cache is None else cache.length
        self._check(token_ids, past)
        positions = past + torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.token_embedding(token_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x, self.rotary, positions, cache)
        return self._logits(self.final_norm(x))

    def _logits(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq vocab"]:
        head = self.token_embedding if self.output_head is None else self.output_head
        return torch.einsum("...d,vd->...v", x, head.weight)

    def _check(self, token_ids: Int[Tensor, "batch seq"], past: int) -> None:
        length, vocab_size = past + token_ids.shape[1], self.config.vocab_size
        if length > self.config.context_length:
            raise ValueError(
                f"{length} tokens, cached ones included, are more than the context of "
                f"{self.config.context_length}"
            )
        strangers = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
        if len(strangers):
            raise ValueError(f"id {strangers[0].item()} is not in a vocabulary of {vocab_size} ids")
