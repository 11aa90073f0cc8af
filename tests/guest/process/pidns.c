/* PID namespaces: who has which number where, and what their first process is. */
#include "../case.h"
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <linux/sched.h>

#ifndef SYS_pidfd_open
enum { SYS_pidfd_open = 434 };
#endif

static void *area;

/* A child in a new PID namespace. */
static pid_t born(u64 flags) {
  struct clone_args a = {.flags = flags, .exit_signal = SIGCHLD};
  return S(clone3, &a, sizeof a);
}
#define INSIDE(...) ({ pid_t child_ = born(CLONE_NEWPID); if (child_ == 0) { __VA_ARGS__; _exit(0); } child_; })

static void ids(const char *who) {
  out("%s: pid %d tid %ld ppid %d pgid %d sid %d\n", who, getpid(), S(gettid), getppid(), getpgid(0), getsid(0));
}

/* One line of /proc/self/status, from a procfs of the own namespace. */
static void line_of(const char *path, const char *key) {
  FILE *f = fopen(path, "r");
  char text[256];
  if (!f) { out("%s: %s\n", path, error_name(errno)); return; }
  while (fgets(text, sizeof text, f))
    if (!strncmp(text, key, strlen(key))) out("%s", text);
  fclose(f);
}

CASE(clone, newpid_numbers) {
  pid_t p = INSIDE(
      ids("init");
      CHILD(ids("child"); setsid(); ids("leader"));
      CHILD(setpgid(0, 0); ids("group"));
      R(getpgid, 1);
      R(getpgid, 4);
      R(getsid, 1);
      R(kill, 4, 0);
      R(kill, 99, 0));
  WAIT(p);
  P(p > 1);
}

CASE(clone, newpid_nested) {
  pid_t p = INSIDE(
      ids("outer");
      CHILD();
      pid_t q = INSIDE(ids("inner"); CHILD(ids("inner child")));
      WAIT(q);
      P(q);
      pid_t r = INSIDE(ids("another"));
      P(waitpid(-1, 0, 0) == r);
      P(r));
  WAIT(p);
}

CASE(clone, newpid_flags) {
  P(born(CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM));
  pid_t p = INSIDE(P(born(CLONE_PARENT)));
  WAIT(p);
  int ends[2];
  pipe(ends);
  struct clone_args a = {.flags = CLONE_NEWPID | CLONE_PARENT};
  pid_t q = S(clone3, &a, sizeof a);
  if (q == 0) { out("sibling %d %d\n", getpid(), getppid()); _exit(0); }
  close(ends[1]);
  P(read(ends[0], buf, 1));
  P(waitpid(q, 0, 0));
}

CASE(clone, newpid_needs_a_capability) {
  become(1000, 1000);
  P(born(CLONE_NEWPID));
  R(unshare, CLONE_NEWPID);
}

CASE(clone, newpid_stores_numbers) {
  area = shared_pages(1);
  int *parent = (int *)area + 8, *child = (int *)area + 9;
  struct clone_args a = {.flags = CLONE_NEWPID | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID, .exit_signal = SIGCHLD,
                         .parent_tid = (u64)parent, .child_tid = (u64)child};
  pid_t p = S(clone3, &a, sizeof a);
  if (p == 0) { out("child %d\n", *child); _exit(0); }
  WAIT(p);
  P(*parent == p);
}

CASE(unshare, newpid) {
  R(unshare, CLONE_NEWPID);
  P(getpid() > 1);
  P(getppid() > 0);
}

CASE(unshare, newpid_children) {
  R(unshare, CLONE_NEWPID);
  R(unshare, CLONE_NEWPID);
  int ends[2];
  pipe(ends);
  pid_t init = SPAWN(ids("first"); write(ends[1], "x", 1); pause());
  read(ends[0], buf, 1);
  pid_t p = SPAWN(ids("second"));
  WAIT(p);
  struct clone_args a = {.flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM};
  R(clone3, &a, sizeof a);
  kill(init, SIGKILL);
  WAIT(init);
  R(fork);
}

