/* What is known of one SSRC: which indices its packets may have (RFC 3711 section 3.3). */
#ifndef SOURCE_H
#define SOURCE_H

#include "srtp.h"

#include <string.h>

/* The highest index and, as rings of bits, which of the last ones were there. */
struct source {
    uint32_t ssrc;
    uint32_t rtcp_index;
    uint64_t index; /* ROC and sequence number */
    uint64_t rtcp_window[SRTCP_WINDOW / 64];
    uint64_t window[SRTP_WINDOW / 64];
};

static inline bool is_fresh(const uint64_t *window, uint64_t size, uint64_t highest, uint64_t index) {
    if (index > highest)
        return true;
    return highest - index < size && !(window[index % size / 64] >> index % 64 & 1);
}

static inline void tick_off(uint64_t *window, uint64_t size, uint64_t highest, uint64_t index) {
    if (index > highest && index - highest >= size)
        memset(window, 0, size / 8);
    else
        for (uint64_t between = highest + 1; between <= index; between++)
            window[between % size / 64] &= ~(UINT64_C(1) << between % 64);
    window[index % size / 64] |= UINT64_C(1) << index % 64;
}

/* RFC 3711 section 3.3.1 and appendix A, but there is no index before 0: what would lie there is ahead. */
static inline uint64_t guess_index(uint64_t highest, uint16_t sequence) {
    uint64_t roc = highest >> 16;
    uint16_t last = (uint16_t)highest;
    if (last < 0x8000) {
        if (sequence - last > 0x8000 && roc > 0)
            roc--;
    } else if (last - 0x8000 > sequence)
        roc++;
    return roc << 16 | sequence;
}

#endif
