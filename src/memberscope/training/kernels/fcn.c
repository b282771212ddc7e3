/* Steps of training a fully connected network for one core with AMX (bfloat16 tiles) and AVX-512.

   A step of a small batch is bound by memory, not by products: every weight, with what the optimiser knows of it, is
   read and written once. So the gradient of a block of 32 x 32 weights is computed, used to update the block while it
   is in cache, and forgotten. A weight is kept in two halves: the bfloat16 nearest to it, in the order in which products
   read it, and the 16 bits that are missing to its float. So there is no copy to write, and no product packs anything.

   Everything is kept features x records. With W[out][in], x an input and d the gradient of an output (all transposed):
       forward      y = W x        left: W             right: x, paired over features
       backward    dx = W' d       left: W' (turned)   right: d, paired over features
       update      dW = d x'       left: d             right: x', paired over records
   A left operand is blocks of 32 rows x 32, of which 16 rows are a tile; a right one is tiles of 16 pairs x 16 columns
   x 2; all without gaps. Sizes are rounded up to 32; what is added is zero and stays zero.

   Products are summed in float, activations and their gradients rounded to bfloat16, weights and moments are float.
   Every sum has a fixed order: same input, same bytes. */
#include "common.h"
#include <math.h>

enum { SIDE = 32, BLOCK = SIDE * SIDE, TILE = 512, AHEAD = 8 }; /* rows of weights that are fetched ahead of use */
enum { SGD, ADAM, ADAMW };

typedef struct {
    long kind, nesterov, average; /* average: whether one is kept */
    float rate, decay, momentum, beta1, beta2, size, root, epsilon, share, clip; /* size: rate / (1 - beta1^t); root: 1 / sqrt(1 - beta2^t) */
} Rule;

typedef struct {
    long in, out, wide, tall; /* wide, tall: in and out, rounded up */
    bf16 *weight;             /* nearest to the weights: [tall / 32][wide / 32][32][32] */
    float *state, *bias;      /* [tall / 32][wide / 32][32] rows: the missing bits of 32 weights, their moments, their average; [tall / 16][fields][16] */
    bf16 *columns, *rows;     /* its inputs, paired over features: [wide / 32][records / 16] tiles; over records: [records / 32][wide / 16] */
    bf16 *slope;              /* derivative of its inputs by what came before the activation: [wide][records] */
    bf16 *d_left, *d_columns; /* gradient of its outputs: [tall / 32][records / 32][32][32]; [tall / 32][records / 16] tiles */
    float *gradient, *bias_gradient; /* [tall / 32][wide / 32][32][32], only where gradients are clipped; [tall] */
} Layer;

typedef struct {
    long layers, records, tanh, fields; /* records: of the batch at hand, rounded up */
    Layer *layer;
    float *logits; /* [tall of the last][records] */
    bf16 *batch;   /* 32 records of the batch, [32][wide of the first] */
    bf16 *turned;  /* 32 columns of a layer's weights, turned: [tall / 32][32][32] */
} Net;

/* e^x to about 1e-7, for x in [-87, 88]. */
static inline __m512 exponential(__m512 x) {
    /* Of min and max the second operand is returned where one is NaN: NaN stays NaN. */
    x = _mm512_max_ps(_mm512_set1_ps(-87.f), _mm512_min_ps(_mm512_set1_ps(88.f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), _mm512_fnmadd_ps(n, _mm512_set1_ps(.693145752f), x));
    __m512 p = _mm512_set1_ps(1.f / 720);
    const float c[] = {1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f};
    for (int i = 0; i < 6; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c[i]));
    return _mm512_scalef_ps(p, n);
}
static inline __m512 reciprocal(__m512 x) { /* one step of Newton after 14 bits */
    __m512 y = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(2.f)));
}
static inline __m512 square_root(__m512 x) { /* of 0 about 1e-15, which epsilon drowns */
    x = _mm512_max_ps(_mm512_set1_ps(1e-30f), x);
    __m512 y = _mm512_rsqrt14_ps(x), h = _mm512_mul_ps(_mm512_mul_ps(x, y), _mm512_set1_ps(.5f));
    y = _mm512_mul_ps(y, _mm512_fnmadd_ps(h, y, _mm512_set1_ps(1.5f)));
    return _mm512_mul_ps(x, y);
}
static inline __m512 hyperbolic_tangent(__m512 x) {
    __m512 one = _mm512_set1_ps(1.f), e = exponential(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-2.f)));
    __m512 t = _mm512_mul_ps(_mm512_sub_ps(one, e), reciprocal(_mm512_add_ps(one, e)));
    __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.f));
    return _mm512_or_ps(t, sign);
}

