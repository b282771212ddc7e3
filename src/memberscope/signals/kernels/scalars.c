/* Sums over the classes of a record's logits (signals/once.py): each logit is read once, and costs one exponential. */
#pragma GCC optimize("fp-contract=fast")
#include <math.h>
#include <stdint.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef int64_t i64;
typedef double v8 __attribute__((vector_size(64)));
typedef i64 w8 __attribute__((vector_size(64)));

#define ALL(x) ((v8){x, x, x, x, x, x, x, x})

static inline v8 larger(v8 a, v8 b) { w8 m = a > b; return (v8)(((w8)a & m) | ((w8)b & ~m)); }
static inline double top_of(v8 a) {
    double most = a[0];
    for (int i = 1; i < 8; i++) most = a[i] > most ? a[i] : most;
    return most;
}
static inline double sum_of(v8 a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }
static inline int any_of(w8 mask) {
#ifdef __AVX512F__
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3] | mask[4] | mask[5] | mask[6] | mask[7]) != 0;
#endif
}

/* exp(x) of x in [-700, 0] within an ulp or two: x = n log 2 + r, and a polynomial in r (error 1.7e-17). */
static inline v8 exponential(v8 x) {
    const double round = 6755399441055744.0; /* 1.5 x 2^52: what is added to it becomes a whole number */
    v8 n = x * ALL(1.4426950408889634) + ALL(round);
    w8 power = (w8)n; /* whose low bits are that number's */
    n -= ALL(round);
    v8 r = x - n * ALL(6.93147180369123816490e-01);
    r -= n * ALL(1.90821492927058770002e-10);
    v8 p = ALL(2.511032602976262e-08) * r + ALL(2.7632629197234653e-07);
    p = p * r + ALL(2.7557239927321574e-06), p = p * r + ALL(2.4801485520416127e-05);
    p = p * r + ALL(0.00019841269891331855), p = p * r + ALL(0.0013888888952269102);
    p = p * r + ALL(0.008333333333318833), p = p * r + ALL(0.04166666666648829);
    p = p * r + ALL(0.16666666666666682), p = p * r + ALL(0.5000000000000019);
    p = p * r + ALL(1.0), p = p * r + ALL(1.0);
    return (v8)((w8)p + (power << 52));
}

/* -log(1 - p) / p by its series, to the last digit: p up to 1/64 for 9 terms, up to 1/8 for 18. */
static inline v8 series(v8 p, const int terms) {
    v8 total = ALL(1.0 / terms);
#pragma GCC unroll 18
    for (int j = terms - 1; j > 0; j--) total = total * p + ALL(1.0 / j);
    return total;
}

/* Per row of z (n, k), with the class label[row] taken out: gap, how far its logit is above the highest of the others,
   divided by `highest`; sums of e = exp((z - top)/T), a row of n a temperature: at `highest` and, if `chained`, at half
   and a quarter of it. With `more` also: first, the highest class (the lowest of equal ones); left, the last sum
   without it; dot, the sum of e log(e), e at the last temperature, log(e) at the highest; among, the sum of
   -p log(1 - p) over all but the label and the highest, p of the whole distribution. `scratch` holds k + 15 doubles. */
#define SUMS(NAME, TYPE)                                                                                              \
    void NAME(const TYPE *z, i64 n, i64 k, const i64 *label, double highest, int chained, int more, double *gap,      \
              double *sums, i64 *first, double *left, double *dot, double *among, double *scratch) {                  \
        const i64 width = (k + 7) / 8;                                                                                \
        const double least = -700.0 / highest, by = chained ? 1 / highest : 1.0;                                      \
        double *e = (double *)(((uintptr_t)scratch + 63) / 64 * 64);                                                  \
        v8 *v = (v8 *)e;                                                                                              \
        for (i64 row = 0; row < n; row++, z += k) {                                                                   \
            if (chained) for (i64 i = 0; i < k; i++) e[i] = (double)z[i] * by;                                        \
            else for (i64 i = 0; i < k; i++) e[i] = (double)z[i] / highest;                                           \
            for (i64 i = k; i < 8 * width; i++) e[i] = -INFINITY;                                                     \
            const i64 own = label[row];                                                                               \
            const double value = e[own];                                                                              \
            e[own] = -INFINITY;                                                                                       \
            v8 most = v[0];                                                                                           \
            for (i64 i = 1; i < width; i++) most = larger(most, v[i]);                                                \
            const double top = top_of(most);                                                                          \
            i64 best = 0;                                                                                             \
            if (more) {                                                                                               \
                i64 i = 0;                                                                                            \
                while (!any_of(v[i] == ALL(top))) i++;                                                                \
                for (best = 8 * i; e[best] != top;) best++;                                                           \
            }                                                                                                         \
            v8 total[3] = {ALL(0.0), ALL(0.0), ALL(0.0)}, product = ALL(0.0);                                         \
            for (i64 i = 0; i < width; i++) {                                                                         \
                w8 there = v[i] > ALL(-INFINITY);                                                                     \
                v8 x = larger(v[i] - ALL(top), ALL(least));                                                           \
                v8 y = (v8)((w8)exponential(x) & there);                                                              \
                total[0] += y;                                                                                        \
                if (chained) {                                                                                        \
                    y *= y, total[1] += y;                                                                            \
                    y *= y, total[2] += y;                                                                            \
                    product += y * x, v[i] = y;                                                                       \
                }                                                                                                     \
            }                                                                                                         \
            gap[row] = value - top;                                                                                   \
            for (int t = 0; t < (chained ? 3 : 1); t++) sums[t * n + row] = sum_of(total[t]);                         \
            if (!more) continue;                                                                                      \
            e[best] = 0;                                                                                              \
            v8 rest = ALL(0.0), terms = ALL(0.0);                                                                     \
            const double share = 1 / (sums[2 * n + row] + exp(gap[row] * highest));                                   \
            double large = 0;                                                                                         \
            for (i64 i = 0; i < width; i++) {                                                                         \
                rest += v[i];                                                                                         \
                v8 p = v[i] * ALL(share);                                                                             \
                if (!any_of(p > ALL(1.0 / 64))) {                                                                     \
                    terms += p * p * series(p, 9);                                                                    \
                    continue;                                                                                         \
                }                                                                                                     \
                if (any_of(p > ALL(1.0 / 8))) {                                                                       \
                    const double *each = (double *)&p;                                                                \
                    for (int j = 0; j < 8; j++)                                                                       \
                        if (each[j] > 1.0 / 8) large -= each[j] * log1p(-each[j]);                                    \
                    p = (v8)((w8)p & (p <= ALL(1.0 / 8)));                                                            \
                }                                                                                                     \
                terms += p * p * series(p, 18);                                                                       \
            }                                                                                                         \
            first[row] = best, left[row] = sum_of(rest), dot[row] = sum_of(product);                                  \
            among[row] = sum_of(terms) + large;                                                                       \
        }                                                                                                             \
    }

SUMS(sums_float, float)
SUMS(sums_double, double)
