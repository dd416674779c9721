"""Vectors of 16 numbers for numba, so that a loop uses the instructions that it is meant to use.

numba leaves it to the compiler to find vector instructions in a loop, and it often finds none, or
converts each weight several times. With the operations of this file a loop says what a step of it
is: load 16 weights, multiply them by one activation of each of several tokens, add. On a processor
with shorter vectors, the compiler splits each operation.

A *bundle* is a tuple of vectors, one for each token that a loop computes at the same time. Its
length is part of its type, so that all of it stays in registers.

`add_dots` is the one operation with an instruction of its own: VNNI multiplies 64 pairs of bytes at
once and adds them in fours. Processors without it do the same in several instructions, with the
same result. What this leaves out: ARM's instruction of that kind.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import intrinsic, models, register_model

LANES = 16
INT32 = ir.IntType(32)
INDEX = ir.IntType(types.intp.bitwidth)
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTEGERS = ir.VectorType(INT32, LANES)
LOG2_OF_E = 1.4426950216293335  # as a float32
ROUNDER = 1.5 * 2**23
ROUNDER_BITS = 0x4B400000
HALVES = ir.VectorType(ir.IntType(16), LANES)


class FloatVector(types.Type):
    """16 numbers in float32."""


class IntegerVector(types.Type):
    """16 numbers in int32; also the 64 bytes of which they consist."""


FLOAT_VECTOR, INTEGER_VECTOR = FloatVector("float32 x 16"), IntegerVector("int32 x 16")


@register_model(FloatVector)
class _FloatVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, own_type: types.Type) -> None:
        super().__init__(manager, own_type, FLOATS)


@register_model(IntegerVector)
class _IntegerVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, own_type: types.Type) -> None:
        super().__init__(manager, own_type, INTEGERS)


def has_byte_products() -> bool:
    """Return whether the processor has the instruction of `add_dots`."""
    features = config.CPU_FEATURES
    if features is None:
        features = codegen.get_host_cpu_features()
    return "+avx512vnni" in features.split(",")


@intrinsic
def load_float32(typing_context, array, place):
    """Return array[place : place + 16] of float32."""
    return _loader(array, FLOAT_VECTOR, FLOATS, lambda builder, loaded: loaded)


@intrinsic
def load_bfloat16(typing_context, array, place):
    """Return array[place : place + 16], bfloat16 in uint16."""
    return _loader(array, FLOAT_VECTOR, HALVES, _widened)


@intrinsic
def load_float16(typing_context, array, place):
    """Return array[place : place + 16], float16 in uint16."""
    half = ir.VectorType(ir.HalfType(), LANES)
    return _loader(array, FLOAT_VECTOR, half, lambda builder, loaded: builder.fpext(loaded, FLOATS))


@intrinsic
def load_bytes(typing_context, array, place):
    """Return array[place : place + 64] of bytes."""
    return _loader(array, INTEGER_VECTOR, INTEGERS, lambda builder, loaded: loaded)


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
        each = _of_tokens(context, builder, signature.args[1], where, bundle.count, INTEGERS)
        return cgutils.pack_array(builder, each)

    return bundle(like, numbers, types.intp, types.intp), generate


@intrinsic
def add_products(typing_context, sums, weights, numbers, token, column):
    """Return sums[i] + weights * numbers[token + i, column] for each vector of the bundle."""

    def generate(context, builder, signature, values):
        sums, weights, *where = values
        every = _of_tokens(context, builder, signature.args[2], where, bundle.count, FLOATS)
        added = [
            _multiply_add(builder, weights, number, builder.extract_value(sums, i))
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
        every = _of_tokens(context, builder, signature.args[2], where, bundle.count, INTEGERS)
        added = [
            add(builder, builder.extract_value(sums, i), codes, word)
            for i, word in enumerate(every)
        ]
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, codes, words, types.intp, types.intp), generate


@intrinsic
def add_scaled(typing_context, sums, dots, scales, numbers, token, column):
    """Return sums[i] + dots[i] * scales * numbers[token + i, column]; dots are whole numbers."""

    def generate(context, builder, signature, values):
        sums, dots, scales, *where = values
        every = _of_tokens(context, builder, signature.args[3], where, bundle.count, FLOATS)
        added = []
        for i, number in enumerate(every):
            dot = builder.sitofp(builder.extract_value(dots, i), FLOATS)
            scale = builder.fmul(scales, number)
            added.append(_multiply_add(builder, dot, scale, builder.extract_value(sums, i)))
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, dots, scales, numbers, types.intp, types.intp), generate


@intrinsic
def store(typing_context, sums, out, token, column):
    """out[token + i, column : column + 16] = sums[i]."""

    def generate(context, builder, signature, values):
        sums, *where = values
        for i in range(signature.args[0].count):
            pointer = _place(context, builder, signature.args[1], where, i)
            value = builder.extract_value(sums, i)
            builder.store(value, builder.bitcast(pointer, FLOATS.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(sums, out, types.intp, types.intp), generate


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
        own = _place(context, builder, signature.args[0], [a, row, zero], 0)
        last = builder.sub(count, ir.Constant(INDEX, 1))
        others, totals = [], []
        for lane in range(LANES):  # behind the last row the last one is read again
            number = ir.Constant(INDEX, lane)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            place = [b, builder.add(first, builder.mul(number, step)), zero]
            others.append(_place(context, builder, signature.args[2], place, 0))
            totals.append(cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [0.0] * LANES)))
        with cgutils.for_range_slice(builder, zero, columns, width, inc=True) as (column, _):
            query = _load_numbers(builder, builder.gep(own, [column]), signature.args[0])
            for other, total in zip(others, totals, strict=True):
                key = _load_numbers(builder, builder.gep(other, [column]), signature.args[2])
                builder.store(_multiply_add(builder, query, key, builder.load(total)), total)
        sums = _sum_each(builder, [builder.load(total) for total in totals])
        lanes = ir.Constant(INTEGERS, list(range(LANES)))
        counts = _spread(builder, builder.trunc(count, INT32), INTEGERS)
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
def largest_lane(typing_context, vector):
    """Return the largest number of a vector; NaN only if all are."""

    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.FloatType(), [FLOATS])
        name = "llvm.vector.reduce.fmax.v16f32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(reduce, values)

    return types.float32(vector), generate


@intrinsic
def store_row(typing_context, vector, out, row, column):
    """out[row, column : column + 16] = vector."""

    def generate(context, builder, signature, values):
        pointer = _place(context, builder, signature.args[1], values[1:], 0)
        builder.store(values[0], builder.bitcast(pointer, FLOATS.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(vector, out, types.intp, types.intp), generate


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


@intrinsic
def add_row(typing_context, sums, number, values, row, column):
    """Return sums[i] + number * values[row, column + 16 i : column + 16 i + 16] for each vector of
    the bundle; the values are float32, or bfloat16 in uint16.
    """

    def generate(context, builder, signature, arguments):
        sums, number, *where = arguments
        start = _place(context, builder, signature.args[2], where, 0)
        spread = _spread(builder, number, FLOATS)
        added = []
        for i in range(bundle.count):
            pointer = builder.gep(start, [ir.Constant(INDEX, i * LANES)])
            loaded = _load_numbers(builder, pointer, signature.args[2])
            added.append(_multiply_add(builder, spread, loaded, builder.extract_value(sums, i)))
        return cgutils.pack_array(builder, added)

    bundle = sums
    return bundle(sums, types.float32, values, types.intp, types.intp), generate


def _columns(
    context: Any, builder: ir.IRBuilder, array_type: types.Array, where: Any, count: int
) -> list[ir.Value]:
    """Return the addresses of `count` vectors that lie beside each other in a row of float32."""
    start = builder.bitcast(_place(context, builder, array_type, where, 0), FLOATS.as_pointer())
    return [builder.gep(start, [ir.Constant(INDEX, i)]) for i in range(count)]


@intrinsic
def scale_all(typing_context, sums, number):
    """Return sums[i] * number for each vector of the bundle."""

    def generate(context, builder, signature, values):
        spread = _spread(builder, values[1], FLOATS)
        each = [
            builder.fmul(builder.extract_value(values[0], i), spread) for i in range(sums.count)
        ]
        return cgutils.pack_array(builder, each)

    return sums(sums, types.float32), generate


@intrinsic
def load_row(typing_context, numbers, row, column):
    """Return numbers[row, column : column + 16] of float32, or of bfloat16 in uint16."""

    def generate(context, builder, signature, values):
        pointer = _place(context, builder, signature.args[0], values, 0)
        return _load_numbers(builder, pointer, signature.args[0])

    return FLOAT_VECTOR(numbers, types.intp, types.intp), generate


@intrinsic
def powers_of_e(typing_context, vector, largest):
    """Return exp(vector - largest), which is at most 1, with an error below 5e-6 of it.

    A loop around `math.exp` calls a function for each number, and took 8 times as long.
    """

    def generate(context, builder, signature, values):
        less = builder.fsub(values[0], _spread(builder, values[1], FLOATS))
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
        y = _multiply_add(builder, y, f, floats(coefficient))
    power = builder.shl(builder.add(k, integers(127)), integers(23))  # 0 for k = -127
    return builder.fmul(y, builder.bitcast(power, FLOATS))


@intrinsic
def round_block(typing_context, numbers, token, column, codes):
    """Write 32 numbers, numbers[token, column : column + 32], as bytes to the same place of
    `codes`, and return their scale, which is the largest of them / 127, and the sum of the bytes.

    byte = number / scale, half to even. NaN and infinity make the scale NaN or infinity.
    """
    floats, integers = (ir.VectorType(INT32 if t else ir.FloatType(), 32) for t in (0, 1))

    def generate(context, builder, signature, values):
        where, codes = values[:3], values[3]
        pointer = _place(context, builder, signature.args[0], where, 0)
        block = builder.load(builder.bitcast(pointer, floats.as_pointer()), align=1)
        # Without the sign, floats are ordered as their bits are, and NaN is the largest.
        no_sign = ir.Constant(integers, [0x7FFFFFFF] * 32)
        bits = builder.and_(builder.bitcast(block, integers), no_sign)
        largest = _reduce(builder, "umax", bits)
        limit = ir.Constant(ir.FloatType(), 127.0)
        scale = builder.fdiv(builder.bitcast(largest, ir.FloatType()), limit)
        inverse = builder.fdiv(ir.Constant(ir.FloatType(), 1.0), scale)
        is_zero = builder.icmp_unsigned("==", largest, ir.Constant(INT32, 0))
        inverse = builder.select(is_zero, ir.Constant(ir.FloatType(), 0.0), inverse)
        spread = _spread(builder, inverse, floats)
        # Beside 1.5 * 2^23, a float32 has no digits behind the point: the sum is rounded.
        rounder = ir.Constant(floats, [ROUNDER] * 32)
        moved = builder.bitcast(_multiply_add(builder, block, spread, rounder), integers)
        rounded = builder.sub(moved, ir.Constant(integers, [ROUNDER_BITS] * 32))
        out = _place(context, builder, signature.args[3], [codes, *where[1:]], 0)
        as_bytes = ir.VectorType(ir.IntType(8), 32)
        builder.store(
            builder.trunc(rounded, as_bytes), builder.bitcast(out, as_bytes.as_pointer()), align=1
        )
        return cgutils.pack_struct(builder, [scale, _reduce(builder, "add", rounded)])

    result = types.Tuple((types.float32, types.int32))
    return result(numbers, types.intp, types.intp, codes), generate


@intrinsic
def bits_of_float(typing_context, number):
    """Return the bits of a float32 as a whole number of 32 bits."""

    def generate(context, builder, signature, values):
        return builder.bitcast(values[0], INT32)

    return types.int32(types.float32), generate


def _widened(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Return float32 from bfloat16, which is its upper half."""
    sixteen = ir.Constant(INTEGERS, [16] * LANES)
    return builder.bitcast(builder.shl(builder.zext(bits, INTEGERS), sixteen), FLOATS)