static inline bf16 *tile(bf16 *tiles, long row, long column, long columns) { return tiles + (row * columns + column) * TILE; }
static inline bf16 *block(bf16 *blocks, long row, long column, long columns) { return blocks + (row * columns + column) * BLOCK; }
static inline long row_size(long fields) { return SIDE / 2 + (fields - 1) * SIDE; } /* of the state, in floats */

static inline float *bias_at(const Net *net, const Layer *l, long field, long n) {
    return l->bias + (n / 16 * net->fields + field) * 16 + n % 16;
}

/* Two rows of 32 tiles each side of a right operand with pairs of rows: from[32][32] -> tiles (row, column) and beside. */
static void pair_rows(const bf16 *from, bf16 *to) {
    for (long c = 0; c < 2; c++)
        for (long i = 0; i < 16; i++) {
            const bf16 *p = from + 2 * i * SIDE + 16 * c;
            _mm512_store_si512(to + c * TILE + i * 32, pairs(_mm256_load_si256((const void *)p), _mm256_load_si256((const void *)(p + SIDE))));
        }
}

/* The same block turned, paired over what were its columns: from[32][32] (rows `pitch` apart) -> tiles at to, and `step` behind. */
static void pair_columns(const bf16 *from, long pitch, bf16 *to, long step) {
    for (long c = 0; c < 2; c++) {
        __m512i r[16];
        for (long i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(from + (16 * c + i) * pitch);
        transpose(r);
        for (long i = 0; i < 16; i++) _mm512_store_si512(to + c * step + i * 32, r[i]);
    }
}

/* out[32][32] = sum over `depth` of left blocks, one behind the other, times right tiles at b and b + TILE, each b_step apart. */
static inline void product(const bf16 *a, const bf16 *b, long b_step, long depth, float *out) {
    ZERO(0), ZERO(1), ZERO(2), ZERO(3);
    for (long k = 0; k < depth; k++, a += BLOCK, b += b_step) {
        LOAD(4, a, 64), LOAD(6, b, 64), DOT(0, 4, 6);
        LOAD(7, b + TILE, 64), DOT(1, 4, 7);
        LOAD(5, a + TILE, 64), DOT(2, 5, 6), DOT(3, 5, 7);
    }
    STORE(0, out, 128), STORE(1, out + 16, 128), STORE(2, out + 16 * SIDE, 128), STORE(3, out + 16 * SIDE + 16, 128);
}

/* The batch as inputs of the first layer. */
static void take_batch(Net *net, const void *records, long bytes, const int64_t *index, long count, const float *scale, const float *shift) {
    Layer *l = net->layer;
    long groups = net->records / 16;
    for (long r0 = 0; r0 < net->records; r0 += SIDE) {
        for (long r = 0; r < SIDE; r++) {
            bf16 *to = net->batch + r * l->wide;
            if (r0 + r >= count) { memset(to, 0, l->wide * 2); continue; }
            const uint8_t *small = (const uint8_t *)records + index[r0 + r] * l->in;
            const float *wide = (const float *)records + index[r0 + r] * l->in;
            for (long k = 0; k < l->in; k += 16) {
                __mmask16 m = first(l->in - k);
                __m512 v = bytes ? _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(m, small + k))) : _mm512_maskz_loadu_ps(m, wide + k);
                if (scale) v = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(m, scale + k), _mm512_maskz_loadu_ps(m, shift + k));
                _mm256_store_si256((void *)(to + k), narrow(v));
            }
        }
        for (long k = 0; k < l->wide; k += SIDE) {
            bf16 square[BLOCK] __attribute__((aligned(64)));
            for (long r = 0; r < SIDE; r++) _mm512_store_si512(square + r * SIDE, _mm512_loadu_si512(net->batch + r * l->wide + k));
            pair_rows(square, tile(l->rows, r0 / SIDE, k / 16, l->wide / 16));
            pair_columns(square, SIDE, tile(l->columns, k / SIDE, r0 / 16, groups), TILE);
        }
    }
}

