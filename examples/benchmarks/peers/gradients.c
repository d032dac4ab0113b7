/* Gradients by hand: what a careful C programmer would write, compiled with gcc -O3 -march=native -ffast-math (which also lets
   gcc call the vector sin, exp, log, erf and tanh of glibc's libmvec). With -fopenmp large sizes use all threads.

   Arguments are NumPy arrays as they are in Python (objects): DATA reads their data pointer, the first field after the object's
   head, since asking Python for it costs more than most of these functions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DATA(array) (*(double **)((char *)(array) + 2 * sizeof(void *)))
#define TILE 64 /* elements at a time where an intermediate array pays */
#define MANY 20000 /* elements from which threads pay */

double scalar(double x) { return 2.0 * sin(x) * cos(x); }

/* sin and cos of one argument in one loop would become calls of the scalar sincos: they get a loop each */
#define SIN_SQUARED(name, result)                                                    \
  void name(void *in, void *out, long n) {                                           \
    const double *restrict x = DATA(in);                                             \
    double *restrict y = DATA(out);                                                  \
    _Pragma("omp parallel for if (n > MANY)") for (long at = 0; at < n; at += TILE) { \
      long m = n - at < TILE ? n - at : TILE;                                        \
      double sine[TILE];                                                             \
      for (long i = 0; i < m; i++) sine[i] = sin(x[at + i]);                         \
      for (long i = 0; i < m; i++) {                                                 \
        double s = sine[i], c = cos(x[at + i]);                                      \
        y[at + i] = result;                                                          \
      }                                                                              \
    }                                                                                \
  }
SIN_SQUARED(sin_squared_1, 2.0 * s * c)
SIN_SQUARED(sin_squared_2, 2.0 * (c * c - s * s))
SIN_SQUARED(sin_squared_3, -8.0 * s * c)

double rosenbrock(void *in, void *out, long n) {
  const double *restrict x = DATA(in);
  double *restrict g = DATA(out);
  double rest = 1.0 - x[0], bend = x[1] - x[0] * x[0], value = 100.0 * bend * bend + rest * rest;
  g[0] = -400.0 * x[0] * bend - 2.0 * rest;
#pragma omp parallel for reduction(+ : value) if (n > MANY)
  for (long i = 1; i < n - 1; i++) {
    double r = 1.0 - x[i], b = x[i + 1] - x[i] * x[i];
    value += 100.0 * b * b + r * r;
    g[i] = 200.0 * (x[i] - x[i - 1] * x[i - 1]) - 400.0 * x[i] * b - 2.0 * r;
  }
  g[n - 1] = 200.0 * (x[n - 1] - x[n - 2] * x[n - 2]);
  return value;
}

void hessian(void *in, void *out, long n) {
  const double *restrict x = DATA(in);
  double *restrict h = DATA(out);
  memset(h, 0, n * n * sizeof(double));
  for (long i = 0; i < n - 1; i++) {
    h[i * n + i] = 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + (i ? 202.0 : 2.0);
    h[i * n + i + 1] = h[(i + 1) * n + i] = -400.0 * x[i];
  }
  h[n * n - 1] = 200.0;
}

void options(void *in0, void *in1, void *in2, void *in3, void *in4, void *out0, void *out1, void *out2, void *out3, void *out4,
             void *out5, long n) {
  const double *restrict spot = DATA(in0), *restrict strike = DATA(in1), *restrict volatility = DATA(in2);
  const double *restrict years = DATA(in3), *restrict rate = DATA(in4);
  double *restrict price = DATA(out0), *restrict d_spot = DATA(out1), *restrict d_strike = DATA(out2);
  double *restrict d_volatility = DATA(out3), *restrict d_years = DATA(out4), *restrict d_rate = DATA(out5);
#pragma omp parallel for simd if (parallel : n > MANY)
  for (long i = 0; i < n; i++) {
    double s = spot[i], k = strike[i], v = volatility[i], t = years[i], r = rate[i];
    double root = sqrt(t), spread = v * root, d1 = (log(s / k) + r * t) / spread + 0.5 * spread;
    double p1 = 0.5 + 0.5 * erf(d1 * M_SQRT1_2), p2 = 0.5 + 0.5 * erf((d1 - spread) * M_SQRT1_2);
    double discount = exp(-r * t) * p2, due = k * discount;
    double density = s * exp(-0.5 * d1 * d1) * 0.3989422804014327;
    price[i] = s * p1 - due;
    d_spot[i] = p1;
    d_strike[i] = -discount;
    d_volatility[i] = density * root;
    d_years[i] = 0.5 * density * v / root + r * due;
    d_rate[i] = t * due;
  }
}

