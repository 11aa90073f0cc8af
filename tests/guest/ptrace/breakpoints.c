/* Breakpoints and watchpoints of the processor, as a tracer sets them (PTRACE_POKEUSER of u_debugreg). */
#include "../case.h"
#include <linux/ptrace.h>
#include <sys/user.h>
enum { TRACEME = 0, PEEKDATA = 2, PEEKUSER = 3, POKEDATA = 5, POKEUSER = 6, CONT = 7, SINGLESTEP = 9, GETREGS = 12, SETREGS = 13 };
enum { EXECUTE = 0, WRITE = 1, ONE = 0, TWO = 1, EIGHT = 2, FOUR = 3 };
#define ON(n, kind, len) ((1ul << 2 * (n)) | (u64)(kind) << (16 + 4 * (n)) | (u64)(len) << (18 + 4 * (n)))
static volatile long word; static volatile int after;
__attribute__((noinline)) static void here(void) { __asm__ volatile("nop"); }
static u64 at(int n) { return offsetof(struct user, u_debugreg) + 8 * n; }
static u64 get(pid_t p, int n) { u64 v = 0; if (S(ptrace, PEEKUSER, p, at(n), &v)) out("not to be read\n"); return v; }
static long set(pid_t p, int n, u64 v) { return S(ptrace, POKEUSER, p, at(n), v); }
static pid_t traced(void (*run)(void)) { pid_t p = fork(); if (p == 0) { S(ptrace, TRACEME, 0, 0, 0); raise(SIGSTOP); run(); _exit(0); } int status; waitpid(p, &status, 0); show_status("begins", status); return p; }
static int go(pid_t p, long request, long signal) {
  int status; struct user_regs_struct r; siginfo_t i; u64 value = 0;
  if (S(ptrace, request, p, 0, signal)) out("not resumed\n");
  waitpid(p, &status, 0);
  if (!WIFSTOPPED(status)) { show_status("ends", status); return 0; }
  S(ptrace, GETREGS, p, 0, &r); S(ptrace, PTRACE_GETSIGINFO, p, 0, &i); S(ptrace, PEEKDATA, p, &word, &value);
  out("stopped by %d code %d here %d at its address %d status %#lx word %ld stepping %d\n", WSTOPSIG(status), i.si_code, r.rip == (u64)here, (u64)i.si_addr == r.rip, get(p, 6), (long)value, !!(r.eflags & 0x100));
  return 1;
}
static void loops(void) { for (int i = 0; i < 3; i++) { word = i + 1; here(); } S(getppid); word = 9; }

