/* Options of prctl(2) that keep something, and the state of the clock's steering. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>
#define E(name, call)                                                                                        \
  ({                                                                                                         \
    errno = 0;                                                                                               \
    long r_ = (long)(call);                                                                                  \
    printf("%s %ld %d\n", name, r_, errno);                                                                  \
    r_;                                                                                                      \
  })
int main(void) {
  E("thp", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  E("thp get args", prctl(PR_GET_THP_DISABLE, 1, 0, 0, 0));
  E("thp set args", prctl(PR_SET_THP_DISABLE, 1, 0, 0, 1));
  E("thp set", prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
  E("thp", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  fflush(stdout);
  if (!fork()) {
    E("thp inherited", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    fflush(stdout);
    _exit(0);
  }
  wait(0);
  E("thp off", prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
  E("unknown", prctl(9999, 0, 0, 0, 0));
  struct timex t = {0};
  int r = adjtimex(&t);
  printf("adjtimex %d tick %d time %d precision %ld\n", r >= 0, t.tick > 9000 && t.tick < 11000, t.time.tv_sec > 1700000000,
         t.precision);
  E("fault", syscall(SYS_adjtimex, 8));
  memset(&t, 0, sizeof t);
  printf("clock_adjtime %d\n", (int)syscall(SYS_clock_adjtime, 0, &t) >= 0);
  E("monotonic", syscall(SYS_clock_adjtime, 1, &t));
  E("no clock", syscall(SYS_clock_adjtime, 77, &t));
  E("clock fault", syscall(SYS_clock_adjtime, 0, 8));
  setuid(1234);
  t.modes = ADJ_FREQUENCY;
  E("set by a user", adjtimex(&t));
  t.modes = 0xa001;
  printf("read the offset %d\n", adjtimex(&t) >= 0);
  return 0;
}
