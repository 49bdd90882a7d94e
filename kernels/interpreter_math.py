"""The arithmetic of Triton's interpreter, put right: bfloat16, rounding, multiply-add, libdevice.

The interpreter runs a kernel as NumPy, one program after the other. Left alone it differs from a GPU in ways that hide
faults or invent them, so `launch` installs these corrections wherever kernels are interpreted:

    bfloat16     is kept as its 16 bits, and + - * < and tl.dot worked on the bits as if they were whole numbers.
                 Here every operation widens to float32, computes, and rounds once. That is what a GPU does.
    casts        float32 -> bfloat16 cut the lower bits off. Here they round to nearest, ties to even.
    fma          rounded twice. Here once.
    int8 dot     wrapped round at 127 in between, or was slow. Here it is exact, and float32 BLAS.
    libdevice    functions returned None. Here they compute.

Two things stay as they are: float8 (nothing in minivl uses it), and the order of a sum, which no GPU promises either.
Imported by `launch` alone, which decides first whether Triton interprets at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter
from triton.language.extra import libdevice
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, ReduceOps, TensorHandle

BFLOAT16 = tl.bfloat16
SPECIAL = (np.exp, np.exp2, np.log, np.log2, np.sin, np.cos, np.sqrt)  # what a GPU's special function unit does
TF32 = interpreter._ir.INPUT_PRECISION.TF32


def widen(bits: np.ndarray) -> np.ndarray:
    """float32 from the bits of bfloat16 (uint16): the same number, its mantissa filled up with zeros."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(numbers: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 (uint16) nearest to `numbers` (of any dtype), ties to the even one, NaN to the usual NaN."""
    single = _round_to_odd(numbers)
    bits = single.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> 16) & 1)  # just under half a step; and half a step if the last bit kept is odd
    nearest = ((bits + half) >> 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FC0), nearest)


def _round_to_odd(numbers: np.ndarray) -> np.ndarray:
    """float32 of `numbers`, from which rounding once more gives what rounding once from the start would have given.

    A number that float32 cannot hold goes to whichever neighbour has an odd last bit: never onto a tie.
    """
    numbers = np.asarray(numbers)
    if numbers.dtype != np.float64:  # whole numbers pass through float32 on a GPU too
        return np.ascontiguousarray(numbers, np.float32).reshape(numbers.shape)
    single = numbers.astype(np.float32)
    inexact = np.isfinite(single) & (single != numbers)
    even = (single.view(np.uint32) & 1) == 0
    towards = np.where(numbers > single, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact & even, np.nextafter(single, towards), single)


def multiply_add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x y + z of numbers that fit float32, as a float64 that rounds to float32 or less as the exact result would.

    The product is exact. What the sum lost, `lost`, is computed too, and again decides for the odd neighbour.
    """
    product, added = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    total = product + added
    back = total - product
    lost = (product - (total - back)) + (added - back)
    towards = np.where(lost > 0, np.inf, -np.inf)
    even = (total.view(np.int64) & 1) == 0
    return np.where(np.isfinite(total) & (lost != 0) & even, np.nextafter(total, towards), total)


def round_to_tf32(numbers: np.ndarray) -> np.ndarray:
    """float32 with 10 bits of mantissa, the nearest, ties away from zero: what tensor cores see of float32 in tf32."""
    bits = np.ascontiguousarray(numbers, np.float32).reshape(numbers.shape).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _is_bfloat16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == BFLOAT16


def _numbers(handle: TensorHandle) -> np.ndarray:
    return widen(handle.data) if _is_bfloat16(handle) else handle.data


def _handle(numbers: np.ndarray, dtype: tl.dtype) -> TensorHandle:
    """`numbers` as a value of Triton's `dtype`, rounded once; the truth value of a comparison stays one."""
    if numbers.dtype == np.bool_:
        return TensorHandle(numbers, tl.int1)
    if dtype.scalar == BFLOAT16:
        return TensorHandle(narrow(numbers), BFLOAT16)
    return TensorHandle(numbers.astype(interpreter._get_np_dtype(dtype.scalar), copy=False), dtype.scalar)


