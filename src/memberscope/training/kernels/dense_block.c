/* Layers of a DenseNet-BC block, forward and backward, for one core with AMX (bfloat16 tiles) and AVX-512.

   A block keeps all its feature maps in one buffer x[rows][width] (channels last, bfloat16); a layer reads the first
   `channels` of them and appends `growth`. Feature maps do not change once written, so their mean and variance are
   computed once and every later layer's batch norm is a scale and a shift of its own. Norm and ReLU are computed on
   a tile of rows that stays in cache and goes straight into the tile product; the normalised maps, which plain code
   writes and reads six times, never exist.

   Backward, with s = relu'(gamma xhat + beta) dy the gradient behind the norm, batch norm gives for every layer
       dx = rstd (gamma s - mean(gamma s) - xhat mean(gamma s xhat)),
   which is linear in s: one buffer g (float: its mean is taken out later) collects gamma s over all layers, and the
   correction is applied once a channel, when its gradient is complete. One pass over the maps a layer instead of two.

   Sums over rows are taken in float over a tile and in double over tiles, in a fixed order: same input, same bytes. */
#include "common.h"

enum { ROWS = 64, AHEAD = 24 }; /* rows of a tile; rows that are fetched ahead of use */

/* Weights w(k, n) as the right operand: to[k / 2][columns][2], zero where k or n is past the end. */
static void right_operand(const float *w, long step_k, long step_n, long depth, long n, bf16 *to, long columns) {
    for (long k = 0; k < depth; k++)
        for (long j = 0; j < n; j++)
            to[(k / 2 * columns + j) * 2 + k % 2] = (bf16)_mm256_extract_epi16(narrow(_mm512_set1_ps(w[k * step_k + j * step_n])), 0);
}

/* Sums and sums of squares of x[rows][stride], `channels` of them. */
int channel_sums(const bf16 *x, long rows, long stride, long channels, double *sum, double *square) {
    for (long c = 0; c < channels; c++) sum[c] = square[c] = 0;
    for (long r0 = 0; r0 < rows; r0 += ROWS) {
        long end = least(r0 + ROWS, rows);
        for (long c = 0; c < channels; c += 16) {
            __mmask16 m = first(channels - c);
            __m512 s = _mm512_setzero_ps(), q = s;
            for (long r = r0; r < end; r++) {
                __m512 v = get(x + r * stride + c, m);
                s = _mm512_add_ps(s, v), q = _mm512_fmadd_ps(v, v, q);
            }
            float a[16], b[16];
            _mm512_storeu_ps(a, s), _mm512_storeu_ps(b, q);
            for (long i = 0; i < least(16, channels - c); i++) sum[c + i] += a[i], square[c + i] += b[i];
        }
    }
    return 0;
}

static void scale_and_shift(const float *gamma, const float *beta, const float *mean, const float *rstd, long n, float *scale, float *shift) {
    for (long c = 0; c < n; c++) scale[c] = gamma[c] * rstd[c], shift[c] = beta[c] - mean[c] * scale[c];
}

/* out[rows][n] = relu(norm(x)) w' with w[n][channels], and the sums of out; n a multiple of 2.
   Returns 0, or 1 without memory. */
