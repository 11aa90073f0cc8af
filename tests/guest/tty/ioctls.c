/* ioctl_tty(2): what both sides of a pseudoterminal say. */
#include "../case.h"
#include <termios.h>

static int master, slave;
static void pair(void) {
  int n;
  master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
  int zero = 0;
  ioctl(master, TIOCSPTLCK, &zero);
  slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
  NEED(ioctl(master, TIOCGPTN, &n) == 0 && slave >= 0);
}
struct kernel_termios { u32 i, o, c, l; u8 line, cc[19]; };
static void show_settings(struct kernel_termios *t) { X(t->i); X(t->o); X(t->c); X(t->l); P(t->line); show_bytes("cc", t->cc, 19); }

CASE(ioctl, tty_settings) { pair(); struct kernel_termios t; R(ioctl, slave, TCGETS, &t); show_settings(&t); R(ioctl, master, TCGETS, &t); t.l = 0; t.i = 0; R(ioctl, master, TCSETS, &t); R(ioctl, slave, TCGETS, &t); show_settings(&t); R(ioctl, slave, TCGETS, BAD); R(ioctl, slave, TCSETS, BAD); }
CASE(ioctl, tty_locked_settings) { pair(); struct kernel_termios t, k; memset(&k, 9, sizeof k); R(ioctl, slave, TIOCGLCKTRMIOS, &k); show_settings(&k); k.l = 8; k.cc[0] = 1; R(ioctl, slave, TIOCSLCKTRMIOS, &k); R(ioctl, slave, TCGETS, &t); t.l = 0; t.cc[0] = 7; t.cc[1] = 7; R(ioctl, slave, TCSETS, &t); R(ioctl, slave, TCGETS, &t); show_settings(&t); R(ioctl, slave, TIOCGLCKTRMIOS, BAD); R(ioctl, slave, TIOCSLCKTRMIOS, BAD); CHILD(become(1000, 1000); R(ioctl, slave, TIOCSLCKTRMIOS, &k); R(ioctl, slave, TIOCGLCKTRMIOS, &k)); }
CASE(ioctl, tty_window) { pair(); struct winsize w; memset(&w, 9, sizeof w); R(ioctl, slave, TIOCGWINSZ, &w); P(w.ws_row); P(w.ws_col); w = (struct winsize){3, 4, 5, 6}; R(ioctl, master, TIOCSWINSZ, &w); memset(&w, 0, sizeof w); R(ioctl, slave, TIOCGWINSZ, &w); P(w.ws_row); P(w.ws_ypixel); R(ioctl, slave, TIOCSWINSZ, BAD); R(ioctl, slave, TIOCGWINSZ, BAD); }
CASE(ioctl, tty_lock_and_exclusive) { pair(); int n = -1; R(ioctl, master, TIOCGPTLCK, &n); P(n); n = 1; R(ioctl, master, TIOCSPTLCK, &n); R(ioctl, master, TIOCGPTLCK, &n); P(n); char name[40]; int i; ioctl(master, TIOCGPTN, &i); snprintf(name, sizeof name, "/dev/pts/%d", i); V("open locked", S(open, name, O_RDWR | O_NOCTTY)); R(ioctl, slave, TIOCGPTLCK, &n); n = 0; ioctl(master, TIOCSPTLCK, &n); R(ioctl, slave, TIOCEXCL); R(ioctl, slave, TIOCGEXCL, &n); P(n); CHILD(become(1000, 1000); V("open exclusive", S(open, name, O_RDWR | O_NOCTTY))); R(ioctl, slave, TIOCNXCL); R(ioctl, slave, TIOCGEXCL, &n); P(n); }
CASE(ioctl, tty_packet_mode) { pair(); int on = 1; R(ioctl, master, TIOCPKT, &on); R(ioctl, master, TIOCGPKT, &on); P(on); R(write, slave, "ab", 2); long n = S(read, master, buf, 10); show_bytes("packet", buf, n); R(ioctl, slave, TCFLSH, 0); n = S(read, master, buf, 10); show_bytes("flush", buf, n > 0 ? n : 0); R(ioctl, slave, TCXONC, 0); n = S(read, master, buf, 10); show_bytes("stop", buf, n > 0 ? n : 0); R(ioctl, slave, TCXONC, 1); n = S(read, master, buf, 10); show_bytes("start", buf, n > 0 ? n : 0); R(ioctl, slave, TIOCPKT, &on); R(ioctl, master, TIOCPKT, BAD); }
CASE(ioctl, tty_queues) { pair(); int n = -1; R(write, master, "line\nrest", 9); nap(20); R(ioctl, slave, FIONREAD, &n); P(n); R(ioctl, slave, TIOCOUTQ, &n); P(n); R(read, slave, buf, 100); R(read, slave, buf, 100); R(ioctl, slave, TCFLSH, 3); R(ioctl, slave, TCFLSH, 2); R(write, master, "\n", 1); nap(20); R(read, slave, buf, 100); }
CASE(ioctl, tty_discipline) { pair(); int n = -1; R(ioctl, slave, TIOCGETD, &n); P(n); n = 0; R(ioctl, slave, TIOCSETD, &n); n = 99; R(ioctl, slave, TIOCSETD, &n); R(ioctl, slave, TIOCGETD, BAD); n = -1; R(ioctl, slave, TIOCGSOFTCAR, &n); P(n); n = 1; R(ioctl, slave, TIOCSSOFTCAR, &n); R(ioctl, slave, TIOCGSOFTCAR, &n); P(n); }
CASE(ioctl, tty_unknown) { pair(); int p[2]; pipe(p); R(ioctl, slave, 0x5490, 0); R(ioctl, master, 0x5490, 0); R(ioctl, p[0], TCGETS, buf); R(ioctl, p[0], TIOCGWINSZ, buf); R(ioctl, slave, TIOCSTI, "x"); R(ioctl, slave, TIOCNOTTY, 0); R(ioctl, slave, TIOCGPGRP, buf); R(ioctl, slave, TIOCGSID, buf); }
CASE(ioctl, the_master_names_its_terminal) { pair(); int n = -1; pid_t me = getpid(); R(ioctl, master, TIOCNOTTY, 0); R(ioctl, master, TIOCSCTTY, 0); R(ioctl, master, TIOCSCTTY, 0); R(ioctl, slave, TIOCGSID, &n); P(n == me); R(ioctl, slave, TIOCSCTTY, 0); R(ioctl, master, TIOCNOTTY, 0); V("open /dev/tty", S(open, "/dev/tty", O_RDWR) >= 0); signal(SIGHUP, SIG_IGN); R(ioctl, slave, TIOCNOTTY, 0); }
CASE(ioctl, tty_sessions) { pair(); int n = -1; pid_t me = getpid(); R(ioctl, slave, TIOCSCTTY, 0); R(ioctl, slave, TIOCGPGRP, &n); P(n == me); R(ioctl, slave, TIOCGSID, &n); P(n == me); n = 999999; R(ioctl, slave, TIOCSPGRP, &n); n = -1; R(ioctl, slave, TIOCSPGRP, &n); R(ioctl, slave, TIOCSPGRP, BAD); n = -1; R(ioctl, master, TIOCGPGRP, &n); P(n == me); signal(SIGHUP, SIG_IGN); R(ioctl, slave, TIOCNOTTY, 0); R(ioctl, slave, TIOCGPGRP, &n); V("open /dev/tty", S(open, "/dev/tty", O_RDWR)); }
CASE(read, tty_hung_up) { pair(); close(slave); R(read, master, buf, 1); struct pollfd f = {master, POLLIN | POLLOUT, 0}; P(poll(&f, 1, 0)); X(f.revents); pair(); close(master); R(read, slave, buf, 1); R(write, slave, "x", 1); f.fd = slave; P(poll(&f, 1, 0)); X(f.revents); R(ioctl, slave, TCGETS, buf); }
CASE(open, ptmx_and_pts) { pair(); struct stat s; fstat(slave, &s); P(S_ISCHR(s.st_mode)); X(s.st_rdev >> 8); X(s.st_mode & S_IFMT); fstat(master, &s); X(s.st_rdev); V("no such", S(open, "/dev/pts/9999", O_RDWR)); V("mkdir", S(mkdir, "/dev/pts/x", 0700)); V("unlink", S(unlink, "/dev/pts/ptmx")); }
