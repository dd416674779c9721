"""Independent solution of a6.6 and a6.7, written from the handout alone.

`RaggedKVCache` has no axis for rows: all places of a layer lie one below the other, and a new token
is stored at the place row * max_length + position. Attention goes from row to row, and reads only
the keys that some query of the row sees. `generate_batch` keeps, for each text that is still open,
the tokens that it has to read in the next pass.
"""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inference.generation import PREFILL_TOKENS, next_token_ids, num_new_tokens
from inference.sampling import SamplingSettings
from lm_core.user_error import UserError
from transformer_lm.attention import CausalSelfAttention
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding

# (layer, queries [tokens, heads, head_dim], keys [tokens, kv_heads, head_dim], values likewise)
# -> attended values [tokens, heads, head_dim]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


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
    config = model.config
    x = model.token_embedding(token_ids)
    if config.position == "learned":
        x = x + model.position_embedding(positions)
    for layer, block in enumerate(model.blocks):
        attention = partial(_attention, config, block.attention, positions, partial(attend, layer))
        if config.norm_position == "pre":
            x = x + attention(block.attention_norm(x))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        else:
            x = block.attention_norm(x + attention(x))
            x = block.feed_forward_norm(x + block.feed_forward(x))
    return model.final_norm(x) if config.norm_position == "pre" else x


def _attention(
    config: ModelConfig,
    projections: CausalSelfAttention,
    positions: Int[Tensor, " tokens"],
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    stream: Float[Tensor, "tokens d_model"],
) -> Float[Tensor, "tokens d_model"]:
    """Return what one layer of attention adds to the stream."""
    q, k, v = _queries_keys_values(config, projections, positions, stream)
    return projections.output(attend(q, k, v).flatten(1))


