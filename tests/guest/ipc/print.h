/* What the programs of this folder share. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define E(name, call)                                                                                        \
  ({                                                                                                         \
    errno = 0;                                                                                               \
    long r_ = (long)(call);                                                                                  \
    printf("%s %ld %d\n", name, r_, errno);                                                                  \
    r_;                                                                                                      \
  })
/* Whether it worked, where the value itself differs from run to run. */
#define OK(name, call)                                                                                       \
  ({                                                                                                         \
    errno = 0;                                                                                               \
    long r_ = (long)(call);                                                                                  \
    printf("%s %s %d\n", name, r_ == -1 ? "failed" : "ok", errno);                                           \
    r_;                                                                                                      \
  })

__attribute__((unused)) static void ms(int m) {
  struct timespec t = {m / 1000, (m % 1000) * 1000000L};
  while (nanosleep(&t, &t));
}
/* Runs `body` in a child process and tells how that ended. */
#define CHILD(...)                                                                                           \
  ({                                                                                                         \
    fflush(stdout);                                                                                          \
    pid_t p_ = fork();                                                                                       \
    if (p_ == 0) {                                                                                           \
      __VA_ARGS__;                                                                                               \
      fflush(stdout);                                                                                        \
      _exit(0);                                                                                              \
    }                                                                                                        \
    int st_ = -1;                                                                                            \
    waitpid(p_, &st_, 0);                                                                                    \
    if (st_) printf("child ended with %x\n", st_);                                                           \
    p_;                                                                                                      \
  })
/* Waits until thread `tid` of process `pid` sleeps. */
__attribute__((unused)) static void wait_asleep(int pid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  for (int i = 0; i < 2000; i++) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (n > 0) {
      text[n] = 0;
      char *p = strrchr(text, ')');
      if (p && p[2] == 'S') return;
    }
    ms(5);
  }
}