double logistic(void *in0, void *in1, void *in2, void *out, long rows, long columns) {
  const double *restrict w = DATA(in0), *restrict x = DATA(in1), *restrict y = DATA(in2);
  double *restrict g = DATA(out), value = 0.0, scale = -1.0 / rows;
  memset(g, 0, columns * sizeof(double));
#pragma omp parallel for reduction(+ : value, g[ : columns]) if (rows * columns > MANY)
  for (long at = 0; at < rows; at += TILE) {
    long m = rows - at < TILE ? rows - at : TILE;
    const double *restrict part = x + at * columns;
    double margin[TILE];
    for (long i = 0; i < m; i++) {
      double dot = 0.0;
      for (long j = 0; j < columns; j++) dot += part[i * columns + j] * w[j];
      margin[i] = y[at + i] * dot;
    }
    for (long i = 0; i < m; i++) {
      double e = exp(-fabs(margin[i])), below = margin[i] < 0.0 ? 1.0 : e;
      value += log(1.0 + e) - (margin[i] < 0.0 ? margin[i] : 0.0);
      margin[i] = scale * y[at + i] * below / (1.0 + e);
    }
    for (long i = 0; i < m; i++)
      for (long j = 0; j < columns; j++) g[j] += margin[i] * part[i * columns + j];
  }
  return value / rows;
}

/* Points are taken LANES at a time, one per vector lane, so that the triangular products, the exponentials and the sums over
   components need no shuffles; what belongs to a component is summed over lanes once for each block. */
