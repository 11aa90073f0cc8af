/* More kinds of steps for ops.c, which includes this after its own: what files carry beside bytes, locks, watches,
 * timers, epoll, messages, terminals, memory of several processes. */
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <termios.h>

static int tty[2], watch, epolls[2];
static timer_t timers[2];
static int timer_made[2];
/* Never written after the start: what lies in a pipe may be these very pages. */
static char fixed[8192] __attribute__((aligned(4096)));

static void kinds_begin(void) {
  tty[0] = tty[1] = watch = epolls[0] = epolls[1] = -1;
  timer_made[0] = timer_made[1] = 0;
  fill(fixed, sizeof fixed, 11);
}

static void attributes(void) {
  static const char *const names[] = {"user.a", "user.b", "user.c", "user.", "nothing", "user"};
  const char *p = path(), *q = path(), *name = names[pick(6)];
  int k = pick(12), s = slot(), n = pick(5) * 20;
  long r;
  u32 h = 0;
  struct stat st;
  switch (k) {
  case 0: case 1: fill(buf, n, step); k = (int[]){0, XATTR_CREATE, XATTR_REPLACE}[pick(3)]; r = S(setxattr, p, name, buf, n, k); SAY("setxattr(%s, %s, %d, %d) = %s", p, name, n, k, result(r)); break;
  case 2: memset(buf, 0, 128); r = S(fgetxattr, fds[s], name, buf, n); SAY("fgetxattr(%d, %s, %d) = %s %x", s, name, n, result(r), sum(buf, r > 0 && n ? r : 0)); break;
  case 3: r = S(lgetxattr, p, name, buf, n); SAY("lgetxattr(%s, %s, %d) = %s %x", p, name, n, result(r), sum(buf, r > 0 && n ? r : 0)); break;
  case 4: /* names in any order */
    r = S(listxattr, p, buf, n);
    if (r > 0 && n) for (char *at = buf; at < buf + r; at += strlen(at) + 1) h += sum(at, strlen(at));
    SAY("listxattr(%s, %d) = %s %x", p, n, result(r), h);
    break;
  case 5: r = S(removexattr, p, name); SAY("removexattr(%s, %s) = %s", p, name, result(r)); break;
  case 6: k = (int[]){0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE, 64}[pick(5)]; r = S(renameat2, AT_FDCWD, p, AT_FDCWD, q, k); SAY("renameat2(%s, %s, %d) = %s", p, q, k, result(r)); break;
  case 7: case 8: {
    struct timespec t[2] = {{1000 + pick(100), pick(2) ? UTIME_OMIT : 5}, {2000 + pick(100), pick(3) ? 7 : UTIME_OMIT}};
    r = S(utimensat, AT_FDCWD, p, t, 0);
    memset(&st, 0, sizeof st);
    if (t[1].tv_nsec == 7) stat(p, &st);
    SAY("utimensat(%s) = %s %ld", p, result(r), (long)st.st_mtime);
    break;
  }
  case 9: r = S(chown, p, pick(3), pick(3)); memset(&st, 0, sizeof st); k = stat(p, &st); SAY("chown(%s) = %s %o %d %d", p, result(r), k ? 0 : st.st_mode, k ? 0 : st.st_uid, k ? 0 : st.st_gid); break;
  case 10: k = (int[]){06755, 02644, 04700, 01777}[pick(4)]; r = S(chmod, p, k); SAY("chmod(%s, %o) = %s", p, k, result(r)); break;
  case 11: r = S(mknod, p, S_IFIFO | 0644, 0); SAY("mkfifo(%s) = %s", p, result(r)); break;
  }
}

static void locks(void) {
  static const char *const names[] = {"read", "write", "un", "wrong"};
  int s = slot(), type = pick(9) ? pick(3) : 3, command = pick(3), own = pick(2);
  struct flock l = {(short[]){F_RDLCK, F_WRLCK, F_UNLCK, 9}[type], pick(5) ? SEEK_SET : SEEK_END, pick(6) * 10, pick(4) * 10, 0};
  if (pick(6) == 0) l.l_len = -5;
  long r = S(fcntl, fds[s], command == 2 ? own ? F_OFD_GETLK : F_GETLK : own ? F_OFD_SETLK : F_SETLK, &l);
  if (command == 2 && r == 0)
    SAY("getlk(%d, %s, %d) = %d %d %ld %ld %s", s, names[type], own, l.l_type, l.l_type == F_UNLCK ? 0 : l.l_whence, l.l_type == F_UNLCK ? 0 : (long)l.l_start,
        l.l_type == F_UNLCK ? 0 : (long)l.l_len, l.l_type == F_UNLCK ? "-" : l.l_pid == -1 ? "description" : l.l_pid == getpid() ? "self" : "child");
  else
    SAY("setlk(%d, %s, %ld, %ld, %d) = %s", s, names[type], (long)l.l_start, (long)l.l_len, own, result(r));
}

