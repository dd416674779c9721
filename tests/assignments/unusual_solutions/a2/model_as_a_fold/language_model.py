"""A block as a list of branches, and a model as a fold over its blocks; the weights are drawn by
code of its own.
"""

import math
from functools import reduce

import torch
from torch import Tensor, nn

from transformer_lm.attention import CausalSelfAttention, KeyValueCache
from transformer_lm.layers import GELUMLP, Embedding, LayerNorm, Linear, NoNorm, RMSNorm, SwiGLU
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "none":
        return NoNorm()
    return {"rmsnorm": RMSNorm, "layernorm": LayerNorm}[config.norm](
        config.d_model, config.norm_eps
    )


class TransformerBlock(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, attention_backend: str = "auto") -> None:
        super().__init__()
        kind = SwiGLU if config.mlp == "swiglu" else GELUMLP
        self.feed_forward = kind(config.d_model, config.d_ff, config.biases)
        self.feed_forward_norm = make_norm(config)
        self.attention = CausalSelfAttention(config, layer, attention_backend)
        self.attention_norm = make_norm(config)
        self.is_pre = config.norm_position == "pre"

    def forward(
        self,
        x: Tensor,
        rotary: nn.Module | None,
        positions: Tensor,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        branches = (
            (self.attention_norm, lambda y: self.attention(y, rotary, positions, cache)),
            (self.feed_forward_norm, self.feed_forward),
        )
        for norm, branch in branches:
            x = x + branch(norm(x)) if self.is_pre else norm(x + branch(x))
        return x


class TransformerLM(nn.Module):
    def __init__(self, config: ModelConfig, attention_backend: str = "auto") -> None:
        super().__init__()
        if not config.tie_embeddings:
            self.output_head = Linear(config.d_model, config.vocab_size)
        self.final_norm = make_norm(config) if config.norm_position == "pre" else NoNorm()
        self.blocks = nn.ModuleList(
            [TransformerBlock(config, n, attention_backend) for n in range(config.num_layers)]
        )
        if config.position == "learned":
            self.position_embedding = Embedding(config.context_length, config.d_model)
        self.token_embedding = Embedding(config.vocab_size, config.d_model)
        self.rotary = None
        if config.position == "rotary":
            sizes = config.head_dim, config.context_length
            self.rotary = RotaryEmbedding(*sizes, config.rope_theta, config.rope_scaling)
        self.config = config
        self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        config, small = self.config, 0.5 / math.sqrt(self.config.d_model)
        stream = small if config.tie_embeddings else 1.0
        normed_stream = config.norm_position == "post" and config.norm != "none"
        branch = (1.0 if normed_stream else stream) / (2 * config.num_layers)
        for name, parameter in self.named_parameters():
            std = None
            if name.endswith("embedding.weight"):
                std = stream
            elif name == "output_head.weight":
                std = small
            elif name.endswith(("attention.output.weight", "feed_forward.down.weight")):
                std = branch * math.sqrt(2 / sum(parameter.shape))
            if std is not None:
                nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)
        last = self.final_norm if config.norm_position == "pre" else None
        last = last or self.blocks[-1].feed_forward_norm
        if config.tie_embeddings and hasattr(last, "weight"):
            last.weight[1::2] = -1.0

    def forward(self, token_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        begin = cache.length if cache is not None else 0
        end = begin + token_ids.shape[-1]
        if end > self.config.context_length:
            raise ValueError(f"{end} tokens, but the context is {self.config.context_length}")
        strange = token_ids[(token_ids < 0) | (token_ids >= self.config.vocab_size)]
        if strange.numel():
            size = self.config.vocab_size
            raise ValueError(f"id {strange[0].item()} is not in the vocabulary of {size}")
        positions = torch.arange(begin, end, device=token_ids.device)
        start = self.token_embedding(token_ids)
        if self.config.position == "learned":
            start = start + self.position_embedding(positions)
        stream = reduce(
            lambda x, block: block(x, self.rotary, positions, cache), self.blocks, start
        )
        head = self.token_embedding if self.config.tie_embeddings else self.output_head
        return torch.einsum("bsd,vd->bsv", self.final_norm(stream), head.weight)
