/* Threads that change what system calls read while they read it: paths, vectors, message headers, lists of descriptors,
 * sizes in structures. The kernel under test must neither panic nor hang; what the calls return does not matter.
 * Usage: changing_arguments SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t *area; /* one page that all calls take their arguments from */
static char *guarded;           /* two pages; the second comes and goes */

static void *changer(void *arg) {
  uint64_t s = (uint64_t)arg * 0x9e3779b97f4a7c15ull | 1;
  for (;;) {
    s ^= s << 13; s ^= s >> 7; s ^= s << 17;
    static const uint64_t values[] = {0, 1, 8, 24, 64, 4096, 0x7fffffff, 0xffffffff, (uint64_t)-1, 0x7fffffffffffffff, 0x8000000000000000, 0x7ffffffff000, 0x2f2f2f2f2f2f2f2f};
    uint64_t v = s & 1 ? values[(s >> 8) % 13] : (uint64_t)area + (s >> 40) % 4096;
    area[(s >> 16) % 512] = v;
    if ((s & 0xff) == 0) mprotect(guarded + 4096, 4096, s & 0x100 ? PROT_NONE : PROT_READ | PROT_WRITE);
    if ((s & 0xfff) == 1) madvise(guarded, 8192, MADV_DONTNEED);
  }
  return 0;
}

static void calls(int pipe_in, int pipe_out, int *sock) {
  void *a = (void *)area;
  char *edge = guarded + 4096 - 24;
  struct timespec zero = {0, 0};
  fcntl(pipe_in, F_SETFL, O_NONBLOCK);
  fcntl(pipe_out, F_SETFL, O_NONBLOCK);
  for (unsigned i = 0;; i++) {
    syscall(SYS_writev, pipe_out, a, 1 + i % 100);
    syscall(SYS_readv, pipe_in, a, 1 + i % 100);
    syscall(SYS_sendmsg, sock[0], a, MSG_DONTWAIT | MSG_NOSIGNAL);
    syscall(SYS_recvmsg, sock[1], a, MSG_DONTWAIT);
    syscall(SYS_sendmmsg, sock[0], a, 4, MSG_DONTWAIT | MSG_NOSIGNAL);
    syscall(SYS_recvmmsg, sock[1], a, 4, MSG_DONTWAIT, &zero);
    syscall(SYS_openat, AT_FDCWD, a, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    syscall(SYS_stat, a, edge);
    syscall(SYS_readlink, a, edge, 40);
    syscall(SYS_poll, a, 8, 0);
    syscall(SYS_ppoll, a, 4, &zero, edge, 8);
    syscall(SYS_select, 64, a, edge, 0, &(struct timeval){0, 0});
    syscall(SYS_openat2, AT_FDCWD, a, (char *)a + 100, 24);
    syscall(SYS_clone3, a, 88);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, a, edge, 8);
    syscall(SYS_getdents64, 0, edge, 100);
    syscall(SYS_setsockopt, sock[0], SOL_SOCKET, SO_RCVTIMEO, a, 16);
    syscall(SYS_getsockopt, sock[0], SOL_SOCKET, i % 64, edge, a);
    syscall(SYS_bind, sock[0], a, 20);
    syscall(SYS_connect, sock[0], a, 20);
    syscall(SYS_getsockname, sock[0], edge, a);
    syscall(SYS_futex, a, 0 | 128, 0, &zero, 0, 0);
    syscall(SYS_fcntl, pipe_in, F_SETLK, a);
    syscall(SYS_timer_create, CLOCK_MONOTONIC, a, edge);
    syscall(SYS_execve, a, a, a);
    syscall(SYS_process_vm_readv, getpid(), a, 4, (char *)a + 64, 4, 0);
    syscall(SYS_vmsplice, pipe_out, a, 4, SPLICE_F_NONBLOCK);
    syscall(SYS_statx, AT_FDCWD, a, 0, 0xfff, edge);
    syscall(SYS_setxattr, a, a, a, 100, 0);
    syscall(SYS_mremap, guarded, 8192, 8192, 0);
    if (i % 16 == 0) syscall(SYS_close_range, 32, ~0u, 0);
  }
}

int main(int argc, char **argv) {
  int seconds = argc > 1 ? atoi(argv[1]) : 4;
  time_t end = time(0) + seconds;
  while (time(0) < end) {
    pid_t pid = fork();
    if (pid == 0) {
      int p[2], s[2];
      pthread_t t;
      close(0); close(1); close(2);
      for (int i = 0; i < 3; i++) open("/dev/null", O_RDWR);
      area = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      guarded = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      pipe(p);
      socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
      for (uint64_t i = 1; i < 3; i++) pthread_create(&t, 0, changer, (void *)(i + end));
      calls(p[0], p[1], s);
    }
    struct timespec nap = {0, 500000000};
    nanosleep(&nap, 0);
    kill(pid, SIGKILL);
    waitpid(pid, 0, 0);
    /* What a clone3 with chosen arguments left behind. */
    while (waitpid(-1, 0, WNOHANG | __WALL) > 0);
  }
  puts("survived");
  return 0;
}
