/* Filters of system calls that leave the decision to a tracer (seccomp(2), SECCOMP_RET_TRACE). */
#include "../case.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <sys/user.h>
enum { TRACESECCOMP = 1 << 7, SUSPEND = 1 << 21, TRACEME = 0, PEEKUSER = 3, POKEUSER = 6, CONT = 7, GETREGS = 12, SETREGS = 13, DETACH = 17 };
/* Answers the call `nr` with `action` and allows all others. */
static void filter(long nr, u32 action) {
  struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, action), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog p = {4, f};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (S(seccomp, 1, 0, &p)) out("no filter\n");
}
static pid_t traced(u64 options, void (*run)(void)) {
  pid_t pid = fork();
  if (pid == 0) { S(ptrace, TRACEME, 0, 0, 0); raise(SIGSTOP); run(); _exit(0); }
  int status; waitpid(pid, &status, 0); show_status("begins", status);
  V("options", S(ptrace, PTRACE_SETOPTIONS, pid, 0, options));
  return pid;
}
static int next(pid_t pid, long request) { int status = -1; if (S(ptrace, request, pid, 0, 0)) out("not resumed\n"); waitpid(pid, &status, 0); out("status %#x event %d\n", status & 0xffff, status >> 16); return status; }
static void regs(pid_t pid) { struct user_regs_struct r; S(ptrace, GETREGS, pid, 0, &r); out("call %ld result %ld arguments %ld %ld\n", (long)r.orig_rax, (long)r.rax, (long)r.rdi, (long)r.rsi); }
static void set(pid_t pid, long nr, long rax) { struct user_regs_struct r; S(ptrace, GETREGS, pid, 0, &r); if (nr != 12345) r.orig_rax = nr; if (rax != 12345) r.rax = rax; S(ptrace, SETREGS, pid, 0, &r); }
static void asks(void) { filter(SYS_sched_get_priority_max, SECCOMP_RET_TRACE | 77); R(sched_get_priority_max, 1, 0); R(sched_get_priority_max, 9, 0); }

CASE(seccomp, trace_without_a_tracer) { CHILD(asks()); }
CASE(seccomp, trace_without_the_option) { pid_t p = traced(0, asks); next(p, CONT); }
CASE(seccomp, trace_tells_the_tracer) {
  pid_t p = traced(TRACESECCOMP, asks); next(p, CONT); regs(p); u64 m = 0; V("message", S(ptrace, PTRACE_GETEVENTMSG, p, 0, &m)); P(m);
  siginfo_t i; V("info", S(ptrace, PTRACE_GETSIGINFO, p, 0, &i)); X(i.si_code); P(i.si_signo);
  struct ptrace_syscall_info s; memset(&s, 0, sizeof s); V("call", S(ptrace, PTRACE_GET_SYSCALL_INFO, p, sizeof s, &s) >= 84); P(s.op); P(s.seccomp.nr); P(s.seccomp.args[0]); P(s.seccomp.ret_data);
  next(p, CONT); regs(p); next(p, CONT);
}
CASE(seccomp, trace_lets_the_tracer_forbid) { pid_t p = traced(TRACESECCOMP, asks); next(p, CONT); set(p, -1, -EXDEV); next(p, CONT); set(p, -1, 12345); next(p, CONT); }
CASE(seccomp, trace_lets_the_tracer_change) { pid_t p = traced(TRACESECCOMP, asks); next(p, CONT); set(p, SYS_umask, 12345); next(p, CONT); set(p, 5000, 12345); next(p, CONT); }
static void asks_twice(void) { filter(SYS_sched_get_priority_max, SECCOMP_RET_ERRNO | EBUSY); filter(SYS_getsid, SECCOMP_RET_TRACE); R(getsid, 0); P(S(getsid, 0) > 0); }
CASE(seccomp, trace_looks_at_a_changed_call_again) { pid_t p = traced(TRACESECCOMP, asks_twice); next(p, CONT); set(p, SYS_sched_get_priority_max, 12345); next(p, CONT); next(p, CONT); }
CASE(seccomp, trace_and_stops_at_calls) {
  pid_t p = traced(TRACESECCOMP | 1, asks); for (int i = 0; i < 40; i++) { int status; S(ptrace, PTRACE_SYSCALL, p, 0, 0); waitpid(p, &status, 0); if (WIFEXITED(status)) { show_status("ends", status); break; } struct user_regs_struct r; S(ptrace, GETREGS, p, 0, &r); if (r.orig_rax == SYS_sched_get_priority_max) out("status %#x event %d call %ld result %ld\n", status & 0xffff, status >> 16, (long)r.orig_rax, (long)r.rax); }
}
CASE(seccomp, trace_and_a_killed_tracee) { pid_t p = traced(TRACESECCOMP, asks); next(p, CONT); kill(p, SIGKILL); WAIT(p); }
CASE(seccomp, trace_and_a_tracer_that_leaves) { pid_t p = traced(TRACESECCOMP, asks); next(p, CONT); long r = S(ptrace, DETACH, p, 0, 0); WAIT(p); V("detach", r); }
static void asks_as_a_child(void) { filter(SYS_sched_get_priority_max, SECCOMP_RET_TRACE | 3); CHILD(R(sched_get_priority_max, 1, 0)); R(sched_get_priority_max, 1, 0); }
CASE(seccomp, trace_and_children) { pid_t p = traced(TRACESECCOMP, asks_as_a_child); int status; for (int i = 0; i < 9; i++) { S(ptrace, CONT, p, 0, 0); waitpid(p, &status, 0); if (WIFEXITED(status)) break; if (status >> 16) { out("status %#x event %d\n", status & 0xffff, status >> 16); regs(p); } } show_status("ends", status); }
CASE(ptrace, suspends_filters) {
  pid_t p = traced(TRACESECCOMP | SUSPEND, asks); next(p, CONT);
  CHILD(become(1000, 1000); pid_t q = SPAWN(S(ptrace, TRACEME, 0, 0, 0); raise(SIGSTOP)); int status; waitpid(q, &status, 0); V("as a user", S(ptrace, PTRACE_SETOPTIONS, q, 0, SUSPEND)); V("unknown", S(ptrace, PTRACE_SETOPTIONS, q, 0, 1 << 22)); kill(q, SIGKILL); WAIT(q));
}
CASE(wait4, of_a_tracee_whatever_kind_of_child) {
  CHILD(pid_t p = SPAWN(S(ptrace, TRACEME, 0, 0, 0); _exit(3)); siginfo_t i; V("ended", S(waitid, P_PID, p, &i, WEXITED | WNOWAIT, 0)); int status = 0; P(S(wait4, p, &status, 0x80000000, 0) == p); X(status); R(wait4, -1, 0, 0, 0));
  CHILD(pid_t p = SPAWN(_exit(3)); siginfo_t i; waitid(P_PID, p, &i, WEXITED | WNOWAIT); V("not traced", S(wait4, p, 0, 0x80000000, 0)); WAIT(p));
}
