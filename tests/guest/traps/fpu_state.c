/* Floating-point and vector registers survive system calls, faults, signals, threads and forks; the frame shows them. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int bad;
static void set_ymm(uint64_t v) {
  uint64_t b[4] = {v, v + 1, v + 2, v + 3};
  asm volatile("vmovdqu %0, %%ymm5; vmovdqu %0, %%ymm15" ::"m"(b) : "xmm5", "xmm15");
}
static int check_ymm(uint64_t v) {
  uint64_t b[4], c[4];
  asm volatile("vmovdqu %%ymm5, %0; vmovdqu %%ymm15, %1" : "=m"(b), "=m"(c));
  for (int i = 0; i < 4; i++)
    if (b[i] != v + i || c[i] != v + i) return 0;
  return 1;
}
static void on_usr1(int s) { set_ymm(0xdead0000); }

static void *thread(void *arg) {
  uint64_t v = (uint64_t)arg << 32;
  char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 256; i++) {
    set_ymm(v + i);
    asm volatile("syscall" ::"a"(24) : "rcx", "r11", "memory");
    p[i * 4096] = 1;
    if (!check_ymm(v + i)) bad = 1;
  }
  return 0;
}

int main() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) { puts("no avx2"); return 0; }
  struct sigaction a = {.sa_handler = on_usr1};
  sigaction(SIGUSR1, &a, 0);
  set_ymm(77);
  asm volatile("syscall" ::"a"(39) : "rcx", "r11", "memory");
  printf("after a syscall: %d\n", check_ymm(77));
  int pid = getpid();
  set_ymm(99);
  asm volatile("syscall" ::"a"(62), "D"(pid), "S"(SIGUSR1) : "rcx", "r11", "memory");
  printf("after a handler: %d\n", check_ymm(99));
  set_ymm(1234);
  int child;
  asm volatile("syscall" : "=a"(child) : "a"(57) : "rcx", "r11", "memory");
  int ok = check_ymm(1234);
  if (child == 0) _exit(ok);
  int status;
  waitpid(child, &status, 0);
  printf("after a fork: parent %d child %d\n", ok, WEXITSTATUS(status));
  pthread_t t[6];
  for (long i = 0; i < 6; i++) pthread_create(&t[i], 0, thread, (void *)(i + 1));
  for (int i = 0; i < 6; i++) pthread_join(t[i], 0);
  printf("threads: %s\n", bad ? "mixed up" : "apart");
  unsigned mx = 0, cw = 0;
  asm volatile("stmxcsr %0" : "=m"(mx));
  asm volatile("fnstcw %0" : "=m"(cw));
  printf("mxcsr %x cw %x\n", mx & ~0x3f, cw & 0xffff);
  return 0;
}
