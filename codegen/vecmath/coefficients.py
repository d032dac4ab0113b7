"""Computes every polynomial and table of the vector math library with mpmath, and writes tables.py.

Usage: python -m tapejit.codegen.vecmath.coefficients   (a few minutes; mpmath is needed here only)

A polynomial p approximates f on [a, b] so that max |w (f - p)| is least (Remez exchange on a Chebyshev grid), w
being chosen so that this error is relative to the function's result. Rounding is greedy: the constant term is
rounded to the format, the others are fitted again to what is left, and so on upwards, so that each coefficient
absorbs the rounding of those before it. The stated error is that of the rounded polynomial, exactly evaluated.
"""

import struct
from pathlib import Path

import mpmath
from mpmath import mp, mpf

mp.prec = 400


def rounded(value, fmt="f64"):
    """`value` (mpf) rounded to the format, as a Python float."""
    if fmt == "f64":
        return float(value)
    high = float(value)
    return struct.unpack("<f", struct.pack("<f", high))[0]


def grid(a, b, count):
    """Chebyshev points of the interval, ends included."""
    return [(a + b) / 2 - (b - a) / 2 * mpmath.cos(mpmath.pi * i / (count - 1)) for i in range(count)]


def minimax(points, values, weights, degree):
    """Coefficients (mpf, constant term up) of the minimax polynomial on the grid, by the exchange algorithm."""
    n = degree + 2
    reference = [round(i * (len(points) - 1) / (n - 1)) for i in range(n)]
    for _ in range(30):
        system = mpmath.matrix(n, n)
        right = mpmath.matrix(n, 1)
        for row, i in enumerate(reference):
            power = weights[i]
            for column in range(n - 1):
                system[row, column] = power
                power *= points[i]
            system[row, n - 1] = (-1) ** row
            right[row] = weights[i] * values[i]
        solution = mpmath.lu_solve(system, right)
        coefficients = [solution[i] for i in range(n - 1)]
        errors = [w * (v - mpmath.polyval(coefficients[::-1], x)) for x, v, w in zip(points, values, weights)]
        extrema = alternation(errors, n)
        if len(extrema) < n or extrema == reference:
            break
        worst = max(abs(e) for e in errors)
        reference = extrema
        if worst < abs(solution[n - 1]) * mpf("1.001"):
            break
    return coefficients