CASE(unshare, newpid_ids_of_self) {
  int before = getpid();
  R(unshare, CLONE_NEWPID);
  P(getpid() == before);
  char own[64], later[64];
  long n = readlink("/proc/self/ns/pid", own, 63), m = readlink("/proc/self/ns/pid_for_children", later, 63);
  P(n > 0);
  P(m);
  CHILD();
  m = readlink("/proc/self/ns/pid_for_children", later, 63);
  P(m > 0 && (m != n || memcmp(own, later, n)));
}

CASE(getpid, after_calls_become_jumps) {
  pid_t p = INSIDE(int same = 0; for (int i = 0; i < 200; i++) same += getpid() == 1 && S(gettid) == 1; P(same));
  WAIT(p);
}

CASE(kill, init_from_inside) {
  pid_t p = INSIDE(
      catch_signal(SIGUSR1, 0);
      CHILD(R(kill, 1, SIGKILL); R(kill, 1, SIGTERM); R(kill, 1, SIGSTOP); R(kill, 1, SIGUSR1));
      P(caught);
      R(kill, 1, SIGKILL);
      R(kill, 1, SIGTERM);
      sigset_t all;
      sigfillset(&all);
      sigprocmask(SIG_BLOCK, &all, 0);
      R(kill, 1, SIGTERM);
      sigset_t held;
      sigpending(&held);
      P(sigismember(&held, SIGTERM));
      sigprocmask(SIG_UNBLOCK, &all, 0);
      out("alive\n"));
  WAIT(p);
}

CASE(kill, init_from_outside) {
  int ends[2];
  pipe(ends);
  pid_t p = INSIDE(write(ends[1], "x", 1); for (;;) pause());
  read(ends[0], buf, 1);
  kill(p, SIGTERM);
  kill(p, SIGSTOP);
  int status;
  P(waitpid(p, &status, WUNTRACED) == p);
  show_status("stop", status);
  kill(p, SIGCONT);
  kill(p, SIGKILL);
  WAIT(p);
}

CASE(kill, init_by_fault) {
  pid_t p = INSIDE(*(volatile int *)8 = 1);
  WAIT(p);
  p = INSIDE(abort());
  WAIT(p);
  p = INSIDE(raise(SIGTERM); _exit(3));
  WAIT(p);
}

CASE(kill, everybody_inside) {
  int ends[2];
  pipe(ends);
  pid_t p = INSIDE(
      pid_t a = SPAWN(pause());
      pid_t b = SPAWN(setsid(); pause());
      R(kill, -1, SIGTERM);
      WAIT(a);
      WAIT(b);
      R(kill, -1, SIGTERM));
  WAIT(p);
}

CASE(exit, init_takes_all_along) {
  int ends[2];
  pipe(ends);
  pid_t p = INSIDE(
      for (int i = 0; i < 5; i++) if (fork() == 0) { if (fork() == 0) setsid(); for (;;) pause(); }
      _exit(7));
  close(ends[1]);
  WAIT(p);
  // Nobody holds the pipe any more.
  P(read(ends[0], buf, 1));
}

CASE(exit, orphans_go_to_init) {
  pid_t p = INSIDE(
      int go[2];
      pipe(go);
      pid_t middle = SPAWN(if (fork() == 0) {
        while (getppid() != 1) nap(1);
        read(go[0], buf, 1);
        out("orphan of %d\n", getppid());
        _exit(5);
      });
      WAIT(middle);
      P(middle);
      write(go[1], "x", 1);
      int status;
      P(wait(&status));
      show_status("orphan", status));
  WAIT(p);
}

CASE(exit, subreaper_outside_does_not_count) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  pid_t p = INSIDE(
      pid_t middle = SPAWN(if (fork() == 0) { while (getppid() != 1) nap(1); _exit(6); });
      WAIT(middle);
      int status;
      P(wait(&status));
      show_status("orphan", status));
  WAIT(p);
}

