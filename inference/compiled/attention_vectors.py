"""The vector operations of attention: rows of keys and values that several queries use.

What this leaves out: the softmax, whose operations are in row_vectors.py.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from inference.compiled.vectors import (
    FLOATS,
    INDEX,
    INT32,
    INTEGERS,
    LANES,
    address,
    in_all_lanes,
    loaded_numbers,
    multiply_add,
)

KEYS_AT_ONCE = 4  # of b in `dots_of_rows`: with four rows of a, 16 sums at a time
CACHE_LINE = 64  # bytes


@intrinsic
def dots_of_rows(typing_context, like, a, row, b, first, step, count):
    """Return a bundle as long as `like`: vector r has the sums of a[row + r] * b[first + i * step]
    in lane i. From lane `count` on, which is at least 1, the last sum is repeated.

    The rows are equally long, a whole number of vectors, and contiguous. Numbers are float32, or
    bfloat16 in uint16. Four rows of b are loaded for all rows of a: so each conversion from
    bfloat16 serves the whole bundle.
    """

    def generate(context, builder, signature, values):
        _, a, row, b, first, step, count = values
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, LANES)
        made = context.make_array(signature.args[1])(context, builder, a)
        columns = cgutils.unpack_tuple(builder, made.shape)[1]
        own = [
            address(context, builder, signature.args[1], [a, row, zero], r)
            for r in range(like.count)
        ]
        last = builder.sub(count, ir.Constant(INDEX, 1))
        sums: list[list[ir.Value]] = [[] for _ in own]  # of each row, with each row of b
        for lane in range(0, LANES, KEYS_AT_ONCE):
            others = []
            for number in range(lane, lane + KEYS_AT_ONCE):
                i = ir.Constant(INDEX, number)
                i = builder.select(builder.icmp_signed("<", i, last), i, last)
                place = [b, builder.add(first, builder.mul(i, step)), zero]
                others.append(address(context, builder, signature.args[3], place, 0))
            totals = [[_zero_in_memory(builder) for _ in others] for _ in own]
            with cgutils.for_range_slice(builder, zero, columns, width, inc=True) as (column, _):
                queries = [
                    loaded_numbers(builder, builder.gep(each, [column]), signature.args[1])
                    for each in own
                ]
                for n, other in enumerate(others):
                    key = loaded_numbers(builder, builder.gep(other, [column]), signature.args[3])
                    for query, total in zip(queries, totals, strict=True):
                        added = multiply_add(builder, query, key, builder.load(total[n]))
                        builder.store(added, total[n])
            for each, total in zip(sums, totals, strict=True):
                each += [builder.load(place) for place in total]
        return cgutils.pack_array(builder, [_sum_each(builder, each) for each in sums])

    intp = types.intp
    return like(like, a, intp, b, intp, intp, intp), generate


def _zero_in_memory(builder: ir.IRBuilder) -> ir.Value:
    """Return the place of a vector of zeros; the compiler keeps it in a register."""
    place = cgutils.alloca_once(builder, FLOATS)
    builder.store(ir.Constant(FLOATS, [0.0] * LANES), place)
    return place


def _sum_each(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """Return a vector whose lane i is the sum of vector i of 16: pairs of lanes are added, of two
    vectors at a time, until one is left.
    """
    even, odd = (ir.Constant(INTEGERS, list(range(i, 2 * LANES, 2))) for i in (0, 1))
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
            for a, b in pairs
        ]
    return vectors[0]


@intrinsic
def add_weighted_rows(
    typing_context, like, columns, weights, row, start, values, first, step, count, sums, column
):
    """Add weights[row + r, start + i] * values[first + i * step] to sums[row + r], for each r below
    the length of `like` and each i below `count`: from `column` on, as many vectors as `columns`.

    Values are float32, or bfloat16 in uint16; the rest is float32. A vector of values is loaded
    once for all rows.
    """

    def generate(context, builder, signature, arguments):
        _, _, weights, row, start, values, first, step, count, sums, column = arguments
        rows, vectors = range(like.count), range(columns.count)
        totals = []
        for r in rows:
            place = address(context, builder, signature.args[9], [sums, row, column], r)
            place = builder.bitcast(place, FLOATS.as_pointer())
            totals.append([builder.gep(place, [ir.Constant(INDEX, v)]) for v in vectors])
        held = [[cgutils.alloca_once(builder, FLOATS) for _ in vectors] for _ in rows]
        for r in rows:
            for v in vectors:
                builder.store(builder.load(totals[r][v], align=1), held[r][v])
        own = [address(context, builder, signature.args[2], [weights, row, start], r) for r in rows]
        with cgutils.for_range(builder, count) as loop:
            value_row = builder.add(first, builder.mul(loop.index, step))
            place = address(context, builder, signature.args[5], [values, value_row, column], 0)
            loaded = [
                loaded_numbers(
                    builder,
                    builder.gep(place, [ir.Constant(INDEX, v * LANES)]),
                    signature.args[5],
                )
                for v in vectors
            ]
            for r in rows:
                weight = builder.load(builder.gep(own[r], [loop.index]))
                weight = in_all_lanes(builder, weight, FLOATS)
                for v in vectors:
                    added = multiply_add(builder, weight, loaded[v], builder.load(held[r][v]))
                    builder.store(added, held[r][v])
        for r in rows:
            for v in vectors:
                builder.store(builder.load(held[r][v]), totals[r][v], align=1)
        return context.get_dummy_value()

    intp = types.intp
    arguments = (like, columns, weights, intp, intp, values, intp, intp, intp, sums, intp)
    return types.void(*arguments), generate


@intrinsic
def prefetch_rows(typing_context, rows, first, step, count):
    """Ask the memory for rows[first + i * step], i below `count`, without waiting for them."""
    size = rows.dtype.bitwidth // 8

    def generate(context, builder, signature, values):
        rows, first, step, count = values
        made = context.make_array(signature.args[0])(context, builder, rows)
        columns = cgutils.unpack_tuple(builder, made.shape)[1]
        zero, line = ir.Constant(INDEX, 0), ir.Constant(INDEX, CACHE_LINE // size)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        flags = [ir.Constant(INT32, number) for number in (0, 3, 1)]  # to read, keep, data
        with cgutils.for_range(builder, count) as loop:
            row = builder.add(first, builder.mul(loop.index, step))
            place = address(context, builder, signature.args[0], [rows, row, zero], 0)
            with cgutils.for_range_slice(builder, zero, columns, line, inc=True) as (column, _):
                pointer = builder.bitcast(builder.gep(place, [column]), byte)
                builder.call(prefetch, [pointer, *flags])
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, types.intp), generate


@intrinsic
def float_of_bytes(typing_context, rows, row, column):
    """Return the float32 whose bytes are rows[row, column : column + 4]."""

    def generate(context, builder, signature, values):
        pointer = address(context, builder, signature.args[0], values, 0)
        return builder.load(builder.bitcast(pointer, ir.FloatType().as_pointer()), align=1)

    return types.float32(rows, types.intp, types.intp), generate