class RightBuilder(InterpreterBuilder):
    """The interpreter's builder, which carries out each operation of a kernel, with the corrections above.

    `count` is told of every operation's work; a builder that keeps books overrides it.
    """

    tf32 = False  # whether tl.dot rounds float32 to tf32 where the kernel allows that, as a GPU would

    def count(self, kind: str, number: int) -> None:
        pass

    def get_bf16(self, value: float) -> TensorHandle:
        return TensorHandle(narrow(np.array([value])), BFLOAT16)

    def unary_op(self, arg: TensorHandle, op: Callable) -> TensorHandle:
        if arg.dtype.scalar.is_floating():
            self.count("special" if op in SPECIAL else "flops", arg.data.size)
        return _handle(op(widen(arg.data)), BFLOAT16) if _is_bfloat16(arg) else super().unary_op(arg, op)

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable) -> TensorHandle:
        if _is_bfloat16(lhs):
            result = _handle(op(widen(lhs.data), widen(rhs.data)), BFLOAT16)
        else:
            result = super().binary_op(lhs, rhs, op)
        if result.data.dtype == np.bool_:
            return TensorHandle(
                result.data, tl.int1
            )  # a comparison; the interpreter leaves it the dtype of what it compared
        if result.dtype.scalar.is_floating():
            self.count("flops", result.data.size)
        return result

    def ternary_op(self, lhs: TensorHandle, rhs: TensorHandle, other: TensorHandle, op: Callable) -> TensorHandle:
        if op is np.where:  # chooses, and computes nothing: the bits will do
            return super().ternary_op(lhs, rhs, other, op)
        self.count("flops", 2 * other.data.size)
        return _handle(op(_numbers(lhs), _numbers(rhs), _numbers(other)), other.dtype)

    def create_fma(self, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        self.count("flops", 2 * z.data.size)
        if z.data.dtype == np.float64:
            return super().create_fma(x, y, z)
        return _handle(multiply_add(_numbers(x), _numbers(y), _numbers(z)), z.dtype)

    def create_erf(self, arg: TensorHandle) -> TensorHandle:
        self.count("special", arg.data.size)
        return super().create_erf(arg)

    def create_rsqrt(self, arg: TensorHandle) -> TensorHandle:
        self.count("special", arg.data.size)
        return super().create_rsqrt(arg)

    def cast_impl(self, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
        if not _is_bfloat16(src) and dst_type.scalar != BFLOAT16:
            return super().cast_impl(src, dst_type)
        return _handle(_numbers(src), dst_type)

    def create_fp_to_fp(self, src: TensorHandle, dst_type: tl.dtype, rounding_mode: object) -> TensorHandle:
        towards_zero = rounding_mode == interpreter._ir.ROUNDING_MODE.RTZ
        if towards_zero or BFLOAT16 not in (src.dtype.scalar, dst_type.scalar):
            return super().create_fp_to_fp(src, dst_type, rounding_mode)
        return self.cast_impl(src, dst_type)

    def create_dot(
        self, a: TensorHandle, b: TensorHandle, d: TensorHandle, input_precision: object, max_num_imprecise_acc: int
    ) -> TensorHandle:
        *batch, rows, inner = a.data.shape
        self.count("dot_flops", 2 * math.prod(batch) * rows * inner * b.data.shape[-1])
        if a.dtype.scalar.is_fp8() or b.dtype.scalar.is_fp8():
            return super().create_dot(a, b, d, input_precision, max_num_imprecise_acc)
        if a.dtype.scalar.is_int():
            exact = np.float32 if a.data.itemsize == 1 and inner <= 1024 else np.float64  # 2^7 * 2^7 * 1024 = 2^24
            product = a.data.astype(exact) @ b.data.astype(exact)
            return TensorHandle(product.astype(np.int64).astype(d.data.dtype) + d.data, d.dtype.scalar)
        kind: type[np.floating] = np.float64 if a.data.dtype == np.float64 else np.float32
        x, y = _numbers(a).astype(kind, copy=False), _numbers(b).astype(kind, copy=False)
        if self.tf32 and input_precision == TF32 and a.data.dtype == np.float32:
            x, y = round_to_tf32(x), round_to_tf32(y)
        return _handle(x @ y + _numbers(d), d.dtype)


class RightReduceOps(ReduceOps):
    """Reductions; those of bfloat16 are summed in float32 and rounded once."""

    def apply_impl(self, input: tuple) -> object:
        if input[0].dtype.is_floating():
            interpreter.interpreter_builder.count("flops", input[0].handle.data.size)
        return super().apply_impl(input)

    def sum(self, input: tl.tensor) -> tl.tensor:
        if input.dtype != BFLOAT16:
            return super().sum(input)
        total = np.sum(widen(input.handle.data), axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(narrow(np.asarray(total))[()], BFLOAT16)


class RightExecutor(GridExecutor):
    """Runs all programs of a launch. A GPU does not warn of an overflow or of inf - inf, so NumPy must not either."""

    def __call__(self, *args: object, **named: object) -> None:
        with np.errstate(all="ignore"):
            super().__call__(*args, **named)


def use(builder: InterpreterBuilder, executor: type[GridExecutor]) -> tuple[InterpreterBuilder, type[GridExecutor]]:
    """Let the interpreter run kernels with these from now on; returns the two it had before."""
    before = interpreter.interpreter_builder, interpreter.GridExecutor
    interpreter.interpreter_builder = interpreter.interpreter_semantic.builder = builder
    interpreter.GridExecutor = executor
    return before


def install() -> None:
    """Put the corrections in place, for every kernel that this process interprets."""
    use(RightBuilder(), RightExecutor)
    interpreter.ReduceOps = RightReduceOps
    for name, function in LIBDEVICE.items():
        setattr(libdevice, name, _libdevice_function(name, function))


_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])

LIBDEVICE: dict[str, Callable] = {
    **{name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc")},
    **{"rint": np.rint, "abs": np.abs, "pow": np.power, "fmod": np.fmod, "hypot": np.hypot, "copysign": np.copysign},
    **{"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "erf": _erf, "erfc": _erfc},
    **{"rsqrt": lambda x: 1 / np.sqrt(x), "fma": lambda x, y, z: x * y + z},
}


def _libdevice_function(name: str, function: Callable) -> Callable:
    """What a kernel calls as libdevice.<name>: computed in float64, rounded once. Raises TypeError for half types."""

    def call(*given: object, _semantic: object = None) -> tl.tensor:
        semantic = interpreter.interpreter_semantic
        values = [x if isinstance(x, tl.tensor) else semantic.to_tensor(x) for x in given]
        dtype, shaped = values[0].dtype, max(values, key=lambda x: x.handle.data.ndim if x.type.is_block() else -1)
        if dtype not in (tl.float32, tl.float64):
            raise TypeError(f"libdevice.{name} takes fp32 or fp64, not {dtype}: cast with .to(tl.float32) before")
        result = _handle(function(*(x.handle.data.astype(np.float64) for x in values)), dtype)
        semantic.builder.count("special", result.data.size)
        return tl.tensor(result, tl.block_type(dtype, list(result.data.shape)) if shaped.type.is_block() else dtype)

    return call
