"""The vector operations of products with weights: product_kernels.py is written in them.

A bundle has a vector for each token that a loop computes at the same time. `add_dots` is the one
operation with an instruction of its own: VNNI multiplies 64 pairs of bytes at once and adds them in
fours. Processors without it do the same in several instructions, with the same result. What this
leaves out: ARM's instruction of that kind.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import intrinsic

from inference.compiled.vectors import (
    FLOAT_VECTOR,
    FLOATS,
    INT32,
    INTEGER_VECTOR,
    INTEGERS,
    LANES,
    ROUNDER,
    ROUNDER_BITS,
    address,
    in_all_lanes,
    loaded_numbers,
    multiply_add,
    of_tokens,
    reduced,
)


def has_byte_products() -> bool:
    """Return whether the processor has the instruction of `add_dots`."""
    features = config.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()
    return "+avx512vnni" in features.split(",")


@intrinsic
def load_numbers(typing_context, array, place):
    """Return array[place : place + 16] of float32, or of bfloat16 in uint16."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return loaded_numbers(builder, builder.gep(data, [values[1]]), signature.args[0])

    return FLOAT_VECTOR(array, types.intp), generate


@intrinsic
def load_float16(typing_context, array, place):
    """Return array[place : place + 16], float16 in uint16."""
    half = ir.VectorType(ir.HalfType(), LANES)
    return _loader(array, FLOAT_VECTOR, half, lambda builder, loaded: builder.fpext(loaded, FLOATS))


@intrinsic
def load_bytes(typing_context, array, place):
    """Return array[place : place + 64] of bytes."""
    return _loader(array, INTEGER_VECTOR, INTEGERS, lambda builder, loaded: loaded)


