/* One walk through keys in order (statistics/ranked.py): whole numbers, so nothing depends on the order of sums. */
#include <stdint.h>

typedef int64_t i64;
typedef __int128 i128;

/* As ranked.py reads and writes it, eight bytes a field. */
typedef struct {
    i64 before[4];     /* records of each label below the first key */
    i64 totals[4];     /* in all */
    i64 moments;       /* whether squares are wanted */
    i64 wanted[3];     /* how many places are looked for: among all, outside, inside the half */
    i64 wins[2];       /* low and high word */
    i64 member_squares[2], other_squares[2];
    i64 distinct;
    i64 best_key[2];
    double best[2];
} Walk;

/* Records of each label before every 64th key, and in all: (n / 64 + 2) x 4. */
void block_counts(const i64 *keys, i64 n, int32_t *counts) {
    int32_t own[4] = {0, 0, 0, 0};
    i64 whole = n / 64;
    for (i64 block = 0; block < whole; block++) {
        i64 member = 0, half = 0, both = 0;
        for (int c = 0; c < 4; c++) counts[4 * block + c] = own[c];
        for (int i = 0; i < 64; i++) {
            i64 key = keys[64 * block + i];
            member += key & 1, half += (key >> 1) & 1, both += key & (key >> 1) & 1;
        }
        own[0] += (int32_t)(64 - member - half + both), own[1] += (int32_t)(member - both);
        own[2] += (int32_t)(half - both), own[3] += (int32_t)both;
    }
    for (int c = 0; c < 4; c++) counts[4 * whole + c] = own[c];
    for (i64 i = 64 * whole; i < n; i++) own[keys[i] & 3]++;
    for (int c = 0; c < 4; c++) counts[4 * whole + 4 + c] = own[c];
}

static void put(i64 *to, i128 value) { to[0] = (i64)value, to[1] = (i64)(value >> 64); }

/* Places go to `found`, five rows (key; members, non-members at or above; members, non-members above) of `room`
   columns: first those among all, then those outside the half, then those inside it. With `sizes` there is one group of
   equal scores, of so many records of each label, and its key alone. */
void walk(const i64 *keys, i64 n, const i64 *sizes, const i64 *wanted, i64 *found, i64 room, Walk *state) {
    i64 *before = state->before;
    const i64 *all = state->totals;
    i64 own[2] = {all[1], all[3]}, rest[2] = {all[0], all[2]};
    i128 wins = 0, member_squares = 0, other_squares = 0;
    i64 next[3], end[3], column = 0, distinct = 0;
    for (int w = 0; w < 3; w++) next[w] = column, column += state->wanted[w], end[w] = column;
    /* TPR - FPR at a key, times own x rest: exact, and below the limit nothing can be the best in floating point. */
    i64 gain[2], limit[2];
    for (int h = 0; h < 2; h++) {
        int open = own[h] && rest[h];
        gain[h] = before[2 * h] * own[h] - before[2 * h + 1] * rest[h];
        limit[h] = open ? (i64)((state->best[h] - 1e-12) * (double)own[h] * (double)rest[h]) - 1 : INT64_MAX;
    }
    /* What a single key adds to the gains, and the next place looked for among all, outside and inside the half. */
    i64 step[2][4] = {{own[0], -rest[0], 0, 0}, {0, 0, own[1], -rest[1]}}, soon[3];
    for (int w = 0; w < 3; w++) soon[w] = next[w] < end[w] ? wanted[next[w]] : INT64_MAX;
    i64 members = before[1] + before[3], others = before[0] + before[2], singles = 0;
    for (i64 i = 0; i < n;) {
        const i64 group = keys[i] & ~(i64)3;
        for (int h = 0; h < 2; h++)
            if (__builtin_expect(gain[h] >= limit[h], 0)) {
                double value = 1 - (double)before[2 * h + 1] / (double)own[h];
                value -= 1 - (double)before[2 * h] / (double)rest[h];
                if (value > 0 && value >= state->best[h]) {
                    state->best[h] = value, state->best_key[h] = group;
                    limit[h] = (i64)((value - 1e-12) * (double)own[h] * (double)rest[h]) - 1;
                }
            }
        const int label = keys[i] & 3;
        if (__builtin_expect(!sizes && i + 1 < n && keys[i + 1] >= group + 4 && others < soon[0] &&
                             before[0] < soon[1] && before[2] < soon[2], 1)) {
            /* Most scores are nobody else's: no branch depends on the label. */
            const i64 member = label & 1, below = 2 * others & -member, lost = 2 * members & (member - 1);
            singles += below, distinct += 1 - member;
            if (state->moments) member_squares += (i128)below * below, other_squares += (i128)lost * lost;
            before[label]++, members += member, others += 1 - member;
            gain[0] += step[0][label], gain[1] += step[1][label];
            i++;
            continue;
        }
        i64 size[4] = {0, 0, 0, 0};
        if (sizes) for (int c = 0; c < 4; c++, i = n) size[c] = sizes[c];
        else do size[keys[i] & 3]++; while (++i < n && keys[i] < group + 4);
        i64 here = size[1] + size[3], also = size[0] + size[2], below = 2 * others + also, lost = 2 * members + here;
        distinct += also > 0;
        wins += (i128)here * below;
        if (state->moments) member_squares += (i128)here * below * below, other_squares += (i128)also * lost * lost;
        i64 start[3] = {others, before[0], before[2]}, count[3] = {also, size[0], size[2]};
        for (int w = 0; w < 3; w++) {
            for (; next[w] < end[w] && wanted[next[w]] < start[w] + count[w]; next[w]++) {
                i64 *to = found + next[w];
                i64 hits = w ? own[w - 1] - before[2 * w - 1] : own[0] + own[1] - members;
                i64 alarms = (w ? rest[w - 1] : rest[0] + rest[1]) - start[w];
                to[0] = group, to[room] = hits, to[2 * room] = alarms;
                to[3 * room] = hits - (w ? size[2 * w - 1] : here), to[4 * room] = alarms - count[w];
            }
            soon[w] = next[w] < end[w] ? wanted[next[w]] : INT64_MAX;
        }
        for (int c = 0; c < 4; c++) before[c] += size[c];
        members += here, others += also;
        for (int h = 0; h < 2; h++) gain[h] += size[2 * h] * own[h] - size[2 * h + 1] * rest[h];
    }
    put(state->wins, wins + singles), put(state->member_squares, member_squares);
    put(state->other_squares, other_squares), state->distinct = distinct;
}
