/* unshare, setns, clone with namespaces; maps of users and groups; what stands for a namespace. */
#include "print.h"
#include <grp.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>

static void host(const char *what) {
  struct utsname u;
  uname(&u);
  printf("%s %s\n", what, u.nodename);
}
static void ids(const char *what) {
  uid_t r, e, s;
  getresuid(&r, &e, &s);
  printf("%s uid %d %d %d gid %d euid %d\n", what, r, e, s, getgid(), geteuid());
}
static long put(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0) return -1;
  long r = write(fd, text, strlen(text));
  int e = errno;
  close(fd);
  errno = e;
  return r;
}
static void show(const char *path) {
  char b[500];
  int fd = open(path, O_RDONLY), n = read(fd, b, 499);
  close(fd);
  printf("%s: %.*s", path, n > 0 ? n : 0, b);
}
static uint64_t ino(const char *path) {
  struct stat st = {0};
  stat(path, &st);
  return st.st_ino;
}
static void caps(const char *what) {
  struct {
    uint32_t version;
    int pid;
  } h = {0x20080522, 0};
  uint32_t d[6];
  syscall(SYS_capget, &h, d);
  printf("%s all caps %d\n", what, d[0] != 0 && d[0] == d[1]);
}
static void *idle(void *a) {
  pause();
  return 0;
}
int main(void) {
  const char *names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
  char path[64], link[64];
  for (int i = 0; i < 8; i++) {
    snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
    int n = readlink(path, link, sizeof link - 1);
    link[n < 0 ? 0 : n] = 0;
    char want[64];
    snprintf(want, sizeof want, "%s:[%lu]", names[i], (unsigned long)ino(path));
    int fd = open(path, O_RDONLY);
    printf("%s link %d type %x\n", names[i], !strcmp(link, want), ioctl(fd, NS_GET_NSTYPE));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    n = readlink(path, link, sizeof link - 1);
    link[n < 0 ? 0 : n] = 0;
    printf("fd link %d\n", !strcmp(link, want));
    close(fd);
  }
  E("flags", unshare(0x1));
  E("nothing", unshare(0));
  E("fs files", unshare(CLONE_FS | CLONE_FILES));
  E("sem", unshare(CLONE_SYSVSEM));
  E("thread alone", unshare(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM));

  CHILD({
    uint64_t before = ino("/proc/self/ns/uts");
    E("uts", unshare(CLONE_NEWUTS));
    printf("another %d\n", ino("/proc/self/ns/uts") != before);
    E("name", sethostname("inner", 5));
    host("inside");
    show("/proc/sys/kernel/hostname");
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    CHILD({
      host("grandchild");
      int up = open("/proc/1/ns/uts", O_RDONLY);
      (void)up;
      E("unshare again", unshare(CLONE_NEWUTS));
      sethostname("deeper", 6);
      E("wrong kind", setns(fd, CLONE_NEWIPC));
      E("back", setns(fd, CLONE_NEWUTS));
      host("back");
    });
    E("no namespace", setns(0, 0));
    E("closed", setns(99, 0));
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
      unshare(CLONE_NEWUTS);
      sethostname("bypidfd", 7);
      kill(getpid(), SIGSTOP);
      _exit(0);
    }
    waitpid(p, 0, WUNTRACED);
    int pf = syscall(SYS_pidfd_open, p, 0);
    E("pidfd no flags", setns(pf, 0));
    E("pidfd bad flags", setns(pf, 1));
    E("pidfd", setns(pf, CLONE_NEWUTS | CLONE_NEWIPC));
    host("by pidfd");
    kill(p, SIGKILL);
    waitpid(p, 0, 0);
  });
  CHILD({
    int id = shmget(0x5246aa01 + getpid(), 4096, IPC_CREAT | 0600);
    E("ipc", unshare(CLONE_NEWIPC));
    E("not there", shmget(0x5246aa01 + getpid(), 0, 0));
    E("not by id", shmctl(id, IPC_RMID, 0));
    int other = shmget(IPC_PRIVATE, 4096, 0600);
    E("first of its own", other);
    int fd = open("/proc/1/ns/ipc", O_RDONLY);
    close(fd);
  });
  CHILD({
    E("user", unshare(CLONE_NEWUSER));
    ids("unmapped");
    caps("unmapped");
    E("sethostname of the outer", sethostname("x", 1));
    E("setuid unmapped", setuid(5));
    show("/proc/self/setgroups");
    E("setgroups", setgroups(0, 0));
    E("bad map", put("/proc/self/uid_map", "0 0\n"));
    E("map", put("/proc/self/uid_map", "0 0 1\n"));
    E("again", put("/proc/self/uid_map", "0 0 1\n"));
    E("deny", put("/proc/self/setgroups", "deny"));
    E("allow", put("/proc/self/setgroups", "allow"));
    E("what", put("/proc/self/setgroups", "perhaps"));
    E("gid map", put("/proc/self/gid_map", "0 0 1\n"));
    show("/proc/self/uid_map");
    show("/proc/self/gid_map");
    show("/proc/self/setgroups");
    ids("mapped");
    E("setgroups", setgroups(0, 0));
    E("setuid", setuid(0));
    E("setuid other", setuid(5));
    E("own uts", unshare(CLONE_NEWUTS));
    E("name", sethostname("mine", 4));
    host("mine");
    E("mknod", mknod("/tmp/rf-null", S_IFCHR | 0600, 0x103));
    E("chroot", chroot("/"));
    int fd = open("/proc/self/ns/user", O_RDONLY);
    E("own user", setns(fd, CLONE_NEWUSER));
    uid_t owner = 77;
    E("owner", ioctl(fd, NS_GET_OWNER_UID, &owner));
    printf("owner %d\n", owner);
    E("parent", ioctl(fd, NS_GET_PARENT));
    int uts = open("/proc/self/ns/uts", O_RDONLY);
    int user = OK("userns of uts", ioctl(uts, NS_GET_USERNS));
    struct stat a;
    struct stat b;
    fstat(user, &a);
    fstat(fd, &b);
    printf("same %d\n", a.st_ino == b.st_ino);
    E("parent of uts", ioctl(uts, NS_GET_PARENT));
    E("owner of uts", ioctl(uts, NS_GET_OWNER_UID, &owner));
    E("unknown", ioctl(uts, 0xb7ff));
  });
  CHILD({
    setgroups(0, 0);
    setresgid(1234, 1234, 1234);
    setresuid(1234, 1234, 1234);
    prctl(PR_SET_DUMPABLE, 1);
    E("uts for a user", unshare(CLONE_NEWUTS));
    E("user and uts", unshare(CLONE_NEWUSER | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS | CLONE_NEWNET));
    E("map of others", put("/proc/self/uid_map", "0 0 1\n"));
    E("two", put("/proc/self/uid_map", "0 1234 2\n"));
    E("own", put("/proc/self/uid_map", "7 1234 1\n"));
    E("gid without deny", put("/proc/self/gid_map", "8 1234 1\n"));
    E("deny", put("/proc/self/setgroups", "deny"));
    E("gid", put("/proc/self/gid_map", "8 1234 1\n"));
    ids("seven");
    struct stat st;
    stat("/etc", &st);
    printf("etc belongs to %d %d\n", st.st_uid, st.st_gid);
    mkdir("/tmp/rf-ns-7", 0700);
    stat("/tmp/rf-ns-7", &st);
    printf("own belongs to %d %d\n", st.st_uid, st.st_gid);
    E("chown to 8", chown("/tmp/rf-ns-7", 8, -1));
    E("chown to 7", chown("/tmp/rf-ns-7", 7, 8));
    rmdir("/tmp/rf-ns-7");
    E("read shadow", open("/etc/shadow", O_RDONLY));
    E("write", open("/etc/rf-new", O_CREAT | O_WRONLY, 0600));
    E("own uts", sethostname("u", 1));
    E("nested", unshare(CLONE_NEWUSER));
    ids("nested");
    E("nested map", put("/proc/self/uid_map", "3 7 1\n"));
    ids("nested mapped");
    show("/proc/self/uid_map");
  });
  CHILD({
    E("mounts", unshare(CLONE_NEWNS));
    E("private", mount("none", "/", 0, MS_REC | MS_PRIVATE, 0));
    mkdir("/tmp/rf-ns-mnt", 0700);
    E("mount", mount("none", "/tmp/rf-ns-mnt", "tmpfs", 0, 0));
    E("file", open("/tmp/rf-ns-mnt/f", O_CREAT | O_RDWR, 0600) > 0);
    int mine = open("/proc/self/ns/mnt", O_RDONLY);
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
      printf("child sees %d\n", access("/tmp/rf-ns-mnt/f", F_OK));
      E("enter the own", setns(mine, CLONE_NEWNS));
      printf("still sees %d\n", access("/tmp/rf-ns-mnt/f", F_OK));
      fflush(stdout);
      _exit(0);
    }
    waitpid(p, 0, 0);
    E("umount", umount2("/tmp/rf-ns-mnt", MNT_DETACH));
  });
  printf("outside %d\n", access("/tmp/rf-ns-mnt/f", F_OK));
  rmdir("/tmp/rf-ns-mnt");
  CHILD({
    E("net", unshare(CLONE_NEWNET));
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {AF_UNIX, "\0rf-abstract"};
    E("bind", bind(s, (void *)&a, 20));
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
      E("net again", unshare(CLONE_NEWNET));
      int c = socket(AF_UNIX, SOCK_STREAM, 0);
      E("no such name", connect(c, (void *)&a, 20));
      E("bind too", bind(c, (void *)&a, 20));
      fflush(stdout);
      _exit(0);
    }
    waitpid(p, 0, 0);
  });
  CHILD({
    E("cgroup", unshare(CLONE_NEWCGROUP));
    show("/proc/self/setgroups");
  });
  pthread_t t;
  CHILD({
    pthread_create(&t, 0, idle, 0);
    E("user with threads", unshare(CLONE_NEWUSER));
    E("uts with threads", unshare(CLONE_NEWUTS));
    E("vm with threads", unshare(CLONE_VM));
    int fd = open("/proc/self/ns/user", O_RDONLY);
    E("enter user with threads", setns(fd, 0));
  });
  E("fs and ns", syscall(SYS_clone, CLONE_NEWNS | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
  E("fs and user", syscall(SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
  E("ipc and sem", syscall(SYS_clone, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0));
  fflush(stdout);
  pid_t p = syscall(SYS_clone, CLONE_NEWUTS | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
  if (!p) {
    ids("cloned");
    E("hostname", sethostname("cloned", 6));
    host("cloned");
    fflush(stdout);
    _exit(0);
  }
  int st;
  waitpid(p, &st, 0);
  printf("ended %x\n", st);
  return 0;
}