/* Outputs of a layer: activations as the next layer's inputs, or logits. */
static void forward(Net *net, long place, const float *mask, long count) {
    Layer *l = net->layer + place, *next = place + 1 < net->layers ? l + 1 : NULL;
    long groups = net->records / 16, depth = l->wide / SIDE;
    float z[BLOCK] __attribute__((aligned(64)));
    bf16 active[BLOCK] __attribute__((aligned(64)));
    for (long n = 0; n < l->tall; n += SIDE)
        for (long r = 0; r < net->records; r += SIDE) {
            product(block(l->weight, n / SIDE, 0, depth), tile(l->columns, 0, r / 16, groups), groups * TILE, depth, z);
            for (long i = 0; i < SIDE; i++)
                for (long c = 0; c < SIDE; c += 16) {
                    __m512 v = _mm512_add_ps(_mm512_load_ps(z + i * SIDE + c), _mm512_set1_ps(*bias_at(net, l, 0, n + i)));
                    if (!next) { _mm512_store_ps(net->logits + (n + i) * net->records + r + c, v); continue; }
                    __m512 one = _mm512_set1_ps(1.f), slope;
                    if (net->tanh) v = hyperbolic_tangent(v), slope = _mm512_fnmadd_ps(v, v, one);
                    else slope = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ), one), v = _mm512_mul_ps(v, slope);
                    if (mask) {
                        __m512 kept = n + i < l->out ? _mm512_maskz_loadu_ps(first(count - r - c), mask + (n + i) * count + r + c) : _mm512_setzero_ps();
                        v = _mm512_mul_ps(v, kept), slope = _mm512_mul_ps(slope, kept);
                    }
                    _mm256_store_si256((void *)(active + i * SIDE + c), narrow(v));
                    _mm256_store_si256((void *)(next->slope + (n + i) * net->records + r + c), narrow(slope));
                }
            if (!next) continue;
            pair_rows(active, tile(next->columns, n / SIDE, r / 16, groups));
            pair_columns(active, SIDE, tile(next->rows, r / SIDE, n / 16, next->wide / 16), TILE);
        }
}

/* A block of the gradient of a layer's outputs, as both operands, and its sum over records. */
static void keep_gradient(Net *net, Layer *l, long n, long r, const float *d) {
    bf16 low[BLOCK] __attribute__((aligned(64)));
    for (long i = 0; i < SIDE; i++) {
        __m512 a = _mm512_load_ps(d + i * SIDE), b = _mm512_load_ps(d + i * SIDE + 16);
        l->bias_gradient[n + i] += _mm512_reduce_add_ps(_mm512_add_ps(a, b));
        _mm256_store_si256((void *)(low + i * SIDE), narrow(a)), _mm256_store_si256((void *)(low + i * SIDE + 16), narrow(b));
    }
    memcpy(block(l->d_left, n / SIDE, r / SIDE, net->records / SIDE), low, sizeof low);
    pair_rows(low, tile(l->d_columns, n / SIDE, r / 16, net->records / 16));
}

