/* 2x2 max pooling of bfloat16 maps, channels last, and its gradient; what comes out is what PyTorch's gives, bit by bit.

   Of equal values the first counts (rows, then columns), -0 equals 0, and a NaN is greater than everything. */
#include "common.h"

/* Sixteen bits that are ordered like the values: of both zeros 0, of every NaN the greatest. */
static inline __m512i ordered(__m512i v) {
    __m512i size = _mm512_and_si512(v, _mm512_set1_epi16(0x7fff));
    __m512i key = _mm512_mask_sub_epi16(size, _mm512_movepi16_mask(v), _mm512_setzero_si512(), size);
    return _mm512_mask_mov_epi16(key, _mm512_cmpgt_epi16_mask(size, _mm512_set1_epi16(0x7f80)), _mm512_set1_epi16(0x7fff));
}

/* y[images][height / 2][width / 2][channels] and which of the four each is, of x[images][height][width][channels]. */
int max_pool(const bf16 *x, long images, long height, long width, long channels, bf16 *y, uint8_t *index) {
    for (long image = 0; image < images; image++)
        for (long i = 0; i < height / 2; i++)
            for (long j = 0; j < width / 2; j++, y += channels, index += channels) {
                const bf16 *from = x + ((image * height + 2 * i) * width + 2 * j) * channels;
                for (long c = 0; c < channels; c += 32) {
                    __mmask32 m = channels - c >= 32 ? 0xFFFFFFFF : (1u << (channels - c)) - 1;
                    __m512i best = _mm512_maskz_loadu_epi16(m, from + c), most = ordered(best);
                    __m256i which = _mm256_setzero_si256();
                    for (int k = 1; k < 4; k++) {
                        __m512i v = _mm512_maskz_loadu_epi16(m, from + ((k / 2) * width + k % 2) * channels + c), key = ordered(v);
                        __mmask32 more = _mm512_cmpgt_epi16_mask(key, most);
                        best = _mm512_mask_mov_epi16(best, more, v), most = _mm512_mask_mov_epi16(most, more, key);
                        which = _mm256_mask_mov_epi8(which, more, _mm256_set1_epi8((char)k));
                    }
                    _mm512_mask_storeu_epi16(y + c, m, best), _mm256_mask_storeu_epi8(index + c, m, which);
                }
            }
    return 0;
}

/* dx[images][height][width][channels] of dy[images][height / 2][width / 2][channels]. */
int max_pool_backward(const bf16 *dy, const uint8_t *index, long images, long height, long width, long channels, bf16 *dx) {
    for (long image = 0; image < images; image++, dx += height * width * channels) {
        if (height % 2) memset(dx + (height - 1) * width * channels, 0, width * channels * 2);
        for (long i = 0; i < height / 2; i++) {
            bf16 *line = dx + 2 * i * width * channels;
            if (width % 2)
                for (long k = 1; k < 3; k++) memset(line + (k * width - 1) * channels, 0, channels * 2);
            for (long j = 0; j < width / 2; j++, dy += channels, index += channels)
                for (long c = 0; c < channels; c += 32) {
                    __mmask32 m = channels - c >= 32 ? 0xFFFFFFFF : (1u << (channels - c)) - 1;
                    __m512i d = _mm512_maskz_loadu_epi16(m, dy + c);
                    __m256i which = _mm256_maskz_loadu_epi8(m, index + c);
                    for (int k = 0; k < 4; k++) {
                        __mmask32 here = _mm256_cmpeq_epi8_mask(which, _mm256_set1_epi8((char)k));
                        bf16 *to = line + ((k / 2) * width + 2 * j + k % 2) * channels + c;
                        _mm512_mask_storeu_epi16(to, m, _mm512_maskz_mov_epi16(here, d));
                    }
                }
        }
    }
    return 0;
}

