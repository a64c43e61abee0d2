/* A load generator for HTTP/1.1: one request in flight per connection, connections kept alive.
 *
 *     load PORT CONNECTIONS SECONDS REQUESTS
 *
 * REQUESTS is a file of records, taken in turn by whichever connection is free next:
 *
 *     uint32 size of the request, uint32 size of what is expected (both in native order),
 *     the whole request, what the body of its answer must hold (may be empty)
 *
 * On standard output: lines of a name and its values, and after the last one, "times N", the time
 * of each answer in nanoseconds as uint64 in native order, in the order of arrival:
 *
 *     seconds    from the first request to the last answer
 *     cpu        seconds of CPU that this process used meanwhile
 *     broken     connections that ended, or said nothing in time, with a request in flight
 *     wrong      answers of status 200 whose body does not hold what is expected
 *     status S N N answers of status S
 *
 * tests/bench/load.py compiles it, feeds it and reads it; the arithmetic is there.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_ANSWER = 65536, EVENTS = 256, STATUSES = 1000 };

/* How long answers are waited for after the last request: longer than a request may take. */
static const double PATIENCE_SECONDS = 15.0;

struct request {
    const char *text, *expected;
    uint32_t size, expected_size;
};

struct connection {
    int socket;
    const struct request *request; /* in flight; NULL: none */
    uint64_t began;
    size_t have;
    char answer[LONGEST_ANSWER + 1];
};

static struct request *requests;
static size_t request_count, next_request;
static uint64_t *times;
static size_t time_count, time_room;
static uint64_t statuses[STATUSES], broken, wrong;
static uint64_t until, last_answer;
static int port, waiting, in_flight;

