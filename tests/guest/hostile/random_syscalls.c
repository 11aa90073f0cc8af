/* Random system calls with random and adversarial arguments, from several processes and threads, for a number of seconds.
 * The kernel under test must neither panic nor hang; what the calls return does not matter.
 * Usage: random_syscalls SECONDS SEED
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t state_of(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}

static char *area; /* 64 KiB of mapped, half writable memory */

static uint64_t argument(uint64_t *s) {
  uint64_t r = state_of(s);
  switch (r % 16) {
  case 0: return 0;
  case 1: return (uint64_t)-1;
  case 2: return r >> 60;
  case 3: return r >> 56;
  case 4: return (uint64_t)(area + (r >> 16) % 65536);
  case 5: return (uint64_t)(area + 65536 - (r >> 20) % 16);
  case 6: return (uint64_t)area;
  case 7: return 0x7ffffffff000 - (r >> 40) % 8192;
  case 8: return 1ull << (r >> 58);
  case 9: return (1ull << (r >> 58)) - 1;
  case 10: return -(r >> 56);
  case 11: return 4096 * ((r >> 16) % 64);
  case 12: return 0x8000000000000000ull >> (r >> 62);
  case 13: return r;
  case 14: return (uint32_t)r;
  default: return (uint64_t)(area + 32768 + (r >> 16) % 4096);
  }
}

static int is_spared(long nr) {
  switch (nr) { /* would only end or stop the test itself */
  case SYS_exit: case SYS_exit_group: case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo:
  case SYS_rt_tgsigqueueinfo: case SYS_pidfd_send_signal: case SYS_pause: case SYS_rt_sigreturn: case SYS_rt_sigsuspend:
  case SYS_alarm: case SYS_setitimer: case SYS_timer_create: case SYS_rt_sigtimedwait: case SYS_vfork: case SYS_fork:
  case SYS_clone: case SYS_clone3: case SYS_munmap: case SYS_mremap: case SYS_brk: case SYS_reboot: case SYS_vhangup:
  case SYS_ptrace: case SYS_seccomp: case SYS_prctl: case SYS_setrlimit: case SYS_prlimit64: case SYS_wait4: case SYS_waitid:
  case SYS_arch_prctl: case SYS_sigaltstack: case SYS_rt_sigaction: case SYS_set_tid_address: case SYS_mprotect:
    return 1;
  }
  return 0;
}

static void *worker(void *arg) {
  uint64_t s = (uint64_t)arg * 0x9e3779b97f4a7c15ull | 1;
  for (;;) {
    long nr = state_of(&s) % 472;
    if (is_spared(nr)) continue;
    for (int i = 0; i < 8; i++) ((uint64_t *)(area + 32768))[state_of(&s) % 4096] = argument(&s);
    syscall(nr, argument(&s), argument(&s), argument(&s), argument(&s), argument(&s), argument(&s));
  }
  return 0;
}

int main(int argc, char **argv) {
  int seconds = argc > 1 ? atoi(argv[1]) : 5;
  uint64_t seed = argc > 2 ? strtoull(argv[2], 0, 0) : 1;
  struct timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (unsigned round = 0;; round++) {
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - start.tv_sec >= seconds) break;
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
      pids[i] = fork();
      if (pids[i] == 0) {
        area = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(area, 16384, PROT_READ);
        close(0); close(1); close(2);
        pthread_t t;
        for (uint64_t k = 1; k < 3; k++) pthread_create(&t, 0, worker, (void *)(seed + 31 * round + 7 * i + k * 1000003));
        worker((void *)(seed + 31 * round + 7 * i));
      }
    }
    struct timespec nap = {0, 300000000};
    nanosleep(&nap, 0);
    for (int i = 0; i < 3; i++) kill(pids[i], SIGKILL);
    for (int i = 0; i < 3; i++) waitpid(pids[i], 0, 0);
  }
  puts("survived");
  return 0;
}
