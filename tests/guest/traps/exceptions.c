/* Which signal, si_code and si_addr each exception gives. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static char *page;
static volatile int got, code, near_page;
static volatile long offset, rip_offset, trapno, err;

static void handler(int s, siginfo_t *i, void *c) {
  ucontext_t *u = c;
  got = s;
  code = i->si_code;
  uintptr_t a = (uintptr_t)i->si_addr;
  near_page = a >= (uintptr_t)page && a < (uintptr_t)page + 65536;
  offset = near_page ? (long)(a - (uintptr_t)page) : (long)a;
  trapno = u->uc_mcontext.gregs[REG_TRAPNO];
  err = u->uc_mcontext.gregs[REG_ERR];
  siglongjmp(back, 1);
}

#define TRY(name, show_addr, ...)                                                                         \
  do {                                                                                                    \
    got = code = 0;                                                                                       \
    if (!sigsetjmp(back, 1)) { __VA_ARGS__; }                                                             \
    printf("%-28s signal %d code %d trapno %ld err %ld", name, got, code, trapno, err);                   \
    if (show_addr) printf(" addr %s%lx", near_page ? "page+" : "", offset);                               \
    puts("");                                                                                             \
  } while (0)

int main() {
  struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  for (int i = 0; i < 5; i++) sigaction(sigs[i], &a, 0);
  page = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(page, 0x90, 65536);
  mprotect(page + 4096, 4096, PROT_READ);
  mprotect(page + 8192, 4096, PROT_NONE);
  munmap(page + 12288, 4096);
  volatile char *p = page;
  TRY("read of NULL", 1, *(volatile char *)0);
  TRY("write to NULL", 1, *(volatile char *)8 = 1);
  TRY("write to read-only", 1, p[4097] = 1);
  TRY("read of PROT_NONE", 1, (void)p[8200]);
  TRY("write to PROT_NONE", 1, p[8201] = 1);
  TRY("read of unmapped", 1, (void)p[12290]);
  TRY("call of no-exec", 1, ((void (*)(void))(page + 16384))());
  TRY("call of unmapped", 1, ((void (*)(void))(page + 12300))());
  TRY("non-canonical read", 1, *(volatile char *)0x8000000000000000ull);
  TRY("kernel half read", 1, *(volatile char *)0xffffffff80010000ull);
  TRY("kernel half jump", 1, ((void (*)(void))0xffffffff80010000ull)());
  TRY("division by zero", 0, asm volatile("xor %%ecx,%%ecx; xor %%edx,%%edx; mov $1,%%eax; div %%ecx" ::: "eax", "ecx", "edx"));
  TRY("ud2", 0, asm volatile("ud2"));
  TRY("int3", 0, asm volatile("int3"));
  TRY("hlt", 0, asm volatile("hlt"));
  TRY("cli", 0, asm volatile("cli"));
  TRY("in", 0, asm volatile("inb $0x40, %%al" ::: "al"));
  TRY("out", 0, asm volatile("outb %%al, $0x40" ::: "al"));
  TRY("int 0x81", 0, asm volatile("int $0x81"));
  TRY("mov cr0", 0, asm volatile("mov %%cr0, %%rax" ::: "rax"));
  TRY("wrmsr", 0, asm volatile("wrmsr" ::"a"(0), "d"(0), "c"(0xc0000082)));
  TRY("rdmsr", 0, asm volatile("rdmsr" ::"c"(0xc0000082) : "eax", "edx"));
  TRY("lidt", 0, asm volatile("lidt (%0)" ::"r"(page)));
  TRY("single step", 0, asm volatile("pushf; orl $0x100,(%%rsp); popf; nop; nop" ::: "memory"));
  TRY("x87 exception", 0, {
    unsigned short cw = 0x37b;
    double z = 0, one = 1;
    asm volatile("fldcw %0; fldl %2; fldl %1; fdivrp; fwait" ::"m"(cw), "m"(one), "m"(z));
  });
  asm volatile("fninit");
  TRY("SSE exception", 0, {
    unsigned mx = 0x1f80 & ~0x200;
    asm volatile("ldmxcsr %0" ::"m"(mx));
    volatile double z = 0, one = 1;
    volatile double r = one / z;
    (void)r;
  });
  return 0;
}
