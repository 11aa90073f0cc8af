/* Sessions, controlling terminals, the foreground, stops from the background, hang-ups, packet mode. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define TRY(call)                                                                      \
	do {                                                                           \
		errno = 0;                                                             \
		long r_ = (long)(call);                                                \
		printf("%s = %s%s\n", #call, r_ < 0 ? "-1 " : r_ ? "yes" : "0", r_ < 0 ? strerrorname_np(errno) : ""); \
	} while (0)

static int master;
static char name[64];
static volatile sig_atomic_t seen[65];

static void note(int signo)
{
	seen[signo]++;
}

static void catch(int signo)
{
	struct sigaction sa = { .sa_handler = note };

	sigaction(signo, &sa, NULL);
}

static void pair(void)
{
	master = posix_openpt(O_RDWR | O_NOCTTY);
	grantpt(master);
	unlockpt(master);
	ptsname_r(master, name, sizeof name);
}

static void tell(const char *who, int status)
{
	if (WIFEXITED(status))
		printf("%s exited %d\n", who, WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		printf("%s killed by %s\n", who, sigabbrev_np(WTERMSIG(status)));
	else if (WIFSTOPPED(status))
		printf("%s stopped by %s\n", who, sigabbrev_np(WSTOPSIG(status)));
	else
		printf("%s goes on\n", who);
}

static void wait_for(const char *who, pid_t pid, int options)
{
	int status;

	if (waitpid(pid, &status, options) == pid)
		tell(who, status);
	else
		printf("%s: %s\n", who, strerrorname_np(errno));
}

/* Runs f in a child and waits for its end. */
static void apart(const char *title, void (*f)(void))
{
	pid_t pid;

	printf("-- %s\n", title);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(20);
		f();
		fflush(stdout);
		_exit(0);
	}
	wait_for("all", pid, 0);
}

/* The fields of /proc/self/stat about the terminal: none, and whether this group is in front. */
static void show_stat(void)
{
	char buf[1024] = "", *p;
	int fd = open("/proc/self/stat", O_RDONLY), pgrp, sid, tty, front;
	struct stat st;

	if (read(fd, buf, sizeof buf - 1) < 0 || !(p = strrchr(buf, ')')))
		return;
	close(fd);
	sscanf(p + 2, "%*c %*d %d %d %d %d", &pgrp, &sid, &tty, &front);
	printf("stat: terminal %s, in front %s, leader %d\n",
	       tty == 0 ? "none" : stat(name, &st) == 0 && tty == (int)st.st_rdev ? "the slave" : "other",
	       front == -1 ? "nothing" : front == pgrp ? "us" : "others", sid == getpid());
}

