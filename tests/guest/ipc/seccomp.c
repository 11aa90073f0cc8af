/* seccomp: both modes, every action, flags, errors, threads, and a listener. */
#include "print.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define LD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define IF(nr, v) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), RET(v)
static long install(struct sock_filter *f, int n, int flags) {
  struct sock_fprog p = {n, f};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}
#define INSTALL(flags, ...)                                                                                  \
  ({                                                                                                         \
    struct sock_filter f_[] = {__VA_ARGS__};                                                                 \
    install(f_, sizeof f_ / sizeof *f_, flags);                                                              \
  })
static void nnp(void) { prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }
static void on_sys(int s, siginfo_t *i, void *c) {
  char line[200];
  int n = snprintf(line, sizeof line, "SIGSYS code %d errno %d nr %d arch %x addr %d\n", i->si_code, i->si_errno,
                   i->si_syscall, i->si_arch, i->si_call_addr != 0);
  write(1, line, n);
}
static void status_line(const char *key) {
  char line[200];
  FILE *f = fopen("/proc/self/status", "r");
  while (fgets(line, sizeof line, f))
    if (!strncmp(line, key, strlen(key))) fputs(line, stdout);
  fclose(f);
}
static void end(const char *what, pid_t p) {
  int st;
  waitpid(p, &st, 0);
  printf("%s: signal %d status %d\n", what, WIFSIGNALED(st) ? WTERMSIG(st) : 0, WIFEXITED(st) ? WEXITSTATUS(st) : -1);
}
#define ENDS(what, ...)                                                                                     \
  ({                                                                                                         \
    fflush(stdout);                                                                                          \
    pid_t p_ = fork();                                                                                       \
    if (!p_) {                                                                                               \
      __VA_ARGS__;                                                                                               \
      fflush(stdout);                                                                                        \
      _exit(0);                                                                                              \
    }                                                                                                        \
    end(what, p_);                                                                                           \
  })
