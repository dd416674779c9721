"""Continue prompts of different lengths together, without computing anything for padding.

Only attention has to know which tokens belong to one text. Every other layer treats each token by
itself, so the new tokens of all texts can lie one after another in a single row:

    text 0: a b c     ->  tokens     a b c d e      -> [embedding, norms, products] -> hidden states
    text 1: d e           positions  0 1 2 0 1         [attention, text by text]       of c and e

Yu et al. 2022 ("Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI,
section 3.2) call this selective batching. A weight that is read from memory then serves all texts.

`RaggedKVCache` keeps a row for each text, as long as the longest text can become. `generate_batch`
starts all texts together and returns when the last one has ended (static batching).

What this leaves out: memory in proportion to what is used (block_pool.py, paged_attention.py), and
texts that join or leave between two steps (batch_scheduler.py).
"""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import accumulate, chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inference.generation import PREFILL_TOKENS, next_token_ids, num_new_tokens
from inference.sampling import SamplingSettings
from lm_core.user_error import UserError
from transformer_lm.attention import scaled_dot_product_attention
from transformer_lm.language_model import TransformerBlock, TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding

# (layer, queries [tokens, heads, head_dim], keys [tokens, kv_heads, head_dim], values likewise)
# -> attended values [tokens, heads, head_dim]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@lru_cache(maxsize=4)
def rotary_of(config: ModelConfig) -> RotaryEmbedding | None:
    """Return what rotates queries and keys, None for a model without rotary positions.

    Made from the config, because a2 does not fix under which name a model keeps its own.
    """
    if config.position != "rotary":
        return None
    length, scaling = config.context_length, config.rope_scaling
    return RotaryEmbedding(config.head_dim, length, config.rope_theta, scaling)


@torch.no_grad()
def forward_tokens(
    model: TransformerLM,
    token_ids: Int[Tensor, " tokens"],
    positions: Int[Tensor, " tokens"],
    attend: Attend,
) -> Float[Tensor, "tokens d_model"]:
    """Run the model on tokens of any number of texts, and return what its output head would read.

    `positions[t]` is the position of token t within its text, below the context length.
    `attend(layer, q, k, v)` is called once for each layer, in order. It gets q [tokens, num_heads,
    head_dim], k and v [tokens, num_kv_heads, head_dim], after the norms of `qk_norm` and the
    rotation, and returns the attended values [tokens, num_heads, head_dim]. It has to know which
    tokens belong together, and the sliding window.

    Uses only names that a2 fixes: `config`, `token_embedding`, `position_embedding`, `blocks` with
    `attention_norm`, `attention`, `feed_forward_norm` and `feed_forward`, `final_norm` of a
    pre-norm model, and the layers `query`, `key`, `value`, `output`, `query_norm`, `key_norm` of
    `attention`. Neither ids nor positions are checked.
    """
    config, x = model.config, model.token_embedding(token_ids)
    if config.position == "learned":
        x = x + model.position_embedding(positions)
    for layer, block in enumerate(model.blocks):
        if config.norm_position == "pre":
            normed = block.attention_norm(x)
            x = x + _attention(config, block, layer, normed, positions, attend)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        else:
            x = block.attention_norm(x + _attention(config, block, layer, x, positions, attend))
            x = block.feed_forward_norm(x + block.feed_forward(x))
    return model.final_norm(x) if config.norm_position == "pre" else x


def _attention(
    config: ModelConfig,
    block: TransformerBlock,
    layer: int,
    x: Float[Tensor, "tokens d_model"],
    positions: Int[Tensor, " tokens"],
    attend: Attend,
) -> Float[Tensor, "tokens d_model"]:
    attention = block.attention
    q = attention.query(x).unflatten(-1, (config.num_heads, config.head_dim))
    k = attention.key(x).unflatten(-1, (config.num_kv_heads, config.head_dim))
    v = attention.value(x).unflatten(-1, (config.num_kv_heads, config.head_dim))
    if config.qk_norm:
        q, k = attention.query_norm(q), attention.key_norm(k)
    if (rotary := rotary_of(config)) is not None:
        # The rotation takes [..., seq, head_dim]; here every token is a sequence of its own.
        places = positions[:, None, None]
        q, k = (rotary(part[:, :, None], places)[:, :, 0] for part in (q, k))
    return attention.output(attend(layer, q, k, v).flatten(-2))