#define LANES 32
double mixture(void *in0, void *in1, void *in2, void *in3, void *out0, void *out1, void *out2, long n, long d, long k) {
  const double *restrict alphas = DATA(in0), *restrict means = DATA(in1), *restrict factors = DATA(in2), *restrict x = DATA(in3);
  double *restrict d_alphas = DATA(out0), *restrict d_means = DATA(out1), *restrict d_factors = DATA(out2);
  long kd = k * d, kdd = k * d * d;
  double *restrict q = calloc(kdd, sizeof(double)), *restrict base = calloc(k, sizeof(double));
  double value = 0.0, sum = 0.0;
  for (long c = 0; c < k; c++) {
    base[c] = alphas[c];
    for (long i = 0; i < d; i++) {
      for (long j = 0; j < i; j++) q[(c * d + i) * d + j] = factors[(c * d + i) * d + j];
      base[c] += factors[(c * d + i) * d + i];
      q[(c * d + i) * d + i] = exp(factors[(c * d + i) * d + i]);
    }
    sum += exp(alphas[c]);
  }
  memset(d_alphas, 0, k * sizeof(double));
  memset(d_means, 0, kd * sizeof(double));
  memset(d_factors, 0, kdd * sizeof(double));
#pragma omp parallel reduction(+ : value, d_alphas[ : k], d_means[ : kd], d_factors[ : kdd]) if (n * kd > MANY)
  {
    double(*restrict y)[LANES] = aligned_alloc(64, (kd + k + 3 * d) * sizeof(*y));
    double(*restrict share)[LANES] = y + kd, (*restrict point)[LANES] = share + k, (*restrict centered)[LANES] = point + d;
    double(*restrict weighted)[LANES] = centered + d;
#pragma omp for
    for (long at = 0; at < n; at += LANES) {
      long m = n - at < LANES ? n - at : LANES;
      double top[LANES], total[LANES] = {0};
      for (long b = 0; b < LANES; b++)
        for (long i = 0; i < d; i++) point[i][b] = b < m ? x[(at + b) * d + i] : 0.0;
      for (long b = 0; b < LANES; b++) top[b] = -INFINITY;
      for (long c = 0; c < k; c++) {
        double square[LANES] = {0};
        for (long i = 0; i < d; i++) {
          double row[LANES] = {0};
          for (long b = 0; b < LANES; b++) centered[i][b] = point[i][b] - means[c * d + i];
          for (long j = 0; j <= i; j++)
            for (long b = 0; b < LANES; b++) row[b] += q[(c * d + i) * d + j] * centered[j][b];
          for (long b = 0; b < LANES; b++) {
            y[c * d + i][b] = row[b];
            square[b] += row[b] * row[b];
          }
        }
        for (long b = 0; b < LANES; b++) {
          share[c][b] = base[c] - 0.5 * square[b];
          top[b] = share[c][b] > top[b] ? share[c][b] : top[b];
        }
      }
      for (long c = 0; c < k; c++)
        for (long b = 0; b < LANES; b++) total[b] += share[c][b] = exp(share[c][b] - top[b]);
      for (long b = 0; b < m; b++) value += log(total[b]) + top[b];
      for (long b = 0; b < LANES; b++) total[b] = b < m ? 1.0 / total[b] : 0.0;
      for (long c = 0; c < k; c++) {
        double of_alpha = 0.0;
        for (long b = 0; b < LANES; b++) of_alpha += share[c][b] *= total[b];
        d_alphas[c] += of_alpha;
        for (long i = 0; i < d; i++)
          for (long b = 0; b < LANES; b++) {
            centered[i][b] = point[i][b] - means[c * d + i];
            weighted[i][b] = share[c][b] * y[c * d + i][b];
          }
        for (long i = 0; i < d; i++) {
          double of_mean = 0.0;
          for (long b = 0; b < LANES; b++) of_mean += weighted[i][b];
          for (long j = 0; j <= i; j++) {
            double of_factor = 0.0;
            for (long b = 0; b < LANES; b++) of_factor += weighted[i][b] * centered[j][b];
            d_factors[(c * d + i) * d + j] -= of_factor;
            d_means[c * d + j] += q[(c * d + i) * d + j] * of_mean;
          }
        }
      }
    }
    free(y);
  }
  for (long c = 0; c < k; c++) {
    for (long i = 0; i < d; i++) {
      double *slope = &d_factors[(c * d + i) * d + i];
      *slope = *slope * q[(c * d + i) * d + i] + d_alphas[c];
    }
  }
  for (long c = 0; c < k; c++) d_alphas[c] -= n * exp(alphas[c]) / sum;
  free(q);
  free(base);
  return value - n * log(sum);
}

