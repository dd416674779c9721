"""All layers of a decoder as one compiled function, so that a token does not wait for Python.

A layer is five products and some small loops. Called one by one from Python, the calls of a model
of 135 million weights took longer than the work. `attention_inputs` and `layer_outputs` are the two
halves of a layer around its attention; `decoder_layers` runs all layers with the attention of
paged_attention.py between the halves. Where attention is computed elsewhere (long prompts), the
halves are called one by one. `tables` are the `StepTables` of a step everywhere.

What this leaves out: the variants that few models have (compiled_forward.py says which).
"""

from typing import NamedTuple

import numpy as np

from inference.compiled.cache_rows import numbers_in_row, write_numbers
from inference.compiled.decoder_parts import gate, norm_heads, rms_norm, rotate
from inference.compiled.kernel_cache import kernel
from inference.compiled.paged_attention import attend
from inference.compiled.weight_products import Parts, multiply_into


class DecoderShape(NamedTuple):
    """Sizes of a decoder; `num_columns` are the padded widths of the outputs of its products."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    norm_eps: float
    window: int
    input_columns: int
    model_columns: int
    gate_columns: int


class DecoderWeights(NamedTuple):
    """Weights of all layers.

    Attributes:
        attention_norm, feed_forward_norm: [layers, d_model].
        query_norm, key_norm: [layers, head_dim], or [0, 0] if the model has none.
        cosines, sines: [context, head_dim / 2], or [0, 0] if the model has no rotation.
        query_key_value, output, gate_up, down: the matrices.
    """

    attention_norm: np.ndarray
    feed_forward_norm: np.ndarray
    query_norm: np.ndarray
    key_norm: np.ndarray
    cosines: np.ndarray
    sines: np.ndarray
    query_key_value: Parts
    output: Parts
    gate_up: Parts
    down: Parts


class LayerRoom(NamedTuple):
    """Memory of what a layer computes, used again by every layer. New memory for each would cost
    more than some of the work: the system clears it page by page.

    Attributes:
        normed: [tokens, d_model].
        heads: queries, keys and values, [tokens, padded columns].
        attended: [tokens, num_heads * head_dim].
        added: what is added to the stream, [tokens, padded d_model].
        both: gates and the values that they let through, [tokens, padded columns].
        gated: [tokens, d_ff].
    """

    normed: np.ndarray
    heads: np.ndarray
    attended: np.ndarray
    added: np.ndarray
    both: np.ndarray
    gated: np.ndarray


@kernel
def layer_room(x, shape):
    """Return the memory for the layers of a step with the rows x [tokens, d_model]."""
    return LayerRoom(
        np.empty_like(x),
        np.empty((len(x), shape.input_columns), np.float32),
        np.empty((len(x), shape.num_heads * shape.head_dim), np.float32),
        np.empty((len(x), shape.model_columns), np.float32),
        np.empty((len(x), shape.gate_columns), np.float32),
        np.empty((len(x), shape.d_ff), np.float32),
    )


@kernel
def attention_inputs(x, layer, weights, shape, tables, key_pages, value_pages, room):
    """Compute queries, keys and values, normed and rotated, in `room.heads`; the keys and values
    are also written to their places in the pages [layers, blocks, block_size, kv_heads, head_dim],
    of a type of cache_rows.py.
    """
    rms_norm(x, weights.attention_norm[layer], shape.norm_eps, room.normed)
    heads = room.heads
    multiply_into(weights.query_key_value, layer, room.normed, heads)
    queries, keys, size = shape.num_heads, shape.num_kv_heads, shape.head_dim
    if len(weights.query_norm):
        norm_heads(heads, 0, queries, size, weights.query_norm[layer], shape.norm_eps)
        norm_heads(heads, queries, keys, size, weights.key_norm[layer], shape.norm_eps)
    if len(weights.cosines):
        rotate(heads, queries + keys, size, tables.positions, weights.cosines, weights.sines)
    write_rows(heads, queries * size, tables.places, key_pages[layer])
    write_rows(heads, (queries + keys) * size, tables.places, value_pages[layer])


@kernel
def layer_outputs(x, layer, weights, shape, room):
    """Add what a layer computes after its attention to x [tokens, d_model], in place."""
    multiply_into(weights.output, layer, room.attended, room.added)
    _add(x, room.added)
    rms_norm(x, weights.feed_forward_norm[layer], shape.norm_eps, room.normed)
    multiply_into(weights.gate_up, layer, room.normed, room.both)
    gate(room.both, room.gated)
    multiply_into(weights.down, layer, room.gated, room.added)
    _add(x, room.added)


@kernel
def decoder_layers(x, weights, shape, tables, key_pages, value_pages):
    """Run all layers on x [tokens, d_model], in place."""
    room = layer_room(x, shape)
    for layer in range(len(weights.attention_norm)):
        attention_inputs(x, layer, weights, shape, tables, key_pages, value_pages, room)
        attend(room.heads, shape.num_heads, key_pages[layer], value_pages[layer], tables,
               shape.window, room.attended)  # fmt: skip
        layer_outputs(x, layer, weights, shape, room)


@kernel
def _add(x, added):
    for token in range(len(x)):
        for i in range(x.shape[1]):
            x[token, i] += added[token, i]


@kernel
def write_rows(heads, start, places, pages):
    """Write the columns from `start` on to the places of one layer's pages."""
    _, block_size, kv_heads, _ = pages.shape
    size = numbers_in_row(pages)
    for token in range(len(places)):
        block, offset = divmod(places[token], block_size)
        for head in range(kv_heads):
            first = start + head * size
            write_numbers(heads[token, first : first + size], pages[block, offset, head])
