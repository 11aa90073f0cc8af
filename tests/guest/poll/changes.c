// Files of /proc that poll(2) and epoll tell of changes of: mounts, names of the machine; and other settings.
#include "../case.h"
#include <sys/epoll.h>
#include <sys/mount.h>

static int ep(int fd, unsigned events) {
  int e = epoll_create1(0);
  struct epoll_event ev = {.events = events};
  R(epoll_ctl, e, EPOLL_CTL_ADD, fd, &ev);
  return e;
}
static void told(const char *when, int e) {
  struct epoll_event ev = {0};
  int n = epoll_wait(e, &ev, 1, 0);
  out("%s: %d %x\n", when, n, n > 0 ? ev.events : 0);
}
static void polled(const char *when, int fd) {
  struct pollfd p = {fd, POLLIN | POLLOUT | POLLPRI, 0};
  int n = poll(&p, 1, 0);
  out("%s: %d %x\n", when, n, p.revents);
}

CASE(poll, changes_of_mounts) {
  unshare(CLONE_NEWNS);
  mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
  mkdir("a", 0755), mkdir("b", 0755);
  int m = open("/proc/self/mounts", O_RDONLY), i = open("/proc/self/mountinfo", O_RDONLY);
  int e = ep(i, EPOLLPRI | EPOLLERR);
  polled("at first", m), told("at first", e);
  mount("t", "a", "tmpfs", 0, 0);
  polled("mounted", m), polled("again", m), told("mounted", e), told("again", e);
  mount(0, "a", 0, MS_REMOUNT | MS_BIND | MS_NOEXEC, 0);
  polled("attributes", m), told("attributes", e);
  mount("a", "b", 0, MS_BIND, 0), umount("b");
  polled("bound and not", m), polled("once", m), told("bound and not", e), told("once", e);
  mount("a", "b", 0, MS_MOVE, 0);
  polled("moved", m), told("moved", e);
  unshare(CLONE_NEWNS);
  mount("t", "a", "tmpfs", 0, 0);
  polled("in another namespace", m), told("in another namespace", e);
  int own = open("/proc/self/mounts", O_RDONLY);
  polled("there", own);
  umount("a");
  polled("there, less", own), polled("not here", m);
}
CASE(poll, a_thread_that_waits_for_mounts) {
  unshare(CLONE_NEWNS);
  mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
  mkdir("a", 0755);
  int m = open("/proc/self/mountinfo", O_RDONLY), go[2];
  pipe(go);
  if (!fork()) { char c; read(go[0], &c, 1); mount("t", "a", "tmpfs", 0, 0); _exit(0); }
  struct pollfd p = {m, POLLPRI, 0};
  write(go[1], "x", 1);
  R(poll, &p, 1, -1);
  P(p.revents);
  wait(0);
}
CASE(poll, names_of_the_machine) {
  unshare(CLONE_NEWUTS);
  int h = open("/proc/sys/kernel/hostname", O_RDONLY), d = open("/proc/sys/kernel/domainname", O_RDONLY), w = open("/proc/sys/kernel/hostname", O_WRONLY);
  int e = ep(d, EPOLLIN | EPOLLET);
  told("there", e);
  R(sethostname, "one", 3);
  polled("other", d);
  R(setdomainname, "two", 3);
  told("set", e), polled("told", d), polled("told", d);
  write(w, "three", 5);
}
CASE(epoll_ctl, settings_can_be_waited_for) {
  int f = open("/proc/sys/kernel/ostype", O_RDONLY);
  int e = ep(f, EPOLLIN | EPOLLOUT);
  told("always", e);
  close(e);
  ep(open("/proc/self/stat", O_RDONLY), EPOLLIN);
  ep(open("/proc/meminfo", O_RDONLY), EPOLLIN);
  ep(open("/proc/self/mountstats", O_RDONLY), EPOLLIN);
}