CASE(wait4, groups_inside) {
  pid_t p = INSIDE(
      pid_t a = SPAWN(setpgid(0, 0); _exit(1));
      setpgid(a, a);
      siginfo_t i;
      memset(&i, 0, sizeof i);
      P(waitid(P_PGID, a, &i, WEXITED | WNOWAIT));
      P(a);
      out("si_pid %d\n", i.si_pid);
      P(waitpid(-a, 0, 0));
      P(waitpid(a, 0, 0));
      P(waitpid(77, 0, 0)));
  WAIT(p);
}

static volatile int from, value, code;
static void on_info(int n, siginfo_t *i, void *c) { from = i->si_pid; value = i->si_uid; code = i->si_code; }
static void catch_info(int n) {
  struct sigaction a = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO};
  sigaction(n, &a, 0);
}

CASE(kill, siginfo_numbers) {
  int ends[2], back[2];
  pipe(ends);
  pipe(back);
  pid_t p = INSIDE(
      catch_info(SIGUSR1);
      catch_info(SIGCHLD);
      CHILD(kill(1, SIGUSR1));
      out("from a child: %d\n", from);
      from = -1;
      CHILD();
      out("SIGCHLD of %d\n", from);
      from = -1;
      sigset_t block;
      sigset_t old;
      sigemptyset(&block);
      sigaddset(&block, SIGUSR1);
      sigprocmask(SIG_BLOCK, &block, &old);
      write(ends[1], "x", 1);
      sigsuspend(&old);
      out("from outside: %d\n", from);
      from = -1;
      write(ends[1], "x", 1);
      sigsuspend(&old);
      out("queued from outside: %d code %d\n", from, code));
  read(ends[0], buf, 1);
  kill(p, SIGUSR1);
  read(ends[0], buf, 1);
  union sigval v = {0};
  sigqueue(p, SIGUSR1, v);
  WAIT(p);
}

CASE(kill, siginfo_to_outside) {
  // The parent sees the child's number in its own namespace.
  catch_info(SIGCHLD);
  pid_t p = INSIDE();
  WAIT(p);
  P(from == p);
}

CASE(rt_sigqueueinfo, inside) {
  pid_t p = INSIDE(
      catch_info(SIGUSR1);
      union sigval v = {.sival_int = 3};
      P(sigqueue(1, SIGUSR1, v));
      out("%d %d\n", from, code));
  WAIT(p);
}

CASE(setns, pid) {
  R(unshare, CLONE_NEWPID);
  int ends[2];
  pipe(ends);
  pid_t init = SPAWN(close(ends[1]); read(ends[0], buf, 1); for (int i = 0; waitpid(-1, 0, 0) > 0; i++); _exit(9));
  int own = open("/proc/self/ns/pid", O_RDONLY), theirs = open("/proc/self/ns/pid_for_children", O_RDONLY);
  R(setns, own, CLONE_NEWUTS);
  R(setns, own, 0);
  CHILD(P(getpid() > 1); P(getppid() > 0));
  R(setns, theirs, CLONE_NEWPID);
  CHILD(ids("joined"));
  int fd = R(ioctl, theirs, 0xb702, 0) > 0;
  P(fd);
  P(ioctl(theirs, 0xb703));
  P(ioctl(theirs, 0x8004b706, 1) == init);
  P(ioctl(theirs, 0x8004b708, init));
  P(ioctl(theirs, 0x8004b709, init));
  L(ioctl(theirs, 0x8004b706, 99));
  L(ioctl(own, 0xb702));
  CHILD(L(setns(own, CLONE_NEWPID)));
  close(ends[1]);
  WAIT(init);
  R(fork);
}

CASE(setns, pidfd) {
  int ends[2];
  pipe(ends);
  pid_t init = INSIDE(close(ends[1]); read(ends[0], buf, 1));
  int fd = S(pidfd_open, init, 0);
  CHILD(R(setns, fd, CLONE_NEWPID); CHILD(ids("joined")));
  close(ends[1]);
  WAIT(init);
}

