/* Uses up what a process or a sandbox can have, one after the other, and gives it back: descriptors, descriptors in flight,
 * processes, threads, mappings, pipes, timers, watches, locks, signals, names. Each must end in an error, never in a panic or a
 * hang, and afterwards the kernel must work as before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 200000 };
static void *sleeps(void *a) { pause(); return a; }

static void descriptors(void) { int n = 0; while (n < MANY && dup(0) >= 0) n++; }
static void pipes(void) { int p[2], n = 0; while (n < MANY && pipe2(p, O_NONBLOCK) == 0) { static char b[65536]; if (n++ < 200) write(p[1], b, sizeof b); } }
static void sockets(void) { int s[2], n = 0; while (n++ < MANY && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0); }
static void events(void) { int n = 0; while (n++ < MANY && eventfd(0, 0) >= 0); }
static void timers(void) { timer_t t; int n = 0; while (n++ < MANY && timer_create(CLOCK_MONOTONIC, 0, &t) == 0); }
static void timer_descriptors(void) { int n = 0; while (n++ < MANY && timerfd_create(CLOCK_MONOTONIC, 0) >= 0); }
static void processes(void) { int n = 0; while (n < 3000) { pid_t p = fork(); if (p < 0) break; if (p == 0) { pause(); _exit(0); } n++; } }
static void threads(void) { pthread_t t; pthread_attr_t a; pthread_attr_init(&a); pthread_attr_setstacksize(&a, 16384); int n = 0; while (n++ < 3000 && pthread_create(&t, &a, sleeps, 0) == 0); }
static void mappings(void) { int n = 0; while (n < 70000 && mmap(0, 4096, n++ & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED); }
static void reservations(void) { int n = 0; while (n++ < 200000 && mmap(0, 1ul << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED); }
static void watches(void) { int i = inotify_init(), n = 0; char b[64]; mkdir("w", 0700); while (n < 20000) { sprintf(b, "w/%d", n++); close(open(b, O_CREAT | O_RDWR, 0600)); if (inotify_add_watch(i, b, IN_OPEN) < 0) break; } }
static void queued_signals(void) { sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK, &s, 0); union sigval v = {0}; int n = 0; while (n++ < MANY && sigqueue(getpid(), SIGRTMIN, v) == 0); }
static void record_locks(void) { int f = open("locks", O_CREAT | O_RDWR, 0600), n = 0; struct flock l = {F_WRLCK, SEEK_SET, 0, 1, 0}; while (n++ < 20000) { l.l_start = n * 2; if (fcntl(f, F_SETLK, &l) < 0) break; } }
static void epoll_entries(void) { int e = epoll_create1(0), n = 0; struct epoll_event v = {EPOLLIN, {0}}; while (n++ < MANY) { int f = eventfd(0, 0); if (f < 0 || epoll_ctl(e, EPOLL_CTL_ADD, f, &v) < 0) break; } }
static void nested_epoll(void) { int last = epoll_create1(0), n = 0; struct epoll_event v = {EPOLLIN, {0}}; while (n++ < 2000) { int f = epoll_create1(0); if (f < 0 || epoll_ctl(f, EPOLL_CTL_ADD, last, &v) < 0) break; last = f; } epoll_wait(last, &v, 1, 0); }
static void deep_folders(void) { int n = 0; while (n++ < 3000 && mkdir("deep", 0700) == 0 && chdir("deep") == 0); char b[4096]; getcwd(b, sizeof b); }
static void long_symlink_chain(void) { char a[16], b[16]; for (int i = 0; i < 2000; i++) { sprintf(a, "s%d", i); sprintf(b, "s%d", i + 1); symlink(b, a); } open("s0", O_RDONLY); }
static void in_flight(void) {
  int s[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, s)) return;
  fcntl(s[0], F_SETFL, O_NONBLOCK);
  for (int n = 0; n < 5000; n++) { /* sockets sent through themselves: a cycle that nobody can reach */
    char c[CMSG_SPACE(8)] = {0};
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){CMSG_LEN(8), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(h), s, 8);
    if (sendmsg(s[0], &m, MSG_DONTWAIT) < 0) break;
  }
}
static void sparse_file(void) { int f = open("sparse", O_CREAT | O_RDWR, 0600); for (long at = 0; at < 1l << 46; at += 1l << 37) if (pwrite(f, "x", 1, at) < 0) break; ftruncate(f, 0); }

static const struct { const char *name; void (*run)(void); } all[] = {
  {"descriptors", descriptors}, {"pipes", pipes}, {"sockets", sockets}, {"events", events}, {"timers", timers}, {"timer descriptors", timer_descriptors},
  {"processes", processes}, {"threads", threads}, {"mappings", mappings}, {"reservations", reservations}, {"watches", watches},
  {"queued signals", queued_signals}, {"record locks", record_locks}, {"epoll entries", epoll_entries}, {"nested epoll", nested_epoll},
  {"deep folders", deep_folders}, {"symlinks", long_symlink_chain}, {"in flight", in_flight}, {"sparse file", sparse_file},
};

int main(int argc, char **argv) {
  char dir[] = "/tmp/exhaustion.XXXXXX";
  if (!mkdtemp(dir) || chdir(dir)) return 1;
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
    if (argc > 1 && strcmp(argv[1], all[i].name)) continue;
    pid_t pid = fork();
    if (pid == 0) {
      setpgid(0, 0);
      all[i].run();
      kill(0, SIGKILL);
    }
    int status;
    waitpid(pid, &status, 0);
    kill(-pid, SIGKILL);
    /* The kernel still works: a new process that opens a file and starts a program. */
    if (system("exec 3</etc/passwd && read line <&3") != 0) { printf("broken after: %s\n", all[i].name); return 1; }
  }
  puts("survived");
  return 0;
}
