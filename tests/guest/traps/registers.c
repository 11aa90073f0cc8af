/* System calls keep all registers but RAX, RCX and R11; flags come back; the red zone survives a signal. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/time.h>
#include <unistd.h>

static volatile int count;
static void handler(int s) { count++; }

int main() {
  uint64_t save[14];
  register uint64_t *base asm("rbp") = save;
  asm volatile(
      "mov $0x1111,%%rbx; mov $0x2222,%%rdx; mov $0x3333,%%rsi; mov $0x4444,%%rdi; mov $0x5555,%%r8; mov $0x6666,%%r9;"
      "mov $0x7777,%%r10; mov $0x8888,%%r12; mov $0x9999,%%r13; mov $0xaaaa,%%r14; mov $0xbbbb,%%r15; mov $39,%%eax; stc; syscall;"
      "mov %%rbx,(%0); mov %%rdx,8(%0); mov %%rsi,16(%0); mov %%rdi,24(%0); mov %%r8,32(%0); mov %%r9,40(%0); mov %%r10,48(%0);"
      "mov %%r12,56(%0); mov %%r13,64(%0); mov %%r14,72(%0); mov %%r15,80(%0); pushf; pop %%rax; mov %%rax,88(%0)"
      ::"r"(base)
      : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
  for (int i = 0; i < 11; i++) printf("%lx ", save[i]);
  printf("carry %d\n", (int)(save[11] & 1));
  struct sigaction a = {.sa_handler = handler};
  sigaction(SIGALRM, &a, 0);
  int ok = 1;
  for (int i = 0; i < 200; i++) {
    uint64_t v;
    asm volatile("mov %1,-64(%%rsp); mov $200,%%eax; syscall; mov -64(%%rsp),%0"
                 : "=r"(v) : "r"((uint64_t)i * 3), "D"((long)getpid()), "S"((long)SIGALRM) : "rax", "rcx", "r11", "memory");
    ok &= v == (uint64_t)i * 3;
  }
  printf("red zone %s, handled %d\n", ok ? "kept" : "lost", count);
  return 0;
}