CASE(clone3, set_tid) {
  int ids[4] = {0};
  struct clone_args a = {.flags = CLONE_NEWPID, .exit_signal = SIGCHLD, .set_tid = (u64)ids, .set_tid_size = 1};
  ids[0] = 2;
  R(clone3, &a, sizeof a);
  ids[0] = 0;
  R(clone3, &a, sizeof a);
  ids[0] = -1;
  R(clone3, &a, sizeof a);
  a.set_tid_size = 33;
  R(clone3, &a, sizeof a);
  a.set_tid_size = 0;
  R(clone3, &a, sizeof a);
  a.set_tid = 0;
  a.set_tid_size = 1;
  R(clone3, &a, sizeof a);
  a.set_tid = (u64)BAD;
  R(clone3, &a, sizeof a);
  pid_t p = INSIDE(
      int own[2] = {1000, 0};
      struct clone_args b = {.exit_signal = SIGCHLD, .set_tid = (u64)own, .set_tid_size = 1};
      pid_t q = S(clone3, &b, sizeof b);
      if (q == 0) { pause(); _exit(0); }
      P(q);
      R(clone3, &b, sizeof b);
      own[0] = 40000;
      b.set_tid_size = 3;
      R(clone3, &b, sizeof b);
      kill(q, SIGKILL);
      WAIT(q);
      b.set_tid_size = 1;
      own[0] = 1000;
      q = S(clone3, &b, sizeof b);
      if (q == 0) _exit(4);
      P(q);
      WAIT(q);
      CHILD(out("next %d\n", getpid()));
      CHILD(become(1000, 1000); R(clone3, &b, sizeof b)));
  WAIT(p);
}

CASE(mount, proc_inside) {
  pid_t p = born(CLONE_NEWPID | CLONE_NEWNS);
  if (p == 0) {
    mount("none", "/", 0, MS_REC | MS_PRIVATE, 0);
    mkdir("p", 0755);
    R(mount, "proc", "p", "proc", 0, 0);
    readlink("p/self", buf, 20);
    show_bytes("self", buf, 1);
    pid_t c = SPAWN(pause());
    P(c);
    P(access("p/1", F_OK));
    P(access("p/2", F_OK));
    P(access("p/3", F_OK));
    line_of("p/2/status", "Pid:");
    line_of("p/2/status", "PPid:");
    line_of("p/2/status", "Tgid:");
    line_of("p/2/status", "NSpid:");
    line_of("p/2/status", "NStgid:");
    P(access("p/2/task/2", F_OK));
    show("p/1/task/1/children");
    char text[64];
    P(readlink("p/thread-self", text, 64));
    pid_t d = born(CLONE_NEWPID);
    if (d == 0) {
      P(readlink("p/self", text, 64));
      line_of("p/self/status", "NSpid:");
      _exit(0);
    }
    WAIT(d);
    kill(c, SIGKILL);
    WAIT(c);
    _exit(0);
  }
  WAIT(p);
}

CASE(socketpair, credentials_across_namespaces) {
  int s[2], on = 1;
  socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
  setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  pid_t p = INSIDE(
      send(s[1], "x", 1, 0);
      char c[1];
      struct iovec v = {c, 1};
      char control[64];
      struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 64};
      P(recvmsg(s[1], &m, 0));
      struct ucred *u = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
      out("from outside: %d\n", u->pid);
      struct ucred peer;
      socklen_t n = sizeof peer;
      getsockopt(s[1], SOL_SOCKET, SO_PEERCRED, &peer, &n);
      out("peer %d\n", peer.pid));
  char c[1];
  struct iovec v = {c, 1};
  char control[64];
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 64};
  P(recvmsg(s[0], &m, 0));
  struct ucred *u = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
  P(u->pid == p);
  send(s[0], "y", 1, 0);
  WAIT(p);
}

