"""Computes every polynomial and table of the vector math library with mpmath, and writes tables.py.

Usage: python -m tapejit.codegen.vecmath.coefficients   (a minute; mpmath is needed here and in report.py only)

A polynomial p approximates f on [a, b] so that max |w (f - p)| is least (Remez exchange on a Chebyshev grid), w,
a power of |x|, being chosen so that this error is relative to the function's result. Rounding is greedy: the constant term is
rounded to the format, the others are fitted again to what is left, and so on upwards, so that each coefficient
absorbs the rounding of those before it. The stated error is that of the rounded polynomial, exactly evaluated.
"""

import struct
import textwrap
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


def fit(f, power, a, b, degree, fmt="f64", pairs=0):
    """(rounded coefficients, max error times |x|**power); the first `pairs` coefficients become (high, low) pairs."""
    points = grid(mpf(a), mpf(b), 24 * (degree + 2))
    values, weights = [f(x) for x in points], [abs(x) ** power for x in points]
    keep = [i for i, w in enumerate(weights) if w > max(weights) * mpf(10) ** -8 and abs(points[i]) > mpf(10) ** -20]
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


LN2, LN10, PI, SQRT_PI = mpmath.log(2), mpmath.log(10), mpmath.pi, mpmath.sqrt(mpmath.pi)
ERFC_CENTER = 4
SLACK = 1 + mpf(2) ** -20  # intervals are a little wider than exact arithmetic would need
fact = mpmath.factorial


def series(coefficient, terms=60):
    """The function with the Taylor coefficients coefficient(0), coefficient(1), ..."""
    known = [mpf(1) * coefficient(k) for k in range(terms)]
    return lambda x: mpmath.polyval(known[::-1], x)


def scaled_erfc(t):
    """(1 + 2 x) exp(x**2) erfc(x) at the x that t = (x - 4) / (x + 4) comes from."""
    x = ERFC_CENTER * (1 + t) / (1 - t)
    return (1 + 2 * x) * mpmath.exp(x * x) * mpmath.erfc(x)


def cbrt_start(count=6000):
    """((c for f64, c for f32), largest |1 - a r**3|) with bits(r) = c - bits(a) / 3.

    Bits are exponent + mantissa - 1, piecewise linear in a: what c leaves of a r**3 is found on a grid over three binades.
    """

    def cubes(c):
        for i in range(3 * count):
            exponent, mantissa = divmod(mpf(i) / count, 1)
            r_exponent, r_mantissa = divmod(c - (exponent + mantissa) / 3, 1)
            yield mpf(2) ** exponent * (1 + mantissa) * (mpf(2) ** r_exponent * (1 + r_mantissa)) ** 3

    with mpmath.workprec(64):
        low, high = mpf(-1) / 8, mpf(0)
        for _ in range(20):
            c = (low + high) / 2
            values = list(cubes(c))
            too_large = max(values) - 1 > 1 - min(values)
            low, high = (low, c) if too_large else (c, high)
        error = max(max(values) - 1, 1 - min(values))
        return tuple(int(mpmath.nint((c + bias * mpf(4) / 3) * 2**width)) for bias, width in ((1023, 52), (127, 23))), error


GAMMA_CENTER, GAMMA_FAR = 2, 4  # beyond GAMMA_FAR, Stirling's series
STIRLING = (mpmath.log(2 * PI) - 1) / 2
PSI_ZERO = mpmath.findroot(mpmath.digamma, mpf("1.4616"))


def at_center(function):
    """function(x) as a function of t = (x - 2) / (x + 2), which maps the half line to an interval."""
    return lambda t: function(GAMMA_CENTER * (1 + t) / (1 - t))


def lgamma_over_zeros(x):
    """lgamma(x) / ((x - 1) (x - 2)), by its limits -digamma(1) and digamma(2) at the zeros."""
    if min(abs(x - 1), abs(x - 2)) < mpf(10) ** -60:
        return -mpmath.digamma(1) if x < mpf(3) / 2 else mpmath.digamma(2)
    return mpmath.loggamma(x) / ((x - 1) * (x - 2))


def digamma_over_zero(x):
    """digamma(x) / (x - its zero)"""
    return mpmath.digamma(x) / (x - PSI_ZERO)


def in_inverse_square(function, first, terms=26):
    """function(x) in v = x**-2: towards v = 0 from its asymptotic series, sum(first(k) v**(k - 1)) for k = 1, 2, ..."""
    series = [first(k) for k in range(1, terms)]
    return lambda v: mpmath.polyval(series[::-1], v) if v < mpf(1) / 900 else function(1 / mpmath.sqrt(v))


