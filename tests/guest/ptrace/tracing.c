/* ptrace(2): stops, registers, memory, events, attaching, what tracers that end leave behind. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static long pt(long request, pid_t pid, void *addr, void *data)
{
	long r = syscall(SYS_ptrace, request, pid, addr, data);
	return r < 0 ? -errno : r;
}
#define T(request, pid, addr, data)                                                                    \
	({                                                                                             \
		long r_ = pt(request, pid, (void *)(long)(addr), (void *)(long)(data));                \
		printf("  " #request " %s\n", r_ < 0 ? strerrorname_np(-r_) : "ok");                   \
		r_;                                                                                    \
	})

static void show(const char *who, int status)
{
	if (WIFEXITED(status))
		printf("%s: exit %d\n", who, WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		printf("%s: killed by %d\n", who, WTERMSIG(status));
	else if (WIFSTOPPED(status))
		printf("%s: stopped by %d, event %d\n", who, WSTOPSIG(status), status >> 16);
	else
		printf("%s: continued\n", who);
}

static int next(const char *who, pid_t pid)
{
	int status = -1;
	if (waitpid(pid, &status, __WALL) != pid) {
		printf("%s: %s\n", who, strerrorname_np(errno));
		return -1;
	}
	show(who, status);
	return status;
}

static pid_t traced(void (*f)(void))
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(20);
		pt(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		f();
		_exit(3);
	}
	next("start", pid);
	return pid;
}

static void told(pid_t pid)
{
	struct ptrace_syscall_info info;
	memset(&info, 0xee, sizeof info);
	long n = pt(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof info, &info);
	printf("  info %ld, op %d", n, info.op);
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
		printf(" nr %d args %d %d", (int)info.entry.nr, (int)info.entry.args[0], (int)info.entry.args[1]);
	if (info.op == PTRACE_SYSCALL_INFO_EXIT)
		printf(" result %d error %d", (int)info.exit.rval, info.exit.is_error);
	printf("\n");
}

static void calls(void)
{
	syscall(SYS_dup2, 77, 78);
	syscall(SYS_getpriority, 5, 6);
	syscall(SYS_umask, 022);
}

static void system_calls(void)
{
	struct user_regs_struct regs;
	pid_t pid = traced(calls);

	T(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD);
	for (int i = 0; i < 6; i++) {
		T(PTRACE_SYSCALL, pid, 0, 0);
		next("call", pid);
		told(pid);
		T(PTRACE_GETREGS, pid, 0, &regs);
		printf("  orig %d rax %d\n", (int)regs.orig_rax, (int)regs.rax);
		if (i == 2) {
			regs.orig_rax = -1;
			regs.rax = -EDOM;
			T(PTRACE_SETREGS, pid, 0, &regs);
		}
		if (i == 5) {
			regs.rax = 99;
			T(PTRACE_SETREGS, pid, 0, &regs);
		}
	}
	T(PTRACE_CONT, pid, 0, 0);
	next("end", pid);
}

static int word = 1234;
static const int fixed = 4321;
static void crash(void)
{
	raise(SIGUSR1);
	raise(SIGUSR2);
	raise(SIGTERM);
	_exit(word + fixed - 5555);
}

static void signals(void)
{
	siginfo_t info;
	unsigned long mask = 0;
	struct ptrace_peeksiginfo_args args = { 0, 0, 4 };
	pid_t pid = traced(crash);

	T(PTRACE_CONT, pid, 0, 0);
	next("first", pid);
	T(PTRACE_GETSIGINFO, pid, 0, &info);
	printf("  signo %d code %d\n", info.si_signo, info.si_code);
	T(PTRACE_CONT, pid, 0, 0);
	next("second", pid);
	T(PTRACE_GETSIGMASK, pid, 8, &mask);
	T(PTRACE_GETSIGMASK, pid, 7, &mask);
	printf("  mask %lx\n", mask);
	printf("  queued %ld\n", pt(PTRACE_PEEKSIGINFO, pid, &args, &info));
	T(PTRACE_CONT, pid, 0, 70);
	T(PTRACE_CONT, pid, 0, 0);
	next("third", pid);
	T(PTRACE_CONT, pid, 0, SIGKILL);
	next("end", pid);

	pid = traced(crash);
	T(PTRACE_CONT, pid, 0, 0);
	next("first", pid);
	T(PTRACE_CONT, pid, 0, SIGUSR1);
	next("end", pid);
}

static void memory(void)
{
	struct user_regs_struct regs;
	struct user_fpregs_struct fp;
	char area[16384];
	struct iovec iov = { &regs, sizeof regs };
	long value = 0;
	char path[64];
	pid_t pid = traced(crash);

	T(PTRACE_PEEKDATA, pid, &word, &value);
	printf("  %d\n", (int)value);
	T(PTRACE_POKEDATA, pid, &word, (value & ~0xffffffffl) | 1235);
	T(PTRACE_PEEKTEXT, pid, 8, &value);
	T(PTRACE_POKETEXT, pid, 8, 0);
	T(PTRACE_PEEKTEXT, pid, &fixed, &value);
	T(PTRACE_POKETEXT, pid, &fixed, (value & ~0xffffffffl) | 4323);
	T(PTRACE_PEEKUSR, pid, offsetof(struct user, regs.cs), &value);
	printf("  cs %lx\n", value);
	T(PTRACE_PEEKUSR, pid, 3, &value);
	T(PTRACE_PEEKUSR, pid, sizeof(struct user), &value);
	T(PTRACE_GETREGSET, pid, NT_PRSTATUS, &iov);
	printf("  %zu\n", iov.iov_len);
	iov.iov_len = 20;
	T(PTRACE_GETREGSET, pid, NT_PRSTATUS, &iov);
	iov.iov_len = 16;
	T(PTRACE_GETREGSET, pid, NT_PRSTATUS, &iov);
	printf("  %zu\n", iov.iov_len);
	T(PTRACE_GETREGSET, pid, 12345, &iov);
	T(PTRACE_GETFPREGS, pid, 0, &fp);
	fp.xmm_space[0] = 42;
	T(PTRACE_SETFPREGS, pid, 0, &fp);
	memset(&fp, 0, sizeof fp);
	iov = (struct iovec){ &fp, sizeof fp };
	T(PTRACE_GETREGSET, pid, NT_PRFPREG, &iov);
	printf("  xmm %d, %zu\n", fp.xmm_space[0], iov.iov_len);
	iov = (struct iovec){ area, sizeof area };
	T(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &iov);
	printf("  xmm %d, xcr0 %d\n", *(int *)(area + 160), (area[464] & 7) == 7);
	T(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &iov);
	T(PTRACE_GETREGS, pid, 0, 8);
	T(12345, pid, 0, 0);
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int fd = open(path, O_RDWR), got = 0;
	printf("  mem %zd", pread(fd, &got, 4, (off_t)&word));
	printf(" %d\n", got);
	T(PTRACE_CONT, pid, 0, 0);
	next("USR1", pid);
	T(PTRACE_CONT, pid, 0, 0);
	next("USR2", pid);
	T(PTRACE_CONT, pid, 0, 0);
	next("TERM", pid);
	T(PTRACE_CONT, pid, 0, 0);
	next("end", pid);
}

static int child(void *p)
{
	return 5;
}

static char stack[65536] __attribute__((aligned(16)));
static void family(void)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(1);
	waitpid(pid, NULL, 0);
	pid = vfork();
	if (pid == 0)
		_exit(2);
	waitpid(pid, NULL, 0);
	pid = clone(child, stack + sizeof stack, CLONE_VM, NULL);
	waitpid(pid, NULL, __WALL);
	execl("/bin/true", "true", NULL);
}

static void events(int options, int seized)
{
	pid_t pid, kid = 0;
	int status, alive = 1, order[2];
	char log[4096] = "";

	if (seized) {
		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			raise(SIGSTOP);
			family();
		}
		waitpid(pid, &status, WUNTRACED);
		T(PTRACE_SEIZE, pid, 0, options);
		next("seized", pid);
		kill(pid, SIGCONT);
		next("continued", pid);
	} else {
		pid = traced(family);
		T(PTRACE_SETOPTIONS, pid, 0, options);
	}
	T(PTRACE_CONT, pid, 0, 0);
	(void)order;
	while (alive > 0) {
		pid_t who = waitpid(-1, &status, __WALL);
		if (who < 0)
			break;
		unsigned long message = 0;
		int signal = 0;
		if (WIFSTOPPED(status)) {
			int event = status >> 16;
			pt(PTRACE_GETEVENTMSG, who, 0, &message);
			signal = WSTOPSIG(status);
			if (event || signal == SIGSTOP || signal == SIGTRAP)
				signal = 0;
			if (event >= 1 && event <= 3)
				alive++, kid = message;
			/* What parent and child do at the same time comes in any order: only the parent's is told in order. */
			if (who == pid)
				printf("  parent: signal %d event %d message %s\n", WSTOPSIG(status), event,
				       event == PTRACE_EVENT_EXIT ? "status" : (pid_t)message == kid ? "child" : "other");
			else
				sprintf(log + strlen(log), " s%d.%d", WSTOPSIG(status), event);
			pt(PTRACE_CONT, who, 0, (void *)(long)signal);
		} else {
			alive--;
			if (who == pid)
				show("parent", status);
			else
				sprintf(log + strlen(log), " end%x", status);
		}
	}
	printf("children:%s\n", log);
}