static void watches(void) {
  const char *p = path();
  long r, n = 0;
  u32 h = 0;
  switch (pick(4)) {
  case 0: if (watch < 0) { watch = r = S(inotify_init1, IN_NONBLOCK | IN_CLOEXEC); SAY("inotify = %s", yes(r)); } break;
  case 1: if (watch >= 0) { int mask = IN_CREATE | IN_DELETE | IN_MOVE | (pick(2) ? IN_MODIFY | IN_ATTRIB : 0) | (pick(3) ? 0 : IN_DELETE_SELF | IN_MOVE_SELF); p = pick(3) ? "d" : "."; r = S(inotify_add_watch, watch, p, mask); SAY("add_watch(%s, %x) = %s", p, mask, result(r)); } break;
  case 2: if (watch >= 0) { r = S(inotify_rm_watch, watch, 1 + pick(4)); SAY("rm_watch = %s", result(r)); } break;
  case 3:
    if (watch < 0) break;
    r = S(read, watch, buf, 16384);
    for (char *at = buf; r > 0 && at < buf + r; n++) {
      struct inotify_event *e = (void *)at;
      h = h * 31 + e->wd * 7 + e->mask + (e->cookie ? 5 : 0) + (e->len ? sum(e->name, strlen(e->name)) : 0);
      at += sizeof *e + e->len;
    }
    SAY("events = %s: %ld %x", r > 0 ? "ok" : result(r), n, h);
    break;
  }
}

static void clocks(void) {
  int s = slot(), k = pick(2);
  long r;
  struct itimerspec t = {{0, 0}, {1000, 0}}, old;
  struct itimerval v = {{0, 0}, {1000, 0}}, was;
  switch (pick(9)) {
  case 0: r = S(timerfd_create, pick(2) ? CLOCK_MONOTONIC : CLOCK_REALTIME, TFD_NONBLOCK); SAY("timerfd(%d) = %s", s, yes(r)); put(s, r); break;
  case 1: case 2: /* far away, or at once and waited for */
    if (k) t.it_value.tv_sec = 0, t.it_value.tv_nsec = 1;
    if (pick(5) == 0) t.it_value.tv_sec = t.it_value.tv_nsec = 0, k = 0;
    memset(&old, 0, sizeof old);
    r = S(timerfd_settime, fds[s], 0, &t, &old);
    if (!r && k) { struct pollfd f = {fds[s], POLLIN, 0}; poll(&f, 1, 5000); }
    SAY("timerfd_settime(%d, %d) = %s %d", s, k, result(r), old.it_value.tv_sec > 0);
    break;
  case 3: memset(&old, 0, sizeof old); r = S(timerfd_gettime, fds[s], &old); SAY("timerfd_gettime(%d) = %s %d", s, result(r), old.it_value.tv_sec > 0); break;
  case 4: k = pick(2) ? ITIMER_VIRTUAL : ITIMER_PROF; if (pick(3) == 0) v.it_value.tv_sec = 0; if (pick(9) == 0) v.it_value.tv_usec = 1000000; memset(&was, 0, sizeof was); r = S(setitimer, k, &v, &was); SAY("setitimer(%d) = %s %d", k, result(r), was.it_value.tv_sec > 0); break;
  case 5: {
    struct sigevent e = {.sigev_notify = SIGEV_NONE};
    if (timer_made[k]) break;
    r = S(timer_create, CLOCK_MONOTONIC, &e, &timers[k]);
    timer_made[k] = r == 0;
    SAY("timer_create(%d) = %s", k, result(r));
    break;
  }
  case 6: if (timer_made[k]) { /* stopped ones that send no signal still show the time that was left */ memset(&old, 0, sizeof old); r = S(timer_settime, timers[k], 0, &t, &old); SAY("timer_settime(%d) = %s %d", k, result(r), old.it_value.tv_sec > 0); } break;
  case 7: if (timer_made[k]) { memset(&old, 0, sizeof old); r = S(timer_gettime, timers[k], &old); SAY("timer_gettime(%d) = %s %d %ld", k, result(r), old.it_value.tv_sec > 0, S(timer_getoverrun, timers[k])); } break;
  case 8: if (timer_made[k]) { r = S(timer_delete, timers[k]); timer_made[k] = 0; SAY("timer_delete(%d) = %s", k, result(r)); } break;
  }
}