static void die(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void die_of_errno(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
         + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void read_requests(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        die_of_errno("can't read the requests");
    long size = ftell(file);
    rewind(file);
    char *text = malloc((size_t)size + 1);
    if (text == NULL || fread(text, 1, (size_t)size, file) != (size_t)size)
        die("can't read the requests");
    fclose(file);
    for (char *at = text, *end = text + size; at < end; request_count++) {
        uint32_t sizes[2];
        if ((size_t)(end - at) < sizeof sizes)
            die("a record of the requests is cut off");
        memcpy(sizes, at, sizeof sizes);
        at += sizeof sizes;
        if ((uint64_t)sizes[0] + sizes[1] > (uint64_t)(end - at))
            die("a record of the requests is cut off");
        if ((request_count & (request_count + 1)) == 0) { /* full: 0, 1, 3, 7… */
            requests = realloc(requests, (2 * request_count + 1) * sizeof *requests);
            if (requests == NULL)
                die("no memory");
        }
        requests[request_count] = (struct request){at, at + sizes[0], sizes[0], sizes[1]};
        at += (size_t)sizes[0] + sizes[1];
    }
    if (request_count == 0)
        die("there are no requests");
}

static void open_connection(struct connection *one)
{
    int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    one->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (one->socket < 0 || connect(one->socket, (struct sockaddr *)&address, sizeof address) != 0)
        die_of_errno("can't connect");
    setsockopt(one->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(one->socket, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    if (epoll_ctl(waiting, EPOLL_CTL_ADD, one->socket, &event) != 0)
        die_of_errno("epoll");
}

static void send_next(struct connection *one)
{
    const struct request *request = &requests[next_request];
    next_request = (next_request + 1) % request_count;
    one->request = request;
    one->have = 0;
    one->began = now();
    in_flight++;
    for (size_t sent = 0; sent < request->size;) {
        ssize_t n = send(one->socket, request->text + sent, request->size - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += (size_t)n;
        } else if (errno == EAGAIN || errno == EINTR) {
            struct pollfd writable = {.fd = one->socket, .events = POLLOUT};
            poll(&writable, 1, -1);
        } else {
            return; /* the peer has closed: reading will tell */
        }
    }
}

/* Send the next request while there is time, over a new connection if this one is of no more use. */
static void go_on(struct connection *one, int closed)
{
    one->request = NULL;
    in_flight--;
    if (closed)
        close(one->socket); /* epoll forgets it by itself */
    if (now() >= until)
        return;
    if (closed)
        open_connection(one);
    send_next(one);
}

static void note(uint64_t nanoseconds)
{
    if (time_count == time_room) {
        time_room = time_room ? 2 * time_room : 65536;
        times = realloc(times, time_room * sizeof *times);
        if (times == NULL)
            die("no memory");
    }
    times[time_count++] = nanoseconds;
}

/* Find a header's value; the names of headers have any case. */
static const char *header(const char *head, const char *end, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = head; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        if (strncasecmp(line, name, size) == 0)
            return line + size + strspn(line + size, " \t");
        line = next == NULL ? end : next + 1;
    }
    return NULL;
}

/* Take an answer if it is complete. */
static void look(struct connection *one)
{
    const char *end = memmem(one->answer, one->have, "\r\n\r\n", 4);
    if (end == NULL)
        return;
    const char *body = end + 4;
    if (strncmp(one->answer, "HTTP/1.1 ", 9) != 0)
        die("an answer is not HTTP/1.1");
    long status = strtol(one->answer + 9, NULL, 10);
    if (status < 100 || status >= STATUSES)
        die("an answer has no status");
    const char *given = header(one->answer, end, "content-length:");
    if (given == NULL && status != 204)
        die("an answer has no Content-Length");
    size_t size = given == NULL ? 0 : strtoul(given, NULL, 10);
    size_t have = one->have - (size_t)(body - one->answer);
    if (have < size)
        return;
    if (have > size)
        die("an answer has more than its Content-Length");
    last_answer = now();
    note(last_answer - one->began);
    statuses[status]++;
    const struct request *asked = one->request;
    if (status == 200 && memmem(body, size, asked->expected, asked->expected_size) == NULL)
        wrong++;
    const char *kept = header(one->answer, end, "connection:");
    go_on(one, kept != NULL && strncasecmp(kept, "close", 5) == 0);
}

static void receive(struct connection *one)
{
    ssize_t n = recv(one->socket, one->answer + one->have, LONGEST_ANSWER - one->have, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (one->request == NULL) { /* idle at the end: closed, or talking out of turn */
        if (n > 0)
            die("an answer that nobody asked for");
        epoll_ctl(waiting, EPOLL_CTL_DEL, one->socket, NULL);
        return;
    }
    if (n <= 0) {
        broken++;
        go_on(one, 1);
        return;
    }
    one->have += (size_t)n;
    one->answer[one->have] = '\0';
    look(one);
    if (one->request != NULL && one->have == LONGEST_ANSWER)
        die("an answer is too long");
}

static void report(uint64_t began, double cpu)
{
    uint64_t ended = time_count ? last_answer : now();
    printf("seconds %.9f\ncpu %.6f\n", (double)(ended - began) / 1e9, cpu);
    printf("broken %llu\nwrong %llu\n", (unsigned long long)broken, (unsigned long long)wrong);
    for (int status = 0; status < STATUSES; status++)
        if (statuses[status])
            printf("status %d %llu\n", status, (unsigned long long)statuses[status]);
    printf("times %zu\n", time_count);
    if (fwrite(times, sizeof *times, time_count, stdout) != time_count || fflush(stdout) != 0)
        die_of_errno("can't write");
}

int main(int argc, char **argv)
{
    if (argc != 5)
        die("usage: load PORT CONNECTIONS SECONDS REQUESTS");
    port = atoi(argv[1]);
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    read_requests(argv[4]);
    waiting = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc((size_t)count, sizeof *all);
    if (waiting < 0 || all == NULL)
        die_of_errno("no memory");
    for (int each = 0; each < count; each++)
        open_connection(&all[each]);

    double cpu = cpu_seconds();
    uint64_t began = now();
    until = began + (uint64_t)(seconds * 1e9);
    uint64_t patience = until + (uint64_t)(PATIENCE_SECONDS * 1e9);
    for (int each = 0; each < count; each++)
        send_next(&all[each]);
    for (uint64_t time = began; in_flight > 0 && time < patience; time = now()) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(waiting, events, EVENTS, (int)((patience - time) / 1000000 + 1));
        for (int each = 0; each < ready; each++)
            receive(events[each].data.ptr);
    }
    broken += (uint64_t)in_flight;
    report(began, cpu_seconds() - cpu);
    return 0;
}
