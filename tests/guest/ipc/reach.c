/* Reaching into other processes: process_vm_readv and writev, kcmp, pidfd_getfd; ioprio. */
#include "print.h"
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

static char text[200000];
static int kcmp(int a, int b, int what, long x, long y) { return syscall(SYS_kcmp, a, b, what, x, y); }
static void ioprio(const char *name, int which, int who) {
  errno = 0;
  long r = syscall(SYS_ioprio_get, which, who);
  printf("%s class %ld level %ld errno %d\n", name, r < 0 ? r : r >> 13, r < 0 ? 0 : r & 7, errno);
}
int main(void) {
  int ready[2], go[2], st;
  pipe(ready);
  pipe(go);
  fflush(stdout);
  strcpy(text, "parent");
  int shared = open("/dev/null", O_RDWR);
  pid_t p = fork();
  if (!p) {
    memset(text, 'c', sizeof text);
    strcpy(text, "child text");
    int other = open("/proc/self/comm", O_RDONLY);
    dup2(other, 50);
    write(ready[1], "x", 1);
    char c;
    read(go[0], &c, 1);
    printf("child now has <%s>\n", text);
    fflush(stdout);
    write(ready[1], "x", 1);
    read(go[0], &c, 1);
    _exit(0);
  }
  char buf[200000], c;
  read(ready[0], &c, 1);
  struct iovec local = {buf, 100}, remote = {text, 11};
  E("read", process_vm_readv(p, &local, 1, &remote, 1, 0));
  printf("<%s>\n", buf);
  struct iovec l2[] = {{buf, 3}, {buf + 100, 5}, {0, 0}, {buf + 200, 50}};
  struct iovec r2[] = {{text, 4}, {text + 6, 4}, {text + 100, 20}};
  memset(buf, 0, 300);
  E("scattered", process_vm_readv(p, l2, 4, r2, 3, 0));
  printf("<%s> <%s> <%s>\n", buf, buf + 100, buf + 200);
  local = (struct iovec){buf, sizeof buf};
  remote = (struct iovec){text, sizeof text};
  E("large", process_vm_readv(p, &local, 1, &remote, 1, 0));
  remote = (struct iovec){(void *)8, 10};
  E("bad remote", process_vm_readv(p, &local, 1, &remote, 1, 0));
  struct iovec r3[] = {{text, 10}, {(void *)8, 10}};
  E("second bad", process_vm_readv(p, &local, 1, r3, 2, 0));
  local = (struct iovec){(void *)8, 10};
  remote = (struct iovec){text, 10};
  E("bad local", process_vm_readv(p, &local, 1, &remote, 1, 0));
  local = (struct iovec){buf, 10};
  E("flags", process_vm_readv(p, &local, 1, &remote, 1, 1));
  E("bad list", process_vm_readv(p, (void *)8, 1, &remote, 1, 0));
  E("bad remote list", process_vm_readv(p, &local, 1, (void *)8, 1, 0));
  E("many", process_vm_readv(p, &local, 2000, &remote, 1, 0));
  E("many remote", process_vm_readv(p, &local, 1, &remote, 2000, 0));
  E("no remote", process_vm_readv(p, &local, 1, &remote, 0, 0));
  E("no local", process_vm_readv(p, &local, 0, &remote, 1, 0));
  E("no process", process_vm_readv(30000, &local, 1, &remote, 1, 0));
  remote.iov_len = -1;
  E("negative", process_vm_readv(p, &local, 1, &remote, 1, 0));
  strcpy(buf, "written");
  local = (struct iovec){buf, 8};
  remote = (struct iovec){text, 8};
  E("write", process_vm_writev(p, &local, 1, &remote, 1, 0));
  remote = (struct iovec){(void *)main, 8};
  E("write to code", process_vm_writev(p, &local, 1, &remote, 1, 0));
  remote = (struct iovec){text, 8};
  E("self", process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
  printf("own <%s>\n", buf);
  CHILD({
    setgid(1234);
    setuid(1234);
    E("other user", process_vm_readv(p, &local, 1, &remote, 1, 0));
    E("other kcmp", kcmp(p, getpid(), 1, 0, 0));
  });
  fflush(stdout);
  write(go[1], "x", 1);
  read(ready[0], &c, 1);

  E("kcmp vm self", kcmp(getpid(), getpid(), 1, 0, 0));
  printf("vm %d\n", kcmp(getpid(), p, 1, 0, 0) > 0);
  printf("order %d\n", kcmp(getpid(), p, 1, 0, 0) + kcmp(p, getpid(), 1, 0, 0));
  E("shared file", kcmp(getpid(), p, 0, shared, shared));
  printf("other file %d\n", kcmp(getpid(), p, 0, shared, 0) > 0);
  E("no such file", kcmp(getpid(), p, 0, shared, 77));
  printf("files %d fs %d sighand %d\n", kcmp(getpid(), p, 2, 0, 0) > 0, kcmp(getpid(), p, 3, 0, 0) > 0,
         kcmp(getpid(), p, 4, 0, 0) > 0);
  E("sysvsem", kcmp(getpid(), p, 6, 0, 0));
  E("kind", kcmp(getpid(), p, 99, 0, 0));
  E("no process", kcmp(getpid(), 30000, 1, 0, 0));

  int pidfd = syscall(SYS_pidfd_open, p, 0);
  int fd = OK("getfd", syscall(SYS_pidfd_getfd, pidfd, 50, 0));
  char comm[32] = "";
  int n = read(fd, comm, 31);
  printf("read %d cloexec %d\n", n > 0, fcntl(fd, F_GETFD));
  E("getfd same", kcmp(getpid(), p, 0, fd, 50));
  E("getfd flags", syscall(SYS_pidfd_getfd, pidfd, 50, 1));
  E("getfd bad", syscall(SYS_pidfd_getfd, pidfd, 77, 0));
  E("getfd no pidfd", syscall(SYS_pidfd_getfd, shared, 50, 0));
  E("getfd closed", syscall(SYS_pidfd_getfd, 99, 50, 0));
  CHILD({
    setgid(1234);
    setuid(1234);
    E("getfd other", syscall(SYS_pidfd_getfd, pidfd, 50, 0));
  });
  write(go[1], "x", 1);
  waitpid(p, &st, 0);
  E("getfd gone", syscall(SYS_pidfd_getfd, pidfd, 50, 0));

  ioprio("default", 1, 0);
  E("set be 2", syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 2));
  ioprio("be", 1, 0);
  ioprio("by pid", 1, getpid());
  CHILD(ioprio("inherited", 1, 0));
  E("set idle", syscall(SYS_ioprio_set, 1, 0, 3 << 13));
  ioprio("idle", 1, 0);
  E("set rt", syscall(SYS_ioprio_set, 1, 0, 1 << 13 | 4));
  ioprio("rt", 1, 0);
  E("set none", syscall(SYS_ioprio_set, 1, 0, 0));
  ioprio("none", 1, 0);
  E("none with level", syscall(SYS_ioprio_set, 1, 0, 3));
  E("class", syscall(SYS_ioprio_set, 1, 0, 5 << 13));
  E("which", syscall(SYS_ioprio_set, 9, 0, 2 << 13));
  E("get which", syscall(SYS_ioprio_get, 9, 0));
  E("no process", syscall(SYS_ioprio_get, 1, 30000));
  CHILD({
    setpriority(PRIO_PROCESS, 0, 10);
    ioprio("nice 10", 1, 0);
    setuid(1234);
    E("rt for a user", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
    E("idle for a user", syscall(SYS_ioprio_set, 1, 0, 3 << 13));
    E("others", syscall(SYS_ioprio_set, 1, getppid(), 3 << 13));
  });
  return 0;
}