static void forever(void)
{
	for (;;)
		pause();
}

static pid_t start(void)
{
	int ready[2];
	char c;

	pipe(ready);
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(25);
		write(ready[1], "x", 1);
		forever();
	}
	read(ready[0], &c, 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void show_tracer(pid_t pid)
{
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", pid);
	/* It goes back to sleep soon. */
	for (int tries = 0, runs = 1; runs && tries < 500; tries++, usleep(4000)) {
		f = fopen(path, "r");
		for (runs = 0; f && fgets(line, sizeof line, f);)
			runs |= !strncmp(line, "State:\tR", 8);
		if (f)
			fclose(f);
	}
	f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, "State", 5))
			printf("  %s", line);
		else if (!strncmp(line, "TracerPid", 9))
			printf("  by us: %d\n", atoi(line + 10) == getpid());
	if (f)
		fclose(f);
}

static void attaching(void)
{
	pid_t pid = start(), other;

	T(PTRACE_CONT, pid, 0, 0);
	T(PTRACE_ATTACH, getpid(), 0, 0);
	T(PTRACE_ATTACH, 1 << 22, 0, 0);
	T(PTRACE_ATTACH, pid, 0, 0);
	T(PTRACE_ATTACH, pid, 0, 0);
	next("attached", pid);
	show_tracer(pid);
	T(PTRACE_INTERRUPT, pid, 0, 0);
	T(PTRACE_LISTEN, pid, 0, 0);
	T(PTRACE_SETOPTIONS, pid, 0, 1 << 30);
	fflush(stdout);
	other = fork();
	if (other == 0) {
		T(PTRACE_ATTACH, pid, 0, 0);
		T(PTRACE_CONT, pid, 0, 0);
		T(PTRACE_PEEKDATA, pid, &word, &word);
		fflush(stdout);
		_exit(0);
	}
	waitpid(other, NULL, 0);
	T(PTRACE_CONT, pid, 0, 0);
	kill(pid, SIGUSR1);
	next("signal", pid);
	T(PTRACE_DETACH, pid, 0, 0);
	usleep(20000);
	show_tracer(pid);
	T(PTRACE_SEIZE, pid, 1, 0);
	T(PTRACE_SEIZE, pid, 0, 1 << 30);
	T(PTRACE_SEIZE, pid, 0, 0);
	T(PTRACE_INTERRUPT, pid, 0, 0);
	next("interrupted", pid);
	T(PTRACE_CONT, pid, 0, 0);
	kill(pid, SIGSTOP);
	next("stop signal", pid);
	T(PTRACE_LISTEN, pid, 0, 0);
	T(PTRACE_CONT, pid, 0, SIGSTOP);
	next("group stop", pid);
	T(PTRACE_LISTEN, pid, 0, 0);
	T(PTRACE_CONT, pid, 0, 0);
	kill(pid, SIGCONT);
	next("trapped again", pid);
	T(PTRACE_CONT, pid, 0, 0);
	next("continue signal", pid);
	T(PTRACE_CONT, pid, 0, 0);
	T(PTRACE_KILL, pid, 0, 0);
	next("end", pid);
}