def _load_numbers(builder: ir.IRBuilder, pointer: ir.Value, array: types.Array) -> ir.Value:
    """Return 16 numbers of an array of float32, or of bfloat16 in uint16."""
    if array.dtype == types.uint16:
        loaded = builder.load(builder.bitcast(pointer, HALVES.as_pointer()), align=1)
        return _widened(builder, loaded)
    assert array.dtype == types.float32, array.dtype
    return builder.load(builder.bitcast(pointer, FLOATS.as_pointer()), align=1)


def _loader(array: types.Array, result: types.Type, read: ir.Type, convert: Any) -> Any:
    """Return how 16 numbers are loaded from a place of an array of one dimension."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        pointer = builder.bitcast(builder.gep(data, [values[1]]), read.as_pointer())
        return convert(builder, builder.load(pointer, align=1))

    return result(array, types.intp), generate


def _place(
    context: Any, builder: ir.IRBuilder, array_type: types.Array, where: Any, i: int
) -> ir.Value:
    """Return the address of array[token + i, column]."""
    array, token, column = where
    made = context.make_array(array_type)(context, builder, array)
    row = builder.add(token, ir.Constant(token.type, i))
    return cgutils.get_item_pointer(context, builder, array_type, made, [row, column])


def _of_tokens(
    context: Any,
    builder: ir.IRBuilder,
    array_type: types.Array,
    where: Any,
    count: int,
    vector: ir.VectorType,
) -> list[ir.Value]:
    """Return array[token + i, column] in all lanes, for each i below `count`."""
    numbers = [builder.load(_place(context, builder, array_type, where, i)) for i in range(count)]
    return [_spread(builder, number, vector) for number in numbers]


def _spread(builder: ir.IRBuilder, number: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Return a vector that has a number in all lanes."""
    single = builder.insert_element(
        ir.Constant(vector, ir.Undefined), number, ir.Constant(INT32, 0)
    )
    lanes = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, single, lanes)


def _reduce(builder: ir.IRBuilder, operation: str, vector: ir.Value) -> ir.Value:
    """Return the sum or the largest of a vector of 32 whole numbers."""
    kind = ir.FunctionType(INT32, [vector.type])
    name = f"llvm.vector.reduce.{operation}.v32i32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [vector])


def _multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Return a * b + c, in one instruction where there is one."""
    return builder.fadd(builder.fmul(a, b, flags=["contract"]), c, flags=["contract"])


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