/* Loss of every record and the gradient of the logits of their weighted sum; returns the sum of the losses as trained. */
static double loss(Net *net, const int64_t *labels, long count, float smoothing, float *own) {
    Layer *l = net->layer + net->layers - 1;
    long pitch = net->records, classes = l->out;
    double total = 0;
    __m512 share = _mm512_set1_ps(smoothing / (float)classes), weight = _mm512_set1_ps(1.f / (float)count);
    for (long r = 0; r < pitch; r += 16) {
        __mmask16 m = first(count - r);
        float *z = net->logits + r;
        __m512 most = _mm512_load_ps(z), sum = _mm512_setzero_ps(), all = sum;
        for (long n = 1; n < classes; n++) most = _mm512_max_ps(most, _mm512_load_ps(z + n * pitch));
        float top[16], sums[16], every[16];
        for (long n = 0; n < classes; n++) all = _mm512_add_ps(all, _mm512_sub_ps(_mm512_load_ps(z + n * pitch), most));
        float right[16];
        for (long i = 0; i < 16; i++) right[i] = r + i < count ? z[labels[r + i] * pitch + i] : 0;
        for (long n = 0; n < classes; n++) {
            __m512 e = exponential(_mm512_sub_ps(_mm512_load_ps(z + n * pitch), most));
            _mm512_store_ps(z + n * pitch, e), sum = _mm512_add_ps(sum, e);
        }
        _mm512_storeu_ps(top, most), _mm512_storeu_ps(sums, sum), _mm512_storeu_ps(every, all);
        for (long i = 0; i < 16 && r + i < count; i++) {
            double log_sum = log((double)sums[i]), mine = log_sum - ((double)right[i] - top[i]);
            own[r + i] = (float)mine;
            total += (1 - (double)smoothing) * mine + (double)smoothing * (log_sum - (double)every[i] / (double)classes);
        }
        __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.f), sum);
        for (long n = 0; n < classes; n++) {
            __m512 d = _mm512_sub_ps(_mm512_mul_ps(_mm512_load_ps(z + n * pitch), scale), share);
            _mm512_store_ps(z + n * pitch, _mm512_maskz_mul_ps(m, d, weight));
        }
        for (long i = 0; i < 16 && r + i < count; i++) z[labels[r + i] * pitch + i] -= (1 - smoothing) / (float)count;
    }
    memset(net->logits + classes * pitch, 0, (l->tall - classes) * pitch * 4);
    memset(l->bias_gradient, 0, l->tall * 4);
    float d[BLOCK] __attribute__((aligned(64)));
    for (long n = 0; n < l->tall; n += SIDE)
        for (long r = 0; r < pitch; r += SIDE) {
            for (long i = 0; i < SIDE; i++) memcpy(d + i * SIDE, net->logits + (n + i) * pitch + r, SIDE * 4);
            keep_gradient(net, l, n, r, d);
        }
    return total;
}

/* The gradient of what came before the activation that this layer reads. */
static void backward(Net *net, long place) {
    Layer *l = net->layer + place, *below = l - 1;
    long groups = net->records / 16, depth = l->tall / SIDE;
    float d[BLOCK] __attribute__((aligned(64)));
    memset(below->bias_gradient, 0, below->tall * 4);
    for (long k = 0; k < l->wide; k += SIDE) {
        for (long n = 0; n < depth; n++)
            for (long half = 0; half < 2; half++)
                transpose_bf16(block(l->weight, n, k / SIDE, l->wide / SIDE) + 16 * half, SIDE, net->turned + n * BLOCK + half * TILE, SIDE);
        for (long r = 0; r < net->records; r += SIDE) {
            product(net->turned, tile(l->d_columns, 0, r / 16, groups), groups * TILE, depth, d);
            for (long i = 0; i < SIDE; i++)
                for (long c = 0; c < SIDE; c += 16) {
                    __m512 slope = get(l->slope + (k + i) * net->records + r + c, 0xFFFF);
                    _mm512_store_ps(d + i * SIDE + c, _mm512_mul_ps(_mm512_load_ps(d + i * SIDE + c), slope));
                }
            keep_gradient(net, below, k, r, d);
        }
    }
}

