"""Parallel loops for numba kernels on torch's own threads.

numba has a thread pool of its own. Beside torch's, whose threads spin for the next operator, its loops wait for a core
(docs/log.md, 2026-11-24). So `parallel_for` asks the OpenMP runtime that torch is linked against: between two
operators its threads are awake already, and a row is worked on by the core that has it cached.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_I32, _I64, _BYTES = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
_BODY = ir.FunctionType(ir.VoidType(), [_BYTES])
_RUN = ir.FunctionType(ir.VoidType(), [_BODY.as_pointer(), _BYTES, _I32, _I32])
_COUNT = ir.FunctionType(_I32, [])


@njit(nogil=True)
def even_bounds(count, threads):
    """(threads + 1,) bounds that cut ``count`` rows into equal runs."""
    return np.arange(threads + 1) * count // threads


@intrinsic
def parallel_for(typing, kernel, bounds, arguments):
    """Call ``kernel(start, stop, *arguments)`` for each pair of neighbouring bounds, and return when all are done.

    kernel: an njit function without a result, which must not raise. bounds: int64; thread i takes the i-th run, and
    if there are fewer threads than runs, more of them. arguments: a tuple.
    """
    signature = kernel.get_call_type(typing, (types.int64, types.int64, *arguments.types), {})

    def generate(context, builder, outer, values):
        _, limits, packed = values
        array = context.make_array(bounds)(context, builder, limits)
        parts = builder.sub(builder.extract_value(array.shape, 0), ir.Constant(_I64, 1))
        fields = (parts, array.data, packed)
        shared = cgutils.alloca_once(builder, ir.LiteralStructType([field.type for field in fields]))
        for index, value in enumerate(fields):
            builder.store(value, cgutils.gep_inbounds(builder, shared, 0, index))
        body = _body(context, builder, shared.type, kernel, signature, len(arguments))
        run = cgutils.get_or_insert_function(builder.module, _RUN, "presize_parallel")
        threads = builder.trunc(parts, _I32)
        builder.call(run, [body, builder.bitcast(shared, _BYTES), threads, ir.Constant(_I32, 0)])
        return context.get_dummy_value()

    return types.void(kernel, bounds, arguments), generate


def _body(context, caller, shared_type, kernel, signature, count):
    """What each thread runs: void body(void *shared)."""
    name = f"{caller.function.name}.{kernel.dispatcher.py_func.__name__}"
    function = ir.Function(caller.module, _BODY, name)
    function.linkage = "internal"
    compiled = kernel.dispatcher.get_compile_result(signature)
    context.add_linking_libs([compiled.library])
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    shared = builder.bitcast(function.args[0], shared_type)
    parts, limits, packed = (builder.load(cgutils.gep_inbounds(builder, shared, 0, index)) for index in range(3))
    values = [builder.extract_value(packed, index) for index in range(count)]
    thread, threads = (
        builder.zext(builder.call(cgutils.get_or_insert_function(caller.module, _COUNT, symbol), []), _I64)
        for symbol in ("presize_thread", "presize_threads")
    )
    with cgutils.for_range_slice(builder, thread, parts, threads, intp=_I64) as (part, _):
        start = builder.load(builder.gep(limits, [part]))
        stop = builder.load(builder.gep(limits, [builder.add(part, ir.Constant(_I64, 1))]))
        context.call_internal_no_propagate(builder, compiled.fndesc, signature, [start, stop, *values])
    builder.ret_void()
    return function


@ctypes.CFUNCTYPE(None, ctypes.CFUNCTYPE(None, ctypes.c_void_p), ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
def _run_alone(body, data, threads, flags):
    body(data)


_zero, _one = (ctypes.CFUNCTYPE(ctypes.c_int)(lambda n=n: n) for n in (0, 1))


def _openmp():
    """Run, thread number and count of threads of the runtime that torch is linked against, else of one thread alone."""
    try:
        # symbols are looked up in what the library was linked against, whichever OpenMP runtime that is
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (OSError, AttributeError):
        return _run_alone, _zero, _one


for _name, _function in zip(("presize_parallel", "presize_thread", "presize_threads"), _openmp(), strict=True):
    llvm.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