int norm_product(const bf16 *x, long rows, long stride, long channels, const float *gamma, const float *beta,
                 const float *mean, const float *rstd, const float *w, long n, bf16 *out, double *sum, double *square) {
    long depth = up(channels, 32), wide = up(n, 16);
    bf16 *right = room(depth * wide * 2), *left = room(ROWS * depth * 2);
    float *product = room(ROWS * wide * 4), *scale = room(2 * depth * 4), *shift = scale + depth;
    if (!right || !left || !product || !scale) return 1;
    right_operand(w, 1, channels, channels, n, right, wide);
    scale_and_shift(gamma, beta, mean, rstd, channels, scale, shift);
    for (long j = 0; j < n; j++) sum[j] = square[j] = 0;
    Tiles before;
    tiles_on(&before);
    for (long r0 = 0; r0 < rows; r0 += ROWS) {
        long count = least(ROWS, rows - r0);
        for (long r = 0; r < count; r++) {
            ahead(x + (r0 + r + AHEAD) * stride, channels);
            for (long c = 0; c < channels; c += 16) {
                __mmask16 m = first(channels - c);
                __m512 v = _mm512_fmadd_ps(get(x + (r0 + r) * stride + c, m), _mm512_load_ps(scale + c), _mm512_load_ps(shift + c));
                _mm256_store_si256((void *)(left + r * depth + c), narrow(_mm512_max_ps(v, _mm512_setzero_ps())));
            }
        }
        for (long r = 0; r < count; r += 32)
            for (long j = 0; j < wide; j += 48) {
                ZERO(0), ZERO(1), ZERO(2), ZERO(3), ZERO(4), ZERO(5);
                for (long k = 0; k < depth; k += 32) {
                    const bf16 *b = right + (k / 2 * wide + j) * 2, *a = left + r * depth + k;
                    LOAD(6, a, depth * 2);
                    LOAD(7, b, wide * 4), DOT(0, 6, 7);
                    if (j + 16 < wide) LOAD(7, b + 32, wide * 4), DOT(1, 6, 7);
                    if (j + 32 < wide) LOAD(7, b + 64, wide * 4), DOT(2, 6, 7);
                    LOAD(6, a + 16 * depth, depth * 2);
                    if (j + 32 < wide) DOT(5, 6, 7);
                    if (j + 16 < wide) LOAD(7, b + 32, wide * 4), DOT(4, 6, 7);
                    LOAD(7, b, wide * 4), DOT(3, 6, 7);
                }
                float *p = product + r * wide + j;
                STORE(0, p, wide * 4), STORE(3, p + 16 * wide, wide * 4);
                if (j + 16 < wide) STORE(1, p + 16, wide * 4), STORE(4, p + 16 * wide + 16, wide * 4);
                if (j + 32 < wide) STORE(2, p + 32, wide * 4), STORE(5, p + 16 * wide + 32, wide * 4);
            }
        for (long j = 0; j < n; j += 16) {
            __mmask16 m = first(n - j);
            __m512 s = _mm512_setzero_ps(), q = s;
            for (long r = 0; r < count; r++) {
                __m256i v = narrow(_mm512_load_ps(product + r * wide + j));
                _mm256_mask_storeu_epi16(out + (r0 + r) * n + j, m, v);
                __m512 f = widen(v);
                s = _mm512_add_ps(s, f), q = _mm512_fmadd_ps(f, f, q);
            }
            float a[16], b[16];
            _mm512_storeu_ps(a, s), _mm512_storeu_ps(b, q);
            for (long i = 0; i < least(16, n - j); i++) sum[j + i] += a[i], square[j + i] += b[i];
        }
    }
    tiles_off(&before);
    free(right), free(left), free(product), free(scale);
    return 0;
}

/* An image's relu(norm(h)) with a border of zeros: to[(height + 2) * (width + 2)][inner]. */
static void padded(const bf16 *h, long height, long width, long inner, const float *scale, const float *shift, bf16 *to) {
    for (long y = 0; y < height; y++)
        for (long x = 0; x < width; x++) {
            const bf16 *from = h + (y * width + x) * inner;
            bf16 *place = to + ((y + 1) * (width + 2) + x + 1) * inner;
            for (long c = 0; c < inner; c += 16) {
                __m512 v = _mm512_fmadd_ps(get(from + c, 0xFFFF), _mm512_load_ps(scale + c), _mm512_load_ps(shift + c));
                _mm256_store_si256((void *)(place + c), narrow(_mm512_max_ps(v, _mm512_setzero_ps())));
            }
        }
}

/* 3x3 convolution of relu(norm(h)), h[images][height][width][inner], w[growth][3][3][inner], into x[rows][stride]
   (the caller points x at its first channel) and its sums; inner a multiple of 16, growth at most 16.
   A row of the left operand is three neighbouring pixels, which lie side by side in memory. */