static void tracer_ends(int options)
{
	pid_t pid = start(), tracer;
	int status;

	fflush(stdout);
	tracer = fork();
	if (tracer == 0) {
		alarm(20);
		T(PTRACE_SEIZE, pid, 0, options);
		T(PTRACE_INTERRUPT, pid, 0, 0);
		next("tracee", pid);
		fflush(stdout);
		_exit(0);
	}
	next("tracer", tracer);
	if (!options)
		kill(pid, SIGTERM);
	waitpid(pid, &status, 0);
	show("end", status);
}

/* A tracer that is not the parent hears of the end first. */
static void tracer_first(void)
{
	pid_t pid = start(), tracer;
	int go[2], status;
	char c;

	pipe(go);
	fflush(stdout);
	tracer = fork();
	if (tracer == 0) {
		alarm(20);
		T(PTRACE_SEIZE, pid, 0, 0);
		write(go[1], "x", 1);
		siginfo_t info;
		waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
		printf("tracer: code %d status %d\n", info.si_code, info.si_status);
		next("tracer", pid);
		T(PTRACE_CONT, pid, 0, SIGTERM);
		next("tracer", pid);
		fflush(stdout);
		_exit(0);
	}
	read(go[0], &c, 1);
	kill(pid, SIGTERM);
	usleep(1000);
	waitpid(tracer, NULL, 0);
	waitpid(pid, &status, 0);
	show("parent", status);
}

