"""Vectors of 16 numbers for numba, so that a loop uses the instructions that it is meant to use.

numba leaves it to the compiler to find vector instructions in a loop, and it often finds none, or
converts each weight several times. With the operations of product_vectors.py, row_vectors.py and
attention_vectors.py, a loop says what a step of it is: load 16 weights, multiply them by one
activation of each of several tokens, add. On a processor with shorter vectors, the compiler splits
each operation.

A *bundle* is a tuple of vectors that a loop computes at the same time. Its length is part of its
type, so that all of it stays in registers.

This file has the types, and the LLVM instructions of which the operations consist. What this leaves
out: vectors of other lengths.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

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


def widened(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Return float32 from bfloat16, which is its upper half."""
    sixteen = ir.Constant(INTEGERS, [16] * LANES)
    return builder.bitcast(builder.shl(builder.zext(bits, INTEGERS), sixteen), FLOATS)


def loaded_numbers(builder: ir.IRBuilder, pointer: ir.Value, array: types.Array) -> ir.Value:
    """Return 16 numbers of an array of float32, or of bfloat16 in uint16."""
    if array.dtype == types.uint16:
        loaded = builder.load(builder.bitcast(pointer, HALVES.as_pointer()), align=1)
        return widened(builder, loaded)
    assert array.dtype == types.float32, array.dtype
    return builder.load(builder.bitcast(pointer, FLOATS.as_pointer()), align=1)


def address(
    context: Any, builder: ir.IRBuilder, array_type: types.Array, where: Any, i: int
) -> ir.Value:
    """Return the address of array[token + i, column]."""
    array, token, column = where
    made = context.make_array(array_type)(context, builder, array)
    row = builder.add(token, ir.Constant(token.type, i))
    return cgutils.get_item_pointer(context, builder, array_type, made, [row, column])


def of_tokens(
    context: Any,
    builder: ir.IRBuilder,
    array_type: types.Array,
    where: Any,
    count: int,
    vector: ir.VectorType,
) -> list[ir.Value]:
    """Return array[token + i, column] in all lanes, for each i below `count`."""
    numbers = [builder.load(address(context, builder, array_type, where, i)) for i in range(count)]
    return [in_all_lanes(builder, number, vector) for number in numbers]


def in_all_lanes(builder: ir.IRBuilder, number: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Return a vector that has a number in all lanes."""
    single = builder.insert_element(
        ir.Constant(vector, ir.Undefined), number, ir.Constant(INT32, 0)
    )
    lanes = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, single, lanes)


def reduced(builder: ir.IRBuilder, operation: str, vector: ir.Value) -> ir.Value:
    """Return the sum or the largest of a vector of 32 whole numbers."""
    kind = ir.FunctionType(INT32, [vector.type])
    name = f"llvm.vector.reduce.{operation}.v32i32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [vector])


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Return a * b + c, in one instruction where there is one."""
    return builder.fadd(builder.fmul(a, b, flags=["contract"]), c, flags=["contract"])