static volatile int go, done;
static void *caller(void *a) {
  while (!go) sched_yield();
  done = syscall(SYS_getppid) == -1 ? errno : 0;
  return 0;
}
static void *killed(void *a) {
  syscall(SYS_getppid);
  return (void *)1;
}
static void *own_filter(void *a) {
  INSTALL(0, RET(SECCOMP_RET_ALLOW));
  go = 1;
  while (!done) sched_yield();
  return 0;
}
static int send_fd(int s, int fd) {
  char b[CMSG_SPACE(4)] = {0}, c = 'x';
  struct iovec v = {&c, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = b, .msg_controllen = sizeof b};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET;
  h->cmsg_type = SCM_RIGHTS;
  h->cmsg_len = CMSG_LEN(4);
  memcpy(CMSG_DATA(h), &fd, 4);
  return sendmsg(s, &m, 0);
}
static int recv_fd(int s) {
  char b[CMSG_SPACE(4)], c;
  struct iovec v = {&c, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = b, .msg_controllen = sizeof b};
  recvmsg(s, &m, 0);
  int fd;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), 4);
  return fd;
}
int main(int argc, char **argv) {
  if (argc > 1) {
    E(argv[1], syscall(SYS_getppid));
    return 0;
  }
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  E("mode", prctl(PR_GET_SECCOMP));
  E("operation", syscall(SYS_seccomp, 99, 0, 0));
  E("strict flags", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, 0));
  E("strict args", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, &none));
  E("flags", install(0, 0, 0x1000));
  E("flags together", install(0, 0, 1 | 8));
  E("killable alone", install(0, 0, 32));
  E("fault", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, 8));
  E("no program", install(0, 0, 0));
  E("program fault", install((void *)8, 1, 0));
  E("prctl mode", prctl(PR_SET_SECCOMP, 7, 0, 0, 0));
  uint32_t acts[] = {SECCOMP_RET_KILL_PROCESS, 0, 0x30000, 0x50000, 0x7fc00000, 0x7ff00000, 0x7ffc0000, 0x7fff0000, 5};
  for (int i = 0; i < 9; i++) E("action", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &acts[i]));
  E("action flags", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &acts[0]));
  uint16_t sizes[3] = {0};
  E("sizes", syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, sizes));
  printf("%d %d %d\n", sizes[0], sizes[1], sizes[2]);
  ENDS("unprivileged", {
    setuid(1234);
    E("without no_new_privs", INSTALL(0, RET(SECCOMP_RET_ALLOW)));
    E("no program yet", install((void *)8, 1, 0));
    nnp();
    E("with", INSTALL(0, RET(SECCOMP_RET_ALLOW)));
    E("mode", prctl(PR_GET_SECCOMP));
  });
  ENDS("bad programs", {
    E("no return", INSTALL(0, LD(nr)));
    E("offset", INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), RET(0)));
    E("beyond", INSTALL(0, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), RET(0)));
    E("half", INSTALL(0, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), RET(0)));
    E("jump", INSTALL(0, BPF_STMT(BPF_JMP | BPF_JA, 5), RET(0)));
    E("div 0", INSTALL(0, BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RET(0)));
    E("mod", INSTALL(0, BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), RET(0)));
    E("shift", INSTALL(0, BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), RET(0)));
    E("memory", INSTALL(0, BPF_STMT(BPF_LD | BPF_MEM, 1), RET(0)));
    E("code", INSTALL(0, {0xffff, 0, 0, 0}, RET(0)));
    static struct sock_filter many[4097];
    for (int i = 0; i < 4097; i++) many[i] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
    E("4097", install(many, 4097, 0));
    int n = 0;
    while (n < 100 && install(many, 4096, 0) == 0) n++;
    printf("filters of 4096: %d errno %d\n", n, errno);
  });
  ENDS("errno", {
    nnp();
    E("install", INSTALL(0, LD(nr), IF(SYS_getppid, SECCOMP_RET_ERRNO | 42), IF(SYS_getuid, SECCOMP_RET_ERRNO),
                         IF(SYS_getgid, SECCOMP_RET_ERRNO | 0xffff), RET(SECCOMP_RET_ALLOW)));
    E("42", syscall(SYS_getppid));
    E("0", syscall(SYS_getuid));
    errno = 0;
    long r;
    asm volatile("syscall" : "=a"(r) : "a"(SYS_getgid) : "rcx", "r11", "memory");
    printf("4095 %ld\n", r);
    status_line("Seccomp");
    E("strict after filter", prctl(PR_SET_SECCOMP, 1, 0, 0, 0));
    CHILD({ E("inherited", syscall(SYS_getppid)); });
    E("newer wins", INSTALL(0, LD(nr), IF(SYS_getppid, SECCOMP_RET_ERRNO | 7), RET(SECCOMP_RET_ALLOW)));
    E("7", syscall(SYS_getppid));
    E("allow does not", INSTALL(0, RET(SECCOMP_RET_ALLOW)));
    E("still 7", syscall(SYS_getppid));
    status_line("Seccomp");
    execl("/proc/self/exe", "x", "after exec", NULL);
  });
  ENDS("arguments", {
    INSTALL(0, LD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup, 0, 3), LD(args[0]),
            BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 1, 0, 1), RET(SECCOMP_RET_ERRNO | 99), RET(SECCOMP_RET_ALLOW));
    E("dup 99", dup(99));
    OK("dup 1", dup(1));
    INSTALL(0, LD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), RET(SECCOMP_RET_KILL), LD(nr),
            IF(SYS_getsid, SECCOMP_RET_LOG), RET(SECCOMP_RET_ALLOW));
    OK("log", getsid(0));
    INSTALL(0, LD(nr), IF(SYS_getppid, SECCOMP_RET_TRACE), RET(SECCOMP_RET_ALLOW));
    E("trace without tracer", syscall(SYS_getppid));
    INSTALL(0, LD(nr), IF(SYS_getpgrp, SECCOMP_RET_USER_NOTIF), RET(SECCOMP_RET_ALLOW));
    E("notify without listener", syscall(SYS_getpgrp));
  });
  ENDS("after many calls", {
    int same = 0;
    for (int i = 0; i < 2000; i++) same += syscall(SYS_getppid) == getppid() && syscall(SYS_getuid) == 0;
    printf("same %d\n", same);
    INSTALL(0, LD(nr), IF(SYS_getuid, SECCOMP_RET_ERRNO | 42), RET(SECCOMP_RET_ALLOW));
    int refused = 0;
    for (int i = 0; i < 2000; i++) refused += syscall(SYS_getuid) == -1 && errno == 42;
    printf("refused %d\n", refused);
  });
  ENDS("trap", {
    struct sigaction sa = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &sa, 0);
    INSTALL(0, LD(nr), IF(SYS_getppid, SECCOMP_RET_TRAP | 11), RET(SECCOMP_RET_ALLOW));
    long r;
    asm volatile("syscall" : "=a"(r) : "a"(SYS_getppid) : "rcx", "r11", "memory");
    printf("trapped %ld\n", r);
    signal(SIGSYS, SIG_IGN);
    fflush(stdout);
    syscall(SYS_getppid);
  });
  ENDS("kill thread", {
    INSTALL(0, LD(nr), IF(SYS_getppid, SECCOMP_RET_KILL_THREAD), RET(SECCOMP_RET_ALLOW));
    pthread_t t;
    void *r = (void *)5;
    pthread_create(&t, 0, killed, 0);
    pthread_join(t, &r);
    printf("thread is gone %d\n", r != (void *)1);
    fflush(stdout);
    syscall(SYS_getppid);
  });
  ENDS("kill process", {
    signal(SIGSYS, SIG_IGN);
    INSTALL(0, LD(nr), IF(SYS_getppid, SECCOMP_RET_KILL_PROCESS), RET(SECCOMP_RET_ALLOW));
    pthread_t t;
    pthread_create(&t, 0, killed, 0);
    pthread_join(t, 0);
    printf("not reached\n");
  });
  ENDS("unknown action", {
    INSTALL(0, LD(nr), IF(SYS_getppid, 0x12340000), RET(SECCOMP_RET_ALLOW));
    syscall(SYS_getppid);
  });
  ENDS("strict", {
    E("on", prctl(PR_SET_SECCOMP, 1, 0, 0, 0));
    fflush(stdout);
    write(1, "can write\n", 10);
    syscall(SYS_exit, 3);
  });
  ENDS("strict kills", {
    prctl(PR_SET_SECCOMP, 1, 0, 0, 0);
    syscall(SYS_getppid);
  });
  ENDS("tsync", {
    pthread_t t;
    pthread_create(&t, 0, caller, 0);
    E("install", INSTALL(SECCOMP_FILTER_FLAG_TSYNC, LD(nr), IF(SYS_getppid, SECCOMP_RET_ERRNO | 42), RET(SECCOMP_RET_ALLOW)));
    go = 1;
    pthread_join(t, 0);
    printf("thread got %d\n", done);
    go = done = 0;
    pthread_create(&t, 0, own_filter, 0);
    while (!go) sched_yield();
    printf("stuck %d\n", INSTALL(SECCOMP_FILTER_FLAG_TSYNC, RET(SECCOMP_RET_ALLOW)) > 1);
    E("esrch", INSTALL(SECCOMP_FILTER_FLAG_TSYNC | 16, RET(SECCOMP_RET_ALLOW)));
    done = 1;
    pthread_join(t, 0);
  });

  /* A listener in the parent decides. */
  int s[2];
  socketpair(AF_UNIX, SOCK_STREAM, 0, s);
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    int l = INSTALL(SECCOMP_FILTER_FLAG_NEW_LISTENER, LD(nr), IF(SYS_getppid, SECCOMP_RET_USER_NOTIF),
                    IF(SYS_openat, SECCOMP_RET_USER_NOTIF), RET(SECCOMP_RET_ALLOW));
    printf("listener %d cloexec %d\n", l >= 0, fcntl(l, F_GETFD));
    E("second listener", INSTALL(SECCOMP_FILTER_FLAG_NEW_LISTENER, RET(SECCOMP_RET_ALLOW)));
    fflush(stdout);
    send_fd(s[1], l);
    close(l);
    E("value", syscall(SYS_getppid));
    E("error", syscall(SYS_getppid));
    printf("continued %d\n", syscall(SYS_getppid) == getppid() || 1);
    int fd = syscall(SYS_openat, 1, 2, 3, 4);
    char c = 0;
    printf("got descriptor %d read %zd\n", fd >= 0, read(fd, &c, 1));
    E("set to 77", syscall(SYS_openat, 0, 0, 0, 0));
    E("closed", syscall(SYS_getppid));
    fflush(stdout);
    _exit(9);
  }
  close(s[1]);
  int l = recv_fd(s[0]);
  struct seccomp_notif n;
  struct seccomp_notif_resp r;
  struct pollfd pf = {l, POLLIN | POLLOUT, 0};
  memset(&n, 0, sizeof n);
  n.pid = 1;
  E("not zero", ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &n));
  E("unknown", ioctl(l, 0x1234, &n));
  poll(&pf, 1, -1);
  printf("poll %x\n", pf.revents);
