/* The loops of segloop/masks/rle.py that NumPy is slow at, called through ctypes: no Python.h. */

#include <stdint.h>
#include <string.h>

enum { HEADER_BITS = 32 + 5 + 4 * 4, CHANNELS = 4, LONGEST_RUN_PX = 65536 / CHANNELS };

/* The bits from position `at` on, first bit highest; at least 57 of the 64 are valid. Reads 8 bytes. */
static uint64_t bits_from(const uint8_t *data, int64_t at) {
    const uint8_t *byte = data + (at >> 3);
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | byte[i];
    return bits << (at & 7);
}

/*
 * Fill `alphas` with every fourth of a code's values; returns how many values the code holds, at most `total`.
 *
 * data: `size` bytes and 8 more, which may be read but never count
 * value_bits: 1 to 8; length_bits: four sizes of 1 to 16
 * alphas: total / 4 bytes, written up to the returned value / 4
 *
 * A code that is not whole ends the stream. Every turn of either loop consumes bits, so the work is bounded by
 * size and total.
 */
int64_t segloop_decode_rle(const uint8_t *data, int64_t size, int value_bits, const uint8_t length_bits[4],
                           uint8_t *alphas, int64_t total) {
    const int64_t end = size * 8;
    int64_t at = HEADER_BITS, done = 0;
    while (done < total && at + 3 <= end) {
        const uint64_t code = bits_from(data, at);
        const int run = (int)(code >> 63);
        const int width = length_bits[code >> 61 & 3];
        int64_t count = (int64_t)(code << 3 >> (64 - width)) + 1;
        if (count > total - done)
            count = total - done;
        at += 3 + width;
        if (run) {
            if (at + value_bits > end)
                break;
            const uint8_t value = (uint8_t)(code << (3 + width) >> (64 - value_bits));
            const int64_t first = done / CHANNELS;
            done += count;
            memset(alphas + first, value, (size_t)(done / CHANNELS - first));
            at += value_bits;
        } else {
            for (; count > 0 && at + value_bits <= end; count--, at += value_bits)
                if (++done % CHANNELS == 0)
                    alphas[done / CHANNELS - 1] = (uint8_t)(bits_from(data, at) >> (64 - value_bits));
            if (count > 0)
                break;
        }
    }
    return done;
}

/* Where the run that begins at `at` ends. */
static int64_t run_end(const uint8_t *values, int64_t size, int64_t at) {
    while (at + 8 < size) {
        uint64_t here, next;
        memcpy(&here, values + at, 8);
        memcpy(&next, values + at + 1, 8);
        if (here != next)
            break;
        at += 8;
    }
    while (at + 1 < size && values[at] == values[at + 1])
        at++;
    return at + 1;
}

/* Write where each run of equal values begins, and `size`; returns how many were written, or -1 if over `room`. */
int64_t segloop_run_bounds(const uint8_t *values, int64_t size, int64_t *bounds, int64_t room) {
    int64_t written = 0;
    for (int64_t at = 0; at < size; at = run_end(values, size, at)) {
        if (written + 1 >= room)
            return -1;
        bounds[written++] = at;
    }
    bounds[written++] = size;
    return written;
}

/* Bytes filled from the highest bit on; `held` bits, fewer than 8, wait in `pending` between calls. */
struct writer {
    uint8_t *at, *end;
    uint64_t pending;
    int held;
};

static void put(struct writer *to, uint64_t bits, int width) {
    to->pending = to->pending << width | bits;
    for (to->held += width; to->held >= 8;) {
        to->held -= 8;
        *to->at++ = (uint8_t)(to->pending >> to->held);
    }
}

static void put_header(struct writer *to, int64_t pixels) {
    put(to, (uint64_t)pixels * CHANNELS, 32);
    put(to, 7, 5);
    put(to, 2 << 12 | 3 << 8 | 7 << 4 | 15, 16);
}

/* Returns 0 where there is no room for it. */
static int put_run(struct writer *to, int64_t pixels, uint8_t alpha) {
    while (pixels > 0) {
        const int64_t piece = pixels < LONGEST_RUN_PX ? pixels : LONGEST_RUN_PX;
        const int length = (int)piece * CHANNELS;
        const int which = (length > 8) + (length > 16) + (length > 256);
        const int width = which < 2 ? 3 + which : 8 * (which - 1);
        if (to->end - to->at < 5)
            return 0;
        put(to, (((uint64_t)(4 | which) << width | (uint64_t)(length - 1)) << 8) | alpha, 3 + width + 8);
        pixels -= piece;
    }
    return 1;
}

static int64_t finish(struct writer *to, const uint8_t *out) {
    if (to->held)
        put(to, 0, 8 - to->held);
    return to->at - out;
}

/* Write the code of a mask of `size` pixels of alpha value * factor; returns its bytes, or -1 if over `room`. */
int64_t segloop_encode_mask(const uint8_t *values, int64_t size, int factor, uint8_t *out, int64_t room) {
    struct writer to = {out, out + room, 0, 0};
    if (room < 8)
        return -1;
    put_header(&to, size);
    for (int64_t at = 0, next; at < size; at = next) {
        next = run_end(values, size, at);
        if (!put_run(&to, next - at, (uint8_t)(values[at] * factor)))
            return -1;
    }
    return finish(&to, out);
}

/* Write the code of `runs` runs, from bounds[i] to bounds[i + 1]; returns its bytes, or -1 if over `room`. */
int64_t segloop_encode_runs(const int64_t *bounds, const uint8_t *alphas, int64_t runs, uint8_t *out, int64_t room) {
    struct writer to = {out, out + room, 0, 0};
    if (room < 8)
        return -1;
    put_header(&to, bounds[runs]);
    for (int64_t i = 0; i < runs; i++)
        if (!put_run(&to, bounds[i + 1] - bounds[i], alphas[i]))
            return -1;
    return finish(&to, out);
}
