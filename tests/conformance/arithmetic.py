# SPDX-License-Identifier: Apache-2.0
"""Section 1 of docs/contract.md on numpy: binary32 arrays, each operation rounded where it is written."""

import numpy as np

F32, F64 = np.float32, np.float64


def fma(a, b, c):
    """a * b + c with one rounding, elementwise. The product of two binary32 numbers is exact in binary64;
    the sum is rounded to odd there, so that rounding it to binary32 rounds once."""
    product = np.multiply(a, b, dtype=F64)
    c = np.asarray(c, F64)
    total = np.atleast_1d(product + c)
    back = total - product
    error = (product - (total - back)) + (c - back)
    inexact = (error != 0) & (error == error)
    bits = total.view(np.int64)
    even = inexact & ((bits & 1) == 0)
    away = (error > 0) == (total > 0)
    bits += np.where(even, np.where(away, 1, -1), 0)
    return total.astype(F32).reshape(np.broadcast_shapes(product.shape, c.shape))


def dot(a, b):
    """Along the last axis, which may be broadcast in all others."""
    a, b = np.asarray(a, F32).astype(F64), np.asarray(b, F32).astype(F64)
    total = np.zeros(np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), F32)
    for start in range(0, a.shape[-1], 64):
        block = np.zeros(total.shape, F32)
        for k in range(start, min(start + 64, a.shape[-1])):
            block = fma(a[..., k], b[..., k], block)
        total = total + block
    return total


def lane_sum(x):
    """Along the last axis, in binary64."""
    x = np.asarray(x).astype(F64)
    lanes = np.zeros(x.shape[:-1] + (16,), F64)
    for start in range(0, x.shape[-1], 16):
        part = x[..., start:start + 16]
        lanes[..., :part.shape[-1]] += part
    for width in (8, 4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width:2 * width]
    return lanes[..., 0]


def lane_sum_sq(x):
    x = np.asarray(x).astype(F64)
    return lane_sum(x * x)


def decimal(text):
    """A constant of a config: to binary64, then to binary32."""
    return F32(float(text))


def widen_f16(bits):
    return np.asarray(bits, np.uint16).view(np.float16).astype(F32)


def widen_bf16(bits):
    return (np.asarray(bits, np.uint32) << 16).view(F32)