#define RECV                                                                                                 \
  ({                                                                                                         \
    memset(&n, 0, sizeof n);                                                                                 \
    int q_ = ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &n);                                                         \
    printf("recv %d pid %d nr %d arch %x ip %d args %lld %lld\n", q_, n.pid == p, n.data.nr, n.data.arch,    \
           n.data.instruction_pointer != 0, n.data.nr == SYS_openat ? n.data.args[0] : 0,                    \
           n.data.nr == SYS_openat ? n.data.args[1] : 0);                                                    \
    r = (struct seccomp_notif_resp){.id = n.id};                                                             \
  })
  RECV;
  poll(&pf, 1, -1);
  printf("poll %x\n", pf.revents);
  E("valid", ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &n.id));
  uint64_t other = n.id + 5;
  E("invalid", ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &other));
  r.flags = 2;
  E("resp flags", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  r.flags = 1;
  r.val = 4;
  E("continue with value", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  r.flags = 0;
  r.val = 4711;
  E("send", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  RECV;
  r.error = -13;
  E("send error", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  RECV;
  r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  E("continue", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  RECV;
  int pp[2];
  pipe(pp);
  write(pp[1], "z", 1);
  struct seccomp_notif_addfd a = {.id = n.id, .srcfd = pp[0], .flags = 64};
  E("addfd flags", ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
  a.flags = 0;
  a.newfd = 5;
  E("newfd alone", ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
  a.newfd = 0;
  a.srcfd = 99;
  E("bad src", ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
  a.srcfd = pp[0];
  a.id++;
  E("bad id", ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
  a.id--;
  r.val = OK("addfd", ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
  E("send", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  RECV;
  a.id = n.id;
  a.flags = SECCOMP_ADDFD_FLAG_SETFD | 2;
  a.newfd = 77;
  a.newfd_flags = O_CLOEXEC;
  E("set and send", ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
  RECV;
  close(l);
  end("asked", p);

  /* The caller ends while it waits, and hang-up. */
  socketpair(AF_UNIX, SOCK_STREAM, 0, s);
  p = fork();
  if (!p) {
    int l = INSTALL(SECCOMP_FILTER_FLAG_NEW_LISTENER, LD(nr), IF(SYS_getppid, SECCOMP_RET_USER_NOTIF), RET(SECCOMP_RET_ALLOW));
    send_fd(s[1], l);
    close(l);
    close(s[1]);
    syscall(SYS_getppid);
    _exit(1);
  }
  close(s[1]);
  l = recv_fd(s[0]);
  RECV;
  kill(p, SIGKILL);
  end("killed", p);
  E("gone", ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r));
  poll(&pf, 1, 0);
  pf.fd = l;
  poll(&pf, 1, 1000);
  printf("poll %x\n", pf.revents);
  memset(&n, 0, sizeof n);
  E("recv after the end", ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &n));
  return 0;
}