/* What update needs of a rule, once for all weights: read from memory, it would be read again after every store. */
typedef struct { __m512 rate, decay, shrink, momentum, fresh1, old2, fresh2, size, root, epsilon, share; int moves, nesterov; } Constants;

static inline Constants constants(const Rule *u) {
#define ALL(x) _mm512_set1_ps(x)
    return (Constants){ALL(u->rate), ALL(u->decay), ALL(u->rate * u->decay), ALL(u->momentum), ALL(1 - u->beta1), ALL(u->beta2), ALL(1 - u->beta2),
                       ALL(u->size), ALL(u->root), ALL(u->epsilon), ALL(u->share), u->momentum > 0, u->nesterov != 0};
#undef ALL
}

/* Sixteen weights after a step by PyTorch's formulas; at `next` are their moments and average, `pitch` apart. */
static inline __attribute__((always_inline)) __m512 update(const Constants c, long kind, long average, __m512 g, __m512 x, float *next, long pitch) {
    if (kind == ADAMW) x = _mm512_fnmadd_ps(x, c.shrink, x);
    else g = _mm512_fmadd_ps(c.decay, x, g);
    if (kind == SGD) {
        if (c.moves) {
            __m512 m = _mm512_fmadd_ps(c.momentum, _mm512_load_ps(next), g);
            _mm512_store_ps(next, m);
            g = c.nesterov ? _mm512_fmadd_ps(c.momentum, m, g) : m;
            next += pitch;
        }
        x = _mm512_fnmadd_ps(c.rate, g, x);
    } else {
        __m512 m = _mm512_load_ps(next), v = _mm512_load_ps(next + pitch);
        m = _mm512_fmadd_ps(c.fresh1, _mm512_sub_ps(g, m), m);
        v = _mm512_fmadd_ps(_mm512_mul_ps(g, g), c.fresh2, _mm512_mul_ps(v, c.old2));
        _mm512_store_ps(next, m), _mm512_store_ps(next + pitch, v);
        x = _mm512_fnmadd_ps(_mm512_mul_ps(c.size, m), reciprocal(_mm512_fmadd_ps(square_root(v), c.root, c.epsilon)), x);
        next += 2 * pitch;
    }
    if (average) {
        __m512 a = _mm512_load_ps(next);
        _mm512_store_ps(next, _mm512_fmadd_ps(c.share, _mm512_sub_ps(x, a), a));
    }
    return x;
}

/* Sixteen weights from their halves, and back. The bfloat16 is the nearest one: what is missing to it has a sign. */
static inline __m512 join(const bf16 *high, const int16_t *low) {
    __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const void *)high)), 16);
    return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_cvtepi16_epi32(_mm256_load_si256((const void *)low))));
}
static inline void split(__m512 x, bf16 *high, int16_t *low) {
    __m512i bits = _mm512_castps_si512(x);
    _mm256_store_si256((void *)high, _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)), 16)));
    _mm256_store_si256((void *)low, _mm512_cvtepi32_epi16(bits));
}

static inline __attribute__((always_inline)) void update_layer(Net *net, Layer *l, const Rule *u, long kind, long average, long fields, float factor) {
    long lines = net->records / SIDE, columns = l->wide / 16, depth = l->wide / SIDE, size = row_size(fields);
    float own[BLOCK] __attribute__((aligned(64)));
    const Constants c = constants(u);
    __m512 times = _mm512_set1_ps(factor);
    for (long n = 0; n < l->tall; n += SIDE)
        for (long k = 0; k < l->wide; k += SIDE) {
            long place = n / SIDE * depth + k / SIDE;
            float *g = own, *state = l->state + place * SIDE * size;
            bf16 *high = l->weight + place * BLOCK;
            if (u->clip > 0) g = l->gradient + place * BLOCK;
            else product(block(l->d_left, n / SIDE, 0, lines), tile(l->rows, 0, k / 16, columns), columns * TILE, lines, own);
            for (long i = 0; i < SIDE; i++, state += size, high += SIDE, g += SIDE) {
                for (long f = 0; f < size; f += 16) _mm_prefetch((const char *)(state + AHEAD * size + f), _MM_HINT_T1);
                for (long half = 0; half < SIDE; half += 16) {
                    int16_t *low = (int16_t *)state + half;
                    __m512 x = join(high + half, low), gradient = _mm512_mul_ps(_mm512_load_ps(g + half), times);
                    split(update(c, kind, average, gradient, x, state + SIDE / 2 + half, SIDE), high + half, low);
                }
            }
        }
    for (long n = 0; n < l->tall; n += 16) {
        float *b = l->bias + n * fields;
        _mm512_store_ps(b, update(c, kind, average, _mm512_mul_ps(_mm512_load_ps(l->bias_gradient + n), times), _mm512_load_ps(b), b + 16, 16));
    }
}

