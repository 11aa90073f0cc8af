/* What a terminal makes of typed and of written bytes, under fixed and under random settings: both kernels must agree. */
#define _GNU_SOURCE
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int master, slave;
static FILE *out;
/* How long it must be quiet. */
static int quiet_ms = 20;

static void show(const char *what, const unsigned char *p, long n)
{
	fprintf(out, "%s %ld:", what, n);
	for (long i = 0; i < n; i++)
		if (p[i] > 32 && p[i] < 127)
			putc(p[i], out);
		else
			fprintf(out, "\\%02x", p[i]);
	putc('\n', out);
}

/* A long one by its length and last bytes. */
static void show_short(const char *what, const unsigned char *p, long n)
{
	if (n > 200) {
		fprintf(out, "%s of %ld ends in ", what, n);
		p += n - 20;
		n = 20;
	}
	show(what, p, n);
}

/* Whatever was written for the other side. The host processes typed bytes in a worker: wait until it is quiet. */
static void show_output(void)
{
	unsigned char buf[8192];
	long n = 0, got;
	struct pollfd p = { master, POLLIN, 0 };

	while (n < (long)sizeof buf && poll(&p, 1, quiet_ms) == 1 && (got = read(master, buf + n, sizeof buf - n)) > 0)
		n += got;
	show("out", buf, n);
}

static void show_input(size_t piece)
{
	unsigned char buf[8192];
	int avail = -1;

	ioctl(slave, FIONREAD, &avail);
	fprintf(out, "avail %d\n", avail);
	for (int i = 0; i < 40; i++) {
		long n = read(slave, buf, piece);
		if (n < 0) {
			fprintf(out, "in: %s\n", strerror(errno));
			return;
		}
		show_short("in", buf, n);
	}
}

static unsigned seed = 1;
static unsigned rnd(unsigned n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 16) % n;
}

static void set(struct termios *t)
{
	if (ioctl(slave, TCSETS, t))
		fprintf(out, "TCSETS: %s\n", strerror(errno));
}

static void fresh(void)
{
	ioctl(slave, TCXONC, TCOON);
	ioctl(slave, TCFLSH, TCIOFLUSH);
	ioctl(master, TCFLSH, TCIOFLUSH);
	ioctl(slave, TCXONC, TCOON);
}

static void type(const char *bytes, size_t n)
{
	if (write(master, bytes, n) != (long)n)
		fprintf(out, "typed less\n");
}

/* Random settings, random typing, random writing. */
static void round_of(int number, struct termios *base)
{
	static const char special[] = "\r\n\t\b\177\025\004\022\027\026\001\003 aZ_9\303\251\377\033/\\";
	char bytes[64];
	int n = 1 + rnd(sizeof bytes - 1);
	static const unsigned in[] = { ISTRIP, INLCR, IGNCR, ICRNL, IUCLC, IXON, IXANY, IUTF8, PARMRK };
	static const unsigned put[] = { OPOST, OLCUC, ONLCR, OCRNL, ONOCR, ONLRET, XTABS };
	static const unsigned local[] = { ISIG, ICANON, ECHO, ECHOE, ECHOK, ECHONL, NOFLSH, ECHOCTL, ECHOPRT, ECHOKE, IEXTEN };

	fresh();
	struct termios t = *base;
	for (unsigned i = 0; i < sizeof in / sizeof *in; i++)
		if (rnd(4) == 0)
			t.c_iflag ^= in[i];
	for (unsigned i = 0; i < sizeof put / sizeof *put; i++)
		if (rnd(4) == 0)
			t.c_oflag ^= put[i];
	for (unsigned i = 0; i < sizeof local / sizeof *local; i++)
		if (rnd(5) == 0)
			t.c_lflag ^= local[i];
	if (rnd(4) == 0)
		t.c_cc[VEOL] = 'Z';
	if (rnd(4) == 0)
		t.c_cc[VEOL2] = '9';
	set(&t);
	for (int i = 0; i < n; i++)
		bytes[i] = rnd(3) ? special[rnd(sizeof special - 1)] : (char)(' ' + rnd(95));
	fprintf(out, "round %d: %o %o %o\n", number, t.c_iflag, t.c_oflag, t.c_lflag);
	show("type", (unsigned char *)bytes, n);
	/* The columns count from a known place. */
	write(slave, "\r", 1);
	show_output();
	type(bytes, n);
	show_output();
	if (rnd(2)) {
		int w = write(slave, bytes, n);
		fprintf(out, "wrote %d\n", w);
		show_output();
	}
	show_input(1 + rnd(80));
	/* Nothing of this round stays for the next. */
	t.c_lflag ^= ICANON;
	set(&t);
	fresh();
	set(base);
	fresh();
	if (write(slave, "\r", 1) == 1)
		show_output();
}

/* Settings one by one. */
static void fixed(struct termios *base)
{
	struct termios t;

	fresh();
	/* Lines, ends of files, and reads that just fit. */
	type("abc\004def\n\004x", 10);
	usleep(quiet_ms * 1000);
	show_output();
	show_input(3);
	type("yz\n", 3);
	usleep(quiet_ms * 1000);
	show_input(100);
	show_output();

	/* A line too long keeps its end. */
	fresh();
	t = *base;
	t.c_lflag &= ~ECHO;
	set(&t);
	for (int i = 0; i < 50; i++)
		type("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789", 100);
	usleep(quiet_ms * 3000);
	type("\n", 1);
	usleep(quiet_ms * 1000);
	show_input(8192);

	/* From lines to bytes and back with something typed. */
	fresh();
	set(base);
	type("one\ntwo", 7);
	usleep(quiet_ms * 1000);
	t = *base;
	t.c_lflag &= ~ICANON;
	set(&t);
	show_input(2);
	type("more", 4);
	usleep(quiet_ms * 1000);
	set(base);
	show_input(100);
	show_output();

	/* Flow control. */
	fresh();
	type("\023", 1);
	usleep(quiet_ms * 1000);
	fprintf(out, "stopped: %zd\n", write(slave, "held", 4));
	type("q", 1);
	usleep(quiet_ms * 1000);
	show_output();
	type("\021", 1);
	usleep(quiet_ms * 1000);
	show_output();
	fprintf(out, "started: %zd\n", write(slave, "free", 4));
	show_output();
	fresh();
	set(base);
}

int main(void)
{
	struct termios base;
	int unlock = 0, number;
	char name[64];

	out = stdout;

	master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	ioctl(master, TIOCSPTLCK, &unlock);
	ioctl(master, TIOCGPTN, &number);
	snprintf(name, sizeof name, "/dev/pts/%d", number);
	slave = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (master < 0 || slave < 0) {
		perror(name);
		return 1;
	}
	ioctl(slave, TCGETS, &base);
	show("termios", (unsigned char *)&base, sizeof base);

	for (int number = -1; number < 30; number++) {
		/* The host's workers race with us: a result counts when it comes twice. */
		char *text[2] = { NULL, NULL };
		unsigned before = seed;
		for (int try = 0; try < 8; try++) {
			size_t size;
			free(text[try % 2]);
			seed = before;
			out = open_memstream(&text[try % 2], &size);
			quiet_ms = try < 2 ? 20 : 80;
			if (number < 0)
				fixed(&base);
			else
				round_of(number, &base);
			fclose(out);
			if (try > 0 && strcmp(text[0], text[1]) == 0)
				break;
		}
		fputs(text[0], stdout);
		free(text[0]);
		free(text[1]);
	}
	return 0;
}