def lgamma_rest(x):
    """(lgamma(x) - (x - 1/2) (log x - 1) - (log(2 pi) - 1) / 2) x"""
    return (mpmath.loggamma(x) - (x - mpf(1) / 2) * (mpmath.log(x) - 1) - STIRLING) * x


def digamma_rest(x):
    """(log x - 1 / (2 x) - digamma(x)) x**2"""
    return (mpmath.log(x) - 1 / (2 * x) - mpmath.digamma(x)) * x * x


def plan():
    """Rows: name, what it approximates, f, power p of the weight |x|**p, interval, degrees for f64 and f32.

    The power is that of x in f's share of the function's result, so that errors are relative to the result.
    """
    def tan_coefficient(k):
        """Of x**(2 k + 3) in tan(x)."""
        return 4 ** (k + 2) * (4 ** (k + 2) - 1) * abs(mpmath.bernoulli(2 * k + 4)) / fact(2 * k + 4)

    exp_tail = series(lambda k: 1 / fact(k + 2))
    exp2_tail = series(lambda k: LN2 ** (k + 2) / fact(k + 2))
    sin_tail = series(lambda k: (-1) ** (k + 1) / fact(2 * k + 3))
    cos_tail = series(lambda k: (-1) ** k / fact(2 * k + 4))
    tan_tail = series(tan_coefficient, 150)
    tanh_tail = series(lambda k: (-1) ** (k + 1) * tan_coefficient(k), 150)  # converges up to (pi/2)**2
    sinh_tail = series(lambda k: 1 / fact(2 * k + 3))
    cosh_tail = series(lambda k: 1 / fact(2 * k + 4))
    atanh_tail = series(lambda k: mpf(2) / (2 * k + 3), 140)
    atanh_log2 = series(lambda k: mpf(2) / (2 * k + 1) / LN2, 140)
    cbrt_tail = series(lambda k: abs(mpmath.binomial(-mpf(1) / 3, k + 1)))
    cbrt_squared_tail = series(lambda k: abs(mpmath.binomial(-mpf(2) / 3, k + 1)))
    cbrt_error = cbrt_start()[1] * mpf("1.001")
    asin_tail = series(lambda k: mpmath.binomial(2 * k + 2, k + 1) / mpf(4) ** (k + 1) / (2 * k + 3), 120)
    atan_tail = series(lambda k: mpf(-1) ** (k + 1) / (2 * k + 3), 120)
    erf_tail = series(lambda k: (-1) ** (k + 1) * 2 / SQRT_PI / (fact(k + 1) * (2 * k + 3)))
    half_ln2 = (-LN2 / 2 * SLACK, LN2 / 2 * SLACK)
    half_ln2_squared = (0, half_ln2[1] ** 2)
    eighth_turn_squared = (0, (PI / 4 * SLACK) ** 2)
    from_sqrt_half = (mpmath.sqrt(mpf(1) / 2) - 1, mpmath.sqrt(2) - 1)
    log_squared = (0, ((mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1) * SLACK) ** 2)
    half_squared = (0, mpf(1) / 4)
    sin_what, cos_what = "(sin(r) - r) / r**3 in r**2", "(cos(r) - 1 + r**2/2) / r**4 in r**2"
    exp_what, atanh_what = "(exp(r) - 1 - r) / r**2", "(2 atanh(s)/s - 2) / s**2 in s**2"
    gamma_near = ((mpf(1) - GAMMA_CENTER) / (1 + GAMMA_CENTER), mpf(GAMMA_FAR - GAMMA_CENTER) / (GAMMA_FAR + GAMMA_CENTER))
    gamma_far = (0, mpf(1) / GAMMA_FAR**2)
    lgamma_what = "lgamma(x) / ((x - 1) (x - 2)) in (x - 2) / (x + 2), 1 < x < 4"
    digamma_what = "digamma(x) over x minus its zero in (x - 2) / (x + 2), 1 < x < 4"
    lgamma_near, digamma_near = at_center(lgamma_over_zeros), at_center(digamma_over_zero)
    lgamma_far = in_inverse_square(lgamma_rest, lambda k: mpmath.bernoulli(2 * k) / (2 * k * (2 * k - 1)))
    digamma_far = in_inverse_square(digamma_rest, lambda k: mpmath.bernoulli(2 * k) / (2 * k))
    lgamma_rest_what, digamma_rest_what = (f"{f.__doc__} in x**-2, x > 4" for f in (lgamma_rest, digamma_rest))
    erfc_what = "(1 + 2 x) exp(x**2) erfc(x) in (x - 4) / (x + 4), first term in two parts,"

    def erfc_range(last):
        return [(x - ERFC_CENTER) / (x + ERFC_CENTER) for x in (mpf(1) / 2, mpf(last))]

    return [
        ("EXP", exp_what, exp_tail, 2, half_ln2, 10, 5),
        ("EXP2", "(2**x - 1 - x log 2) / x**2", exp2_tail, 2, (-mpf(1) / 2, mpf(1) / 2), 9, 4),
        ("SINH", "(sinh(r) - r) / r**3 in r**2", sinh_tail, 1, half_ln2_squared, 4, 1),
        ("TANH_F32", "(tanh(x) - x) / x**3 in x**2", tanh_tail, 1, (0, 1), None, 6),
        ("COSH", "(cosh(r) - 1 - r**2/2) / r**4 in r**2", cosh_tail, 2, half_ln2_squared, 4, 1),
        ("SIN", sin_what, sin_tail, 1, eighth_turn_squared, 5, 2),
        ("COS", cos_what, cos_tail, 2, eighth_turn_squared, 5, 2),
        ("TAN", "(tan(r) - r) / r**3 in r**2", tan_tail, 1, eighth_turn_squared, 13, 6),
        ("LOG", atanh_what, atanh_tail, 1, log_squared, 6, 2),
        ("LOG1P", atanh_what, atanh_tail, 1, (0, (mpf(1) / 5) ** 2), 7, 3),
        ("LOG2_F32", "log2(1 + f) / f - 1", lambda f: mpmath.log1p(f) / f / LN2 - 1, 0, from_sqrt_half, None, 9),
        ("LOG10_F32", "log10(1 + f) / f - 1/2", lambda f: mpmath.log1p(f) / f / LN10 - mpf(1) / 2, 0, from_sqrt_half, None, 9),
        ("POW_LOG", f"{atanh_what}, first term in two parts", atanh_tail, 1, log_squared, 7, None),
        ("ASIN", "(asin(x) - x) / x**3 in x**2", asin_tail, 1, half_squared, 12, 4),
        ("ATAN", "(atan(x) - x) / x**3 in x**2", atan_tail, 1, (0, (mpf(9) / 16) ** 2), 12, 5),
        ("ERF", "(erf(x) - 2 x / sqrt(pi)) / x**3 in x**2", erf_tail, 1, half_squared, 8, 3),
        ("ERFC", f"{erfc_what} 1/2 < x < 28", scaled_erfc, 0, erfc_range(28), 21, None),
        ("ERFC_F32", f"{erfc_what} 1/2 < x < 11", scaled_erfc, 0, erfc_range(11), None, 9),
        ("CBRT", "((1 - e)**(-1/3) - 1) / e", cbrt_tail, 1, (-cbrt_error, cbrt_error), 5, None),
        ("CBRT_SQUARED_F32", "((1 - e)**(-2/3) - 1) / e", cbrt_squared_tail, 1, (-cbrt_error, cbrt_error * 5 / 4), None, 5),
        ("LGAMMA", lgamma_what, lgamma_near, 0, gamma_near, 21, None),
        ("LGAMMA_REST", lgamma_rest_what, lgamma_far, 0, gamma_far, 8, None),
        ("DIGAMMA", digamma_what, digamma_near, 0, gamma_near, 22, None),
        ("DIGAMMA_REST", digamma_rest_what, digamma_far, 0, gamma_far, 9, None),
        # Evaluated in double arithmetic on behalf of f32.
        ("LGAMMA_SHORT", lgamma_what, lgamma_near, 0, gamma_near, 11, None),
        ("LGAMMA_REST_SHORT", lgamma_rest_what, lgamma_far, 0, gamma_far, 2, None),
        ("DIGAMMA_SHORT", digamma_what, digamma_near, 0, gamma_near, 13, None),
        ("DIGAMMA_REST_SHORT", digamma_rest_what, digamma_far, 0, gamma_far, 2, None),
        ("POW_LOG2_SHORT", "2 atanh(s) / (s log 2) in s**2", atanh_log2, 0, log_squared, 4, None),
        ("EXP2_SHORT", "2**x", lambda x: mpf(2) ** x, 0, (-mpf(1) / 2, mpf(1) / 2), 6, None),
    ]