def alternation(errors, count):
    """Indices of `count` extrema of alternating sign, the largest such run."""
    runs = []
    for i, error in enumerate(errors):
        if runs and (errors[runs[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[runs[-1]]):
                runs[-1] = i
        else:
            runs.append(i)
    while len(runs) > count:
        least = min(range(len(runs)), key=lambda k: abs(errors[runs[k]]))
        if least in (0, len(runs) - 1):
            runs.pop(least)
        elif len(runs) == count + 1:
            runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
        else:
            other = min(least - 1, least + 1, key=lambda k: abs(errors[runs[k]]))
            del runs[min(least, other) : max(least, other) + 1]
    return runs


def fit(f, weight, a, b, degree, fmt="f64", pairs=0):
    """(rounded coefficients, max weighted error); the first `pairs` coefficients become (high, low) pairs."""
    points = grid(mpf(a), mpf(b), 24 * (degree + 2))
    values, weights = [f(x) for x in points], [abs(weight(x)) for x in points]
    keep = [i for i, w in enumerate(weights) if w > max(weights) * mpf(10) ** -8]
    points, values, weights = ([s[i] for i in keep] for s in (points, values, weights))
    rest, rest_weights, result = values, weights, []
    for k in range(degree + 1):
        leading = minimax(points, rest, rest_weights, degree - k)[0]
        c = rounded(leading, fmt)
        if k < pairs:
            c = (c, rounded(leading - c, fmt))
        result.append(c)
        exact = mpf(c[0]) + c[1] if k < pairs else mpf(c)
        rest = [(v - exact) / x for v, x in zip(rest, points)]
        rest_weights = [w * abs(x) for w, x in zip(rest_weights, points)]
    exact = [mpf(c[0]) + c[1] if isinstance(c, tuple) else mpf(c) for c in result]
    error = max(w * abs(v - mpmath.polyval(exact[::-1], x)) for x, v, w in zip(points, values, weights))
    return result, error


def split(value, *bits):
    """`value` as floats that sum to it: each but the last is rounded to the given number of bits."""
    parts = []
    for count in bits:
        with mpmath.workprec(count):
            part = +value
        parts.append(float(part))
        value = value - part
    return (*parts, float(value))


def split_f32(value, *bits):
    parts = split(value, *bits)
    return (*parts[:-1], rounded(mpf(parts[-1]), "f32"))


def series(f, order, terms=60):
    """The function (f minus its Taylor terms below `order`) / x**order, from Taylor coefficients f(k)."""
    return lambda x: mpmath.fsum(f(k) * x ** (k - order) for k in range(order, order + terms))


ERFC_CENTER = 4
LN2, PI = mpmath.log(2), mpmath.pi
HALF_LN2 = LN2 / 2 * (1 + mpf(2) ** -40)
HALF_LN2_F32 = LN2 / 2 * (1 + mpf(2) ** -12)


def polynomials():
    """Yields (name, what it approximates, coefficients, error)."""

    def exp_tail(x):
        return mpmath.fsum(x**k / mpmath.factorial(k + 2) for k in range(40))

    def sin_tail(z):
        return mpmath.fsum((-1) ** (k + 1) * z**k / mpmath.factorial(2 * k + 3) for k in range(25))

    def cos_tail(z):
        return mpmath.fsum((-1) ** k * z**k / mpmath.factorial(2 * k + 4) for k in range(25))

    def sinh_tail(z):
        return mpmath.fsum(z**k / mpmath.factorial(2 * k + 3) for k in range(25))

    def cosh_tail(z):
        return mpmath.fsum(z**k / mpmath.factorial(2 * k + 4) for k in range(25))

    def atanh_tail(z):
        return mpmath.fsum(2 * z**k / (2 * k + 3) for k in range(140))

    def log1p_tail(r):
        return mpmath.fsum((-r) ** k / (k + 3) for k in range(60))

    def asin_tail(z):
        return mpmath.fsum(
            mpmath.binomial(2 * k, k) / mpf(4) ** k / (2 * k + 1) * z ** (k - 1) for k in range(1, 120)
        )

    def atan_tail(z):
        return mpmath.fsum((-1) ** (k + 1) * z**k / (2 * k + 3) for k in range(120))

    def exp2_tail(x):
        return mpmath.fsum(LN2 ** (k + 2) * x**k / mpmath.factorial(k + 2) for k in range(40))

    def erf_tail(z):
        return mpmath.fsum((-1) ** k * z ** (k - 1) / (mpmath.factorial(k) * (2 * k + 1)) for k in range(1, 40)) * (
            2 / mpmath.sqrt(PI)
        )

    def scaled_erfc(t):
        x = ERFC_CENTER * (1 + t) / (1 - t)
        return (1 + 2 * x) * mpmath.exp(x * x) * mpmath.erfc(x)

    def erfc_range(last):
        return [(x - ERFC_CENTER) / (x + ERFC_CENTER) for x in (mpf(1) / 2, mpf(last))]

    quarter = PI / 4 * (1 + mpf(2) ** -20)
    relative = lambda t: 1 / scaled_erfc(t)
    wide = PI / 2 * mpf(9) / 16
    s_max = (mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1) * (1 + mpf(2) ** -20)
    tail_weight = lambda x: x**2
    plan = [
        ("EXP", "(exp(r) - 1 - r) / r**2", exp_tail, tail_weight, -HALF_LN2, HALF_LN2, 10, 5),
        ("SIN", "(sin(r) - r) / r**3 in r**2", sin_tail, lambda z: z, 0, quarter**2, 5, 2),
        ("COS", "(cos(r) - 1 + r**2/2) / r**4 in r**2", cos_tail, lambda z: z**2, 0, quarter**2, 5, 2),
        ("SINH", "(sinh(r) - r) / r**3 in r**2", sinh_tail, lambda z: z, 0, HALF_LN2**2, 4, 1),
        ("COSH", "(cosh(r) - 1 - r**2/2) / r**4 in r**2", cosh_tail, lambda z: z**2, 0, HALF_LN2**2, 4, 1),
        ("LOG", "(2 atanh(s)/s - 2) / s**2 in s**2", atanh_tail, lambda z: z, 0, s_max**2, 6, 2),
        ("POW_LOG", "(log(1 + r) - r + r**2/2) / r**3", log1p_tail, tail_weight, -1 / mpf(128), 1 / mpf(128), 6, None),
        ("ASIN", "(asin(x) - x) / x**3 in x**2", asin_tail, lambda z: z, 0, mpf(1) / 4, 12, 4),
        ("ATAN", "(atan(x) - x) / x**3 in x**2", atan_tail, lambda z: z, 0, mpf(1) / 4, 12, 4),
        ("EXP2", "(2**x - 1 - x log 2) / x**2", exp2_tail, tail_weight, -mpf(1) / 2, mpf(1) / 2, 9, 4),
        ("ERF", "(erf(x) - 2 x / sqrt(pi)) / x**3 in x**2", erf_tail, lambda z: z, 0, mpf(1) / 4, 8, 3),
        ("ERFC", "(1 + 2 x) exp(x**2) erfc(x) in (x - 4) / (x + 4)", scaled_erfc, relative, *erfc_range(28), 21, None),
        ("ERFC_F32", "the same", scaled_erfc, relative, *erfc_range(11), None, 9),
        ("EXP_SHORT", "(exp(r) - 1 - r) / r**2", exp_tail, tail_weight, -HALF_LN2, HALF_LN2, 5, None),
        ("POW_LOG_SHORT", "(log(1 + r) - r + r**2/2) / r**3", log1p_tail, tail_weight, -1 / mpf(128), 1 / mpf(128), 2, None),
        ("SIN_SHORT", "(sin(r) - r) / r**3 in r**2", sin_tail, lambda z: z, 0, wide**2, 2, None),
        ("COS_SHORT", "(cos(r) - 1 + r**2/2) / r**4 in r**2", cos_tail, lambda z: z**2, 0, wide**2, 2, None),
        ("CBRT_ESTIMATE", "m**(-1/3)", lambda m: m ** (-mpf(1) / 3), lambda m: m ** (mpf(1) / 3), 1, 2, 4, 3),
    ]
    for name, what, f, weight, a, b, degree, degree_f32 in plan:
        if degree is not None:
            yield (name, what, *fit(f, weight, a, b, degree, pairs=name == "ERFC"))
        if degree_f32 is not None:
            yield (name + "_F32" * (degree is not None), what, *fit(f, weight, a, b, degree_f32, "f32", pairs=name == "ERFC_F32"))


def constants():
    """Yields (name, what it is, tuple of floats)."""
    yield "LN2", "log 2: 42 bits, then the rest, so that k * LN2[0] is exact for |k| <= 2048", split(LN2, 42)
    yield "LN2_FULL", "log 2 in two doubles", split(LN2, 53)
    yield "LN2_F32", "log 2: 15 bits, then the rest", split_f32(LN2, 15)
    yield "LN2_FULL_F32", "log 2 in two singles", split_f32(LN2, 24)
    yield "INV_LN2", "1 / log 2", split(1 / LN2, 53)
    yield "INV_LN2_F32", "1 / log 2", split_f32(1 / LN2, 24)
    yield "INV_LN10", "1 / log 10", split(1 / mpmath.log(10), 53)
    yield "INV_LN10_F32", "1 / log 10", split_f32(1 / mpmath.log(10), 24)
    yield "LOG10_2", "log10 2: 42 bits, then the rest", split(mpmath.log10(2), 42)
    yield "LOG10_2_F32", "log10 2: 15 bits, then the rest", split_f32(mpmath.log10(2), 15)
    yield "HALF_PI", "pi / 2", split(PI / 2, 53)
    yield "HALF_PI_F32", "pi / 2", split_f32(PI / 2, 24)
    yield "TWO_OVER_SQRT_PI", "2 / sqrt(pi)", split(2 / mpmath.sqrt(PI), 53)
    yield "TWO_OVER_SQRT_PI_F32", "2 / sqrt(pi)", split_f32(2 / mpmath.sqrt(PI), 24)
    yield "CBRT_SCALE", "2**(0/3), 2**(1/3), 2**(2/3)", tuple(float(mpf(2) ** (mpf(k) / 3)) for k in range(3))


LOG_CELLS = 128
LOG_START = (1 + mpf(54) / 128) / 2


def two_over_pi():
    """2**(16 j) * 2/pi mod 4, j = 0 .. 60, in fixed point: multiples of 2**-49, 2**-100, 2**-151, and the rest."""
    return _fixed_point_two_over_pi([16 * j for j in range(61)], (49, 100, 151, 260))


def two_over_pi_f32():
    """2**j * 2/pi mod 4, j = 0 .. 104, in fixed point: a multiple of 2**-27 (times 24 bits exact), and the rest."""
    return _fixed_point_two_over_pi(range(105), (27, 110))


def _fixed_point_two_over_pi(exponents, positions):
    columns = [[] for _ in positions]
    with mpmath.workprec(1500):
        for exponent in exponents:
            value = mpmath.fmod(mpf(2) ** exponent * 2 / PI, 4)
            for column, bits in zip(columns, positions):
                part = mpf(float(mpmath.nint(value * mpf(2) ** bits) / mpf(2) ** bits))
                column.append(float(part))
                value -= part
    return columns


def log_table():
    """For 128 cells of [LOG_START, 2 LOG_START): c ~ 1/m, -log(c) as a multiple of 2**-42, and the rest.

    Cells are 1/256 wide below 1, 1/128 above; the two beside 1 have c = 1, so that log keeps its relative accuracy.
    c has so few bits that c m - 1 is a multiple of 2**-60; being below 2**-7, it is exact in a double.
    """
    columns = ([], [], [])
    low = LOG_START
    for _ in range(LOG_CELLS):
        steps = mpf(128 if low < 1 else 256)
        high = low + (mpf(1) / 256 if low < 1 else mpf(1) / 128)
        c = mpf(1) if 1 in (low, high) else mpmath.nint(2 / (low + high) * steps) / steps
        value = -mpmath.log(c)
        head = mpmath.nint(value * mpf(2) ** 42) / mpf(2) ** 42
        for column, part in zip(columns, (c, head, value - head)):
            column.append(float(part))
        low = high
    return columns


def text_of(values):
    """A tuple of floats (or of tuples of them) as Python source, four to a line."""
    items = [repr(v) for v in values]
    lines = ["    " + ", ".join(items[i : i + 4]) + "," for i in range(0, len(items), 4)]
    return "(\n" + "\n".join(lines) + "\n)"


def main():
    out = [
        '"""Coefficients and tables of the vector math library. Generated by coefficients.py: do not edit.\n\n'
        "Polynomials run from the constant term up. Floats are written so that they round-trip.\n"
        '"""\n'
    ]
    for name, what, values in constants():
        out.append(f"# {what}.\n{name} = {values!r}\n")
    for name, what, values, error in polynomials():
        out.append(f"# {what}; largest weighted error 2**{float(mpmath.log(error, 2)):.1f}.\n{name} = {text_of(values)}\n")
        print(name, len(values), float(mpmath.log(error, 2)), flush=True)
    for name, make in (
        ("LOG_TABLE", log_table),
        ("TWO_OVER_PI", two_over_pi),
        ("TWO_OVER_PI_F32", two_over_pi_f32),
    ):
        out.append(f"# {' '.join(make.__doc__.split())}")
        out.append(f"{name} = (\n" + "\n".join("    " + text_of(c).replace("\n", "\n    ") + "," for c in make()) + "\n)\n")
    Path(__file__).with_name("tables.py").write_text("\n".join(out))


if __name__ == "__main__":
    main()