CASE(fcntl, owners_across_namespaces) {
  int e[2];
  pipe(e);
  fcntl(e[0], F_SETOWN, getpid());
  pid_t p = INSIDE(
      P(fcntl(e[0], F_GETOWN));
      P(fcntl(e[0], F_SETOWN, 1));
      P(fcntl(e[0], F_GETOWN));
      L(fcntl(e[0], F_SETOWN, 5)));
  WAIT(p);
}

CASE(fcntl, lock_holders_across_namespaces) {
  int f = make("f", "abc");
  struct flock l = {.l_type = F_WRLCK};
  P(fcntl(f, F_SETLK, &l));
  pid_t p = INSIDE(
      struct flock q = {.l_type = F_WRLCK};
      P(fcntl(f, F_GETLK, &q));
      P(q.l_pid));
  WAIT(p);
}

CASE(shmctl, pids_across_namespaces) {
  int id = shmget(IPC_PRIVATE, 4096, 0600);
  shmdt(shmat(id, 0, 0));
  pid_t p = INSIDE(
      struct shmid_ds d;
      P(shmctl(id, IPC_STAT, &d));
      out("%d %d\n", d.shm_cpid, d.shm_lpid));
  WAIT(p);
  shmctl(id, IPC_RMID, 0);
}

static pthread_mutex_t *robust;
CASE(futex, owners_inside) {
  robust = shared_pages(1);
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setpshared(&a, 1);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(robust, &a);
  pid_t p = INSIDE(
      CHILD(pthread_mutex_lock(robust));
      P(pthread_mutex_lock(robust));
      pthread_mutex_consistent(robust);
      P(pthread_mutex_unlock(robust));
      int word = 0;
      R(futex, &word, 6, 0, 0, 0, 0);
      P(word);
      R(futex, &word, 7, 0, 0, 0, 0);
      P(word));
  WAIT(p);
}

CASE(ptrace, event_messages_inside) {
  pid_t p = INSIDE(
      pid_t t = SPAWN(ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); fork(); _exit(0));
      int status;
      P(waitpid(t, &status, 0) == t);
      ptrace(PTRACE_SETOPTIONS, t, 0, PTRACE_O_TRACEFORK);
      ptrace(PTRACE_CONT, t, 0, 0);
      P(waitpid(t, &status, 0) == t);
      unsigned long message = 0;
      P(ptrace(PTRACE_GETEVENTMSG, t, 0, &message));
      out("event %d message %lu\n", status >> 16, message);
      P(kill(message, SIGKILL));
      P(kill(t, SIGKILL)));
  WAIT(p);
}

CASE(pidfd_open, inside) {
  pid_t p = born(CLONE_NEWPID | CLONE_NEWNS);
  if (p == 0) {
    mount("none", "/", 0, MS_REC | MS_PRIVATE, 0);
    mkdir("p", 0755);
    mount("proc", "p", "proc", 0, 0);
    pid_t c = SPAWN(pause());
    int fd = S(pidfd_open, c, 0);
    char path[64];
    sprintf(path, "p/self/fdinfo/%d", fd);
    line_of(path, "Pid:");
    line_of(path, "NSpid:");
    R(pidfd_open, 77, 0);
    kill(c, SIGKILL);
    WAIT(c);
    line_of(path, "Pid:");
    line_of(path, "NSpid:");
    _exit(0);
  }
  WAIT(p);
}

CASE(getpriority, numbers_inside) {
  pid_t p = INSIDE(
      R(getpriority, PRIO_PROCESS, 1);
      R(getpriority, PRIO_PROCESS, 9);
      R(getpriority, PRIO_PGRP, 1);
      R(sched_getscheduler, 1);
      R(sched_getscheduler, 9);
      struct rlimit l;
      P(prlimit(1, RLIMIT_NOFILE, 0, &l));
      L(prlimit(9, RLIMIT_NOFILE, 0, &l));
      clockid_t c;
      P(clock_getcpuclockid(1, &c));
      P(clock_getcpuclockid(9, &c)));
  WAIT(p);
}

static void *run_shell(void *x) {
  char *v[] = {"sh", "-c", "echo $$", 0};
  execv("/bin/sh", v);
  return 0;
}