def polynomials():
    """Yields (name, what it approximates, coefficients, error)."""
    for name, what, f, power, interval, *degrees in plan():
        for fmt, degree in zip(("f64", "f32"), degrees):
            if degree is not None:
                full_name = name if fmt == "f64" or name.endswith("_F32") else name + "_F32"
                pairs = 1 if "in two parts" in what else 0
                yield full_name, what, *fit(f, power, *interval, degree, fmt, pairs)


def constants():
    """Yields (name, what it is, tuple of floats)."""
    yield "LN2", "log 2: 42 bits, then the rest, so that k * LN2[0] is exact for |k| <= 2048", split(LN2, 42)
    yield "LN2_FULL", "log 2 in two doubles", split(LN2, 53)
    yield "LN2_F32", "log 2: 15 bits, then the rest", split_f32(LN2, 15)
    yield "LN2_FULL_F32", "log 2 in two singles", split_f32(LN2, 24)
    yield "INV_LN2", "1 / log 2", split(1 / LN2, 53)
    yield "INV_LN2_F32", "1 / log 2", split_f32(1 / LN2, 24)
    yield "INV_LN10", "1 / log 10", split(1 / LN10, 53)
    yield "INV_LN10_F32", "1 / log 10", split_f32(1 / LN10, 24)
    yield "LOG10_2", "log10 2: 42 bits, then the rest", split(mpmath.log10(2), 42)
    yield "LOG10_2_F32", "log10 2: 15 bits, then the rest", split_f32(mpmath.log10(2), 15)
    yield "HALF_PI", "pi / 2 in three parts, the second positive", split(PI / 2, 53, 53)
    yield "HALF_PI_F32", "pi / 2 in three parts, the second positive", split_f32(PI / 2, 23, 24)
    yield "TWO_OVER_PI_FULL", "2 / pi", split(2 / PI, 53)
    yield "TWO_OVER_PI_FULL_F32", "2 / pi", split_f32(2 / PI, 24)
    yield "PI", "pi in two parts", split(PI, 53)
    yield "PSI_ZERO", "the positive zero of digamma in two parts", split(PSI_ZERO, 53)
    yield "STIRLING", "(log(2 pi) - 1) / 2", split(STIRLING, 53)
    yield "TWO_OVER_SQRT_PI", "2 / sqrt(pi)", split(2 / mpmath.sqrt(PI), 53)
    yield "TWO_OVER_SQRT_PI_F32", "2 / sqrt(pi)", split_f32(2 / mpmath.sqrt(PI), 24)
    yield "CBRT_BITS", "bits(a**(-1/3)) + bits(a) / 3, about, for f64 and f32", cbrt_start()[0]


