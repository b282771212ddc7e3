/* What every kernel needs: bfloat16 in AVX-512, the AMX tile unit, memory. */
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;
typedef struct { uint8_t palette, start, reserved[14]; uint16_t columns[16]; uint8_t rows[16]; } __attribute__((aligned(64))) Tiles;

/* As expressions; the barrier is there because compilers do not see that a tile load reads memory. */
#define LOAD(tile, from, bytes) ({ __asm__ volatile("" ::: "memory"); _tile_loadd(tile, from, bytes); })
#define STORE(tile, to, bytes) ({ _tile_stored(tile, to, bytes); __asm__ volatile("" ::: "memory"); })
#define ZERO(tile) ({ _tile_zero(tile); })
#define DOT(to, left, right) ({ _tile_dpbf16ps(to, left, right); })

static inline long up(long n, long to) { return (n + to - 1) / to * to; }
static inline long least(long a, long b) { return a < b ? a : b; }
static inline __mmask16 first(long n) { return n >= 16 ? 0xFFFF : (__mmask16)((1u << (n < 0 ? 0 : n)) - 1); }
static inline __m512 widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
static inline __m512 get(const bf16 *p, __mmask16 m) { return widen(_mm256_maskz_loadu_epi16(m, p)); }
static inline __m256i narrow(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }
static inline void put(bf16 *p, __mmask16 m, __m512 v) { _mm256_mask_storeu_epi16(p, m, narrow(v)); }
static inline __m512i pairs(__m256i even, __m256i odd) { /* e0 o0 e1 o1 ... */
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}
static inline void ahead(const bf16 *p, long n) {
    for (long i = 0; i < n + 31; i += 32) _mm_prefetch(p + i, _MM_HINT_T0);
}
/* Zeros. Large ones on large pages, where the system gives them: the processor remembers the places of few small ones. */
static void *room(size_t bytes) {
    long page = bytes >= 1 << 20 ? 1 << 21 : 4096, size = up((long)bytes + 4096, page);
    void *p = aligned_alloc(page, size);
    if (!p) return NULL;
    if (page > 4096) madvise(p, size, MADV_HUGEPAGE);
    return memset(p, 0, size);
}

/* The caller's tile configuration is put back: oneDNN keeps its own across calls. */
static void tiles_on(Tiles *before) {
    Tiles all = {.palette = 1};
    for (int i = 0; i < 8; i++) all.columns[i] = 64, all.rows[i] = 16;
    _tile_storeconfig(before);
    _tile_loadconfig(&all);
}
static void tiles_off(const Tiles *before) {
    if (before->palette) _tile_loadconfig(before);
    else _tile_release();
}

/* 1 if this process may use the tile unit. */
int usable(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

/* Sixteen rows of sixteen pairs, transposed. */
static void transpose(__m512i r[16]) {
    __m512i t[16], u[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88), b = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88), d = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);
        r[i] = _mm512_shuffle_i32x4(a, c, 0x88), r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

/* from[32][stride], 16 columns -> to[16][pitch], 32 columns. */
static void transpose_bf16(const bf16 *from, long stride, bf16 *to, long pitch) {
    __m512i r[16];
    for (int i = 0; i < 16; i++)
        r[i] = pairs(_mm256_loadu_si256((const void *)(from + 2 * i * stride)),
                     _mm256_loadu_si256((const void *)(from + (2 * i + 1) * stride)));
    transpose(r);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * pitch, r[i]);
}