int norm_convolution(const bf16 *h, long images, long height, long width, long inner, const float *gamma, const float *beta,
                     const float *mean, const float *rstd, const float *w, long growth, bf16 *x, long stride, double *sum, double *square) {
    long line = width + 2, depth = up(3 * inner, 32), places = height * line;
    bf16 *left = room((((height + 2) * line + 72) * inner + depth) * 2), *right = room(3 * depth * 16 * 2);
    float *scale = room(2 * inner * 4), *shift = scale + inner, *product = room(64 * 16 * 4);
    if (!left || !right || !scale || !product) return 1;
    for (long k = 0; k < 3; k++) right_operand(w + k * 3 * inner, 1, 9 * inner, 3 * inner, growth, right + k * depth * 16, 16);
    scale_and_shift(gamma, beta, mean, rstd, inner, scale, shift);
    for (long j = 0; j < growth; j++) sum[j] = square[j] = 0;
    Tiles before;
    tiles_on(&before);
    __mmask16 m = first(growth);
    for (long image = 0; image < images; image++) {
        padded(h + image * height * width * inner, height, width, inner, scale, shift, left);
        bf16 *to = x + image * height * width * stride;
        long column = 0;
        for (long p = 0; p < places; p += 64) {
            ZERO(0), ZERO(1), ZERO(2), ZERO(3);
            for (long k = 0; k < 3; k++)
                for (long d = 0; d < depth; d += 32) {
                    const bf16 *a = left + (p + k * line) * inner + d;
                    LOAD(7, right + (k * depth + d) * 16, 64);
                    LOAD(4, a, inner * 2), DOT(0, 4, 7);
                    LOAD(5, a + 16 * inner, inner * 2), DOT(1, 5, 7);
                    LOAD(6, a + 32 * inner, inner * 2), DOT(2, 6, 7);
                    LOAD(4, a + 48 * inner, inner * 2), DOT(3, 4, 7);
                }
            STORE(0, product, 64), STORE(1, product + 256, 64);
            STORE(2, product + 512, 64), STORE(3, product + 768, 64);
            __m512 s = _mm512_setzero_ps(), q = s;
            for (long i = 0; i < least(64, places - p); i++, column++) {
                if (column == line) column = 0;
                if (column >= width) continue;
                __m256i v = narrow(_mm512_load_ps(product + i * 16));
                _mm256_mask_storeu_epi16(to, m, v);
                to += stride;
                __m512 f = widen(v);
                s = _mm512_add_ps(s, f), q = _mm512_fmadd_ps(f, f, q);
            }
            float a[16], b[16];
            _mm512_storeu_ps(a, s), _mm512_storeu_ps(b, q);
            for (long j = 0; j < growth; j++) sum[j] += a[j], square[j] += b[j];
        }
    }
    tiles_off(&before);
    free(left), free(right), free(scale), free(product);
    return 0;
}

/* Batch norm's gradient is linear in what was collected behind it: out = k[0] g + k[1] x + k[2], with the means
   means[0] of g and means[1] (at means + pitch) of g xhat. k[i] is at k + i * size for every channel. */
static void correction(const float *mean, const float *rstd, const float *factor, const double *means, long pitch, long n, float *k, long size) {
    for (long c = 0; c < n; c++) {
        double r = rstd[c], f = factor ? r * factor[c] : r, b = means[pitch + c];
        k[c] = (float)f, k[size + c] = (float)(-f * r * b), k[2 * size + c] = (float)(-f * (means[c] - mean[c] * r * b));
    }
}
static inline __m256i corrected(__m512 g, const bf16 *x, __mmask16 m, const float *k, long size) {
    return narrow(_mm512_fmadd_ps(g, _mm512_maskz_loadu_ps(m, k),
                                  _mm512_fmadd_ps(get(x, m), _mm512_maskz_loadu_ps(m, k + size), _mm512_maskz_loadu_ps(m, k + 2 * size))));
}

/* Gradient of the block's input from what was collected in g; 0, or 1 without memory. */
int complete(const float *g, const bf16 *x, long rows, long stride, long channels, const float *mean, const float *rstd,
             const double *means, long pitch, bf16 *out) {
    float *k = room(3 * channels * 4);
    if (!k) return 1;
    correction(mean, rstd, NULL, means, pitch, channels, k, channels);
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < channels; c += 16) {
            __mmask16 m = first(channels - c);
            _mm256_mask_storeu_epi16(out + r * channels + c, m, corrected(_mm512_maskz_loadu_ps(m, g + r * stride + c), x + r * stride + c, m, k + c, channels));
        }
    free(k);
    return 0;
}