def two_over_pi():
    """2**(16 j) * 2/pi mod 4, j = 0 .. 60, in fixed point: multiples of 2**-49, 2**-100, 2**-151, and the rest."""
    positions = (49, 100, 151, 260)
    columns = [[] for _ in positions]
    with mpmath.workprec(1500):
        for exponent in range(0, 61 * 16, 16):
            value = mpmath.fmod(mpf(2) ** exponent * 2 / PI, 4)
            for column, bits in zip(columns, positions):
                part = mpf(float(mpmath.nint(value * mpf(2) ** bits) / mpf(2) ** bits))
                column.append(float(part))
                value -= part
    return columns


def text_of(values):
    """A tuple of floats (or of tuples of them) as Python source."""
    text = textwrap.fill(", ".join(map(repr, values)) + ",", 104, break_on_hyphens=False, break_long_words=False)
    return "(\n" + textwrap.indent(text, "    ") + "\n)"


def main():
    out = [
        '"""Coefficients and tables of the vector math library. Generated by coefficients.py: do not edit.\n\n'
        "Polynomials run from the constant term up. Floats are written so that they round-trip.\n"
        '"""\n'
    ]
    for name, what, values in constants():
        out.append(f"# {what}.\n{name} = {values!r}\n")
    for name, what, values, error in polynomials():
        size = float(mpmath.log(error, 2))
        out.append(f"# {what}; error 2**{size:.1f}.\n{name} = {text_of(values)}\n")
        print(f"{name}: {len(values)} coefficients, error 2**{size:.1f}", flush=True)
    out.append(f"# {two_over_pi.__doc__}")
    columns = [text_of(column).replace("\n", "\n    ") for column in two_over_pi()]
    out.append("TWO_OVER_PI = (\n    " + ",\n    ".join(columns) + ",\n)\n")
    Path(__file__).with_name("tables.py").write_text("\n".join(out))


if __name__ == "__main__":
    main()
