# SPDX-License-Identifier: Apache-2.0
"""The correctly rounded functions of docs/contract.md, by mpmath. apply() lets binary64 decide where that is
safe: where everything within 2^-40 of the binary64 value rounds to one binary32 number, which leaves the C
library thousands of units of error."""

import functools
import math
from fractions import Fraction

import mpmath
import numpy as np

F32, F64 = np.float32, np.float64
TANH_CUBE = Fraction("0.044715")
FAST = Fraction("0.7978845608")
QUICK = Fraction("1.702")


def round_to_f32(value):
    """The binary32 number nearest to an mpf, ties to even; a zero keeps the sign."""
    sign, mantissa, exponent, width = value._mpf_
    if mantissa == 0:
        return F32(0)
    quantum = max(exponent + width - 24, -149)
    shift = quantum - exponent
    if shift <= 0:
        whole = mantissa << -shift
    elif shift > width + 1:
        whole = 0
    else:
        whole, rest, half = mantissa >> shift, mantissa & ((1 << shift) - 1), 1 << (shift - 1)
        whole += rest > half or (rest == half and whole & 1)
    magnitude = math.inf if whole.bit_length() + quantum > 128 else math.ldexp(whole, quantum)
    return F32(-magnitude if sign else magnitude)


def nearest(real):
    """real() rounded once: with ever more digits until an error in the last ones does not matter."""
    for precision in (100, 250, 600, 1400):
        with mpmath.workprec(precision):
            value = real()
            margin = abs(value) * mpmath.ldexp(1, 20 - precision)
            low, high = round_to_f32(value - margin), round_to_f32(value + margin)
        if low == high and np.signbit(low) == np.signbit(high):
            return low
    return round_to_f32(value)  # a midpoint itself: ties to even


def fraction(constant):
    return mpmath.mpf(constant.numerator) / constant.denominator


def sigmoid_times(x, argument):
    return x / (1 + mpmath.exp(-argument))


def gelu_by_tanh(x, constant):
    # (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), which does not cancel
    return sigmoid_times(x, 2 * constant * (x + fraction(TANH_CUBE) * x ** 3))


REAL = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "tanh": mpmath.tanh,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "silu": lambda x: sigmoid_times(x, x),
    "quick_gelu": lambda x: sigmoid_times(x, fraction(QUICK) * x),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda x: gelu_by_tanh(x, mpmath.sqrt(2 / mpmath.pi)),
    "gelu_fast": lambda x: gelu_by_tanh(x, fraction(FAST)),
}
GATED = ("silu", "quick_gelu", "gelu", "gelu_tanh", "gelu_fast")


def exact(name, x):
    """One function of one Python float that is a binary32 number."""
    if name == "relu":
        return F32(x) if x > 0 else F32(0)
    if math.isnan(x):
        return F32(math.nan)
    if x == 0 and name not in ("exp", "log", "cos"):
        return F32(x)
    return of_number(name, x)


@functools.lru_cache(maxsize=None)
def of_number(name, x):
    """-0 and +0 are one key here."""
    if name in GATED:
        if x == math.inf:
            return F32(x)
        if x < -1000:
            return F32(-0.0)  # below exp(-1000) in size, and negative
    if name in ("sin", "cos") and math.isinf(x):
        return F32(math.nan)
    if name == "tanh" and math.isinf(x):
        return F32(math.copysign(1, x))
    if name == "log":
        if x <= 0:
            return F32(-math.inf if x == 0 else math.nan)
        if x == 1 or x == math.inf:
            return F32(0 if x == 1 else x)
    if name == "exp" and math.isinf(x):
        return F32(0 if x < 0 else x)
    return nearest(lambda: REAL[name](mpmath.mpf(x)))


def quotient(x, argument):
    return x / (1 + np.exp(-argument))


def by_tanh(x, constant):
    return quotient(x, 2 * constant * (x + float(TANH_CUBE) * x ** 3))


GUESS = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "silu": lambda x: quotient(x, x),
    "quick_gelu": lambda x: quotient(x, float(QUICK) * x),
    "gelu": lambda x: 0.5 * x * np.array([math.erfc(each) for each in -x / math.sqrt(2)]),
    "gelu_tanh": lambda x: by_tanh(x, math.sqrt(2 / math.pi)),
    "gelu_fast": lambda x: by_tanh(x, float(FAST)),
    "relu": lambda x: x * math.nan,
}


def apply(name, x):
    """exact() of each element."""
    x = np.asarray(x, F32)
    flat = x.ravel().astype(F64)
    guess = GUESS[name](flat)
    result = (guess * (1 - 2.0 ** -40)).astype(F32)
    sure = (result == (guess * (1 + 2.0 ** -40)).astype(F32)) & (guess != 0) & np.isfinite(guess)
    for i in np.flatnonzero(~sure):
        result[i] = exact(name, float(flat[i]))
    return result.reshape(x.shape)


@functools.lru_cache(maxsize=None)
def power(base, exponent):
    return nearest(lambda: mpmath.mpf(base) ** mpmath.mpf(exponent))