/* Backward of norm_convolution. The gradient of its output is completed from g and x (pointed at their first channel,
   with the statistics of x and the means of what was collected) ->
   dz[rows][inner] behind the norm (after relu'), dgamma, dbeta (sums of dz xhat and dz), dw[growth][3][3][inner]. */
int norm_convolution_backward(const float *g, const bf16 *x, long stride, const float *x_mean, const float *x_rstd,
                              const double *means, long means_pitch, const bf16 *h, long images, long height, long width, long inner,
                              const float *gamma, const float *beta, const float *mean, const float *rstd, const float *w,
                              long growth, bf16 *dz, double *dgamma, double *dbeta, float *dw) {
    long line = width + 2, grid = (height + 2) * line, long_grid = up(grid, 32), margin = up(2 * line + 2, 32);
    long pitch = margin + long_grid + 32, offset = line + 1;
    /* Pixels of the gradient are sixteen channels wide; four neighbours, the last with weight zero, are 64 deep. */
    bf16 *grad = room((long_grid + 72 + 2 * line) * 16 * 2), *turned = room(16 * pitch * 2);
    bf16 *maps = room((long_grid + 72) * inner * 2), *paired = room((long_grid + 64) * inner * 2);
    bf16 *right = room(3 * 64 * inner * 2);
    float *total = room(9 * 16 * inner * 4), *product = room(32 * inner * 4);
    float *scale = room(4 * inner * 4), *shift = scale + inner, *sums = scale + 2 * inner;
    if (!grad || !turned || !maps || !paired || !right || !total || !product || !scale) return 1;
    float k_out[48] = {0};
    correction(x_mean, x_rstd, NULL, means, means_pitch, growth, k_out, 16);
    for (long k = 0; k < 3; k++)
        for (long l = 0; l < 3; l++)
            right_operand(w + ((2 - k) * 3 + 2 - l) * inner, 9 * inner, 1, growth, inner, right + (k * 64 + l * 16) * inner, inner);
    scale_and_shift(gamma, beta, mean, rstd, inner, scale, shift);
    for (long j = 0; j < inner; j++) dgamma[j] = dbeta[j] = 0;
    Tiles before;
    tiles_on(&before);
    __mmask16 m = first(growth);
    for (long image = 0; image < images; image++) {
        long start = image * height * width;
        for (long y = 0; y < height; y++)
            for (long p = 0; p < width; p++) {
                long place = (start + y * width + p) * stride;
                _mm_prefetch(g + place + AHEAD * stride, _MM_HINT_T0), _mm_prefetch(x + place + AHEAD * stride, _MM_HINT_T0);
                _mm256_store_si256((void *)(grad + ((y + 1) * line + p + 1) * 16), corrected(_mm512_maskz_loadu_ps(m, g + place), x + place, m, k_out, 16));
            }
        padded(h + start * inner, height, width, inner, scale, shift, maps);
        for (long r = 0; r < long_grid; r += 32) transpose_bf16(grad + (r + offset) * 16, 16, turned + margin + r, pitch);
        for (long r = 0; r < long_grid; r += 2)
            for (long c = 0; c < inner; c += 16)
                _mm512_store_si512(paired + (r / 2 * inner + c) * 2,
                                   pairs(_mm256_load_si256((void *)(maps + r * inner + c)), _mm256_load_si256((void *)(maps + (r + 1) * inner + c))));
        for (long shift0 = 0; shift0 < 9; shift0 += 2)
            for (long c = 0; c < inner; c += 48) {
                long second = least(shift0 + 1, 8), n = inner - c;
                float *t0 = total + shift0 * 16 * inner + c, *t1 = total + second * 16 * inner + c;
                const bf16 *a0 = turned + margin - (shift0 / 3 * line + shift0 % 3), *a1 = turned + margin - (second / 3 * line + second % 3);
                LOAD(0, t0, inner * 4), LOAD(3, t1, inner * 4);
                if (n > 16) LOAD(1, t0 + 16, inner * 4), LOAD(4, t1 + 16, inner * 4);
                if (n > 32) LOAD(2, t0 + 32, inner * 4), LOAD(5, t1 + 32, inner * 4);
                for (long r = 0; r < long_grid; r += 32) {
                    const bf16 *b = paired + (r / 2 * inner + c) * 2;
                    LOAD(6, a0 + r, pitch * 2);
                    LOAD(7, b, inner * 4), DOT(0, 6, 7);
                    if (n > 16) LOAD(7, b + 32, inner * 4), DOT(1, 6, 7);
                    if (n > 32) LOAD(7, b + 64, inner * 4), DOT(2, 6, 7);
                    if (second == shift0) continue;
                    LOAD(6, a1 + r, pitch * 2);
                    if (n > 32) DOT(5, 6, 7);
                    if (n > 16) LOAD(7, b + 32, inner * 4), DOT(4, 6, 7);
                    LOAD(7, b, inner * 4), DOT(3, 6, 7);
                }
                STORE(0, t0, inner * 4);
                if (n > 16) STORE(1, t0 + 16, inner * 4);
                if (n > 32) STORE(2, t0 + 32, inner * 4);
                if (second == shift0) continue;
                STORE(3, t1, inner * 4);
                if (n > 16) STORE(4, t1 + 16, inner * 4);
                if (n > 32) STORE(5, t1 + 32, inner * 4);
            }
        memset(sums, 0, 2 * inner * 4);
        for (long p = 0, before_p = start; p < height * line; p += 32) {
            /* Which of the 32 places are pixels, and how many pixels came before. */
            uint32_t pixels = 0;
            for (long i = 0, column = p % line; i < least(32, height * line - p); i++, column = column + 1 == line ? 0 : column + 1)
                pixels |= (uint32_t)(column < width) << i;
            for (long c = 0; c < inner; c += 48) {
                long n = inner - c;
                ZERO(0), ZERO(1), ZERO(2), ZERO(3), ZERO(4), ZERO(5);
                for (long k = 0; k < 3; k++)
                    for (long e = 0; e < 64; e += 32) {
                        const bf16 *a = grad + (p + k * line) * 16 + e, *b = right + ((k * 64 + e) * inner + c * 2);
                        LOAD(6, a, 32);
                        LOAD(7, b, inner * 4), DOT(0, 6, 7);
                        if (n > 16) LOAD(7, b + 32, inner * 4), DOT(1, 6, 7);
                        if (n > 32) LOAD(7, b + 64, inner * 4), DOT(2, 6, 7);
                        LOAD(6, a + 256, 32);
                        if (n > 32) DOT(5, 6, 7);
                        if (n > 16) LOAD(7, b + 32, inner * 4), DOT(4, 6, 7);
                        LOAD(7, b, inner * 4), DOT(3, 6, 7);
                    }
                float *t = product + c;
                STORE(0, t, inner * 4), STORE(3, t + 16 * inner, inner * 4);
                if (n > 16) STORE(1, t + 16, inner * 4), STORE(4, t + 16 * inner + 16, inner * 4);
                if (n > 32) STORE(2, t + 32, inner * 4), STORE(5, t + 16 * inner + 32, inner * 4);
            }
            for (long c = 0; c < inner; c += 16) {
                __m512 s = _mm512_load_ps(sums + c), q = _mm512_load_ps(sums + inner + c), centre = _mm512_loadu_ps(mean + c);
                long place = before_p;
                for (uint32_t left_over = pixels; left_over; left_over &= left_over - 1, place++) {
                    int i = __builtin_ctz(left_over);
                    __mmask16 on = _mm256_test_epi16_mask(_mm256_set1_epi16(-1), _mm256_load_si256((void *)(maps + (p + i + offset) * inner + c)));
                    __m256i v = narrow(_mm512_maskz_mov_ps(on, _mm512_load_ps(product + i * inner + c)));
                    _mm256_storeu_si256((void *)(dz + place * inner + c), v);
                    __m512 f = widen(v);
                    s = _mm512_add_ps(s, f);
                    q = _mm512_fmadd_ps(f, _mm512_sub_ps(get(h + place * inner + c, 0xFFFF), centre), q);
                }
                _mm512_store_ps(sums + c, s), _mm512_store_ps(sums + inner + c, q);
            }
            before_p += __builtin_popcount(pixels);
        }
        for (long c = 0; c < inner; c++) dbeta[c] += sums[c], dgamma[c] += sums[inner + c];
    }
    tiles_off(&before);
    for (long c = 0; c < inner; c++) dgamma[c] *= rstd[c];
    for (long j = 0; j < growth; j++)
        for (long s = 0; s < 9; s++) memcpy(dw + (j * 9 + s) * inner, total + (s * 16 + j) * inner, inner * 4);
    free(grad), free(turned), free(maps), free(paired), free(right), free(total), free(product), free(scale);
    return 0;
}

