"""The vector operations on rows of matrices: attention and the gate are written in them.

What this leaves out: products with weights (product_vectors.py).
"""

from typing import Any

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
def dots_of_rows(typing_context, a, row, b, first, step, count):
    """Return the sums of a[row] * b[first + i * step] in float32, lane i; minus infinity from lane
    `count` on, which is at least 1.

    The rows are equally long, a whole number of vectors, and contiguous. Numbers are float32, or
    bfloat16 in uint16.
    """

    def generate(context, builder, signature, values):
        a, row, b, first, step, count = values
        zero, width = ir.Constant(INDEX, 0), ir.Constant(INDEX, LANES)
        made = context.make_array(signature.args[0])(context, builder, a)
        columns = cgutils.unpack_tuple(builder, made.shape)[1]
        own = address(context, builder, signature.args[0], [a, row, zero], 0)
        last = builder.sub(count, ir.Constant(INDEX, 1))
        others, totals = [], []
        for lane in range(LANES):  # behind the last row the last one is read again
            number = ir.Constant(INDEX, lane)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            place = [b, builder.add(first, builder.mul(number, step)), zero]
            others.append(address(context, builder, signature.args[2], place, 0))
            totals.append(cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [0.0] * LANES)))
        with cgutils.for_range_slice(builder, zero, columns, width, inc=True) as (column, _):
            query = loaded_numbers(builder, builder.gep(own, [column]), signature.args[0])
            for other, total in zip(others, totals, strict=True):
                key = loaded_numbers(builder, builder.gep(other, [column]), signature.args[2])
                builder.store(multiply_add(builder, query, key, builder.load(total)), total)
        sums = _sum_each(builder, [builder.load(total) for total in totals])
        lanes = ir.Constant(INTEGERS, list(range(LANES)))
        counts = in_all_lanes(builder, builder.trunc(count, INT32), INTEGERS)
        none = ir.Constant(FLOATS, [float("-inf")] * LANES)
        return builder.select(builder.icmp_signed("<", lanes, counts), sums, none)

    intp = types.intp
    return FLOAT_VECTOR(a, intp, b, intp, intp, intp), generate


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
def load_columns(typing_context, like, numbers, row, column):
    """Return a bundle as long as `like`: numbers[row, column + 16 i : column + 16 i + 16] is vector
    i.
    """

    def generate(context, builder, signature, values):
        pointers = _columns(context, builder, signature.args[1], values[1:], like.count)
        return cgutils.pack_array(builder, [builder.load(each, align=1) for each in pointers])

    return like(like, numbers, types.intp, types.intp), generate


@intrinsic
def store_columns(typing_context, sums, out, row, column):
    """out[row, column + 16 i : column + 16 i + 16] = sums[i]."""

    def generate(context, builder, signature, values):
        pointers = _columns(context, builder, signature.args[1], values[1:], sums.count)
        for i, pointer in enumerate(pointers):
            builder.store(builder.extract_value(values[0], i), pointer, align=1)
        return context.get_dummy_value()

    return types.void(sums, out, types.intp, types.intp), generate


def _columns(
    context: Any, builder: ir.IRBuilder, array_type: types.Array, where: Any, count: int
) -> list[ir.Value]:
    """Return the addresses of `count` vectors that lie beside each other in a row of float32."""
    start = builder.bitcast(address(context, builder, array_type, where, 0), FLOATS.as_pointer())
    return [builder.gep(start, [ir.Constant(INDEX, i)]) for i in range(count)]


@intrinsic
def add_row(typing_context, sums, number, values, row, column):
    """Return sums[i] + number * values[row, column + 16 i : column + 16 i + 16] for each vector of
    the bundle; the values are float32, or bfloat16 in uint16.
    """

    def generate(context, builder, signature, arguments):
        sums, number, *where = arguments
        start = address(context, builder, signature.args[2], where, 0)
        spread = in_all_lanes(builder, number, FLOATS)
        added = []
        for i in range(bundle.count):
            pointer = builder.gep(start, [ir.Constant(INDEX, i * LANES)])
            loaded = loaded_numbers(builder, pointer, signature.args[2])
            added.append(multiply_add(builder, spread, loaded, builder.extract_value(sums, i)))
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, types.float32, values, types.intp, types.intp), generate


@intrinsic
def scale_all(typing_context, sums, number):
    """Return sums[i] * number for each vector of the bundle."""

    def generate(context, builder, signature, values):
        spread = in_all_lanes(builder, values[1], FLOATS)
        each = [
            builder.fmul(builder.extract_value(values[0], i), spread) for i in range(sums.count)
        ]
        return cgutils.pack_array(builder, each)

    return sums(sums, types.float32), generate


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
