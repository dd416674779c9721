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
