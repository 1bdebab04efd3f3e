/* Sends media through a relay, takes what comes out, and says what became of it. One thread; it never sleeps.
 *
 *     load RELAY-PID RATE WARM-UP SECONDS
 *
 * Reads a line for each stream: FROM-PORT TO-PORT AT-PORT OUT-KEY IN-KEY (see read_key). FROM and AT are own sockets,
 * TO is the relay's. RATE packets a second, of all streams together, leave one by one when they are due, the streams
 * in turn; after a delay several at once. WARM-UP seconds at 20,000/s at most go before the SECONDS that count.
 * Every packet that arrives must be authentic and have the payload that was sent; the payload carries the time.
 * RELAY-PID's CPU time is taken over the same seconds; 0: there is no relay.
 *
 * Prints one line of JSON. sent, received; late: of these; bad; overrun: what own sockets dropped; seconds: how
 * long sending took, longer than SECONDS if this program could not keep up; cpu: seconds; p50, p99, max: one-way
 * microseconds. */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "srtp.h"

enum { BATCH = 64, ROOM = 256, PACKET = 172, EVENTS = 64, SSRC = 0x5eed0000, PORTS = 65536, MAX_STREAMS = 8192 };
#define FIRST_INDEX 65500 /* every stream soon comes to its first roll-over */
#define WARM_RATE 20000.0
#define LATE 100000000u /* nanoseconds on the way after which a packet is of no use: a queue grows somewhere */
#define QUIET 200000000u /* nanoseconds without a packet after which none is waited for */
#define SECOND 1e9

struct payload {
    uint64_t sent_at; /* nanoseconds */
    uint8_t counts, fill[PACKET - HEADER - 9];
} __attribute__((packed));

struct stream {
    int socket;
    struct sockaddr_in to;
    struct key out, in;
    uint64_t next; /* index */
};

static struct stream streams[MAX_STREAMS];
static uint32_t stream_count, turn;
static int sockets[PORTS], poll;
static uint8_t fill[sizeof((struct payload *)0)->fill];
static uint64_t received, late, bad, heard_at;

/* Latencies in nanoseconds: bucket 256 * p + m counts those from m << p on, at less than one percent's width. */
static uint64_t histogram[256 * 57], slowest;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static double cpu_seconds(int pid)
{
    clockid_t clock;
    struct timespec time = {0};
    if (pid)
        must(!clock_getcpuclockid(pid, &clock) && !clock_gettime(clock, &time), "load: relay's CPU time");
    return (double)time.tv_sec + (double)time.tv_nsec / SECOND;
}

static void note_latency(uint64_t delay)
{
    int power = delay < 256 ? 0 : 56 - __builtin_clzll(delay);
    histogram[256 * power + (int)(delay >> power)]++;
    late += delay > LATE;
    if (delay > slowest)
        slowest = delay;
}

/* Microseconds under which `share` of the packets stayed. */
static double percentile(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)received), seen = 0;
    for (int i = 0; i < 256 * 57; i++)
        if ((seen += histogram[i]) > wanted)
            return (double)((uint64_t)(i % 256) << (i / 256)) / 1000;
    return 0;
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int socket_at(int port)
{
    must(port > 0 && port < PORTS, "load: port");
    if (!sockets[port]) {
        struct sockaddr_in address = loopback(port);
        int room = 4 << 20, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        must(fd > 0 && !setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) &&
                 !bind(fd, (struct sockaddr *)&address, sizeof address) &&
                 !epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event), "load: socket");
        sockets[port] = fd;
    }
    return sockets[port];
}

/* The next packet of the stream whose turn it is. Gives its length. */
static int build(uint8_t *packet, uint64_t time, int counts)
{
    struct stream *stream = &streams[turn];
    uint64_t index = stream->next++;
    uint32_t words[3] = {
        htonl(0x80000000u | (uint32_t)(index & 0xffff)), htonl((uint32_t)(160 * index)), htonl(SSRC + turn)};
    struct payload payload = {.sent_at = time, .counts = (uint8_t)counts};
    memcpy(payload.fill, fill, sizeof fill);
    memcpy(packet, words, HEADER);
    memcpy(packet + HEADER, &payload, sizeof payload);
    turn = (turn + 1) % stream_count;
    return protect(&stream->out, packet, PACKET, index);
}