def _queries_keys_values(
    config: ModelConfig,
    projections: CausalSelfAttention,
    positions: Int[Tensor, " tokens"],
    stream: Float[Tensor, "tokens d_model"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what one layer's `attend` gets, each [tokens, heads, head_dim]."""
    by_head = (-1, config.head_dim)
    q = projections.query(stream).unflatten(-1, by_head)
    k = projections.key(stream).unflatten(-1, by_head)
    v = projections.value(stream).unflatten(-1, by_head)
    if config.qk_norm:
        q, k = projections.query_norm(q), projections.key_norm(k)
    if config.position == "rotary":
        rotary = _rotary_of(config)
        # Each token is a sequence of its own heads, all at its position.
        at = positions.unsqueeze(-1).expand(-1, q.shape[1])
        q, k = rotary(q, at), rotary(k, at[:, : k.shape[1]])
    return q, k, v


@lru_cache(maxsize=16)
def _rotary_of(config: ModelConfig) -> RotaryEmbedding:
    """Return the rotary table of a config, which is made once."""
    return RotaryEmbedding(
        config.head_dim, config.context_length, config.rope_theta, config.rope_scaling
    )


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
        # The second axis is 0 for keys and 1 for values.
        shape = (num_layers, 2, batch_size * max_length, num_kv_heads, head_dim)
        self._memory = torch.empty(shape, dtype=dtype, device=device)
        self._room = max_length
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
        ranges = [
            torch.arange(self.lengths[row], self.lengths[row] + count)
            for row, count in zip(rows, counts, strict=True)
        ]
        return torch.cat(ranges).to(self._memory.device)

    def attend(
        self, rows: Sequence[int], counts: Sequence[int], sliding_window: int | None = None
    ) -> Attend:
        """Return the function for `forward_tokens` whose tokens are the next counts[i] of rows[i].

        It stores their keys and values, and each query sees the tokens of its own row up to itself
        (with a window, the last `sliding_window` of them). No row may occur twice.
        """
        spans = []  # places of the new tokens of a row, and of all that its queries see
        for row, count in zip(rows, counts, strict=True):
            first, end = self.lengths[row], self.lengths[row] + count
            assert end <= self._room, f"row {row} has room for {self._room} tokens, not for {end}"
            oldest = 0 if sliding_window is None else max(0, first - sliding_window + 1)
            base = row * self._room
            spans.append((slice(base + first, base + end), slice(base + oldest, base + end)))

        def attend_and_store(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._memory[layer]
            by_row = zip(*(x.split(list(counts)) for x in (q, k, v)), strict=True)
            attended = []
            for (new, seen), (q_row, k_row, v_row) in zip(spans, by_row, strict=True):
                keys[new], values[new] = k_row.detach(), v_row.detach()
                attended.append(_attend_to_row(q_row, keys[seen], values[seen], sliding_window))
            return torch.cat(attended)

        return attend_and_store

    def advance(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Count the new tokens, after a forward pass has stored them in every layer."""
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count


def _attend_to_row(
    q: Float[Tensor, "queries heads head_dim"],
    keys: Float[Tensor, "keys kv_heads head_dim"],
    values: Float[Tensor, "keys kv_heads head_dim"],
    sliding_window: int | None,
) -> Float[Tensor, "queries heads head_dim"]:
    """Return the attended values of one text whose last positions are those of the queries."""
    wide = torch.promote_types(q.dtype, torch.float32)
    by_group = q.to(wide).unflatten(1, (keys.shape[1], -1))  # [queries, kv_heads, group, head_dim]
    scores = torch.einsum("qhgd,khd->hgqk", by_group, keys.to(wide)) / q.shape[-1] ** 0.5
    query_at = torch.arange(keys.shape[0] - q.shape[0], keys.shape[0], device=q.device)
    back = query_at.unsqueeze(1) - torch.arange(keys.shape[0], device=q.device)
    unseen = back < 0
    if sliding_window is not None:
        unseen |= back >= sliding_window
    weights = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    attended = torch.einsum("hgqk,khd->qhgd", weights, values.to(wide))
    return attended.flatten(1, 2).to(q.dtype)


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
            f"{len(prompts)} prompts, {len(settings)} settings and {len(max_new_tokens)} limits: "
            "give one of each for every text"
        )
    limits = [
        num_new_tokens(model.config, torch.tensor(list(prompt), dtype=torch.int64), most)
        for prompt, most in zip(prompts, max_new_tokens, strict=True)
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    if not answers:
        return answers
    longest = max(len(prompt) + limit - 1 for prompt, limit in zip(prompts, limits, strict=True))
    weights = model.token_embedding.weight
    cache = RaggedKVCache.for_model(
        model.config, len(prompts), longest, dtype=weights.dtype, device=weights.device
    )
    unread = {text: list(prompt) for text, prompt in enumerate(prompts)}  # of the open texts
    while unread:
        logits = _read(model, cache, unread)
        drawn = next_token_ids(
            logits,
            [settings[text] for text in unread],
            [prompts[text] for text in unread],
            [answers[text] for text in unread],
        )
        for text, token in zip(list(unread), drawn, strict=True):
            if token not in stop_ids:
                answers[text].append(token)
            if token in stop_ids or len(answers[text]) == limits[text]:
                del unread[text]
            else:
                unread[text] = [token]
    return answers


def _read(
    model: TransformerLM, cache: RaggedKVCache, unread: dict[int, list[int]]
) -> Float[Tensor, "texts vocab"]:
    """Read the new tokens of some rows in one pass, and return the logits after the last of each.

    A long prompt is cut into parts of PREFILL_TOKENS, so that attention needs no table of all its
    positions; its last part is read in the pass that it shares with the other texts.
    """
    rest = {}
    for row, tokens in unread.items():
        first = 0
        while len(tokens) - first > PREFILL_TOKENS:
            _pass(model, cache, {row: tokens[first : first + PREFILL_TOKENS]})
            first += PREFILL_TOKENS
        rest[row] = tokens[first:]
    hidden = _pass(model, cache, rest)
    last, end = [], 0
    for tokens in rest.values():
        end += len(tokens)
        last.append(end - 1)
    return logits_of(model, hidden[last])


def _pass(
    model: TransformerLM, cache: RaggedKVCache, new_tokens: dict[int, list[int]]
) -> Float[Tensor, "tokens d_model"]:
    """Read the next tokens of some rows, and return what the output head would read."""
    rows = list(new_tokens)
    counts = [len(tokens) for tokens in new_tokens.values()]
    positions = cache.positions(rows, counts)
    ids = [token for tokens in new_tokens.values() for token in tokens]
    attend = cache.attend(rows, counts, model.config.sliding_window)
    hidden = forward_tokens(model, torch.tensor(ids, device=positions.device), positions, attend)
    cache.advance(rows, counts)
    return hidden