static void update_any(Net *net, Layer *l, const Rule *u, float factor) {
    if (u->kind == ADAM && !u->average) update_layer(net, l, u, ADAM, 0, 3, factor);
    else if (u->kind == ADAM) update_layer(net, l, u, ADAM, 1, 4, factor);
    else if (u->kind == ADAMW) update_layer(net, l, u, ADAMW, u->average, net->fields, factor);
    else update_layer(net, l, u, SGD, u->average, net->fields, factor);
}

/* Gradients of a layer's weights, kept; returns the sum of all their squares. */
static double keep_gradients(Net *net, Layer *l) {
    long lines = net->records / SIDE, columns = l->wide / 16;
    double total = 0;
    for (long n = 0; n < l->tall; n += SIDE)
        for (long k = 0; k < l->wide; k += SIDE) {
            float *g = l->gradient + ((n / SIDE) * (l->wide / SIDE) + k / SIDE) * BLOCK;
            product(block(l->d_left, n / SIDE, 0, lines), tile(l->rows, 0, k / 16, columns), columns * TILE, lines, g);
            __m512 s = _mm512_setzero_ps();
            for (long i = 0; i < BLOCK; i += 16) s = _mm512_fmadd_ps(_mm512_load_ps(g + i), _mm512_load_ps(g + i), s);
            total += _mm512_reduce_add_ps(s);
        }
    for (long n = 0; n < l->out; n++) total += (double)l->bias_gradient[n] * l->bias_gradient[n];
    return total;
}

/* One step on the records[index[0 .. count]]: bytes or floats, times scale plus shift where those are given.
   masks[i] (or NULL): what the i-th layer's activations are multiplied by, [out][count]. own[count]: losses.
   Returns the sum of the losses as they are trained on. */
double fcn_step(Net *net, const void *records, long bytes, const int64_t *index, long count, const float *scale, const float *shift,
                const int64_t *labels, const float *const *masks, double smoothing, const Rule *rule, float *own) {
    Tiles before;
    tiles_on(&before);
    /* Moments of weights that get no gradient fade until they are denormal, on which every operation is slow. */
    unsigned modes = _mm_getcsr();
    _mm_setcsr(modes | 0x8040);
    net->records = up(count, SIDE);
    take_batch(net, records, bytes, index, count, scale, shift);
    for (long i = 0; i < net->layers; i++) forward(net, i, masks && i + 1 < net->layers ? masks[i] : NULL, count);
    double total = loss(net, labels, count, (float)smoothing, own), squares = 0;
    for (long i = net->layers - 1; i >= 0; i--) {
        if (i) backward(net, i);
        if (rule->clip > 0) squares += keep_gradients(net, net->layer + i);
        else update_any(net, net->layer + i, rule, 1.f);
    }
    if (rule->clip > 0) {
        float factor = (float)fmin(1.0, (double)rule->clip / (sqrt(squares) + 1e-6));
        for (long i = net->layers - 1; i >= 0; i--) update_any(net, net->layer + i, rule, factor);
    }
    _mm_setcsr(modes);
    tiles_off(&before);
    return total;
}

