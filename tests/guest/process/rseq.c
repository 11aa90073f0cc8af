/* Restartable sequences: registration, the processor's number, and what ends a sequence. The C library registers for its
 * threads; a child that shares memory has nothing registered, and is where the cases run. */
#include "../case.h"
#include <ucontext.h>
#include <sys/user.h>

#define SIGNATURE 0x53053053
static struct area {
  u32 cpu_id_start, cpu_id;
  u64 rseq_cs;
  u32 flags, node_id, mm_cid, rest;
} area __attribute__((aligned(32)));
struct sequence {
  u32 version, flags;
  u64 start_ip, post_commit_offset, abort_ip;
} __attribute__((aligned(32)));
static struct sequence sequence;

static char stack[65536] __attribute__((aligned(16)));
static void (*inside)(void);
static int run_inside(void *unused) {
  (void)unused;
  inside();
  _exit(0);
}
/* Runs a function in a process that shares our memory, and says how it ended. */
static void shared(void (*f)(void)) {
  int status;
  inside = f;
  memset(&area, 0, sizeof area);
  area.cpu_id = 77;
  pid_t pid = clone(run_inside, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, 0);
  if (waitpid(pid, &status, 0) == pid) show_status("child", status);
}
#define SHARED(...) void CASE_CAT(body_, __LINE__)(void) { __VA_ARGS__; } shared(CASE_CAT(body_, __LINE__))
#define REGISTER() S(rseq, &area, 32, 0, SIGNATURE)

CASE(rseq, registration) {
  SHARED({
    R(rseq, &area, 32, 1, SIGNATURE);
    R(rseq, &area, 32, 2, SIGNATURE);
    R(rseq, &area, 32, 3, SIGNATURE);
    R(rseq, (char *)&area + 4, 32, 0, SIGNATURE);
    R(rseq, &area, 20, 0, SIGNATURE);
    R(rseq, KERNEL, 32, 0, SIGNATURE);
    area.rseq_cs = 99;
    R(rseq, &area, 32, 0, SIGNATURE);
    P(area.rseq_cs);
    P(area.cpu_id == area.cpu_id_start);
    P(area.node_id);
    R(rseq, &area, 32, 0, SIGNATURE);
    R(rseq, &area, 32, 0, SIGNATURE + 1);
    R(rseq, &area, 64, 0, SIGNATURE);
    R(rseq, &area + 1, 32, 0, SIGNATURE);
    R(rseq, &area, 32, 1, SIGNATURE + 1);
    R(rseq, &area, 64, 1, SIGNATURE);
    R(rseq, &area + 1, 32, 1, SIGNATURE);
    R(rseq, &area, 32, 2, SIGNATURE);
    R(rseq, &area, 32, 1, SIGNATURE);
    P(area.cpu_id_start);
    X(area.cpu_id);
    R(rseq, &area, 32, 1, SIGNATURE);
    R(rseq, &area, 32, 0, 5);
    R(rseq, &area, 32, 1, 5);
  });
}

CASE(rseq, number_follows_the_affinity) {
  SHARED({
    cpu_set_t all, one;
    S(sched_getaffinity, 0, sizeof all, &all);
    P(REGISTER());
    for (int i = 0; i < CPU_SETSIZE; i++) {
      if (!CPU_ISSET(i, &all)) continue;
      CPU_ZERO(&one);
      CPU_SET(i, &one);
      if (S(sched_setaffinity, 0, sizeof one, &one)) continue;
      u32 cpu = 999;
      S(getcpu, &cpu, 0, 0);
      if (area.cpu_id != (u32)i || area.cpu_id_start != (u32)i || cpu != (u32)i) out("wrong number\n");
    }
  });
}

CASE(rseq, forked_and_replaced) {
  SHARED({
    P(REGISTER());
    pid_t pid = S(fork);
    if (!pid) {
      R(rseq, &area, 32, 0, SIGNATURE);
      P(area.cpu_id == area.cpu_id_start);
      S(exit, 0);
    }
    S(wait4, pid, 0, 0, 0);
  });
}

