"""The vector operations on rows of matrices: attention and the gate are written in them.

What this leaves out: products with weights (product_vectors.py).
"""


from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from inference.compiled.vectors import (
    FLOAT_VECTOR,
    FLOATS,
    INDEX,
    INT32,
    INTEGERS,
    LANES,
    LOG2_OF_E,
    ROUNDER,
    ROUNDER_BITS,
    address,
    in_all_lanes,
    loaded_numbers,
    multiply_add,
)

ROWS_AT_ONCE = 4  # of b in `dots_of_rows`: with four rows of a, 16 sums at a time
# 2^f for |f| <= 1/2: the Taylor series, with coefficients of the least error.
POLYNOMIAL = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)


@intrinsic
def load_row(typing_context, numbers, row, column):
    """Return numbers[row, column : column + 16] of float32, or of bfloat16 in uint16."""

    def generate(context, builder, signature, values):
        pointer = address(context, builder, signature.args[0], values, 0)
        return loaded_numbers(builder, pointer, signature.args[0])

    return FLOAT_VECTOR(numbers, types.intp, types.intp), generate


@intrinsic
def store_row(typing_context, vector, out, row, column):
    """out[row, column : column + 16] = vector."""

    def generate(context, builder, signature, values):
        pointer = address(context, builder, signature.args[1], values[1:], 0)
        builder.store(values[0], builder.bitcast(pointer, FLOATS.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(vector, out, types.intp, types.intp), generate


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
        for lane in range(0, LANES, ROWS_AT_ONCE):
            others = []
            for number in range(lane, lane + ROWS_AT_ONCE):
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
def float_lanes(typing_context, vector):
    """Return whole numbers as float32."""

    def generate(context, builder, signature, values):
        return builder.sitofp(values[0], FLOATS)

    return FLOAT_VECTOR(vector), generate


@intrinsic
def largest_lane(typing_context, vector):
    """Return the largest number of a vector; NaN only if all are."""

    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.FloatType(), [FLOATS])
        name = "llvm.vector.reduce.fmax.v16f32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(reduce, values)

    return types.float32(vector), generate


@intrinsic
def sum_of_lanes(typing_context, vector):
    """Return the sum of a vector."""

    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), FLOATS])
        name = "llvm.vector.reduce.fadd.v16f32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        start = ir.Constant(ir.FloatType(), -0.0)
        return builder.call(reduce, [start, values[0]], fastmath=["reassoc"])

    return types.float32(vector), generate


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
def powers_of_e(typing_context, vector, largest):
    """Return exp(vector - largest), which is at most 1, with an error below 5e-6 of it.

    A loop around `math.exp` calls a function for each number, and took 8 times as long.
    """

    def generate(context, builder, signature, values):
        less = builder.fsub(values[0], in_all_lanes(builder, values[1], FLOATS))
        return _exponential(builder, less)

    return FLOAT_VECTOR(vector, types.float32), generate


@intrinsic
def gated(typing_context, gates, up):
    """Return silu(gates) * up; silu(g) = g / (1 + exp(-g)), in a form that does not overflow."""

    def generate(context, builder, signature, values):
        gates, up = values
        zero, one = (ir.Constant(FLOATS, [number] * LANES) for number in (0.0, 1.0))
        is_positive = builder.fcmp_ordered(">", gates, zero)
        negative = builder.select(is_positive, builder.fneg(gates), gates)
        power = _exponential(builder, negative)
        share = builder.fdiv(builder.select(is_positive, one, power), builder.fadd(one, power))
        return builder.fmul(builder.fmul(gates, share), up)

    return FLOAT_VECTOR(gates, up), generate


def _exponential(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return exp(x) of a vector: 2^k 2^f with k a whole number, the exponent of a float32."""

    def floats(number: float) -> ir.Value:
        return ir.Constant(FLOATS, [number] * LANES)

    def integers(number: int) -> ir.Value:
        return ir.Constant(INTEGERS, [number] * LANES)

    x = builder.fmul(x, floats(LOG2_OF_E))
    # NaN is neither above nor below, and stays.
    x = builder.select(builder.fcmp_ordered("<", x, floats(-127.0)), floats(-127.0), x)
    # Beside 1.5 * 2^23 a float32 has no digits behind the point: the sum is rounded.
    moved = builder.bitcast(builder.fadd(x, floats(ROUNDER)), INTEGERS)
    k = builder.sub(moved, integers(ROUNDER_BITS))
    f = builder.fsub(x, builder.sitofp(k, FLOATS))
    y = floats(POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        y = multiply_add(builder, y, f, floats(coefficient))
    power = builder.shl(builder.add(k, integers(127)), integers(23))  # 0 for k = -127
    return builder.fmul(y, builder.bitcast(power, FLOATS))


@intrinsic
def bits_of_float(typing_context, number):
    """Return the bits of a float32 as a whole number of 32 bits."""

    def generate(context, builder, signature, values):
        return builder.bitcast(values[0], INT32)

    return types.int32(types.float32), generate