static void readiness(void) {
  int k = pick(2), s = slot(), op;
  long r;
  u32 all = 0;
  struct epoll_event e[8];
  switch (pick(5)) {
  case 0: if (epolls[k] < 0) { epolls[k] = r = S(epoll_create1, EPOLL_CLOEXEC); SAY("epoll(%d) = %s", k, yes(r)); } break;
  case 1: case 2:
    op = 1 + pick(3);
    e[0] = (struct epoll_event){(pick(2) ? EPOLLIN : EPOLLIN | EPOLLOUT | EPOLLRDHUP) | (pick(3) ? 0 : EPOLLONESHOT) | (pick(3) ? 0 : EPOLLET), {.u64 = s}};
    r = S(epoll_ctl, epolls[k], op, pick(8) ? fds[s] : epolls[!k], &e[0]);
    SAY("epoll_ctl(%d, %d, %d, %x) = %s", k, op, s, e[0].events, result(r));
    break;
  case 3: case 4: /* in any order */
    r = S(epoll_wait, epolls[k], e, 8, 0);
    for (int i = 0; i < r; i++) all += (e[i].events + 1) * (0x9e37 + 977 * (u32)e[i].data.u64);
    SAY("epoll_wait(%d) = %s %x", k, result(r), all);
    break;
  }
}

static void messages(void) {
  int s = slot(), t = slot(), n = pick(100), flags, two[2], k;
  long r;
  union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr h; } c;
  struct iovec v[2] = {{buf, n}, {buf + 1000, 50}};
  struct msghdr m = {.msg_iov = v, .msg_iovlen = 1 + pick(2)};
  switch (pick(9)) {
  case 0: case 1: /* a descriptor goes along */
    fill(buf, 2000, step);
    if (pick(2)) {
      m.msg_control = &c, m.msg_controllen = sizeof c;
      memset(&c, 0, sizeof c);
      c.h = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
      memcpy(CMSG_DATA(&c.h), &fds[t], sizeof(int));
    }
    flags = (int[]){0, MSG_MORE, MSG_EOR, MSG_OOB, MSG_DONTROUTE}[pick(5)];
    r = S(sendmsg, fds[s], &m, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    SAY("sendmsg(%d, %d, %x, %d) = %s", s, n, flags, m.msg_control ? t : -1, result(r));
    break;
  case 2: case 3: {
    int got = -1;
    memset(&c, 0, sizeof c);
    m.msg_control = &c, m.msg_controllen = pick(3) ? sizeof c : pick(20);
    flags = (int[]){0, MSG_PEEK, MSG_TRUNC, MSG_OOB, MSG_CMSG_CLOEXEC, MSG_WAITALL}[pick(6)];
    r = S(recvmsg, fds[s], &m, flags | MSG_DONTWAIT);
    if (r >= 0 && m.msg_controllen >= sizeof c.h && c.h.cmsg_type == SCM_RIGHTS && c.h.cmsg_len == CMSG_LEN(sizeof(int))) memcpy(&got, CMSG_DATA(&c.h), sizeof got);
    SAY("recvmsg(%d, %d, %x) = %s, flags %x, control %ld, %s", s, n, flags, result(r), r < 0 ? 0 : m.msg_flags, r < 0 ? 0 : (long)m.msg_controllen, got >= 0 ? "a descriptor" : "none");
    if (got >= 0) put(t, got);
    break;
  }
  case 4: { int value = -1; socklen_t len = sizeof value; k = (int[]){SO_TYPE, SO_ERROR, SO_ACCEPTCONN, SO_DOMAIN, SO_PASSCRED, SO_PROTOCOL}[pick(6)]; r = S(getsockopt, fds[s], SOL_SOCKET, k, &value, &len); SAY("getsockopt(%d, %d) = %s %d", s, k, result(r), value); break; }
  case 5: { struct sockaddr_un a; socklen_t len = sizeof a; k = pick(2); r = k ? S(getsockname, fds[s], &a, &len) : S(getpeername, fds[s], &a, &len); SAY("name(%d, %d) = %s %d", s, k, result(r), r ? 0 : (int)len); break; }
  case 6: {
    struct sockaddr_in a = {AF_INET}, b = {AF_INET};
    socklen_t len = sizeof a;
    a.sin_addr.s_addr = b.sin_addr.s_addr = htonl(0x7f000001);
    two[0] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), two[1] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (two[0] < 0 || two[1] < 0) break;
    r = S(bind, two[0], &a, sizeof a) | S(bind, two[1], &b, sizeof b);
    getsockname(two[0], (void *)&a, &len);
    getsockname(two[1], (void *)&b, &len);
    r |= S(connect, two[0], &b, sizeof b) | S(connect, two[1], &a, sizeof a);
    SAY("udp(%d, %d) = %s", s, t, result(r));
    put(s, two[0]);
    put(t, two[1]);
    break;
  }
  case 7: { struct iovec w = {fixed + pick(2) * 4096 + pick(90), pick(4000)} /* within a page: each takes a place of the pipe */; r = S(vmsplice, fds[s], &w, 1, SPLICE_F_NONBLOCK); SAY("vmsplice(%d, %d) = %s", s, (int)w.iov_len, result(r)); break; }
  case 8: k = pick(2); r = S(memfd_create, "m", k ? MFD_ALLOW_SEALING : 0); SAY("memfd(%d, %d) = %s", s, k, yes(r)); put(s, r); break;
  }
}