/* The streams in turn, as long as they share a socket, `most` packets at most. Gives how many were sent. */
static uint64_t send_some(uint64_t most, uint64_t time, int counts)
{
    static uint8_t packets[BATCH][ROOM];
    static struct iovec pieces[BATCH];
    static struct mmsghdr messages[BATCH];
    int socket = streams[turn].socket, count = 0;
    while (count < BATCH && (uint64_t)count < most && streams[turn].socket == socket) {
        struct sockaddr_in *to = &streams[turn].to;
        pieces[count] = (struct iovec){packets[count], (size_t)build(packets[count], time, counts)};
        messages[count].msg_hdr = (struct msghdr){to, sizeof *to, &pieces[count], 1, NULL, 0, 0};
        count++;
    }
    for (int done = 0, sent; done < count; done += sent > 0 ? sent : 0) {
        sent = sendmmsg(socket, messages + done, (unsigned)(count - done), 0);
        must(sent > 0 || errno == ECONNREFUSED || errno == EAGAIN, "load: send"); /* both are of earlier packets */
    }
    return (uint64_t)count;
}

static void take(uint8_t *packet, int length, uint64_t time)
{
    struct payload payload;
    uint32_t ssrc, number;
    if (length < HEADER) {
        bad++;
        return;
    }
    memcpy(&ssrc, packet + 8, sizeof ssrc);
    if ((number = ntohl(ssrc) - SSRC) >= stream_count) {
        bad++;
        return;
    }
    struct stream *stream = &streams[number];
    length = unprotect(&stream->in, packet, length, index_near(stream->next - 1, packet));
    if (length == PACKET)
        memcpy(&payload, packet + HEADER, sizeof payload);
    if (length != PACKET || memcmp(payload.fill, fill, sizeof fill) || payload.sent_at > time) {
        bad++;
    } else if (payload.counts) {
        received++;
        note_latency(time - payload.sent_at);
    }
}

static void receive_some(void)
{
    static uint8_t packets[BATCH][ROOM];
    static struct iovec pieces[BATCH];
    static struct mmsghdr messages[BATCH];
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(poll, events, EVENTS, 0);
    for (int n = 0; n < ready; n++) {
        for (int i = 0; i < BATCH; i++) {
            pieces[i] = (struct iovec){packets[i], ROOM};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
        }
        int count = recvmmsg(events[n].data.fd, messages, BATCH, 0, NULL);
        heard_at = now();
        for (int i = 0; i < count; i++)
            take(packets[i], (int)messages[i].msg_len, heard_at);
    }
}

/* Gives the nanoseconds it took to send. */
static uint64_t run(double rate, uint64_t total, int counts)
{
    uint64_t began = now(), sent = 0, time = began;
    while (sent < total) {
        time = now();
        uint64_t due = 1 + (uint64_t)((double)(time - began) * rate / SECOND);
        if (due > total)
            due = total;
        if (due > sent)
            sent += send_some(due - sent, time, counts);
        receive_some();
    }
    heard_at = now();
    while (now() < heard_at + QUIET && !(counts && received == sent))
        receive_some();
    return time - began;
}

static uint64_t overrun(void)
{
    uint64_t sum = 0;
    for (int port = 0; port < PORTS; port++) {
        uint32_t memory[SK_MEMINFO_VARS];
        socklen_t length = sizeof memory;
        if (sockets[port] && !getsockopt(sockets[port], SOL_SOCKET, SO_MEMINFO, memory, &length))
            sum += memory[SK_MEMINFO_DROPS];
    }
    return sum;
}

int main(int count, char **words)
{
    int from, to, at;
    char out[80], in[80];
    must(count == 5, "load: RELAY-PID RATE WARM-UP SECONDS");
    int pid = atoi(words[1]);
    double rate = atof(words[2]), warm = atof(words[3]), seconds = atof(words[4]);
    double warm_rate = rate < WARM_RATE ? rate : WARM_RATE;
    poll = epoll_create1(0);
    for (size_t i = 0; i < sizeof fill; i++)
        fill[i] = (uint8_t)(7 * i);
    while (stream_count < MAX_STREAMS && scanf("%d %d %d %79s %79s", &from, &to, &at, out, in) == 5) {
        socket_at(at);
        streams[stream_count++] =
            (struct stream){socket_at(from), loopback(to), read_key(out, 1), read_key(in, 0), FIRST_INDEX};
    }
    must(stream_count > 0, "load: streams");
    run(warm_rate, (uint64_t)(warm_rate * warm), 0);
    double cpu = cpu_seconds(pid);
    uint64_t total = (uint64_t)(rate * seconds), took = run(rate, total, 1);
    cpu = cpu_seconds(pid) - cpu;
    printf("{\"sent\": %lu, \"received\": %lu, \"late\": %lu, \"bad\": %lu, \"overrun\": %lu, \"seconds\": %.6f, "
           "\"cpu\": %.6f, \"p50\": %.2f, \"p99\": %.2f, \"max\": %.2f}\n",
           total, received, late, bad, overrun(), (double)took / SECOND, cpu,
           percentile(0.5), percentile(0.99), (double)slowest / 1000);
}