void fcn_free(Net *net) {
    if (!net) return;
    for (long i = 0; net->layer && i < net->layers; i++) {
        Layer *l = net->layer + i;
        free(l->weight), free(l->state), free(l->bias), free(l->columns), free(l->rows), free(l->slope);
        free(l->d_left), free(l->d_columns), free(l->gradient), free(l->bias_gradient);
    }
    free(net->layer), free(net->logits), free(net->batch), free(net->turned), free(net);
}

/* A network of widths[0 .. layers] for batches of at most `records`, all zero; fields: float arrays a weight (itself, its
   moments, its average). NULL without memory. */
Net *fcn_new(long layers, const int64_t *widths, long records, long tanh, long fields, long clips) {
    Net *net = room(sizeof(Net));
    if (!net) return NULL;
    *net = (Net){.layers = layers, .records = up(records, SIDE), .tanh = tanh, .fields = fields, .layer = room(layers * sizeof(Layer))};
    int whole = net->layer != NULL;
    long most = 0;
    for (long i = 0; whole && i < layers; i++) {
        Layer *l = net->layer + i;
        l->in = widths[i], l->out = widths[i + 1], l->wide = up(l->in, SIDE), l->tall = up(l->out, SIDE);
        long size = l->wide * l->tall, r = net->records;
        most = l->tall > most ? l->tall : most;
        whole = (l->weight = room(size * 2)) && (l->state = room(size / SIDE * row_size(fields) * 4)) && (l->bias = room(l->tall * fields * 4)) && (l->columns = room(l->wide * r * 2)) && (l->rows = room(l->wide * r * 2)) &&
                (!i || (l->slope = room(l->wide * r * 2))) && (l->d_left = room(l->tall * r * 2)) && (l->d_columns = room(l->tall * r * 2)) &&
                (!clips || (l->gradient = room(size * 4))) && (l->bias_gradient = room(l->tall * 4));
    }
    if (whole) whole = (net->logits = room(net->layer[layers - 1].tall * net->records * 4)) && (net->batch = room(SIDE * net->layer->wide * 2)) && (net->turned = room(most * SIDE * 2));
    if (whole) return net;
    fcn_free(net);
    return NULL;
}

/* Weights[out][in] and biases[out] of a layer into a field: 0 the weights, the last the average. */
void fcn_put(Net *net, long place, long field, const float *weight, const float *bias) {
    Layer *l = net->layer + place;
    for (long n = 0; n < l->out; n++) {
        *bias_at(net, l, field, n) = bias[n];
        for (long k = 0; k < l->wide; k += SIDE) {
            long row = (n / SIDE * (l->wide / SIDE) + k / SIDE) * SIDE + n % SIDE;
            float *state = l->state + row * row_size(net->fields), *to = state + SIDE / 2 + (field - 1) * SIDE;
            for (long half = 0; half < SIDE; half += 16) {
                __m512 x = _mm512_maskz_loadu_ps(first(l->in - k - half), weight + n * l->in + k + half);
                if (field) _mm512_store_ps(to + half, x);
                else split(x, l->weight + row * SIDE + half, (int16_t *)state + half);
            }
        }
    }
}

/* A field of a layer: weights[out][in] and biases[out]. */
void fcn_get(const Net *net, long place, long field, float *weight, float *bias) {
    const Layer *l = net->layer + place;
    for (long n = 0; n < l->out; n++) {
        bias[n] = *bias_at(net, l, field, n);
        for (long k = 0; k < l->wide; k += SIDE) {
            long row = (n / SIDE * (l->wide / SIDE) + k / SIDE) * SIDE + n % SIDE;
            const float *state = l->state + row * row_size(net->fields), *from = state + SIDE / 2 + (field - 1) * SIDE;
            for (long half = 0; half < SIDE; half += 16) {
                __m512 x = field ? _mm512_load_ps(from + half) : join(l->weight + row * SIDE + half, (const int16_t *)state + half);
                _mm512_mask_storeu_ps(weight + n * l->in + k + half, first(l->in - k - half), x);
            }
        }
    }
}