CASE(ptrace, debug_registers) {
  pid_t p = traced(loops);
  for (int n = 0; n < 8; n++) X(get(p, n));
  V("address", set(p, 0, (u64)&word)); P(get(p, 0) == (u64)&word);
  V("of the kernel", set(p, 1, 0xffff800000000000)); V("any", set(p, 1, 3)); V("4", set(p, 4, 1)); V("5", set(p, 5, 0)); V("status", set(p, 6, 0)); X(get(p, 6)); V("status", set(p, 6, 0xffff0ff3)); X(get(p, 6));
  V("on", set(p, 7, ON(0, WRITE, EIGHT))); X(get(p, 7)); V("unaligned", set(p, 7, ON(1, WRITE, FOUR))); X(get(p, 7)); V("a byte", set(p, 7, ON(1, WRITE, ONE))); V("of ports", set(p, 7, ON(0, 2, ONE))); V("long instructions", set(p, 7, ON(0, EXECUTE, TWO))); X(get(p, 7)); V("off", set(p, 7, 0)); X(get(p, 7)); P(get(p, 0) == (u64)&word);
  V("beyond", S(ptrace, POKEUSER, p, at(8) + 8 * 8, 0)); V("odd", S(ptrace, POKEUSER, p, at(0) + 1, 0));
  go(p, CONT, 0);
}
CASE(ptrace, watchpoint) { pid_t p = traced(loops); set(p, 0, (u64)&word); V("on", set(p, 7, ON(0, WRITE, EIGHT))); while (go(p, CONT, 0)); }
CASE(ptrace, breakpoint) { pid_t p = traced(loops); set(p, 2, (u64)here); V("on", set(p, 7, ON(2, EXECUTE, ONE))); while (go(p, CONT, 0)); }
CASE(ptrace, several_breakpoints) { pid_t p = traced(loops); set(p, 0, (u64)&word); set(p, 3, (u64)here); V("on", set(p, 7, ON(0, WRITE, FOUR) | ON(3, EXECUTE, ONE))); go(p, CONT, 0); go(p, CONT, 0); V("one off", set(p, 7, ON(3, EXECUTE, ONE))); go(p, CONT, 0); V("both off", set(p, 7, 0)); while (go(p, CONT, 0)); }
CASE(ptrace, breakpoints_and_steps) { pid_t p = traced(loops); set(p, 0, (u64)here); V("on", set(p, 7, ON(0, EXECUTE, ONE))); go(p, CONT, 0); X(get(p, 6)); int status; S(ptrace, SINGLESTEP, p, 0, 0); waitpid(p, &status, 0); show_status("step", status); X(get(p, 6)); siginfo_t i; S(ptrace, PTRACE_GETSIGINFO, p, 0, &i); P(i.si_code); while (go(p, CONT, 0)); }
CASE(ptrace, watchpoint_and_the_tracers_own_stores) { pid_t p = traced(loops); set(p, 0, (u64)&word); set(p, 7, ON(0, WRITE, EIGHT)); V("poke", S(ptrace, POKEDATA, p, &word, 77)); while (go(p, CONT, 0)); }
static void handler(int number) { (void)number; word++; after = 1; }
static void signals_itself(void) { signal(SIGUSR1, handler); raise(SIGUSR1); word = 50; S(getppid); word = 60; here(); }
CASE(ptrace, watchpoint_in_a_handler) { pid_t p = traced(signals_itself); set(p, 0, (u64)&word); set(p, 7, ON(0, WRITE, EIGHT)); go(p, CONT, 0); go(p, CONT, SIGUSR1); V("off", set(p, 7, 0)); while (go(p, CONT, 0)); }
static void forks(void) { CHILD(word = 5; here()); word = 6; }
CASE(ptrace, watchpoint_stays_with_its_thread) { pid_t p = traced(forks); set(p, 0, (u64)&word); set(p, 7, ON(0, WRITE, EIGHT)); int status; for (int i = 0; i < 9; i++) { S(ptrace, CONT, p, 0, 0); waitpid(p, &status, 0); if (!WIFSTOPPED(status)) break; if (WSTOPSIG(status) == SIGTRAP) out("word\n"); } show_status("ends", status); }
static void *writes(void *arg) { (void)arg; word = 1; return 0; }
static void makes_a_thread(void) { pthread_t t; pthread_create(&t, 0, writes, 0); pthread_join(t, 0); here(); }
CASE(ptrace, breakpoint_and_threads) { pid_t p = traced(makes_a_thread); set(p, 0, (u64)here); set(p, 7, ON(0, EXECUTE, ONE)); while (go(p, CONT, 0)); }
static void runs_a_program(void) { execl("/bin/true", "true", (char *)0); }
CASE(ptrace, breakpoint_ends_with_the_program) { pid_t p = traced(runs_a_program); set(p, 0, (u64)&word); set(p, 1, (u64)here); V("on", set(p, 7, ON(0, WRITE, EIGHT) | ON(1, EXECUTE, ONE))); int status; S(ptrace, CONT, p, 0, 0); waitpid(p, &status, 0); show_status("exec", status); X(get(p, 7)); X(get(p, 0)); go(p, CONT, 0); }
CASE(ptrace, breakpoints_end_with_tracing) { pid_t p = traced(loops); set(p, 0, (u64)here); set(p, 7, ON(0, EXECUTE, ONE)); S(ptrace, 7, p, 0, 0); int status; waitpid(p, &status, 0); show_status("hit", status); S(ptrace, POKEUSER, p, at(7), 0); S(ptrace, PTRACE_DETACH, p, 0, 0); WAIT(p); }