def _loader(array: types.Array, result: types.Type, read: ir.Type, convert: Any) -> Any:
    """Return how 16 numbers are loaded from a place of an array of one dimension."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        pointer = builder.bitcast(builder.gep(data, [values[1]]), read.as_pointer())
        return convert(builder, builder.load(pointer, align=1))

    return result(array, types.intp), generate


@intrinsic
def low_nibbles(typing_context, packed):
    """Return the low half of each byte."""

    def generate(context, builder, signature, values):
        return builder.and_(values[0], ir.Constant(INTEGERS, [0x0F0F0F0F] * LANES))

    return INTEGER_VECTOR(packed), generate


@intrinsic
def high_nibbles(typing_context, packed):
    """Return the high half of each byte."""

    def generate(context, builder, signature, values):
        moved = builder.lshr(values[0], ir.Constant(INTEGERS, [4] * LANES))
        return builder.and_(moved, ir.Constant(INTEGERS, [0x0F0F0F0F] * LANES))

    return INTEGER_VECTOR(packed), generate


@intrinsic(prefer_literal=True)
def zeros(typing_context, length):
    """Return a bundle of `length` vectors of zeros; the length is written in the call."""
    bundle = types.UniTuple(FLOAT_VECTOR, length.literal_value)

    def generate(context, builder, signature, values):
        zero = ir.Constant(FLOATS, [0.0] * LANES)
        return cgutils.pack_array(builder, [zero] * bundle.count)

    return bundle(length), generate


@intrinsic
def integers_of(typing_context, like, numbers, token, column):
    """Return a bundle as long as `like`: numbers[token + i, column] in all lanes of vector i."""
    bundle = types.UniTuple(INTEGER_VECTOR, like.count)

    def generate(context, builder, signature, values):
        _, *where = values
        each = of_tokens(context, builder, signature.args[1], where, bundle.count, INTEGERS)
        return cgutils.pack_array(builder, each)

    return bundle(like, numbers, types.intp, types.intp), generate


@intrinsic
def add_products(typing_context, sums, weights, numbers, token, column):
    """Return sums[i] + weights * numbers[token + i, column] for each vector of the bundle."""

    def generate(context, builder, signature, values):
        sums, weights, *where = values
        every = of_tokens(context, builder, signature.args[2], where, bundle.count, FLOATS)
        added = [
            multiply_add(builder, weights, number, builder.extract_value(sums, i))
            for i, number in enumerate(every)
        ]
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, weights, numbers, types.intp, types.intp), generate


@intrinsic
def add_dots(typing_context, sums, codes, words, token, column):
    """Return sums[i] + the products of bytes, added in fours: lane j gets those of bytes 4j to
    4j + 3 of `codes`, from 0 to 255, with the four bytes from -128 to 127 of the word
    words[token + i, column].
    """
    add = _add_dot if has_byte_products() else _add_dot_in_steps

    def generate(context, builder, signature, values):
        sums, codes, *where = values
        every = of_tokens(context, builder, signature.args[2], where, bundle.count, INTEGERS)
        added = [
            add(builder, builder.extract_value(sums, i), codes, word)
            for i, word in enumerate(every)
        ]
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, codes, words, types.intp, types.intp), generate


def _add_dot(builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, words: ir.Value) -> ir.Value:
    kind = ir.FunctionType(INTEGERS, [INTEGERS] * 3)
    name = "llvm.x86.avx512.vpdpbusd.512"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [total, codes, words])


def _add_dot_in_steps(
    builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, words: ir.Value
) -> ir.Value:
    low = ir.Constant(INTEGERS, [0xFF] * LANES)
    up = ir.Constant(INTEGERS, [24] * LANES)
    for byte in range(4):
        down = ir.Constant(INTEGERS, [8 * byte] * LANES)
        code = builder.and_(builder.lshr(codes, down), low)
        word = builder.shl(words, ir.Constant(INTEGERS, [24 - 8 * byte] * LANES))
        total = builder.add(total, builder.mul(code, builder.ashr(word, up)))
    return total


@intrinsic
def add_scaled(typing_context, sums, dots, scales, numbers, token, column):
    """Return sums[i] + dots[i] * scales * numbers[token + i, column]; dots are whole numbers."""

    def generate(context, builder, signature, values):
        sums, dots, scales, *where = values
        every = of_tokens(context, builder, signature.args[3], where, bundle.count, FLOATS)
        added = []
        for i, number in enumerate(every):
            dot = builder.sitofp(builder.extract_value(dots, i), FLOATS)
            scale = builder.fmul(scales, number)
            added.append(multiply_add(builder, dot, scale, builder.extract_value(sums, i)))
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, dots, scales, numbers, types.intp, types.intp), generate


@intrinsic
def store(typing_context, sums, out, token, column):
    """out[token + i, column : column + 16] = sums[i]."""

    def generate(context, builder, signature, values):
        sums, *where = values
        for i in range(signature.args[0].count):
            pointer = address(context, builder, signature.args[1], where, i)
            value = builder.extract_value(sums, i)
            builder.store(value, builder.bitcast(pointer, FLOATS.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(sums, out, types.intp, types.intp), generate


@intrinsic
def round_block(typing_context, numbers, token, column, codes):
    """Write 32 numbers, numbers[token, column : column + 32], as bytes to the same place of
    `codes`, and return their scale, which is the largest of them / 127, and the sum of the bytes.

    byte = number / scale, half to even. NaN and infinity make the scale NaN or infinity.
    """
    floats, integers = (ir.VectorType(INT32 if t else ir.FloatType(), 32) for t in (0, 1))

    def generate(context, builder, signature, values):
        where, codes = values[:3], values[3]
        pointer = address(context, builder, signature.args[0], where, 0)
        block = builder.load(builder.bitcast(pointer, floats.as_pointer()), align=1)
        # Without the sign, floats are ordered as their bits are, and NaN is the largest.
        no_sign = ir.Constant(integers, [0x7FFFFFFF] * 32)
        bits = builder.and_(builder.bitcast(block, integers), no_sign)
        largest = reduced(builder, "umax", bits)
        limit = ir.Constant(ir.FloatType(), 127.0)
        scale = builder.fdiv(builder.bitcast(largest, ir.FloatType()), limit)
        inverse = builder.fdiv(ir.Constant(ir.FloatType(), 1.0), scale)
        is_zero = builder.icmp_unsigned("==", largest, ir.Constant(INT32, 0))
        inverse = builder.select(is_zero, ir.Constant(ir.FloatType(), 0.0), inverse)
        spread = in_all_lanes(builder, inverse, floats)
        # Beside 1.5 * 2^23, a float32 has no digits behind the point: the sum is rounded.
        rounder = ir.Constant(floats, [ROUNDER] * 32)
        moved = builder.bitcast(multiply_add(builder, block, spread, rounder), integers)
        rounded = builder.sub(moved, ir.Constant(integers, [ROUNDER_BITS] * 32))
        out = address(context, builder, signature.args[3], [codes, *where[1:]], 0)
        as_bytes = ir.VectorType(ir.IntType(8), 32)
        builder.store(
            builder.trunc(rounded, as_bytes), builder.bitcast(out, as_bytes.as_pointer()), align=1
        )
        return cgutils.pack_struct(builder, [scale, reduced(builder, "add", rounded)])

    result = types.Tuple((types.float32, types.int32))
    return result(numbers, types.intp, types.intp, codes), generate
