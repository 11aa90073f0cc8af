/* ptrace: stops, registers, memory, options. */
#include "../case.h"
#include <sys/ptrace.h>
#include <sys/user.h>
#include <elf.h>
#include <linux/ptrace.h>
#undef PTRACE_SINGLESTEP
#undef PTRACE_CONT
static int status;
static void told(const char *w, pid_t c) { if (waitpid(c, &status, __WALL) != c) { out("%s: wait: %s\n", w, error_name(errno)); return; } if (WIFSTOPPED(status)) out("%s: stop %d event %d\n", w, WSTOPSIG(status), status >> 16); else show_status(w, status); }
static pid_t traced(void (*body)(void)) { pid_t c = fork(); if (!c) { if (S(ptrace, 0, 0, 0, 0)) _exit(55); raise(SIGSTOP); body(); _exit(0); } return c; }
static void nothing(void) {}
static void getpids(void) { S(getppid); S(getuid); }
static void traps(void) { raise(SIGUSR1); _exit(7); }
CASE(ptrace, errnos) { R(ptrace, 99999, getpid(), 0, 0); R(ptrace, 16, 999999, 0, 0); R(ptrace, 16, getpid(), 0, 0); R(ptrace, 7, 999999, 0, 0); R(ptrace, 7, getpid(), 0, 0); R(ptrace, 0x4206, 1, 0, 0x1000000); pid_t c = SPAWN(pause()); R(ptrace, 7, c, 0, 0); R(ptrace, 12, c, 0, buf); CHILD(become(1000, 1000); R(ptrace, 16, c, 0, 0)); kill(c, 9); reap(c); }
CASE(ptrace, traceme_and_continue) { pid_t c = traced(nothing); told("first", c); R(ptrace, 7, c, 0, 0); told("end", c); }
CASE(ptrace, traceme_twice) { pid_t c = SPAWN(R(ptrace, 0, 0, 0, 0); R(ptrace, 0, 0, 0, 0)); WAIT(c); }
CASE(ptrace, peek_and_poke) { static long word = 0x1234; pid_t c = traced(nothing); told("first", c); long v = 0; R(ptrace, 2, c, &word, &v); X(v); R(ptrace, 5, c, &word, 0x5678); R(ptrace, 1, c, &word, &v); X(v); R(ptrace, 2, c, BAD, &v); R(ptrace, 5, c, BAD, 1); X(word); kill(c, 9); told("end", c); }
CASE(ptrace, registers) { pid_t c = traced(nothing); told("first", c); struct user_regs_struct r; R(ptrace, 12, c, 0, &r); P(r.orig_rax == SYS_tgkill || r.orig_rax == SYS_tkill || r.orig_rax == SYS_kill); P(r.rax); X(r.cs); r.rbx = 77; R(ptrace, 13, c, 0, &r); r.rbx = 0; R(ptrace, 12, c, 0, &r); P(r.rbx); struct iovec v = {&r, sizeof r}; R(ptrace, 0x4204, c, NT_PRSTATUS, &v); P(v.iov_len); R(ptrace, 0x4204, c, 9999, &v); r.cs = 0; R(ptrace, 13, c, 0, &r); long w; R(ptrace, 3, c, offsetof(struct user_regs_struct, rbx), &w); P(w); R(ptrace, 3, c, 3, &w); R(ptrace, 3, c, 100000, &w); kill(c, 9); told("end", c); }
CASE(ptrace, signals_pass_through_the_tracer) { pid_t c = traced(traps); told("first", c); R(ptrace, 7, c, 0, 0); told("usr1", c); siginfo_t i; R(ptrace, 0x4202, c, 0, &i); out("signo %d code %d\n", i.si_signo, i.si_code); R(ptrace, 7, c, 0, 0); told("end", c); c = traced(traps); told("first", c); S(ptrace, 7, c, 0, 0); told("usr1", c); R(ptrace, 7, c, 0, SIGTERM); told("end", c); c = traced(traps); told("first", c); R(ptrace, 7, c, 0, 99); kill(c, 9); told("end", c); }
CASE(ptrace, system_call_stops) { pid_t c = traced(getpids); told("first", c); R(ptrace, 0x4200, c, 0, 1); struct user_regs_struct r; for (int n = 0; n < 4; n++) { S(ptrace, 24, c, 0, 0); told("stop", c); S(ptrace, 12, c, 0, &r); P(r.orig_rax); if (n == 0 || n == 2) P(r.rax); } R(ptrace, 7, c, 0, 0); told("end", c); }
CASE(ptrace, system_call_can_be_changed) { pid_t c = traced(getpids); told("first", c); S(ptrace, 0x4200, c, 0, 1); S(ptrace, 24, c, 0, 0); told("entry", c); struct user_regs_struct r; S(ptrace, 12, c, 0, &r); r.orig_rax = -1; S(ptrace, 13, c, 0, &r); S(ptrace, 24, c, 0, 0); told("exit", c); S(ptrace, 12, c, 0, &r); V("result", r.rax); kill(c, 9); told("end", c); }
CASE(ptrace, system_call_information) { pid_t c = traced(getpids); told("first", c); S(ptrace, 0x4200, c, 0, 1); struct __ptrace_syscall_info i; S(ptrace, 24, c, 0, 0); told("entry", c); P(S(ptrace, 0x420e, c, sizeof i, &i) > 0); P(i.op); X(i.arch); P(i.entry.nr); S(ptrace, 24, c, 0, 0); told("exit", c); S(ptrace, 0x420e, c, sizeof i, &i); P(i.op); P(i.exit.is_error); kill(c, 9); told("end", c); }
CASE(ptrace, single_step) { pid_t c = traced(nothing); told("first", c); int n = 0; for (int k = 0; k < 5; k++) { S(ptrace, 9, c, 0, 0); if (waitpid(c, &status, 0) == c && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) n++; } P(n); siginfo_t i; R(ptrace, 0x4202, c, 0, &i); P(i.si_code); kill(c, 9); told("end", c); }
CASE(ptrace, attach_and_detach) { pid_t c = SPAWN(for (;;) pause()); if (R(ptrace, 16, c, 0, 0)) { kill(c, 9); return; } told("attached", c); R(ptrace, 16, c, 0, 0); R(ptrace, 17, c, 0, 0); R(ptrace, 17, c, 0, 0); kill(c, 9); told("end", c); }
CASE(ptrace, seize_and_interrupt) { pid_t c = SPAWN(for (;;) pause()); if (R(ptrace, 0x4206, c, 0, 0)) { kill(c, 9); return; } R(ptrace, 0x4207, c, 0, 0); told("interrupted", c); R(ptrace, 7, c, 0, 0); kill(c, SIGUSR1); told("usr1", c); R(ptrace, 17, c, 0, SIGTERM); told("end", c); }
CASE(ptrace, group_stop_of_a_seized_one) { pid_t c = SPAWN(for (;;) pause()); if (R(ptrace, 0x4206, c, 0, 0)) { kill(c, 9); return; } kill(c, SIGSTOP); told("signal", c); S(ptrace, 7, c, 0, SIGSTOP); told("group stop", c); R(ptrace, 0x4208, c, 0, 0); kill(c, SIGCONT); told("continued", c); kill(c, 9); while (waitpid(c, &status, __WALL) == c && !WIFSIGNALED(status)); show_status("end", status); }
static void forks(void) { pid_t c = fork(); if (!c) _exit(3); reap(c); }
CASE(ptrace, fork_events) { pid_t c = traced(forks); told("first", c); R(ptrace, 0x4200, c, 0, 2 | 0x100000); S(ptrace, 7, c, 0, 0); told("fork", c); unsigned long m = 0; R(ptrace, 0x4201, c, 0, &m); P(m > 1); told("child", m); S(ptrace, 7, m, 0, 0); told("child end", m); S(ptrace, 7, c, 0, 0); while (waitpid(c, &status, __WALL) == c && WIFSTOPPED(status)) S(ptrace, 7, c, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status)); show_status("end", status); }
static void execs(void) { execl("/bin/true", "true", (char *)0); }
CASE(ptrace, exec_event) { pid_t c = traced(execs); told("first", c); S(ptrace, 0x4200, c, 0, 0x10); S(ptrace, 7, c, 0, 0); told("exec", c); unsigned long m = 0; S(ptrace, 0x4201, c, 0, &m); P(m == c); S(ptrace, 7, c, 0, 0); told("end", c); }
CASE(ptrace, exec_without_the_option_traps) { pid_t c = traced(execs); told("first", c); S(ptrace, 7, c, 0, 0); told("exec", c); S(ptrace, 7, c, 0, 0); told("end", c); }
static void exits(void) { _exit(9); }
CASE(ptrace, exit_event) { pid_t c = traced(exits); told("first", c); S(ptrace, 0x4200, c, 0, 0x40); S(ptrace, 7, c, 0, 0); told("exit", c); unsigned long m = 0; S(ptrace, 0x4201, c, 0, &m); X(m); S(ptrace, 7, c, 0, 0); told("end", c); }
CASE(ptrace, kill_on_exit_of_the_tracer) { int p[2]; pipe(p); prctl(PR_SET_CHILD_SUBREAPER, 1); CHILD(pid_t c = SPAWN(for (;;) pause()); S(ptrace, 0x4206, c, 0, 0x100000); write(p[1], &c, 4)); pid_t c; read(p[0], &c, 4); nap(20); kill(c, 0) == 0 ? kill(c, 15) : 0; told("tracee", c); }
CASE(ptrace, tracer_shown_in_proc) { pid_t c = traced(nothing); told("first", c); char n[64]; sprintf(n, "/proc/%d/status", c); int fd = open(n, 0); long k = read(fd, buf, 4000); buf[k > 0 ? k : 0] = 0; char *t = strstr(buf, "TracerPid:\t"); P(t && atoi(t + 11) == getpid()); t = strstr(buf, "State:\t"); P(t ? t[7] : 0); kill(c, 9); told("end", c); }
CASE(ptrace, emulated_system_calls) { pid_t c = traced(getpids); told("first", c); S(ptrace, 0x4200, c, 0, 1); R(ptrace, 31, c, 0, 0); told("entry", c); struct user_regs_struct r; S(ptrace, 12, c, 0, &r); P(r.orig_rax); P(r.rax); kill(c, 9); told("end", c); }
CASE(ptrace, signal_mask) { pid_t c = traced(nothing); told("first", c); u64 m = 0x400; R(ptrace, 0x420b, c, 8, &m); m = 0; R(ptrace, 0x420a, c, 8, &m); X(m); R(ptrace, 0x420a, c, 4, &m); kill(c, 9); told("end", c); }
