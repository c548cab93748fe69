#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes simd/vector/coefficients.hpp; needs mpmath. Repeat with

    python3 simd/vector/make_coefficients.py > simd/vector/coefficients.hpp
    clang-format -i simd/vector/coefficients.hpp

Every approximation interpolates its function at Chebyshev nodes, which is within a small factor of
the best one of its degree; the relative error found on a fine grid stands beside it as a power of
two. No result bit depends on these numbers while the bounds in functions.hpp hold, and that is what
tests/functions_exhaustive decides.
"""
import struct

from mpmath import atanh, cos, erfc, exp, floor, log, lu_solve, matrix, mp, mpf, pi, sin, sqrt

mp.dps = 60


def hex_double(x):
    return float(x).hex()


def nodes(count, low, high):
    return [low + (high - low) * (1 + cos((2 * i + 1) * pi / (2 * count))) / 2 for i in range(count)]


def horner(coefficients, x):
    value = mpf(0)
    for c in reversed(coefficients):
        value = value * x + c
    return value


def log2_error(approximation, function, low, high):
    worst = mpf(0)
    for i in range(2001):
        x = low + (high - low) * i / 2000
        worst = max(worst, abs(approximation(x) / function(x) - 1))
    return float(log(worst, 2))


def polynomial(function, degree, low, high):
    """Coefficients, lowest first, rounded to binary64, and log2 of the relative error."""
    low, high = mpf(low), mpf(high)
    points = nodes(degree + 1, low, high)
    system = matrix(degree + 1, degree + 1)
    values = matrix(degree + 1, 1)
    for row, x in enumerate(points):
        values[row] = function(x)
        for column in range(degree + 1):
            system[row, column] = x**column
    rounded = [mpf(float(c)) for c in lu_solve(system, values)]
    return rounded, log2_error(lambda x: horner(rounded, x), function, low, high)


def monic_rational(function, upper, lower, high, centre):
    """A factor, the lower coefficients of P and Q, whose highest ones are 1, and log2 of the relative error
    of factor * P/Q, which interpolates on [0, high], nodes dense around `centre`."""
    count = upper + lower + 1
    system = matrix(count, count)
    values = matrix(count, 1)
    for row, u in enumerate(nodes(count, mpf(-1), (high - centre) / (high + centre))):
        t = centre * (1 + u) / (1 - u)
        values[row] = function(t)
        for column in range(upper + 1):
            system[row, column] = t**column
        for column in range(1, lower + 1):
            system[row, upper + column] = -values[row] * t**column
    solution = [mpf(float(c)) for c in lu_solve(system, values)]
    top, bottom = solution[: upper + 1], [mpf(1)] + solution[upper + 1 :]
    factor = mpf(float(top[-1] / bottom[-1]))
    top, bottom = ([mpf(float(c / p[-1])) for c in p] for p in (top, bottom))
    error = log2_error(lambda t: factor * horner(top, t) / horner(bottom, t), function, mpf(0), high)
    return factor, top[:-1], bottom[:-1], error


def sixteenths(factor):
    """factor * 2^(i/16), less i in the fourth bit from the top of the significand."""
    bits = (struct.unpack("<q", struct.pack("<d", factor * mpf(2) ** (mpf(i) / 16)))[0] - (i << 48)
            for i in range(16))
    return [struct.unpack("<d", struct.pack("<q", b))[0] for b in bits]


def print_array(name, comment, values):
    print(f"/// {comment}")
    print(f"inline constexpr double {name}[{len(values)}] = {{")
    print(",\n".join(f"    {hex_double(v)}" for v in values) + "};\n")


def without_limit(function, limit):
    return lambda x: function(x) if x != 0 else limit


def main():
    print("// SPDX-License-Identifier: Apache-2.0")
    print("#pragma once\n")
    print("/// Written by simd/vector/make_coefficients.py; lowest power first.\n")
    print("namespace neoxref::simd::NEOXREF_ISA {\nnamespace {\n")
    print(f"inline constexpr double log2_e = {hex_double(1 / log(mpf(2)))};")
    print(f"inline constexpr double ln_2 = {hex_double(log(mpf(2)))};")
    print(f"inline constexpr double two_sqrt_2_over_pi = {hex_double(2 * sqrt(2 / pi))};\n")

    values, error = polynomial(
        without_limit(lambda r: (mpf(2) ** r - 1) / r, log(mpf(2))), 8, "-0.5", "0.5")
    print_array("power_of_two", f"(2^r - 1) / r on [-1/2, 1/2], error 2^{error:.1f}.", values)

    values, error = polynomial(
        without_limit(lambda r: (mpf(2) ** r - 1) / r, log(mpf(2))), 4, "-0.03125", "0.03125")
    print_array("sixteenth_of_two", f"(2^r - 1) / r on [-1/32, 1/32], error 2^{error:.1f}.", values)

    print_array("sixteenths", "2^(i/16), less i in the place where k/16 is added to the exponent.",
                sixteenths(mpf(1)))

    values, error = polynomial(
        without_limit(lambda q: atanh(sqrt(q)) / sqrt(q) * 2, mpf(2)), 6, 0, (sqrt(mpf(2)) - 1) ** 4)
    print_array("log_series",
                f"log((1+s)/(1-s)) / s in powers of s^2, |s| <= 3 - 2 sqrt 2, error 2^{error:.1f}.",
                values)

    factor, top, bottom, error = monic_rational(
        lambda t: erfc(t / sqrt(mpf(2))) / 2 * exp(t * t / 2), 7, 8, mpf("14.6"), mpf(4))
    print_array("tail_numerator",
                "Phi(-t) exp(t^2/2) on [0, 14.6] is tail_factor times the quotient of these two, each "
                f"with 1\n/// for its highest power, error 2^{error:.1f}.", top)
    print_array("tail_denominator", "All positive: no cancellation.", bottom)
    print(f"inline constexpr double tail_factor = {hex_double(factor)};\n")
    print_array("tail_sixteenths", "`sixteenths` times tail_factor.", sixteenths(factor))

    values, error = polynomial(
        without_limit(lambda q: sin(sqrt(q) * pi / 2) / sqrt(q), pi / 2), 5, 0, "0.25")
    print_array("sin_series", f"sin(r pi/2) / r in powers of r^2, |r| <= 1/2, error 2^{error:.1f}.",
                values)
    values, error = polynomial(lambda q: cos(sqrt(q) * pi / 2), 6, 0, "0.25")
    print_array("cos_series", f"cos(r pi/2) in powers of r^2, |r| <= 1/2, error 2^{error:.1f}.",
                values)

    first, last = -54, 104
    print("/// 2^e * 2/pi modulo 4 for e = first_quadrant_exponent, ...: 28 bits, then 53, then 53.")
    print(f"inline constexpr int first_quadrant_exponent = {first};")
    print(f"inline constexpr double quadrant_parts[{last - first + 1}][3] = {{")
    mp.prec = 600
    rows = []
    for e in range(first, last + 1):
        rest = mpf(2) ** e * 2 / pi
        rest -= 4 * floor(rest / 4)
        unit = mpf(2) ** (floor(log(rest, 2)) - 27)
        head = floor(rest / unit) * unit
        middle = mpf(float(rest - head))
        low = mpf(float(rest - head - middle))
        rows.append("    {" + ", ".join(hex_double(v) for v in (head, middle, low)) + "}")
    print(",\n".join(rows) + "};\n")
    print("}  // namespace\n}  // namespace neoxref::simd::NEOXREF_ISA")


if __name__ == "__main__":
    main()