static void acquire(void)
{
	int a, b, n;
	char link[64] = "", path[64];

	pair();
	show_stat();
	TRY(open("/dev/tty", O_RDWR));
	a = open(name, O_RDWR | O_NOCTTY);
	TRY(ioctl(a, TIOCSCTTY, 0));
	TRY(tcgetpgrp(a));
	TRY(tcgetsid(a));
	TRY(tcsetpgrp(a, getpgrp()));
	TRY(ioctl(a, TIOCNOTTY));
	TRY(setsid());
	TRY(setsid());
	show_stat();
	b = open(name, O_RDWR | O_NOCTTY);
	show_stat();
	TRY(open("/dev/tty", O_RDWR));
	TRY(open(name, O_WRONLY));
	show_stat();
	close(b);
	b = open(name, O_RDONLY);
	show_stat();
	TRY(tcgetpgrp(b) == getpgrp());
	TRY(tcgetsid(b) == getpid());
	TRY(tcgetsid(master) == getpid());
	TRY(tcgetpgrp(master) == getpgrp());
	TRY(ioctl(b, TIOCSCTTY, 0));
	TRY(tcsetpgrp(b, -5));
	TRY(tcsetpgrp(b, 1 << 20));
	TRY(tcsetpgrp(b, getppid()));
	TRY(ioctl(b, TIOCSPGRP, 8));
	TRY(setpgid(0, 0));
	n = open("/dev/tty", O_RDWR);
	snprintf(path, sizeof path, "/proc/self/fd/%d", n);
	n = readlink(path, link, sizeof link - 1);
	printf("link %s\n", link);
	printf("is a terminal %d, named as opened %d\n", isatty(b), strcmp(ttyname(b), name) == 0);
	if (fork() == 0) {
		TRY(setsid());
		show_stat();
		TRY(open("/dev/tty", O_RDWR));
		TRY(ioctl(b, TIOCSCTTY, 0));
		TRY(ioctl(b, TIOCGSID, &n));
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	if (fork() == 0) {
		TRY(ioctl(b, TIOCNOTTY));
		show_stat();
		TRY(open("/dev/tty", O_RDWR));
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	signal(SIGHUP, note);
	signal(SIGCONT, note);
	TRY(ioctl(b, TIOCNOTTY));
	printf("HUP %d CONT %d\n", seen[SIGHUP], seen[SIGCONT]);
	show_stat();
	TRY(ioctl(b, TIOCSCTTY, 0));
	show_stat();
}

/* A session with the leader in front and a child in the background, which does f. */
static int tty;
static pid_t background(void (*f)(void))
{
	pid_t pid;
	int go[2];
	char c;

	pipe(go);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		close(go[1]);
		setpgid(0, 0);
		read(go[0], &c, 1);
		f();
		fflush(stdout);
		_exit(0);
	}
	setpgid(pid, pid);
	close(go[0]);
	close(go[1]);
	return pid;
}

static void start(void)
{
	pair();
	setsid();
	tty = open(name, O_RDWR);
}

static void do_read(void)
{
	char c;
	TRY(read(tty, &c, 1));
}

static void do_read_ignoring(void)
{
	signal(SIGTTIN, SIG_IGN);
	do_read();
}

static void do_read_blocking(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTTIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	do_read();
}

static void do_read_catching(void)
{
	catch(SIGTTIN);
	do_read();
	printf("TTIN %d\n", seen[SIGTTIN] > 0);
}

static void do_write(void)
{
	TRY(write(tty, "x", 1));
}

static void do_set(void)
{
	struct termios t;

	TRY(tcgetattr(tty, &t));
	TRY(tcsetattr(tty, TCSANOW, &t));
}

static void do_front(void)
{
	TRY(tcsetpgrp(tty, getpgrp()));
}

static void do_front_ignoring(void)
{
	signal(SIGTTOU, SIG_IGN);
	do_front();
	show_stat();
}

static void do_flush(void)
{
	TRY(tcflush(tty, TCIFLUSH));
}

static void in_background(void)
{
	struct termios t;
	pid_t pid;
	static const struct {
		const char *title;
		void (*f)(void);
	} cases[] = { { "read", do_read }, { "write", do_write }, { "set", do_set }, { "flush", do_flush }, { "front", do_front } };

	start();
	for (int stop = 0; stop < 2; stop++) {
		tcgetattr(tty, &t);
		if (stop)
			t.c_lflag |= TOSTOP;
		tcsetattr(tty, TCSANOW, &t);
		for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
			pid = background(cases[i].f);
			wait_for(cases[i].title, pid, WUNTRACED);
			kill(-pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
	}
	wait_for("read, ignoring", background(do_read_ignoring), WUNTRACED);
	wait_for("read, blocking", background(do_read_blocking), WUNTRACED);
	wait_for("read, catching", background(do_read_catching), WUNTRACED);
	/* Stopped for reading, brought to the front, it reads. */
	pid = background(do_read);
	wait_for("reader", pid, WUNTRACED);
	tcsetpgrp(tty, pid);
	kill(-pid, SIGCONT);
	wait_for("reader", pid, WCONTINUED);
	write(master, "a\n", 2);
	wait_for("reader", pid, WUNTRACED);
	signal(SIGTTOU, SIG_IGN);
	tcsetpgrp(tty, getpgrp());
	wait_for("front, ignoring", background(do_front_ignoring), WUNTRACED);
}

static void orphan(void)
{
	pid_t pid;
	int fds[2];
	char text[256];
	long n;

	start();
	pipe(fds);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		pid_t parent = getpid();
		if (fork() == 0) {
			setpgid(0, 0);
			while (getppid() == parent)
				usleep(1000);
			dup2(fds[1], 1);
			do_read();
			fflush(stdout);
			_exit(0);
		}
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	close(fds[1]);
	while ((n = read(fds[0], text, sizeof text)) > 0)
		fwrite(text, 1, n, stdout);
}

static void wait_a_while(void)
{
	for (;;)
		pause();
}

static void typed_signals(void)
{
	struct winsize size = { 10, 20, 0, 0 };
	static const struct {
		char c;
		const char *title;
	} chars[] = { { 3, "interrupt" }, { 28, "quit" }, { 26, "suspend" } };

	start();
	signal(SIGTTOU, SIG_IGN);
	for (unsigned i = 0; i < sizeof chars / sizeof *chars; i++) {
		pid_t front = background(wait_a_while), back = background(wait_a_while);

		tcsetpgrp(tty, front);
		write(master, &chars[i].c, 1);
		wait_for(chars[i].title, front, WUNTRACED);
		printf("behind: %d\n", waitpid(back, NULL, WNOHANG | WUNTRACED));
		kill(front, SIGKILL);
		kill(back, SIGKILL);
		waitpid(back, NULL, 0);
	}
	catch(SIGINT);
	catch(SIGWINCH);
	tcsetpgrp(tty, getpgrp());
	for (int i = 0; i < 3; i++) {
		TRY(ioctl(i == 1 ? tty : master, TIOCSWINSZ, &size));
		usleep(20000);
		printf("WINCH %d\n", seen[SIGWINCH]);
		size.ws_col += i;
	}
	memset(&size, 0, sizeof size);
	TRY(ioctl(tty, TIOCGWINSZ, &size));
	printf("%d %d\n", size.ws_row, size.ws_col);
	TRY(ioctl(master, TIOCSIG, SIGINT));
	usleep(20000);
	printf("INT %d\n", seen[SIGINT]);
	TRY(ioctl(master, TIOCSIG, 65));
	TRY(ioctl(tty, TIOCSIG, SIGINT));
}

static void hang_up(void)
{
	char c;
	struct pollfd p = { 0, POLLIN | POLLOUT, 0 };
	struct termios t;

	start();
	catch(SIGHUP);
	catch(SIGCONT);
	p.fd = tty;
	TRY(poll(&p, 1, 0));
	printf("%x\n", p.revents);
	close(master);
	usleep(20000);
	printf("HUP %d CONT %d\n", seen[SIGHUP], seen[SIGCONT]);
	show_stat();
	TRY(read(tty, &c, 1));
	TRY(write(tty, "x", 1));
	TRY(tcgetattr(tty, &t));
	TRY(tcsetpgrp(tty, getpgrp()));
	TRY(poll(&p, 1, 0));
	printf("%x\n", p.revents);
	TRY(open("/dev/tty", O_RDWR));
	TRY(open(name, O_RDWR));
	printf("read in the way: ");
	fflush(stdout);
	pair();
	tty = open(name, O_RDWR | O_NOCTTY);
	if (fork() == 0) {
		usleep(50000);
		_exit(0);
	}
	c = fork();
	if (c == 0) {
		close(master);
		TRY(read(tty, &c, 1));
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	close(master);
	wait(NULL);
}

static void leader_ends(void)
{
	pid_t leader;
	int fds[2];
	char text[64];
	long n;

	pair();
	pipe(fds);
	fflush(stdout);
	leader = fork();
	if (leader == 0) {
		pid_t child;

		setsid();
		tty = open(name, O_RDWR);
		child = fork();
		if (child == 0) {
			catch(SIGHUP);
			setpgid(0, 0);
			write(fds[1], ".", 1);
			sleep(5);
			dprintf(fds[1], "HUP %d, opens %d\n", seen[SIGHUP], open("/dev/tty", O_RDWR));
			_exit(0);
		}
		setpgid(child, child);
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(tty, child);
		read(fds[0], text, 1);
		_exit(0);
	}
	waitpid(leader, NULL, 0);
	close(fds[1]);
	while ((n = read(fds[0], text, sizeof text)) > 0)
		fwrite(text, 1, n, stdout);
}

static void show_packet(void)
{
	unsigned char buf[64];
	struct pollfd p = { master, POLLIN | POLLPRI, 0 };

	if (poll(&p, 1, 20) != 1) {
		printf("nothing\n");
		return;
	}
	long n = read(master, buf, sizeof buf);
	printf("poll %x, %ld:", p.revents, n);
	for (long i = 0; i < n; i++)
		printf(" %02x", buf[i]);
	printf("\n");
}

static void packets(void)
{
	int on = 1, peer;
	struct termios t;
	struct stat st;

	start();
	TRY(ioctl(tty, TIOCPKT, &on));
	TRY(ioctl(master, TIOCPKT, &on));
	write(tty, "hi", 2);
	show_packet();
	show_packet();
	TRY(tcflow(tty, TCOOFF));
	show_packet();
	TRY(tcflow(tty, TCOON));
	show_packet();
	TRY(tcflush(tty, TCIFLUSH));
	show_packet();
	TRY(tcflush(tty, TCIOFLUSH));
	show_packet();
	tcgetattr(tty, &t);
	t.c_iflag &= ~IXON;
	tcsetattr(tty, TCSANOW, &t);
	show_packet();
	t.c_iflag |= IXON;
	t.c_lflag |= EXTPROC;
	tcsetattr(tty, TCSANOW, &t);
	show_packet();
	TRY(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY) > 0);
	peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	TRY(strcmp(ttyname(peer), name));
	fstat(tty, &st);
	printf("%o %d\n", st.st_mode & S_IFMT, major(st.st_rdev));
	TRY(ioctl(tty, TIOCGPTPEER, O_RDWR | O_NOCTTY));
	TRY(ioctl(tty, TIOCEXCL));
	TRY(ioctl(tty, TIOCGEXCL, &on));
	printf("%d\n", on);
	TRY(lseek(tty, 0, SEEK_SET));
	TRY(ioctl(tty, 0x5499, 0));
}

static void timed(void)
{
	struct termios t;
	char buf[16];
	pid_t pid;

	start();
	tcgetattr(tty, &t);
	t.c_lflag &= ~(ICANON | ECHO);
	for (int min = 0; min < 4; min += 3)
		for (int time = 0; time < 3; time += 2) {
			t.c_cc[VMIN] = min;
			t.c_cc[VTIME] = time;
			tcsetattr(tty, TCSANOW, &t);
			if (min == 0 || time) {
				printf("min %d, time %d, typed before: ", min, time);
				write(master, "ab", 2);
				usleep(20000);
				printf("%zd\n", read(tty, buf, 10));
			}
			if (min == 0) {
				printf("min %d, time %d, nothing: %zd\n", min, time, read(tty, buf, 10));
				continue;
			}
			fflush(stdout);
			pid = fork();
			if (pid == 0) {
				for (int i = 0; i < 4; i++) {
					usleep(60000);
					write(master, "c", 1);
				}
				_exit(0);
			}
			printf("min %d, time %d, one by one: %zd\n", min, time, read(tty, buf, 10));
			waitpid(pid, NULL, 0);
			usleep(20000);
			tcflush(tty, TCIFLUSH);
		}
	fcntl(tty, F_SETFL, O_NONBLOCK);
	TRY(read(tty, buf, 10));
	t.c_cc[VMIN] = t.c_cc[VTIME] = 0;
	tcsetattr(tty, TCSANOW, &t);
	TRY(read(tty, buf, 10));
}

int main(void)
{
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	apart("getting a terminal", acquire);
	apart("in the background", in_background);
	apart("orphaned", orphan);
	apart("typed signals", typed_signals);
	apart("hang-up", hang_up);
	apart("the leader ends", leader_ends);
	apart("packets", packets);
	apart("minimum and time", timed);
	return 0;
}