static void steps(void)
{
	__asm__ volatile("nop\n nop\n nop\n mov $39, %%eax\n syscall\n nop\n nop\n" ::: "rax", "rcx", "r11", "memory");
	raise(SIGUSR1);
}

static void single_steps(void)
{
	struct user_regs_struct regs;
	siginfo_t info;
	pid_t pid = traced(steps);
	unsigned char code[8];
	int seen = 0, status = 0;

	for (int i = 0; i < 20000 && seen < 7; i++) {
		pt(PTRACE_SINGLESTEP, pid, 0, 0);
		if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
			break;
		pt(PTRACE_GETREGS, pid, 0, &regs);
		long v = 0;
		pt(PTRACE_PEEKTEXT, pid, (void *)regs.rip, &v);
		memcpy(code, &v, 8);
		if (seen || (code[0] == 0x90 && code[1] == 0x90 && code[2] == 0x90)) {
			pt(PTRACE_GETSIGINFO, pid, 0, &info);
			printf("  step: signal %d, at %02x, code %d, flag %d\n", WSTOPSIG(status), code[0], seen ? info.si_code : 0,
			       (int)(regs.eflags >> 8 & 1));
			seen++;
		}
	}
	T(PTRACE_CONT, pid, 0, 0);
	next("signal", pid);
	T(PTRACE_KILL, pid, 0, 0);
	next("end", pid);
}

static void emulated(void)
{
	long r = syscall(SYS_getpid);
	_exit(r == 55 ? 9 : 8);
}

static void emulation(void)
{
	struct user_regs_struct regs;
	pid_t pid = traced(emulated);

	T(PTRACE_SYSEMU, pid, 0, 0);
	next("emulated", pid);
	T(PTRACE_GETREGS, pid, 0, &regs);
	printf("  nr %d\n", (int)regs.orig_rax);
	regs.rax = 55;
	T(PTRACE_SETREGS, pid, 0, &regs);
	T(PTRACE_CONT, pid, 0, 0);
	next("end", pid);
}

static void interrupted(void)
{
	signal(SIGUSR1, SIG_IGN);
	pause();
}

/* What a tracer sees of a call that a signal interrupts. */
static void restarts(void)
{
	pid_t pid = traced(interrupted);
	struct user_regs_struct regs;

	T(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD);
	do {
		pt(PTRACE_SYSCALL, pid, 0, 0);
		waitpid(pid, NULL, 0);
		pt(PTRACE_GETREGS, pid, 0, &regs);
	} while (regs.orig_rax != SYS_pause);
	T(PTRACE_SYSCALL, pid, 0, 0);
	kill(pid, SIGUSR1);
	next("exit", pid);
	T(PTRACE_GETREGS, pid, 0, &regs);
	printf("  rax %d\n", (int)regs.rax);
	T(PTRACE_SYSCALL, pid, 0, 0);
	next("signal", pid);
	T(PTRACE_SYSCALL, pid, 0, SIGUSR1);
	next("again", pid);
	T(PTRACE_GETREGS, pid, 0, &regs);
	printf("  nr %d rax %d\n", (int)regs.orig_rax, (int)regs.rax);
	T(PTRACE_KILL, pid, 0, 0);
	next("end", pid);
}

static void apart(const char *title, void (*f)(void))
{
	printf("-- %s\n", title);
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(20);
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		f();
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(pid, &status, 0);
	show(title, status);
}

static void no_events(void) { events(0, 0); }
static void all_events(void) { events(0x7e, 0); }
static void seized_events(void) { events(0x7e, 1); }
static void let_go(void) { tracer_ends(0); }
static void killed(void) { tracer_ends(PTRACE_O_EXITKILL); }

int main(void)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	apart("system calls", system_calls);
	apart("signals", signals);
	apart("memory", memory);
	apart("no events", no_events);
	apart("events", all_events);
	apart("events of one seized", seized_events);
	apart("attaching", attaching);
	apart("the tracer ends", let_go);
	apart("the tracer ends and kills", killed);
	apart("the tracer hears first", tracer_first);
	apart("single steps", single_steps);
	apart("emulation", emulation);
	apart("restarts", restarts);
	return 0;
}