/* What is copied within a file may be copied twice. */
static int same_file(int a, int b) {
  struct stat x, y;
  return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void descriptors(void) {
  int s = slot(), t = slot(), k;
  long r, at = pick(5) * 4096;
  switch (pick(9)) {
  case 0: k = 1 << pick(5); r = S(fcntl, fds[s], F_ADD_SEALS, k); SAY("add_seals(%d, %x) = %s", s, k, result(r)); break;
  case 1: r = S(fcntl, fds[s], F_GET_SEALS); SAY("get_seals(%d) = %s", s, result(r)); break;
  case 2: if (fds[s] >= 0 && fds[t] >= 0 && s != t) { k = pick(2) * O_CLOEXEC; r = S(dup3, fds[s], fds[t], k); SAY("dup3(%d, %d) = %s", s, t, yes(r)); } break;
  case 3: k = pick(3); r = k == 0 ? S(fsync, fds[s]) : k == 1 ? S(fdatasync, fds[s]) : S(sync_file_range, fds[s], at, 4096, pick(9)); SAY("sync(%d, %d) = %s", s, k, result(r)); break;
  case 4: k = pick(7); r = S(fadvise64, fds[s], at, 4096, k); SAY("fadvise(%d, %d) = %s", s, k, result(r)); break;
  case 5: { /* names in any order, without places */
    long n = 0;
    u32 h = 0;
    int d = open(pick(2) ? "." : "d", O_RDONLY | O_DIRECTORY | O_NONBLOCK);
    for (; d >= 0 && (r = S(getdents64, d, buf, sizeof buf)) > 0;)
      for (char *p = buf; p < buf + r; p += *(unsigned short *)(p + 16), n++) h += sum(p + 18, strlen(p + 19) + 1);
    if (d >= 0) close(d);
    SAY("names = %ld %x", d >= 0 ? n : -1, h);
    break;
  }
  case 6: k = pick(4) * 9; r = S(umask, k); SAY("umask(%o) = %s", k, result(r)); break;
  case 7: k = fds[t]; if (k >= 0 && !same_file(fds[s], k)) { long off = at; r = S(sendfile, fds[s], k, &off, 3000); SAY("sendfile(%d, %d, at %ld) = %s %ld", s, t, at, result(r), off); } break;
  case 8: if (fds[s] >= 0) { long in = at, to = pick(5) * 1000; r = S(copy_file_range, fds[s], &in, fds[t], &to, 3000, 0); SAY("copy_file_range(%d at %ld, %d) = %s %ld %ld", s, at, t, result(r), in, to); } break;
  }
}

/* What a terminal passes on comes a little later, and in pieces: wait for it, and until no more comes. */
static int comes(int fd) {
  struct pollfd f = {fd, POLLIN, 0};
  int r = poll(&f, 1, 15), same = 0, last = -1;
  while (r > 0 && same < 3) {
    int n = 0;
    ioctl(fd, FIONREAD, &n);
    same = n == last ? same + 1 : 0;
    last = n;
    poll(0, 0, 1);
  }
  return r;
}

static void terminals(void) {
  static const char *const words[] = {"ab\n", "c", "d\x7f", "\x15x\n", "\x04", "e\x04", "tab\t\n", "\r", "\x16\x03q\n", "long words here\x17\n"};
  int k = pick(2), n = -1;
  long r;
  struct termios t;
  if (tty[0] < 0) {
    int unlock = 0;
    tty[0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    ioctl(tty[0], TIOCSPTLCK, &unlock);
    tty[1] = ioctl(tty[0], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    SAY("terminal = %s", yes(tty[1]));
    return;
  }
  switch (pick(8)) {
  case 0: case 1: { const char *w = words[pick(10)]; r = S(write, tty[k], w, strlen(w)); comes(tty[!k]); comes(tty[k]); SAY("terminal write(%d, %x) = %s", k, sum(w, strlen(w)), result(r)); break; }
  case 2: case 3: n = (int[]){1, 3, 10, 200}[pick(4)]; comes(tty[k]); r = S(read, tty[k], buf, n); SAY("terminal read(%d, %d) = %s %x", k, n, result(r), sum(buf, r > 0 ? r : 0)); break;
  case 4: comes(tty[0]); comes(tty[1]); r = S(ioctl, tty[k], pick(2) ? FIONREAD : TIOCOUTQ, &n); SAY("terminal ioctl(%d) = %s %d", k, result(r), n); break;
  case 5:
    r = S(ioctl, tty[1], TCGETS, &t);
    t.c_lflag ^= (u32[]){ICANON, ECHO, ECHOE | ECHOK, ECHOCTL, ISIG, IEXTEN, ECHONL}[pick(7)];
    if (pick(2)) t.c_iflag ^= (u32[]){ICRNL, INLCR, IGNCR, ISTRIP, IUCLC}[pick(5)];
    if (pick(2)) t.c_oflag ^= (u32[]){OPOST, ONLCR, OCRNL, ONOCR, OLCUC, XTABS}[pick(6)];
    t.c_cc[VMIN] = pick(3), t.c_cc[VTIME] = 0;
    comes(tty[0]);
    comes(tty[1]);
    r = S(ioctl, tty[1], pick(3) ? TCSETS : TCSETSF, &t);
    comes(tty[1]);
    SAY("terminal set = %s %x %x %x", result(r), t.c_lflag, t.c_iflag, t.c_oflag);
    break;
  case 6: { struct winsize w = {pick(50), pick(50), 0, 0}; r = S(ioctl, tty[k], pick(2) ? TIOCSWINSZ : TIOCGWINSZ, &w); SAY("terminal size(%d) = %s %d %d", k, result(r), w.ws_row, w.ws_col); break; }
  case 7: comes(tty[0]); comes(tty[1]); n = (int[]){TCIFLUSH, TCOFLUSH, TCIOFLUSH}[pick(3)]; r = S(ioctl, tty[k], TCFLSH, n); comes(tty[0]); SAY("terminal flush(%d, %d) = %s", k, n, result(r)); break;
  }
}

static void shared(void) {
  int m = pick(MAPS), k = pick(KIDS), flags;
  long r, off = pick(4) * 4096;
  if (!maps[m].at) return;
  char *p = maps[m].at;
  struct iovec here = {buf, 64}, there = {p + off % maps[m].len + 90, 64};
  switch (pick(6)) {
  case 0: case 1: flags = (int[]){MS_SYNC, MS_ASYNC, MS_INVALIDATE | MS_SYNC, MS_SYNC | MS_ASYNC, 8}[pick(5)]; r = S(msync, p, maps[m].len, flags); SAY("msync(%d, %x) = %s", m, flags, result(r)); break;
  case 2: /* a child's copy of the same mapping */
    if (!kids[k].pid) break;
    r = S(process_vm_readv, kids[k].pid, &here, 1, &there, 1, 0);
    SAY("vm_readv(%d, %d) = %s %x", k, m, result(r), sum(buf, r > 0 ? r : 0));
    break;
  case 3:
    if (!kids[k].pid) break;
    fill(buf, 64, step);
    r = S(process_vm_writev, kids[k].pid, &here, 1, &there, 1, 0);
    SAY("vm_writev(%d, %d) = %s", k, m, result(r));
    break;
  case 4: r = S(mremap, p, 0, 4096, MREMAP_MAYMOVE); SAY("mremap(%d, from 0) = %s", m, r < 0 && r > -4096 ? result(r) : "ok"); if (!(r < 0 && r > -4096)) S(munmap, r, 4096); break;
  case 5: r = S(mremap, p, 4096, 4096, MREMAP_MAYMOVE | MREMAP_DONTUNMAP); SAY("mremap(%d, keep) = %s", m, r < 0 && r > -4096 ? result(r) : "ok"); if (!(r < 0 && r > -4096)) S(munmap, r, 4096); break;
  }
}