/* Backward of norm_product. Gradient d[rows][n] of the output; where h is given, d lies behind the norm of h and is
   completed first, with h's statistics and the means of d ->
   g[rows][stride] += gamma dz (written where `begin`), dz = relu' (d w); dgamma, dbeta; dw[n][channels]. */
int norm_product_backward(const bf16 *d, const bf16 *h, const float *h_mean, const float *h_rstd, const float *h_gamma,
                          const double *h_means, const bf16 *x, long rows, long stride, long channels, const float *gamma, const float *beta,
                          const float *mean, const float *rstd, const float *w, long n, long begin,
                          float *g, double *dgamma, double *dbeta, float *dw) {
    long depth = up(n, 32), wide = up(channels, 16), tall = up(n, 16);
    bf16 *right = room(depth * wide * 2), *left = room(ROWS * depth * 2), *turned = room(depth * ROWS * 2), *paired = room(ROWS * wide * 2);
    float *total = room(tall * wide * 4), *product = room(ROWS * 16 * 4), *scale = room(6 * wide * 4), *shift = scale + wide;
    float *factor = scale + 2 * wide, *centre = scale + 3 * wide, *s1 = scale + 4 * wide, *s2 = scale + 5 * wide;
    if (!right || !left || !turned || !paired || !total || !product || !scale) return 1;
    float *k = room(3 * tall * 4);
    if (!k) return 1;
    if (h) correction(h_mean, h_rstd, h_gamma, h_means, n, n, k, tall);
    right_operand(w, channels, 1, n, channels, right, wide);
    scale_and_shift(gamma, beta, mean, rstd, channels, scale, shift);
    memcpy(factor, gamma, channels * 4), memcpy(centre, mean, channels * 4);
    for (long c = 0; c < channels; c++) dgamma[c] = dbeta[c] = 0;
    Tiles before;
    tiles_on(&before);
    for (long r0 = 0; r0 < rows; r0 += ROWS) {
        long count = least(ROWS, rows - r0), whole = up(count, 32);
        if (count < ROWS) memset(left, 0, ROWS * depth * 2), memset(paired, 0, ROWS * wide * 2);
        for (long r = 0; r < count; r++) {
            long place = (r0 + r) * n;
            for (long j = 0; j < n; j += 16) {
                __mmask16 m = first(n - j);
                __m256i v = h ? corrected(get(d + place + j, m), h + place + j, m, k + j, tall) : _mm256_maskz_loadu_epi16(m, d + place + j);
                _mm256_store_si256((void *)(left + r * depth + j), v);
            }
            /* What the tile will read, so that it is there. */
            ahead(x + (r0 + r) * stride, channels), ahead((const bf16 *)(g + (r0 + r) * stride), 2 * channels);
        }
        for (long r = 0; r < whole; r += 32)
            for (long j = 0; j < tall; j += 16) transpose_bf16(left + r * depth + j, depth, turned + j * ROWS + r, ROWS);
        memset(s1, 0, 2 * wide * 4);
        for (long c = 0; c < channels; c += 16) {
            __mmask16 m = first(channels - c);
            __m512 sc = _mm512_load_ps(scale + c), sh = _mm512_load_ps(shift + c), zero = _mm512_setzero_ps();
            __m512 ga = _mm512_load_ps(factor + c), ce = _mm512_load_ps(centre + c), s = zero, q = zero;
            for (long r = 0; r < whole; r += 32) {
                ZERO(0), ZERO(1);
                for (long k = 0; k < depth; k += 32) {
                    LOAD(7, right + (k / 2 * wide + c) * 2, wide * 4);
                    LOAD(5, left + r * depth + k, depth * 2), DOT(0, 5, 7);
                    LOAD(6, left + (r + 16) * depth + k, depth * 2), DOT(1, 6, 7);
                }
                STORE(0, product + r * 16, 64), STORE(1, product + (r + 16) * 16, 64);
            }
            for (long r = 0; r < count; r += 2) {
                __m256i a[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
                for (long o = 0; o < 2 && r + o < count; o++) {
                    long place = (r0 + r + o) * stride + c;
                    __m512 v = get(x + place, m), z = _mm512_fmadd_ps(v, sc, sh);
                    a[o] = narrow(_mm512_max_ps(z, zero));
                    __m512 dz = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(z, zero, _CMP_GT_OQ), _mm512_load_ps(product + (r + o) * 16));
                    __m512 old = begin ? zero : _mm512_maskz_loadu_ps(m, g + place);
                    _mm512_mask_storeu_ps(g + place, m, _mm512_fmadd_ps(ga, dz, old));
                    s = _mm512_add_ps(s, dz), q = _mm512_fmadd_ps(dz, _mm512_sub_ps(v, ce), q);
                }
                _mm512_store_si512(paired + (r / 2 * wide + c) * 2, pairs(a[0], a[1]));
            }
            _mm512_store_ps(s1 + c, s), _mm512_store_ps(s2 + c, q);
        }
        for (long c = 0; c < channels; c++) dbeta[c] += s1[c], dgamma[c] += s2[c];
        for (long j = 0; j < tall; j += 48)
            for (long c = 0; c < wide; c += 32) {
                int second = c + 16 < wide, two = j + 16 < tall, three = j + 32 < tall;
                float *t = total + j * wide + c, *u = t + 16 * wide, *v = u + 16 * wide;
                long bytes = wide * 4;
                LOAD(0, t, bytes);
                if (second) LOAD(1, t + 16, bytes);
                if (two) { LOAD(2, u, bytes); if (second) LOAD(3, u + 16, bytes); }
                if (three) { LOAD(4, v, bytes); if (second) LOAD(5, v + 16, bytes); }
                for (long r = 0; r < whole; r += 32) {
                    const bf16 *a = turned + j * ROWS + r, *b = paired + (r / 2 * wide + c) * 2;
                    LOAD(7, b, bytes);
                    LOAD(6, a, ROWS * 2), DOT(0, 6, 7);
                    if (two) LOAD(6, a + 16 * ROWS, ROWS * 2), DOT(2, 6, 7);
                    if (three) LOAD(6, a + 32 * ROWS, ROWS * 2), DOT(4, 6, 7);
                    if (!second) continue;
                    LOAD(7, b + 32, bytes);
                    if (three) DOT(5, 6, 7);
                    if (two) LOAD(6, a + 16 * ROWS, ROWS * 2), DOT(3, 6, 7);
                    LOAD(6, a, ROWS * 2), DOT(1, 6, 7);
                }
                STORE(0, t, bytes);
                if (second) STORE(1, t + 16, bytes);
                if (two) { STORE(2, u, bytes); if (second) STORE(3, u + 16, bytes); }
                if (three) { STORE(4, v, bytes); if (second) STORE(5, v + 16, bytes); }
            }
    }
    tiles_off(&before);
    for (long c = 0; c < channels; c++) dgamma[c] *= rstd[c];
    for (long j = 0; j < n; j++) memcpy(dw + j * channels, total + j * wide, channels * 4);
    free(right), free(left), free(turned), free(paired), free(total), free(product), free(scale), free(k);
    return 0;
}