/* Runs a sequence with a trap in it; returns 1 after its end, 2 from the abort handler. Whether the thread was moved in the
 * sequence does not matter, since the trap ends it anyway. */
static int with_trap(u32 version, u32 flags, i64 start, i64 length, int kind) {
  int result;
  __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                   "addq %[start], %%rax\n\t"
                   "movq %%rax, 8(%[s])\n\t"
                   "leaq 2f(%%rip), %%rcx\n\t"
                   "leaq 1f(%%rip), %%rax\n\t"
                   "subq %%rax, %%rcx\n\t"
                   "addq %[length], %%rcx\n\t"
                   "movq %%rcx, 16(%[s])\n\t"
                   "leaq 4f(%%rip), %%rax\n\t"
                   "movq %%rax, 24(%[s])\n\t"
                   "movl %[version], (%[s])\n\t"
                   "movl %[flags], 4(%[s])\n\t"
                   "movq %[s], 8(%[a])\n\t"
                   "1:\n\t"
                   "nop\n\t"
                   "cmpl $1, %[kind]\n\t"
                   "je 5f\n\t"
                   "int3\n\t"
                   "5: nop\n\t"
                   "2:\n\t"
                   "movl $1, %[result]\n\t"
                   "jmp 6f\n\t"
                   ".byte 0x0f, 0xb9, 0x3d\n\t"
                   ".long 0x53053053\n\t"
                   "4:\n\t"
                   "movl $2, %[result]\n\t"
                   "6:\n\t"
                   : [result] "=&r"(result)
                   : [s] "r"(&sequence), [a] "r"(&area), [version] "r"(version), [flags] "r"(flags),
                     [start] "r"(start), [length] "r"(length), [kind] "r"(kind)
                   : "rax", "rcx", "memory", "cc");
  return result;
}

static int seen, ended;
static u64 cs_then, ip_then;
static void on_trap(int n, siginfo_t *info, void *context) {
  (void)info;
  ucontext_t *c = context;
  seen = n;
  cs_then = area.rseq_cs;
  ip_then = (u64)c->uc_mcontext.gregs[REG_RIP] == sequence.abort_ip;
}
static void handle(int n) {
  struct sigaction a = {.sa_flags = SA_SIGINFO, .sa_sigaction = on_trap};
  sigaction(n, &a, 0);
}

CASE(rseq, a_signal_restarts) {
  SHARED({
    handle(SIGTRAP);
    P(REGISTER());
    ended = with_trap(0, 0, 0, 0, 0);
    P(ended);
    P(seen);
    P(cs_then);
    P(ip_then);
  });
}

CASE(rseq, outside_of_the_sequence) {
  SHARED({
    handle(SIGTRAP);
    P(REGISTER());
    ended = with_trap(0, 0, 0, 0, 1);
    P(ended == 1 || ended == 2);
    pid_t me = S(getpid);
    S(kill, me, SIGTRAP);
    P(seen);
    P(cs_then);
    P(ip_then);
  });
}

CASE(rseq, another_signature) {
  SHARED({
    handle(SIGTRAP);
    P(S(rseq, &area, 32, 0, 12345));
    with_trap(0, 0, 0, 0, 0);
    P(seen);
    S(getppid);
  });
}

#define WRONG(name, version, flags, start, length) \
  CASE(rseq, name) { SHARED({ handle(SIGTRAP); P(REGISTER()); with_trap(version, flags, start, length, 0); S(getppid); }); }
WRONG(another_version, 1, 0, 0, 0)
WRONG(handler_inside, 0, 0, 0, 100)
WRONG(start_in_the_kernel, 0, 0, (i64)1 << 62, 0)
WRONG(end_in_the_kernel, 0, 0, 0, (i64)1 << 62)
WRONG(end_wraps_around, 0, 0, 0, -100)

CASE(rseq, descriptor_is_not_there) {
  SHARED({
    handle(SIGTRAP);
    P(REGISTER());
    area.rseq_cs = 8;
    pid_t me = S(getpid);
    S(kill, me, SIGTRAP);
    out("alive\n");
  });
}