CASE(execve, by_another_thread_inside) {
  pid_t p = INSIDE(
      CHILD(
          pthread_t t;
          pthread_create(&t, 0, run_shell, 0);
          for (;;) pause()));
  WAIT(p);
}

CASE(kill, siginfo_user_across_user_namespaces) {
  area = shared_pages(1);
  int go[2], done[2];
  pipe(go);
  pipe(done);
  sigset_t block, old;
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  sigprocmask(SIG_BLOCK, &block, &old);
  pid_t p = born(CLONE_NEWUSER);
  if (p == 0) {
    catch_info(SIGUSR1);
    read(go[0], buf, 1);
    sigsuspend(&old);
    out("unmapped or root: %d\n", value);
    write(done[1], "x", 1);
    sigsuspend(&old);
    out("mapped: %d\n", value);
    _exit(0);
  }
  write(go[1], "x", 1);
  kill(p, SIGUSR1);
  read(done[0], buf, 1);
  char path[64];
  sprintf(path, "/proc/%d/uid_map", p);
  int fd = open(path, O_WRONLY);
  P(write(fd, "5 0 1", 5));
  kill(p, SIGUSR1);
  WAIT(p);
}

CASE(socketpair, users_across_user_namespaces) {
  int s[2], on = 1;
  socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
  setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  send(s[0], "x", 1, 0);
  send(s[0], "x", 1, 0);
  pid_t p = born(CLONE_NEWUSER);
  if (p == 0) {
    char c[1];
    struct iovec v = {c, 1};
    char control[64];
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 64};
    P(recvmsg(s[1], &m, 0));
    struct ucred *u = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    out("uid %d gid %d\n", u->uid, u->gid);
    struct ucred mine = {.pid = getpid(), .uid = 0, .gid = 0};
    struct cmsghdr *h = (void *)control;
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_CREDENTIALS;
    h->cmsg_len = CMSG_LEN(sizeof mine);
    memcpy(CMSG_DATA(h), &mine, sizeof mine);
    m.msg_controllen = CMSG_SPACE(sizeof mine);
    L(sendmsg(s[1], &m, 0));
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    struct ucred peer;
    socklen_t n = sizeof peer;
    getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &peer, &n);
    out("peer uid %d gid %d\n", peer.uid, peer.gid);
    _exit(0);
  }
  WAIT(p);
}

static void *ends_last(void *a) { nap((long)a); _exit(7); }
static void *thread_ends_last(void *a) { nap((long)a); syscall(SYS_exit, 9); return 0; }
static void leader_first(void *(*run)(void *)) { pthread_t t; pthread_create(&t, 0, run, (void *)60l); syscall(SYS_exit, 3); }
CASE(clone, newpid_init_whose_first_thread_ends_first) { pid_t p = INSIDE(leader_first(ends_last)); show_status("exit_group", reap(p)); p = INSIDE(leader_first(thread_ends_last)); show_status("exit", reap(p)); }
CASE(clone, newpid_numbers_of_threads_come_back) { pid_t p = INSIDE(for (int i = 0; i < 3; i++) CHILD(leader_first(thread_ends_last)); CHILD(leader_first(ends_last)); _exit(5)); show_status("init", reap(p)); }
CASE(clone3, newpid_failures_give_numbers_back) { pid_t p = INSIDE(struct clone_args a = {.flags = 0x200000000ull, .exit_signal = SIGCHLD, .cgroup = 900}; for (int i = 0; i < 5; i++) V("into no group", S(clone3, &a, sizeof a)); pid_t c = fork(); if (!c) _exit(0); P(c > 1); reap(c); _exit(4)); show_status("init", reap(p)); }
CASE(setpriority, user_of_an_outer_namespace) { pid_t p = INSIDE(R(setpriority, PRIO_USER, 0, 7); P(getpriority(PRIO_PROCESS, 0))); show_status("init", reap(p)); P(getpriority(PRIO_PROCESS, 0)); }
