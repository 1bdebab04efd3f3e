/* The least that a relay of SRTP can be: epoll, recvmmsg, the transform, sendmmsg. No key change, no latching, no
 * replay list, no counters, no RTCP.
 *
 *     bare CALLS
 *
 * The file has a line for each call: ACCESS-PORT CORE-PORT UE-PORT PEER-PORT UE-KEY OWN-KEY (see read_key). What the UE
 * sends to the access port leaves from the core port, unprotected, for the peer; and back, protected. It says
 * "ready" and runs until it is killed. */

#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "srtp.h"

enum { BATCH = 32, ROOM = 2048, EVENTS = 256 };

struct side { /* one socket, and what becomes of what comes in there */
    int socket, out;
    struct sockaddr_in to;
    struct key key;
    int (*transform)(struct key *, uint8_t *, int, uint64_t);
    uint64_t highest;
};

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int bound(int port)
{
    struct sockaddr_in address = loopback(port);
    int room = 1 << 20, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    must(fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) &&
             !bind(fd, (struct sockaddr *)&address, sizeof address), "bare: socket");
    return fd;
}

static struct side *side(int in, int out, int to, const char *key, int sealing)
{
    struct side *side = malloc(sizeof *side);
    must(side != NULL, "bare");
    *side = (struct side){in, out, loopback(to), read_key(key, sealing), sealing ? protect : unprotect, 0};
    return side;
}

static void forward(struct side *side)
{
    static uint8_t packets[BATCH][ROOM];
    static struct iovec pieces[BATCH];
    static struct mmsghdr messages[BATCH];
    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){packets[i], ROOM - MAX_TAG};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(side->socket, messages, BATCH, 0, NULL), left = 0;
    for (int i = 0; i < count; i++) {
        int length = (int)messages[i].msg_len;
        if (length < HEADER)
            continue;
        uint64_t index = index_near(side->highest, packets[i]);
        if ((length = side->transform(&side->key, packets[i], length, index)) < 0)
            continue;
        if (index > side->highest)
            side->highest = index;
        pieces[left] = (struct iovec){packets[i], (size_t)length};
        messages[left].msg_hdr.msg_name = &side->to;
        messages[left++].msg_hdr.msg_namelen = sizeof side->to;
    }
    for (int sent = 0, now; sent < left; sent += now > 0 ? now : 1)
        now = sendmmsg(side->out, messages + sent, (unsigned)(left - sent), 0);
}

int main(int count, char **words)
{
    must(count == 2 && freopen(words[1], "r", stdin), "bare: CALLS");
    int poll = epoll_create1(0), access, core, ue, peer;
    char ue_key[80], own_key[80];
    while (scanf("%d %d %d %d %79s %79s", &access, &core, &ue, &peer, ue_key, own_key) == 6) {
        int inner = bound(core), outer = bound(access);
        struct side *sides[] = {side(outer, inner, peer, ue_key, 0), side(inner, outer, ue, own_key, 1)};
        for (int i = 0; i < 2; i++) {
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = sides[i]};
            must(!epoll_ctl(poll, EPOLL_CTL_ADD, sides[i]->socket, &event), "bare: epoll");
        }
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++)
            forward(events[i].data.ptr);
    }
}
