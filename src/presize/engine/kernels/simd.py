"""Building blocks that numba has no words for: LLVM vectors kept in registers over a whole KV block, and bfloat16.

Written in LLVM's intermediate code, which becomes AVX-512, AVX2 or NEON as the machine has it. Left to itself the
compiler stores and reloads every accumulator in every turn (docs/log.md, 2026-11-24). Arrays are flat; elements are
float32, or bfloat16 held in uint16.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_BLOCK = 32  # tokens in a KV block
_WIDTH = 16  # float32 lanes of a vector over the tokens of a block


@intrinsic(prefer_literal=True)
def dot_block(typing, lanes, queries, query_at, keys, key_at, size, scores, ahead):
    """scores[l, t] = sum over d < size of queries[l, d] keys[d, t], for l < ``lanes`` (a literal) and the block's t.

    queries from ``query_at`` in rows of ``size``, keys from ``key_at`` in rows of 32; scores (lanes * 32,) float32.
    ahead: where the next keys lie; they are fetched meanwhile.
    """
    count = lanes.literal_value
    parts = range(_BLOCK // _WIDTH)

    def generate(context, builder, signature, args):
        q, k, s = (_data(context, builder, signature, args, i) for i in (1, 3, 6))
        query_at, key_at, size, ahead = args[2], args[4], args[5], args[7]
        zero = ir.Constant(ir.VectorType(_F32, _WIDTH), [0.0] * _WIDTH)
        sums = [cgutils.alloca_once(builder, zero.type) for _ in range(count) for _ in parts]
        for place in sums:
            builder.store(zero, place)
        rows = [_offset(builder, query_at, size, lane) for lane in range(count)]
        with cgutils.for_range(builder, size) as loop:
            row = _offset(builder, key_at, loop.index, _BLOCK)
            loaded = [_load(builder, k, _plus(builder, row, part * _WIDTH), keys, _WIDTH) for part in parts]
            _prefetch(builder, k, _offset(builder, ahead, loop.index, _BLOCK))
            for lane in range(count):
                factor = _splat(builder, _load(builder, q, builder.add(rows[lane], loop.index), queries), _WIDTH)
                for part in parts:
                    _accumulate(builder, sums[lane * len(parts) + part], factor, loaded[part])
        for index, place in enumerate(sums):
            _store(builder, s, ir.Constant(_I64, index * _WIDTH), builder.load(place))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(lanes, queries, whole, keys, whole, whole, scores, whole), generate


@intrinsic(prefer_literal=True)
def add_weighted(typing, lanes, width, weights, values, value_at, used, size, acc, acc_at, ahead):
    """acc[l, i] += sum over t < used of weights[l, t] values[t, i], for l < ``lanes`` and i < size.

    lanes, width: literals; size must be a multiple of 2 * width. weights (lanes * 32,) float32; values from
    ``value_at`` and acc (float32) from ``acc_at`` in rows of ``size``. Values from ``used`` on are never read.
    ahead: where the next values lie; they are fetched meanwhile.
    """
    count, vector = lanes.literal_value, width.literal_value
    chains = [(lane, half) for lane in range(count) for half in range(2)]

    def generate(context, builder, signature, args):
        w, v, a = (_data(context, builder, signature, args, i) for i in (2, 3, 7))
        value_at, used, size, acc_at, ahead = args[4], args[5], args[6], args[8], args[9]
        sums = [cgutils.alloca_once(builder, ir.VectorType(_F32, vector)) for _ in chains]
        rows = [_offset(builder, acc_at, size, lane) for lane in range(count)]
        step = ir.Constant(_I64, 2 * vector)
        with cgutils.for_range(builder, builder.sdiv(size, step)) as chunk:
            first = builder.mul(chunk.index, step)
            starts = [_plus(builder, builder.add(rows[lane], first), half * vector) for lane, half in chains]
            for place, start in zip(sums, starts, strict=True):
                builder.store(_load(builder, a, start, acc, vector), place)
            with cgutils.for_range(builder, used) as loop:
                row = builder.add(_offset(builder, value_at, loop.index, size), first)
                loaded = [_load(builder, v, _plus(builder, row, half * vector), values, vector) for half in range(2)]
                _prefetch(builder, v, builder.add(_offset(builder, ahead, loop.index, size), first))
                for place, (lane, half) in zip(sums, chains, strict=True):
                    weight = _load(builder, w, _plus(builder, loop.index, lane * _BLOCK), weights)
                    _accumulate(builder, place, _splat(builder, weight, vector), loaded[half])
            for place, start in zip(sums, starts, strict=True):
                _store(builder, a, start, builder.load(place))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(lanes, width, weights, values, whole, whole, whole, acc, whole, whole), generate


@intrinsic
def widen(typing, value):
    """float32 of a bfloat16; a float32 is itself."""

    def generate(context, builder, signature, args):
        return _widened(builder, args[0]) if value == types.uint16 else args[0]

    return types.float32(value), generate


@intrinsic
def narrow(typing, value, like):
    """``value`` (float32) in the type of ``like``: bfloat16, rounded to nearest even, or float32 as it is."""

    def generate(context, builder, signature, args):
        if like != types.uint16:
            return args[0]
        bits = builder.bitcast(args[0], _I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(_I32, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, ir.Constant(_I32, 16)), _I16)

    return (types.uint16 if like == types.uint16 else types.float32)(types.float32, like), generate


@intrinsic
def _power_of_two(typing, exponent):
    """2**exponent as float32, exponent (int32) from -127, which gives 0, to 127."""

    def generate(context, builder, signature, args):
        biased = builder.add(args[0], ir.Constant(_I32, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(_I32, 23)), _F32)

    return types.float32(types.int32), generate


LOG2E = np.float32(1.4426950408889634)
_LOWEST, _HIGHEST, _ZERO_EXPONENT = np.float32(-60.0), np.float32(126.0), np.float32(-127.0)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
# Taylor coefficients of 2**f on [-0.5, 0.5]; relative error below 2e-7
_C1, _C2, _C3 = np.float32(0.6931471805599453), np.float32(0.24022650695910072), np.float32(0.05550410866482158)
_C4, _C5, _C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)


@njit(inline="always", fastmath=True)
def exp2(x):
    """2**x as float32, for x up to 126, which larger ones count as; 0 below -60, so that no product is denormal.

    In loops: the library's exp would be a scalar call and cost as much as the dot products.
    """
    x = min(x, _HIGHEST)
    x = x if x > _LOWEST else _ZERO_EXPONENT
    n = np.floor(x + _HALF)
    f = x - n
    polynomial = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
    return polynomial * _power_of_two(np.int32(n))


def _data(context, builder, signature, args, index):
    return context.make_array(signature.args[index])(context, builder, args[index]).data


def _at(builder, base, offset, kind):
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def _load(builder, base, offset, array, width=1):
    """``width`` elements from ``offset`` on as float32; ``array`` is their numba type."""
    stored = _I16 if array.dtype == types.uint16 else _F32
    kind = stored if width == 1 else ir.VectorType(stored, width)
    value = builder.load(_at(builder, base, offset, kind), align=array.dtype.bitwidth // 8)
    return _widened(builder, value) if stored is _I16 else value


def _prefetch(builder, base, offset):
    """Into the second-level cache: while a block is worked on the first level has no room for the next one."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    for_reading, second_level, data = (ir.Constant(_I32, number) for number in (0, 2, 1))
    builder.call(function, [_at(builder, base, offset, ir.IntType(8)), for_reading, second_level, data])


def _store(builder, base, offset, value):
    builder.store(value, _at(builder, base, offset, value.type), align=4)


def _widened(builder, value):
    if not isinstance(value.type, ir.VectorType):
        bits = builder.shl(builder.zext(value, _I32), ir.Constant(_I32, 16))
        return builder.bitcast(bits, _F32)
    count = value.type.count
    wide = ir.VectorType(_I32, count)
    return builder.bitcast(
        builder.shl(builder.zext(value, wide), ir.Constant(wide, [16] * count)), ir.VectorType(_F32, count)
    )


def _splat(builder, scalar, width):
    vector = ir.VectorType(scalar.type, width)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, width), [0] * width))


def _accumulate(builder, place, a, b):
    builder.store(builder.fadd(builder.fmul(a, b, flags=["contract"]), builder.load(place), flags=["contract"]), place)


def _plus(builder, offset, number):
    return builder.add(offset, ir.Constant(_I64, number))


def _offset(builder, start, a, b):
    """start + a * b; a and b may be numbers."""
    a, b = (ir.Constant(_I64, x) if isinstance(x, int) else x for x in (a, b))
    return builder.add(start, builder.mul(a, b))
