/* What single operations cost: prints "name nanoseconds" for each, the least of a few batches. Usage: micro [NAME…] */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buf[1 << 16];
static int fd, ends[2], pair[2];
static pid_t peer;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void nothing(void) {}
static void need(long ok, const char *what) {
  if (ok < 0) { perror(what); exit(1); }
}

static void getpid_(long n) { while (n--) syscall(SYS_getpid); }
static void clock_vdso(long n) { struct timespec t; while (n--) clock_gettime(CLOCK_MONOTONIC, &t); }
static void clock_call(long n) { struct timespec t; while (n--) syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t); }
static void open_zero(void) { need(fd = open("/dev/zero", O_RDWR), "/dev/zero"); }
static void close_fd(void) { close(fd); }
static void read_one(long n) { while (n--) read(fd, buf, 1); }
static void write_one(long n) { while (n--) write(fd, buf, 1); }
static void open_file(void) { need(fd = open("micro.data", O_RDWR | O_CREAT | O_TRUNC, 0600), "micro.data"); for (int i = 0; i < 64; i++) write(fd, buf, sizeof buf); }
static void close_file(void) { close(fd); unlink("micro.data"); }
static void read_page(long n) { for (long i = 0; i < n; i++) pread(fd, buf, 4096, i % 1024 * 4096); }
static void write_page(long n) { for (long i = 0; i < n; i++) pwrite(fd, buf, 4096, i % 1024 * 4096); }
static void read_64k(long n) { for (long i = 0; i < n; i++) pread(fd, buf, 65536, i % 64 * 65536); }
static void stat_file(long n) { struct stat s; while (n--) stat("micro.data", &s); }
static void open_close(long n) { while (n--) close(open("micro.data", O_RDONLY)); }
static void create_unlink(long n) { while (n--) { close(open("micro.new", O_CREAT | O_RDWR, 0600)); unlink("micro.new"); } }
static void make_hundred(void) { mkdir("micro.dir", 0700); for (int i = 0; i < 100; i++) { sprintf(buf, "micro.dir/%d", i); close(open(buf, O_CREAT | O_RDWR, 0600)); } }
static void drop_hundred(void) { for (int i = 0; i < 100; i++) { sprintf(buf, "micro.dir/%d", i); unlink(buf); } rmdir("micro.dir"); }
static void list_hundred(long n) { while (n--) { int d = open("micro.dir", O_RDONLY); while (syscall(SYS_getdents64, d, buf, sizeof buf) > 0); close(d); } }
static void map_file(long n) { while (n--) { volatile char *p = mmap(0, 1 << 20, PROT_READ, MAP_PRIVATE, fd, 0); for (int i = 0; i < 256; i++) (void)p[i * 4096]; munmap((void *)p, 1 << 20); } }
static void map_unmap(long n) { while (n--) { char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); munmap(p, 65536); } }
static void touch_pages(long n) { while (n > 0) { long k = n < 1024 ? n : 1024; char *p = mmap(0, k * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); for (long i = 0; i < k; i++) p[i * 4096] = 1; munmap(p, k * 4096); n -= k; } }
static char *page;
static void make_page(void) { page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *page = 1; }
static void protect(long n) { while (n--) { mprotect(page, 4096, PROT_READ); mprotect(page, 4096, PROT_READ | PROT_WRITE); *page = 1; } }
static void fork_wait(long n) { while (n--) { pid_t p = fork(); if (p == 0) _exit(0); waitpid(p, 0, 0); } }
static void exec_wait(long n) { while (n--) { pid_t p = vfork(); if (p == 0) { execl("/bin/true", "true", (char *)0); _exit(1); } waitpid(p, 0, 0); } }
static void *returns(void *a) { return a; }
static void thread_join(long n) { while (n--) { pthread_t t; pthread_create(&t, 0, returns, 0); pthread_join(t, 0); } }
static void ignore(int s) { (void)s; }
static void set_handler(void) { signal(SIGUSR1, ignore); }
static void signal_self(long n) { pid_t me = getpid(); while (n--) kill(me, SIGUSR1); }
static void open_event(void) { need(fd = eventfd(0, 0), "eventfd"); }
static void event(long n) { uint64_t v = 1; while (n--) { write(fd, &v, 8); read(fd, &v, 8); } }
static int ep;
static void open_epoll(void) { open_event(); ep = epoll_create1(0); struct epoll_event e = {EPOLLOUT, {0}}; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e); }
static void close_epoll(void) { close(ep); close(fd); }
static void epoll(long n) { struct epoll_event e; while (n--) epoll_wait(ep, &e, 1, 0); }
static void echo(int in, int out) { char c; while (read(in, &c, 1) == 1) write(out, &c, 1); _exit(0); }
static int to, from;
static void start_pipes(void) { int back[2]; pipe(ends); pipe(back); if ((peer = fork()) == 0) { close(ends[1]); close(back[0]); echo(ends[0], back[1]); } close(ends[0]); close(back[1]); to = ends[1]; from = back[0]; }
static void start_pair(int domain) {
  if (domain == AF_UNIX) socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  else {
    struct sockaddr_in a = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof a;
    int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
    need(bind(l, (void *)&a, len), "bind");
    listen(l, 1);
    getsockname(l, (void *)&a, &len);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    need(connect(pair[0], (void *)&a, len), "connect");
    pair[1] = accept(l, 0, 0);
    setsockopt(pair[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(pair[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(l);
  }
  if ((peer = fork()) == 0) { close(pair[0]); echo(pair[1], pair[1]); }
  close(pair[1]);
  to = from = pair[0];
}
static void start_unix(void) { start_pair(AF_UNIX); }
static void start_tcp(void) { start_pair(AF_INET); }
static void stop_peer(void) { close(to); if (from != to) close(from); waitpid(peer, 0, 0); }
static void ping_pong(long n) { char c = 1; while (n--) { write(to, &c, 1); read(from, &c, 1); } }
static void start_sink(void) { pipe(ends); if ((peer = fork()) == 0) { close(ends[1]); while (read(ends[0], buf, sizeof buf) > 0); _exit(0); } close(ends[0]); to = from = ends[1]; }
static void push(long n) { while (n--) write(to, buf, sizeof buf); }
static int *words;
static long futex(int *w, int op, int v) { return syscall(SYS_futex, w, op, v, 0, 0, 0); }
static void start_futex(void) {
  words = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if ((peer = fork()) == 0) for (;;) {
    while (__atomic_load_n(words, __ATOMIC_ACQUIRE) == 0) futex(words, FUTEX_WAIT, 0);
    if (*words == 2) _exit(0);
    __atomic_store_n(words, 0, __ATOMIC_RELEASE);
    __atomic_store_n(words + 1, 1, __ATOMIC_RELEASE);
    futex(words + 1, FUTEX_WAKE, 1);
  }
}
static void stop_futex(void) { *words = 2; futex(words, FUTEX_WAKE, 1); waitpid(peer, 0, 0); munmap(words, 4096); }
static void futex_pong(long n) {
  while (n--) {
    __atomic_store_n(words, 1, __ATOMIC_RELEASE);
    futex(words, FUTEX_WAKE, 1);
    while (__atomic_load_n(words + 1, __ATOMIC_ACQUIRE) == 0) futex(words + 1, FUTEX_WAIT, 0);
    __atomic_store_n(words + 1, 0, __ATOMIC_RELEASE);
  }
}

static const struct { const char *name; void (*before)(void); void (*run)(long); void (*after)(void); } all[] = {
  {"getpid", nothing, getpid_, nothing}, {"clock_vdso", nothing, clock_vdso, nothing}, {"clock_call", nothing, clock_call, nothing},
  {"read_1", open_zero, read_one, close_fd}, {"write_1", open_zero, write_one, close_fd},
  {"pread_4k", open_file, read_page, close_file}, {"pwrite_4k", open_file, write_page, close_file}, {"pread_64k", open_file, read_64k, close_file},
  {"stat", open_file, stat_file, close_file}, {"open_close", open_file, open_close, close_file}, {"create_unlink", nothing, create_unlink, nothing},
  {"list_100", make_hundred, list_hundred, drop_hundred}, {"mmap_munmap", nothing, map_unmap, nothing}, {"mprotect", make_page, protect, nothing},
  {"fault_anon", nothing, touch_pages, nothing}, {"map_file_1m", open_file, map_file, close_file}, {"fork_wait", nothing, fork_wait, nothing},
  {"exec_true", nothing, exec_wait, nothing}, {"thread_join", nothing, thread_join, nothing}, {"signal_self", set_handler, signal_self, nothing},
  {"eventfd", open_event, event, close_fd}, {"epoll_wait", open_epoll, epoll, close_epoll}, {"pipe_pingpong", start_pipes, ping_pong, stop_peer},
  {"pipe_64k", start_sink, push, stop_peer}, {"unix_pingpong", start_unix, ping_pong, stop_peer}, {"tcp_pingpong", start_tcp, ping_pong, stop_peer},
  {"futex_pingpong", start_futex, futex_pong, stop_futex},
};

int main(int argc, char **argv) {
  char dir[] = "/tmp/micro.XXXXXX";
  need(mkdtemp(dir) ? chdir(dir) : -1, dir);
  signal(SIGPIPE, SIG_IGN);
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    int wanted = argc < 2;
    for (int k = 1; k < argc; k++) wanted |= !strcmp(argv[k], all[i].name);
    if (!wanted) continue;
    all[i].before();
    all[i].run(1);
    /* As many as take 5 ms; then the least of three batches. */
    long n = 1;
    double took = 0;
    for (; took < 5e6 && n < 1 << 22; n *= 2) { double t = now(); all[i].run(n); took = now() - t; }
    double least = took / (n / 2);
    for (int k = 0; k < 3; k++) { double t = now(); all[i].run(n / 2); took = (now() - t) / (n / 2); if (took < least) least = took; }
    all[i].after();
    printf("%s %.1f\n", all[i].name, least);
    fflush(stdout);
  }
  chdir("/");
  rmdir(dir);
  return 0;
}