@torch.no_grad()
def logits_of(
    model: TransformerLM, hidden: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, "tokens vocab"]:
    """Apply the output head to results of `forward_tokens`, usually to those of last tokens only:
    with a vocabulary of 50,000 the head can cost more than the rest of a small model.
    """
    if model.config.tie_embeddings:
        return hidden @ model.token_embedding.weight.T
    return model.output_head(hidden)


class RaggedKVCache:
    """Keys and values of texts with different numbers of tokens, one row for each text.

    A step has three parts. `positions` says where the new tokens of some rows will be, `attend`
    stores their keys and values in one layer after the other, and `advance` counts them once every
    layer has them. So `lengths`, the number of tokens in each row, stays the same during a pass.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, max_length, head_dim)
        # Zeros, because a masked key has weight 0, and 0 times an old NaN would be NaN.
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * batch_size

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        batch_size: int,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "RaggedKVCache":
        """Return a cache of the model's shape; `max_length` defaults to its context length."""
        length = config.context_length if max_length is None else max_length
        layers, kv_heads, width = config.num_layers, config.num_kv_heads, config.head_dim
        return cls(layers, batch_size, kv_heads, length, width, dtype, device)

    def positions(self, rows: Sequence[int], counts: Sequence[int]) -> Int[Tensor, " tokens"]:
        """Return the positions of the next counts[i] tokens of rows[i], one row after another."""
        spans = [
            range(self.lengths[row], self.lengths[row] + count)
            for row, count in zip(rows, counts, strict=True)
        ]
        return torch.tensor(list(chain(*spans)), device=self._keys.device)

    def attend(
        self, rows: Sequence[int], counts: Sequence[int], sliding_window: int | None = None
    ) -> Attend:
        """Return the function for `forward_tokens` whose tokens are the next counts[i] of rows[i].

        It stores their keys and values, and each query sees the tokens of its own row up to itself
        (with a window, the last `sliding_window` of them). No row may occur twice.
        """
        at = self.positions(rows, counts)  # [tokens]
        num_keys = int(at.max()) + 1
        assert num_keys <= self._keys.shape[3], (
            f"a row has room for {self._keys.shape[3]} tokens, not for {num_keys}"
        )
        # Queries are padded to [rows, queries]: token t is query place[t] of the row number[t].
        number = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts)).to(at.device)
        row = torch.tensor(rows, device=at.device)[number]
        place = at - torch.tensor([self.lengths[i] for i in rows], device=at.device)[number]
        query_at = at.new_zeros(len(rows), max(counts))
        query_at[number, place] = at
        key_at = torch.arange(num_keys, device=at.device)
        seen = key_at <= query_at[..., None]  # [rows, queries, keys]
        if sliding_window is not None:
            seen &= key_at > query_at[..., None] - sliding_window
        every_row = list(rows) == list(range(len(self.lengths)))
        chosen = slice(None) if every_row else list(rows)  # a slice copies nothing

        def attend_in_layer(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._keys[layer, row, :, at], self._values[layer, row, :, at] = k, v
            keys = self._keys[layer, :, :, :num_keys][chosen]  # [rows, kv_heads, keys, head_dim]
            values = self._values[layer, :, :, :num_keys][chosen]
            padded = q.new_zeros(*query_at.shape, *q.shape[1:])  # [rows, queries, heads, head_dim]
            padded[number, place] = q
            return _grouped_attention(padded, keys, values, seen)[number, place]

        return attend_in_layer

    def advance(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Count the new tokens, after a forward pass has stored them in every layer."""
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count


def _grouped_attention(
    q: Float[Tensor, "rows queries heads head_dim"],
    k: Float[Tensor, "rows kv_heads keys head_dim"],
    v: Float[Tensor, "rows kv_heads keys head_dim"],
    seen: Bool[Tensor, "rows queries keys"],
) -> Float[Tensor, "rows queries heads head_dim"]:
    """Attend where `seen` is True. The queries of all heads that share a key-value head are treated
    as further queries of this head, so its keys are not copied for each of them.
    """
    group_size = q.shape[2] // k.shape[1]
    together = q.transpose(1, 2).unflatten(1, (-1, group_size)).flatten(2, 3)
    mask = seen[:, None].repeat(1, 1, group_size, 1)  # [rows, 1, group_size * queries, keys]
    attended = scaled_dot_product_attention(together, k, v, mask)
    return attended.unflatten(2, (group_size, -1)).flatten(1, 2).transpose(1, 2)


def generate_batch(
    model: TransformerLM,
    prompts: Sequence[Sequence[int]],
    settings: Sequence[SamplingSettings],
    max_new_tokens: Sequence[int],
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """Continue every prompt by its own settings and limit, and return the new ids of each.

    Each text is the one that `generate` gives for the prompt alone. One that has ended computes
    nothing any more.

    Raises ValueError if the three sequences differ in length, or for what `num_new_tokens` refuses.
    """
    if not len(prompts) == len(settings) == len(max_new_tokens):
        raise UserError(
            f"{len(prompts)} prompts need as many settings and limits; got {len(settings)} "
            f"settings and {len(max_new_tokens)} limits"
        )
    limits = [
        num_new_tokens(model.config, torch.tensor(prompt, dtype=torch.int64), limit)
        for prompt, limit in zip(prompts, max_new_tokens, strict=True)
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    going = list(range(len(prompts)))  # rows whose text has not ended
    longest = max(len(prompt) + limit - 1 for prompt, limit in zip(prompts, limits, strict=True))
    like = model.token_embedding.weight
    cache = RaggedKVCache.for_model(model.config, len(prompts), longest, like.dtype, like.device)
    hidden = _prefill(model, prompts, cache)
    while True:
        drawn = next_token_ids(
            logits_of(model, hidden),
            [settings[row] for row in going],
            [prompts[row] for row in going],
            [answers[row] for row in going],
        )
        new = {row: token for row, token in zip(going, drawn, strict=True) if token not in stop_ids}
        for row, token in new.items():
            answers[row].append(token)
        going = [row for row in new if len(answers[row]) < limits[row]]
        if not going:
            return answers
        hidden = _forward(model, going, [[new[row]] for row in going], cache)


def _prefill(
    model: TransformerLM, prompts: Sequence[Sequence[int]], cache: RaggedKVCache
) -> Float[Tensor, "texts d_model"]:
    """Read all prompts, PREFILL_TOKENS in a pass, and return what the head reads for each."""
    last: dict[int, Tensor] = {}
    while len(last) < len(prompts):
        room, parts = PREFILL_TOKENS, {}
        for row, prompt in enumerate(prompts):
            done = cache.lengths[row]
            if part := prompt[done : done + room]:
                parts[row] = part
                room -= len(part)
        hidden = _forward(model, list(parts), list(parts.values()), cache)
        ends = accumulate(map(len, parts.values()))
        for row, end in zip(parts, ends, strict=True):
            if cache.lengths[row] == len(prompts[row]):
                last[row] = hidden[end - 1]
    return torch.stack([last[row] for row in range(len(prompts))])


def _forward(
    model: TransformerLM, rows: list[int], new: list[Sequence[int]], cache: RaggedKVCache
) -> Float[Tensor, "tokens d_model"]:
    """Read further tokens new[i] of rows[i]."""
    counts = [len(part) for part in new]
    positions = cache.positions(rows, counts)
    token_ids = torch.tensor(list(chain(*new)), device=positions.device)
    attend = cache.attend(rows, counts, model.config.sliding_window)
    hidden = forward_tokens(model, token_ids, positions, attend)
    cache.advance(rows, counts)
    return hidden