/* The equation of state: Horner's rule carries the derivatives along. c: 4 x 4 for each power of pressure. */
#define CUBIC(c) (((c)[3] * t + (c)[2]) * t + (c)[1]) * t + (c)[0]
#define CUBIC_SLOPE(c) (3.0 * (c)[3] * t + 2.0 * (c)[2]) * t + (c)[1]
#define PLANE(c, v, by_t, by_r)                                                                               \
  double v##0 = CUBIC(c), v##1 = CUBIC((c) + 4), v##2 = CUBIC((c) + 8), v##3 = CUBIC((c) + 12);                 \
  double v = ((v##3 * r + v##2) * r + v##1) * r + v##0, by_r = (3.0 * v##3 * r + 2.0 * v##2) * r + v##1;        \
  double by_t = (((CUBIC_SLOPE((c) + 12)) * r + (CUBIC_SLOPE((c) + 8))) * r + (CUBIC_SLOPE((c) + 4))) * r + (CUBIC_SLOPE(c))
void state(void *in0, void *in1, void *in2, void *out0, void *out1, void *out2, void *in3, void *in4, long n) {
  const double *restrict salinity = DATA(in0), *restrict temperature = DATA(in1), *restrict pressure = DATA(in2);
  double *restrict d_salinity = DATA(out0), *restrict d_temperature = DATA(out1), *restrict d_pressure = DATA(out2);
  const double *restrict a = DATA(in3), *restrict b = DATA(in4);
#pragma omp parallel for simd if (parallel : n > MANY)
  for (long i = 0; i < n; i++) {
    double r = sqrt(salinity[i]), t = temperature[i], p = pressure[i];
    PLANE(a, a0, a0_t, a0_r);
    PLANE(a + 16, a1, a1_t, a1_r);
    PLANE(a + 32, a2, a2_t, a2_r);
    PLANE(a + 48, a3, a3_t, a3_r);
    PLANE(b, b0, b0_t, b0_r);
    PLANE(b + 16, b1, b1_t, b1_r);
    PLANE(b + 32, b2, b2_t, b2_r);
    double top = ((a3 * p + a2) * p + a1) * p + a0, bottom = (b2 * p + b1) * p + b0;
    double over = 1.0 / bottom, ratio = top * over, e = 0.02 * exp(-p * t);
    double top_t = ((a3_t * p + a2_t) * p + a1_t) * p + a0_t, bottom_t = (b2_t * p + b1_t) * p + b0_t;
    double top_r = ((a3_r * p + a2_r) * p + a1_r) * p + a0_r, bottom_r = (b2_r * p + b1_r) * p + b0_r;
    double top_p = (3.0 * a3 * p + 2.0 * a2) * p + a1, bottom_p = 2.0 * b2 * p + b1;
    d_salinity[i] = (top_r - ratio * bottom_r) * over * 0.5 / r;
    d_temperature[i] = (top_t - ratio * bottom_t) * over - e * p;
    d_pressure[i] = (top_p - ratio * bottom_p) * over - e * t;
  }
}

/* The chain is elementwise: its derivative is carried forward beside it. */
void chain(void *in, void *out, long n, long length) {
  const double *restrict x = DATA(in);
  double *restrict g = DATA(out), y[16], over[16];
  for (long i = 0; i < n; i++) {
    y[i] = x[i];
    g[i] = 1.0;
    over[i] = 1.0 / (x[i] + 1.0);
  }
  for (long step = 0; step < length / 4; step++)
    for (long i = 0; i < n; i++) {
      double top = y[i] * x[i] + 0.5 - (x[i] + 1.0), slope = g[i] * x[i] + y[i] - 1.0;
      y[i] = top * over[i];
      g[i] = (slope - y[i]) * over[i];
    }
}

/* Lotka and Volterra by Runge-Kutta: the states are kept, each step is computed again on the way back. */
double orbit(void *in, void *rates, void *d_start, void *d_rates, long steps) {
  const double *restrict r = DATA(rates);
  double *restrict gs = DATA(d_start), *restrict gr = DATA(d_rates);
  double a = r[0], b = r[1], c = r[2], d = r[3], h = 10.0 / steps, half = 0.5 * h, sixth = h / 6.0;
  double x = DATA(in)[0], y = DATA(in)[1];
  double *kept = malloc(2 * steps * sizeof(double));
  for (long i = 0; i < steps; i++) {
    kept[2 * i] = x;
    kept[2 * i + 1] = y;
    double k1 = x * (a - b * y), l1 = y * (d * x - c);
    double x2 = x + half * k1, y2 = y + half * l1, k2 = x2 * (a - b * y2), l2 = y2 * (d * x2 - c);
    double x3 = x + half * k2, y3 = y + half * l2, k3 = x3 * (a - b * y3), l3 = y3 * (d * x3 - c);
    double x4 = x + h * k3, y4 = y + h * l3, k4 = x4 * (a - b * y4), l4 = y4 * (d * x4 - c);
    x += sixth * (k1 + 2.0 * k2 + 2.0 * k3 + k4);
    y += sixth * (l1 + 2.0 * l2 + 2.0 * l3 + l4);
  }
  double value = x * x + y, gx = 2.0 * x, gy = 1.0, ga = 0.0, gb = 0.0, gc = 0.0, gd = 0.0;
  for (long i = steps - 1; i >= 0; i--) {
    x = kept[2 * i];
    y = kept[2 * i + 1];
    double k1 = x * (a - b * y), l1 = y * (d * x - c);
    double x2 = x + half * k1, y2 = y + half * l1, k2 = x2 * (a - b * y2), l2 = y2 * (d * x2 - c);
    double x3 = x + half * k2, y3 = y + half * l2, k3 = x3 * (a - b * y3), l3 = y3 * (d * x3 - c);
    double x4 = x + h * k3, y4 = y + h * l3;
    double sx = gx, sy = gy, dx, dy, dk, dl;
#define PULL(X, Y)                               \
  dx = dk * (a - b * (Y)) + dl * d * (Y);        \
  dy = dl * (d * (X) - c) - dk * b * (X);        \
  ga += dk * (X);                                \
  gb -= dk * (X) * (Y);                          \
  gc -= dl * (Y);                                \
  gd += dl * (X) * (Y);                          \
  sx += dx;                                      \
  sy += dy;
    dk = sixth * gx, dl = sixth * gy;
    PULL(x4, y4)
    dk = 2.0 * sixth * gx + h * dx, dl = 2.0 * sixth * gy + h * dy;
    PULL(x3, y3)
    dk = 2.0 * sixth * gx + half * dx, dl = 2.0 * sixth * gy + half * dy;
    PULL(x2, y2)
    dk = sixth * gx + half * dx, dl = sixth * gy + half * dy;
    PULL(x, y)
    gx = sx, gy = sy;
  }
  free(kept);
  gs[0] = gx, gs[1] = gy, gr[0] = ga, gr[1] = gb, gr[2] = gc, gr[3] = gd;
  return value;
}

/* One tanh layer forward and backward; sizes small enough that loops beat BLAS. */
static void forward(const double *restrict x, const double *restrict w, const double *restrict b, double *restrict out, long batch,
                    long rows, long columns) {
  for (long i = 0; i < batch; i++) {
    double *restrict h = out + i * columns;
    for (long j = 0; j < columns; j++) h[j] = b[j];
    for (long m = 0; m < rows; m++)
      for (long j = 0; j < columns; j++) h[j] += x[i * rows + m] * w[m * columns + j];
  }
  for (long i = 0; i < batch * columns; i++) out[i] = tanh(out[i]);
}

/* h: the layer's output; d: the slope with respect to it, then to what tanh was taken of; below: the slope of x, unless null */
static void backward(const double *restrict x, const double *restrict w, const double *restrict h, double *restrict d,
                     double *restrict dw, double *restrict db, double *restrict below, long batch, long rows, long columns) {
  memset(dw, 0, rows * columns * sizeof(double));
  memset(db, 0, columns * sizeof(double));
  for (long i = 0; i < batch * columns; i++) d[i] *= 1.0 - h[i] * h[i];
  for (long i = 0; i < batch; i++) {
    for (long j = 0; j < columns; j++) db[j] += d[i * columns + j];
    for (long m = 0; m < rows; m++)
      for (long j = 0; j < columns; j++) dw[m * columns + j] += x[i * rows + m] * d[i * columns + j];
    if (!below) continue;
    for (long m = 0; m < rows; m++) {
      double dot = 0.0;
      for (long j = 0; j < columns; j++) dot += d[i * columns + j] * w[m * columns + j];
      below[i * rows + m] = dot;
    }
  }
}

double tiny(void *in0, void *in1, void *in2, void *in3, void *in4, void *in5, void *in6, void *out0, void *out1, void *out2,
            void *out3, void *out4, void *out5, long batch) {
  const double *w1 = DATA(in0), *b1 = DATA(in1), *w2 = DATA(in2), *b2 = DATA(in3), *w3 = DATA(in4), *b3 = DATA(in5), *x = DATA(in6);
  double h1[batch * 16], h2[batch * 16], h3[batch], d1[batch * 16], d2[batch * 16], d3[batch], value = 0.0;
  forward(x, w1, b1, h1, batch, 2, 16);
  forward(h1, w2, b2, h2, batch, 16, 16);
  forward(h2, w3, b3, h3, batch, 16, 1);
  for (long i = 0; i < batch; i++) {
    value += h3[i];
    d3[i] = 1.0 / batch;
  }
  backward(h2, w3, h3, d3, DATA(out4), DATA(out5), d2, batch, 16, 1);
  backward(h1, w2, h2, d2, DATA(out2), DATA(out3), d1, batch, 16, 16);
  backward(x, w1, h1, d1, DATA(out0), DATA(out1), NULL, batch, 2, 16);
  return value / batch;
}