CASE(rseq, descriptor_in_the_kernel) {
  SHARED({
    handle(SIGTRAP);
    P(REGISTER());
    area.rseq_cs = (u64)KERNEL;
    pid_t me = S(getpid);
    S(kill, me, SIGTRAP);
    out("alive\n");
  });
}

CASE(membarrier, restarts_sequences) {
  P(S(membarrier, 0, 0, 0) >> 7 & 3);
  R(membarrier, 128, 0, 0);
  R(membarrier, 256, 1, 0);
  R(membarrier, 256, 0, 0);
  R(membarrier, 128, 0, 0);
  R(membarrier, 128, 1, 0);
  R(membarrier, 128, 1, 99999);
  R(membarrier, 128, 1, -1);
  R(membarrier, 128, 2, 0);
  R(membarrier, 512, 0, 0);
}

/* Threads count on their processor's counter, each time in a sequence. No count may be lost. */
enum { THREADS = 5, ROUNDS = 4000 };
static volatile long counters[CPU_SETSIZE];
static __thread struct area own __attribute__((aligned(32)));
static __thread struct sequence desc;
static int add_one(void) {
  int result;
  u32 cpu = *(volatile u32 *)&own.cpu_id_start;
  __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                   "movq %%rax, 8(%[s])\n\t"
                   "leaq 2f(%%rip), %%rcx\n\t"
                   "subq %%rax, %%rcx\n\t"
                   "movq %%rcx, 16(%[s])\n\t"
                   "leaq 4f(%%rip), %%rax\n\t"
                   "movq %%rax, 24(%[s])\n\t"
                   "movq %[s], 8(%[a])\n\t"
                   "1:\n\t"
                   "cmpl %[cpu], 4(%[a])\n\t"
                   "jne 4f\n\t"
                   "movq (%[c]), %%rax\n\t"
                   "movl $20, %%ecx\n\t"
                   "3: decl %%ecx\n\t"
                   "jnz 3b\n\t"
                   "incq %%rax\n\t"
                   "movq %%rax, (%[c])\n\t"
                   "2:\n\t"
                   "movl $1, %[result]\n\t"
                   "jmp 6f\n\t"
                   ".byte 0x0f, 0xb9, 0x3d\n\t"
                   ".long 0x53053053\n\t"
                   "4:\n\t"
                   "movl $0, %[result]\n\t"
                   "6:\n\t"
                   : [result] "=&r"(result)
                   : [s] "r"(&desc), [a] "r"(&own), [cpu] "r"(cpu), [c] "r"(&counters[cpu])
                   : "rax", "rcx", "memory", "cc");
  return result;
}
extern const ptrdiff_t __rseq_offset __attribute__((weak));
/* The C library's registration gives way to one whose area we know. */
static long enlist(void) {
  if (&__rseq_offset) S(rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 1, SIGNATURE);
  return S(rseq, &own, 32, 0, SIGNATURE);
}
static void count_on(void) {
  for (int i = 0; i < ROUNDS; i++)
    for (int tries = 1; !add_one(); tries++)
      if (tries % 100 == 0) sched_yield();
  S(rseq, &own, 32, 1, SIGNATURE);
}
static void *count(void *unused) {
  (void)unused;
  if (enlist()) return (void *)1;
  count_on();
  return 0;
}
CASE(rseq, no_count_is_lost) {
  pthread_t t[THREADS];
  long total = 0, failed = 0;
  void *result;
  for (int i = 0; i < THREADS; i++) pthread_create(&t[i], 0, count, 0);
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], &result), failed |= (long)result;
  NEED(!failed);
  for (int i = 0; i < CPU_SETSIZE; i++) total += counters[i];
  P(total);
}

CASE(rseq, no_count_is_lost_of_who_was_first) {
  pthread_t t[THREADS];
  long total = 0, failed = enlist();
  void *result;
  NEED(!failed);
  for (int i = 0; i < THREADS; i++) pthread_create(&t[i], 0, count, 0);
  count_on();
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], &result), failed |= (long)result;
  NEED(!failed);
  for (int i = 0; i < CPU_SETSIZE; i++) total += counters[i];
  P(total);
}
