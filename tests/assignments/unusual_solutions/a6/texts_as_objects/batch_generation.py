"""Text by text: each row of the cache is a tensor that grows, and texts wait in a dictionary."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from functools import cache as remembered

import torch

from transformer_lm.attention import causal_mask
from transformer_lm.rotary_embedding import RotaryEmbedding


@remembered
def rotary_table(head_dim, context_length, theta, scaling):
    return RotaryEmbedding(head_dim, context_length, theta, scaling)


def turned(config, x, positions):
    length, theta = config.context_length, config.rope_theta
    table = rotary_table(config.head_dim, length, theta, config.rope_scaling)
    return table(x.permute(1, 0, 2), positions).permute(1, 0, 2)


@torch.no_grad()
def forward_tokens(model, token_ids, positions, attend):
    config = model.config
    x = model.token_embedding(token_ids)
    if config.position == "learned":
        x = x + model.position_embedding(positions)
    for layer, block in enumerate(model.blocks):
        before, behind = lambda norm, y: norm(y), lambda norm, y: y
        if config.norm_position != "pre":
            before, behind = behind, before
        normed = before(block.attention_norm, x)
        mixed = attention_of(config, block.attention, normed, positions, layer, attend)
        x = behind(block.attention_norm, x + mixed)
        wide = block.feed_forward(before(block.feed_forward_norm, x))
        x = behind(block.feed_forward_norm, x + wide)
    return model.final_norm(x) if config.norm_position == "pre" else x


def attention_of(config, attention, x, positions, layer, attend):
    layers = attention.query, attention.key, attention.value
    q, k, v = (each(x).reshape(len(x), -1, config.head_dim) for each in layers)
    if config.qk_norm:
        q, k = attention.query_norm(q), attention.key_norm(k)
    if config.position == "rotary":
        q, k = turned(config, q, positions), turned(config, k, positions)
    return attention.output(attend(layer, q, k, v).reshape(len(x), -1))


@torch.no_grad()
def logits_of(model, hidden):
    if model.config.tie_embeddings:
        return torch.nn.functional.linear(hidden, model.token_embedding.weight)
    return model.output_head(hidden)


class RaggedKVCache:
    def __init__(
        self,
        num_layers,
        batch_size,
        num_kv_heads,
        max_length,
        head_dim,
        dtype=torch.float32,
        device="cpu",
    ):
        nothing = torch.empty(2, 0, num_kv_heads, head_dim, dtype=dtype, device=device)
        self.kept = [[nothing] * batch_size for _ in range(num_layers)]
        self.room, self.device = max_length, device
        self.lengths = [0] * batch_size

    @classmethod
    def for_model(cls, config, batch_size, max_length=None, dtype=torch.float32, device="cpu"):
        length = config.context_length if max_length is None else max_length
        heads = config.num_kv_heads
        return cls(config.num_layers, batch_size, heads, length, config.head_dim, dtype, device)

    def positions(self, rows, counts):
        spans = [torch.arange(n) + self.lengths[row] for row, n in zip(rows, counts, strict=True)]
        return torch.cat(spans).to(self.device)

    def attend(self, rows, counts, sliding_window=None):
        for row, count in zip(rows, counts, strict=True):
            assert self.lengths[row] + count <= self.room, f"no room in row {row}"

        def attend_in_layer(layer, q, k, v):
            kept = self.kept[layer]
            new = torch.stack([k, v]).split(list(counts), dim=1)
            for row, part in zip(rows, new, strict=True):
                old = kept[row][:, : self.lengths[row]]
                kept[row] = torch.cat([old, part.to(old.dtype)], dim=1)
            parts = zip(rows, q.split(list(counts)), strict=True)
            return torch.cat([attended(part, *kept[row], sliding_window) for row, part in parts])

        return attend_in_layer

    def advance(self, rows, counts):
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count


def attended(q, keys, values, sliding_window):
    group = q.shape[1] // keys.shape[1]
    keys, values = (each.to(q.dtype).repeat_interleave(group, dim=1) for each in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", q, keys) / q.shape[-1] ** 0.5
    seen = causal_mask(len(q), len(keys), q.device, sliding_window)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values)


def generate_batch(model, prompts, settings, max_new_tokens, stop_ids=()):
    if not len(prompts) == len(settings) == len(max_new_tokens):
        raise ValueError(f"{len(prompts)}, {len(settings)}, {len(max_new_tokens)} differ")
    config, like = model.config, model.token_embedding.weight
    limits = [
        num_new_tokens(config, torch.tensor([prompt], dtype=torch.long), limit)
        for prompt, limit in zip(prompts, max_new_tokens, strict=True)
    ]
    cache = RaggedKVCache.for_model(config, len(prompts), None, like.dtype, like.device)
    answers = [[] for _ in prompts]
    unread = {text: list(prompt) for text, prompt in enumerate(prompts)}
    while unread:
        rows = list(unread)[::-1]  # the last one first
        counts = [len(unread[row]) for row in rows]
        ids = torch.tensor([token for row in rows for token in unread[row]], device=like.device)
        attend = cache.attend(rows, counts, config.sliding_window)
        hidden = forward_tokens(model, ids, cache.positions(rows, counts), attend)
        cache.advance(rows, counts)
        ends = torch.tensor(counts).cumsum(0) - 1
        of_rows = ([each[row] for row in rows] for each in (settings, prompts, answers))
        drawn = next_token_ids(logits_of(model, hidden[ends]), *of_rows)
        unread = {}
        for row, token in zip(rows, drawn, strict=True):
            if token not in stop_ids:
                answers[row].append(token)
                if len(answers[row]) < limits[row]:
                    unread[row] = [token]
    return answers
