/* What a program forbids itself (landlock(7)), as far as version 7 of the interface goes. */
#include "../case.h"
#include <arpa/inet.h>
#include <linux/fs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
enum { EXECUTE = 1, WRITE_FILE = 2, READ_FILE = 4, READ_DIR = 8, REMOVE_DIR = 16, REMOVE_FILE = 32, MAKE_CHAR = 64, MAKE_DIR = 128, MAKE_REG = 256, MAKE_SOCK = 512, MAKE_FIFO = 1024, MAKE_BLOCK = 2048, MAKE_SYM = 4096, REFER = 8192, TRUNCATE = 16384, IOCTL_DEV = 32768, ALL = 65535 };
enum { BIND_TCP = 1, CONNECT_TCP = 2, ABSTRACT = 1, SIGNALS = 2 };
#define VERSION() do { if (S(landlock_create_ruleset, 0, 0, 1) < 7) SKIP("landlock is older or off"); } while (0)

static int set_of(u64 fs, u64 net, u64 scoped) { u64 a[3] = {fs, net, scoped}; return S(landlock_create_ruleset, a, 24, 0); }
static long beneath(int set, const char *path, u64 rights) {
  struct { u64 rights; int fd; } __attribute__((packed)) rule = {rights, open(path, O_PATH | O_CLOEXEC)};
  long r = S(landlock_add_rule, set, 1, &rule, 0);
  close(rule.fd);
  return r;
}
static long at_port(int set, u64 port, u64 rights) { u64 rule[2] = {rights, port}; return S(landlock_add_rule, set, 2, rule, 0); }
static long enforce(int set) { prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); long r = S(landlock_restrict_self, set, 0); close(set); return r; }
/* The task forbids itself `denied`, but for `granted` beneath `path`. */
static void restrict_to(u64 denied, const char *path, u64 granted) {
  int set = set_of(denied, 0, 0);
  if (path && beneath(set, path, granted)) out("no rule for %s\n", path);
  if (enforce(set)) out("no domain\n");
}
static void place_for_sockets(struct sockaddr_un *a, socklen_t *n, const char *name) { memset(a, 0, sizeof *a); a->sun_family = AF_UNIX; int len = snprintf(a->sun_path + 1, 100, "landlock-%d-%s", getpid(), name); *n = 3 + len; }

CASE(landlock_create_ruleset, versions_and_errnos) {
  VERSION();
  P(S(landlock_create_ruleset, 0, 0, 2) >= 0);
  R(landlock_create_ruleset, 0, 0, 3); R(landlock_create_ruleset, buf, 0, 1); R(landlock_create_ruleset, 0, 8, 1); R(landlock_create_ruleset, 0, 8, 2); R(landlock_create_ruleset, 0, 0, 1u << 31);
  R(landlock_create_ruleset, 0, 0, 0); R(landlock_create_ruleset, 0, 8, 0);
  u64 a[700] = {0};
  R(landlock_create_ruleset, a, 0, 0); R(landlock_create_ruleset, a, 7, 0); R(landlock_create_ruleset, a, 8, 0); R(landlock_create_ruleset, a, 24, 0); R(landlock_create_ruleset, a, 4096, 0); R(landlock_create_ruleset, a, 4097, 0); R(landlock_create_ruleset, a, -1, 0);
  R(landlock_create_ruleset, BAD, 24, 0); R(landlock_create_ruleset, BAD, 7, 0); R(landlock_create_ruleset, BAD, 5000, 0); R(landlock_create_ruleset, edge() - 8, 24, 0);
  a[0] = 1ull << 63; R(landlock_create_ruleset, a, 24, 0); a[0] = 1; a[1] = 1ull << 40; R(landlock_create_ruleset, a, 24, 0); P(S(landlock_create_ruleset, a, 8, 0) > 0); P(S(landlock_create_ruleset, a, 12, 0) > 0);
  a[1] = 0; a[2] = 1ull << 40; R(landlock_create_ruleset, a, 24, 0); P(S(landlock_create_ruleset, a, 16, 0) > 0);
  a[2] = 0; a[500] = 1; R(landlock_create_ruleset, a, 4096, 0);
  P(set_of(0, 1, 0) > 0); P(set_of(0, 0, 1) > 0); P(set_of(ALL, 3, 3) > 0);
}
CASE(landlock_create_ruleset, a_file_of_its_own) {
  VERSION();
  int fd = set_of(1, 0, 0);
  P(fcntl(fd, F_GETFD)); X(fcntl(fd, F_GETFL)); R(read, fd, buf, 1); R(write, fd, "", 1); R(lseek, fd, 0, 0); R(ioctl, fd, FIONREAD, buf); R(ftruncate, fd, 0);
  char name[64]; sprintf(name, "/proc/self/fd/%d", fd);
  long n = readlink(name, buf, 100); show_bytes("link", buf, n); R(open, name, O_RDWR);
  struct stat s; fstat(fd, &s); X(s.st_mode);
  close(fd); R(landlock_restrict_self, fd, 0);
}
CASE(landlock_add_rule, errnos_in_order) {
  VERSION();
  mkdir("d", 0755); touch("f"); int p[2]; pipe(p);
  int set = set_of(READ_FILE | READ_DIR, BIND_TCP, 0);
  struct { u64 rights; int fd; } __attribute__((packed)) rule = {READ_FILE, -1};
  R(landlock_add_rule, -1, 1, BAD, 1); R(landlock_add_rule, -1, 1, BAD, 0); R(landlock_add_rule, p[0], 9, BAD, 0); R(landlock_add_rule, set, 0, &rule, 0); R(landlock_add_rule, set, 3, &rule, 0); R(landlock_add_rule, set, -1, &rule, 0);
  R(landlock_add_rule, set, 1, BAD, 0); R(landlock_add_rule, set, 1, 0, 0); R(landlock_add_rule, set, 1, edge() - 8, 0);
  rule.rights = 0; R(landlock_add_rule, set, 1, &rule, 0); rule.rights = EXECUTE; R(landlock_add_rule, set, 1, &rule, 0); rule.rights = 1ull << 40; R(landlock_add_rule, set, 1, &rule, 0);
  rule.rights = READ_FILE; R(landlock_add_rule, set, 1, &rule, 0);
  rule.fd = p[0]; R(landlock_add_rule, set, 1, &rule, 0); rule.fd = set; R(landlock_add_rule, set, 1, &rule, 0); rule.fd = socket(AF_UNIX, SOCK_STREAM, 0); R(landlock_add_rule, set, 1, &rule, 0); rule.fd = S(memfd_create, "m", 0); R(landlock_add_rule, set, 1, &rule, 0); rule.fd = open("/proc/self/ns/uts", O_RDONLY); R(landlock_add_rule, set, 1, &rule, 0);
  rule.fd = open("f", O_PATH); R(landlock_add_rule, set, 1, &rule, 0); rule.rights = READ_DIR; R(landlock_add_rule, set, 1, &rule, 0); rule.rights = READ_FILE | READ_DIR; R(landlock_add_rule, set, 1, &rule, 0);
  rule.fd = open("d", O_RDONLY); R(landlock_add_rule, set, 1, &rule, 0); rule.fd = open("/proc", O_PATH); R(landlock_add_rule, set, 1, &rule, 0); rule.fd = open("/dev/null", O_RDWR); rule.rights = READ_FILE; R(landlock_add_rule, set, 1, &rule, 0);
  u64 port[2] = {BIND_TCP, 80};
  R(landlock_add_rule, set, 2, BAD, 0); R(landlock_add_rule, set, 2, edge() - 8, 0); R(landlock_add_rule, set, 2, port, 0); port[0] = 0; R(landlock_add_rule, set, 2, port, 0); port[0] = CONNECT_TCP; R(landlock_add_rule, set, 2, port, 0); port[0] = BIND_TCP; port[1] = 65536; R(landlock_add_rule, set, 2, port, 0); port[1] = 0; R(landlock_add_rule, set, 2, port, 0);
  int only_scopes = set_of(0, 0, SIGNALS); port[1] = 1; R(landlock_add_rule, only_scopes, 2, port, 0); R(landlock_add_rule, only_scopes, 1, &rule, 0);
}
CASE(landlock_restrict_self, errnos_in_order) {
  VERSION();
  int set = set_of(READ_FILE, 0, 0); int p[2]; pipe(p);
  CHILD(become(1000, 1000); R(landlock_restrict_self, -1, 0); R(landlock_restrict_self, set, 1u << 30); R(landlock_restrict_self, set, 0));
  R(landlock_restrict_self, -1, 1u << 30); R(landlock_restrict_self, set, 1u << 31); R(landlock_restrict_self, -1, 0); R(landlock_restrict_self, p[0], 0); R(landlock_restrict_self, 99, 0);
  R(landlock_restrict_self, -1, 1); R(landlock_restrict_self, -1, 2); R(landlock_restrict_self, -1, 5); R(landlock_restrict_self, -1, 4);
  int place = S(open, "/proc/self", O_PATH); R(landlock_restrict_self, place, 0);
  CHILD(become(1000, 1000); prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); R(landlock_restrict_self, set, 7));
}
CASE(landlock_restrict_self, at_most_sixteen_layers) {
  VERSION();
  touch("f");
  CHILD(int set = set_of(WRITE_FILE, 0, 0); int n = 0; while (S(landlock_restrict_self, set, 0) == 0) n++; P(n); R(landlock_restrict_self, set, 0); R(open, "f", O_WRONLY); P(open("f", O_RDONLY) >= 0));
}
CASE(open, landlock_asks_for_what_is_opened_for) {
  VERSION();
  mkdir("d", 0755); mkdir("d/in", 0755); touch("f"); touch("d/f"); touch("d/in/f");
  CHILD(restrict_to(READ_FILE | WRITE_FILE | READ_DIR, "d", READ_FILE); P(open("d/f", O_RDONLY) >= 0); P(open("d/in/f", O_RDONLY) >= 0); R(open, "d/f", O_WRONLY); R(open, "d/f", O_RDWR); R(open, "f", O_RDONLY); R(open, "d", O_RDONLY); R(open, ".", O_RDONLY | O_DIRECTORY); P(open("d", O_PATH) >= 0); P(open("f", O_PATH) >= 0); P(open("f", 3) >= 0); R(open, "none", O_RDONLY); R(access, "f", R_OK | W_OK); R(chdir, "d/in"); P(open("f", O_RDONLY) >= 0); P(open("../f", O_RDONLY) >= 0); R(open, "../../f", O_RDONLY); struct stat s; R(stat, "../../f", &s); R(chmod, "../../f", 0600); R(chroot, "."); P(open("/f", O_RDONLY) >= 0));
  CHILD(restrict_to(READ_DIR, "d", READ_DIR); P(open("d", O_RDONLY) >= 0); P(open("d/in", O_RDONLY) >= 0); R(open, ".", O_RDONLY); P(open("f", O_RDWR) >= 0));
  CHILD(restrict_to(READ_FILE | WRITE_FILE, "f", READ_FILE); P(open("f", O_RDONLY) >= 0); R(open, "f", O_WRONLY); R(open, "d/f", O_RDONLY); link("f", "g"); link("f", "d/g"); P(open("g", O_RDONLY) >= 0));
}
CASE(open, landlock_rules_add_up_and_layers_do_not) {
  VERSION();
  mkdir("d", 0755); mkdir("d/e", 0755); touch("d/e/f"); touch("d/f");
  CHILD(int set = set_of(READ_FILE | WRITE_FILE, 0, 0); beneath(set, "d", READ_FILE); beneath(set, "d/e", WRITE_FILE); enforce(set); P(open("d/e/f", O_RDWR) >= 0); R(open, "d/f", O_RDWR); P(open("d/f", O_RDONLY) >= 0));
  CHILD(int set = set_of(READ_FILE | WRITE_FILE, 0, 0); beneath(set, "d", READ_FILE); beneath(set, "d", WRITE_FILE); enforce(set); P(open("d/f", O_RDWR) >= 0));
  CHILD(restrict_to(READ_FILE | WRITE_FILE, "d", READ_FILE); restrict_to(READ_FILE | WRITE_FILE, "d/e", READ_FILE | WRITE_FILE); P(open("d/e/f", O_RDONLY) >= 0); R(open, "d/e/f", O_RDWR); R(open, "d/f", O_RDONLY));
  CHILD(int set = set_of(READ_FILE, 0, 0); prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); S(landlock_restrict_self, set, 0); P(beneath(set, "d", READ_FILE)); R(open, "d/f", O_RDONLY));
}
CASE(open, landlock_and_names_that_are_gone) {
  VERSION();
  mkdir("d", 0755); touch("d/f"); touch("d/g"); mkdir("o", 0755); touch("o/f");
  int gone = open("d/g", O_PATH), other = open("o/f", O_PATH); unlink("d/g");
  CHILD(restrict_to(READ_FILE, "d", READ_FILE); char name[64]; sprintf(name, "/proc/self/fd/%d", gone); P(open(name, O_RDONLY) >= 0); sprintf(name, "/proc/self/fd/%d", other); R(open, name, O_RDONLY); rename("d", "e"); P(open("e/f", O_RDONLY) >= 0));
  mkdir("d", 0755); touch("d/f");
  CHILD(int set = set_of(READ_FILE, 0, 0); beneath(set, "d", READ_FILE); unlink("d/f"); rmdir("d"); mkdir("d", 0755); touch("d/f"); enforce(set); R(open, "d/f", O_RDONLY));
}
CASE(open, landlock_and_files_without_a_path) {
  VERSION();
  int p[2]; pipe(p); int m = S(memfd_create, "m", 0);
  CHILD(restrict_to(READ_FILE | WRITE_FILE | READ_DIR, 0, 0); char name[64]; sprintf(name, "/proc/self/fd/%d", p[1]); P(open(name, O_WRONLY) >= 0); sprintf(name, "/proc/self/fd/%d", m); P(open(name, O_RDWR) >= 0); P(open("/proc/self/ns/uts", O_RDONLY) >= 0); R(open, "/proc/self/status", O_RDONLY); P(S(memfd_create, "n", 0) >= 0); R(ftruncate, m, 10); P(pipe(p)); P(socketpair(AF_UNIX, SOCK_STREAM, 0, p)));
}
CASE(open, landlock_and_files_that_are_made) {
  VERSION();
  mkdir("d", 0755); touch("f");
  CHILD(restrict_to(MAKE_REG, "d", MAKE_REG); P(open("d/f", O_CREAT | O_WRONLY, 0644) >= 0); R(open, "g", O_CREAT | O_WRONLY, 0644); P(open("f", O_CREAT | O_WRONLY, 0644) >= 0); R(open, "f", O_CREAT | O_EXCL | O_WRONLY, 0644); R(open, "none/x", O_CREAT | O_WRONLY, 0644); P(access("g", F_OK)));
  CHILD(restrict_to(MAKE_REG | WRITE_FILE, "d", MAKE_REG); R(open, "d/g", O_CREAT | O_WRONLY, 0644); P(access("d/g", F_OK)); P(open("d/h", O_CREAT | O_RDONLY, 0644) >= 0));
  CHILD(restrict_to(MAKE_REG, "d", MAKE_REG); int t = open(".", O_TMPFILE | O_RDWR, 0644); P(t >= 0); char name[64]; sprintf(name, "/proc/self/fd/%d", t); R(linkat, AT_FDCWD, name, AT_FDCWD, "t", AT_SYMLINK_FOLLOW); R(linkat, AT_FDCWD, name, AT_FDCWD, "d/t", AT_SYMLINK_FOLLOW));
  CHILD(restrict_to(WRITE_FILE, "d", WRITE_FILE); R(open, ".", O_TMPFILE | O_RDWR, 0644); P(open("d", O_TMPFILE | O_RDWR, 0644) >= 0));
}
CASE(truncate, landlock) {
  VERSION();
  mkdir("d", 0755); make("f", "hello"); make("d/f", "hello");
  CHILD(int before = open("f", O_RDWR); restrict_to(TRUNCATE, "d", TRUNCATE); R(truncate, "d/f", 3); R(truncate, "f", 3); R(truncate, "d", 3); R(truncate, "none", 3); R(open, "f", O_WRONLY | O_TRUNC); R(open, "f", O_RDONLY | O_TRUNC); R(creat, "f", 0644); P(creat("new", 0644) >= 0); P(open("d/f", O_WRONLY | O_TRUNC) >= 0); int fd = open("f", O_RDWR); R(ftruncate, fd, 3); R(write, fd, "x", 1); R(fallocate, fd, 0, 0, 10); R(ftruncate, fd, -1); R(ftruncate, before, 4); fd = open("d/f", O_RDWR); R(ftruncate, fd, 2); fd = open("f", O_RDONLY); R(ftruncate, fd, 0); fd = open("/dev/null", O_RDWR); R(ftruncate, fd, 0); R(creat, "/dev/null", 0));
  /* It is the opener who counts. */
  int ends[2]; socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
  char room[CMSG_SPACE(4)] = {0}; struct iovec io = {buf, 1}; struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  CHILD(restrict_to(TRUNCATE, 0, 0); struct cmsghdr *c = CMSG_FIRSTHDR(&m); c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(4); int fd = open("f", O_RDWR); memcpy(CMSG_DATA(c), &fd, 4); sendmsg(ends[0], &m, 0));
  if (recvmsg(ends[1], &m, 0) == 1) { int fd; memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), 4); R(ftruncate, fd, 1); }
}
CASE(mknod, landlock_has_a_right_for_each_kind) {
  VERSION();
  mkdir("d", 0755);
  CHILD(restrict_to(MAKE_CHAR | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM, "d", MAKE_FIFO | MAKE_SYM); R(mknod, "r", S_IFREG | 0644, 0); R(mknod, "z", 0644, 0); R(mknod, "p", S_IFIFO | 0644, 0); R(mknod, "c", S_IFCHR | 0644, 0x103); R(mknod, "b", S_IFBLK | 0644, 0x700); R(mknod, "s", S_IFSOCK | 0644, 0); R(mknod, "bad", S_IFDIR | 0644, 0); R(mkdir, "e", 0755); R(mkdir, "d", 0755); R(symlink, "x", "l"); R(mknod, "d/p", S_IFIFO | 0644, 0); R(symlink, "x", "d/l"); R(mkdir, "d/e", 0755); R(mknod, "d/s", S_IFSOCK | 0644, 0); struct sockaddr_un a = {AF_UNIX, "sock"}; int s = socket(AF_UNIX, SOCK_STREAM, 0); L(bind(s, (void *)&a, sizeof a)));
  CHILD(restrict_to(MAKE_SOCK, "d", MAKE_SOCK); struct sockaddr_un a = {AF_UNIX, "d/sock"}; int s = socket(AF_UNIX, SOCK_STREAM, 0); L(bind(s, (void *)&a, sizeof a)); listen(s, 1); int c = socket(AF_UNIX, SOCK_STREAM, 0); L(connect(c, (void *)&a, sizeof a)));
}
CASE(unlink, landlock) {
  VERSION();
  mkdir("d", 0755); mkdir("d/e", 0755); mkdir("e", 0755); touch("f"); touch("d/f");
  CHILD(restrict_to(REMOVE_FILE | REMOVE_DIR, "d", REMOVE_FILE); R(unlink, "f"); R(unlink, "e"); R(rmdir, "f"); R(rmdir, "e"); R(unlink, "none"); R(rmdir, "none"); R(unlink, "d/f"); R(rmdir, "d/e"); R(unlink, "d/e"));
  CHILD(restrict_to(REMOVE_FILE | REMOVE_DIR, "d", REMOVE_DIR); R(rmdir, "d/e"); R(rmdir, "d"); R(rmdir, "."); touch("d/f"); R(unlink, "d/f"));
}
CASE(rename, landlock_within_a_directory) {
  VERSION();
  mkdir("d", 0755); touch("d/f"); touch("f"); mkdir("e", 0755); touch("d/h");
  CHILD(restrict_to(MAKE_REG | REMOVE_FILE, "d", MAKE_REG | REMOVE_FILE); R(rename, "f", "g"); R(rename, "d/f", "d/g"); R(rename, "d/g", "d/h"); R(rename, "e", "e2"); R(link, "f", "g"); R(link, "d/h", "d/i"); R(renameat2, AT_FDCWD, "f", AT_FDCWD, "e2", RENAME_EXCHANGE); R(rename, "f", "f"); R(rename, "none", "x"); R(renameat2, AT_FDCWD, "f", AT_FDCWD, "e2", RENAME_NOREPLACE));
  touch("d/g");
  CHILD(restrict_to(MAKE_REG | REMOVE_FILE, "d", MAKE_REG); R(rename, "d/g", "d/k"); R(link, "d/g", "d/l"); R(rename, "d/g", "d/h"));
  CHILD(restrict_to(READ_FILE, 0, 0); R(rename, "d/g", "d/m"); R(link, "d/m", "d/n"); R(rename, "d/m", "m"); R(link, "d/m", "n"));
}
CASE(rename, landlock_between_directories) {
  VERSION();
  mkdir("a", 0755); mkdir("b", 0755); mkdir("a/in", 0755); touch("a/f"); touch("a/g"); touch("a/in/h"); touch("b/k"); mkdir("b/dir", 0755);
  CHILD(int set = set_of(ALL, 0, 0); beneath(set, "a", ALL & ~REFER); beneath(set, "b", ALL & ~REFER); enforce(set); R(rename, "a/f", "b/f"); R(link, "a/f", "b/f"); R(rename, "a/in/h", "a/h"));
  CHILD(int set = set_of(ALL, 0, 0); beneath(set, "a", ALL); beneath(set, "b", ALL & ~REFER); enforce(set); R(rename, "a/f", "b/f"); R(rename, "b/k", "a/k"); R(rename, "a/in/h", "a/h"); R(rename, "a/h", "a/in/h"); R(link, "a/f", "a/in/l"));
  CHILD(int set = set_of(ALL, 0, 0); beneath(set, "a", ALL); beneath(set, "b", REFER | MAKE_REG | REMOVE_FILE); enforce(set); R(rename, "a/f", "b/f"); R(rename, "b/f", "a/f"); R(link, "a/g", "b/g"); R(rename, "b/k", "a/k"); R(renameat2, AT_FDCWD, "a/g", AT_FDCWD, "b/k", RENAME_EXCHANGE); R(rename, "a/in", "b/in"); R(rename, "b/dir", "a/dir"));
  CHILD(int set = set_of(ALL, 0, 0); beneath(set, "a", REFER); beneath(set, "b", REFER | MAKE_REG); enforce(set); R(rename, "a/g", "b/x"); R(link, "a/g", "b/x"); R(rename, "b/k", "a/x"); R(renameat2, AT_FDCWD, "a/g", AT_FDCWD, "b/x", RENAME_EXCHANGE); R(renameat2, AT_FDCWD, "a/none", AT_FDCWD, "b/x", RENAME_EXCHANGE));
  CHILD(int set = set_of(REFER, 0, 0); beneath(set, ".", REFER); enforce(set); R(rename, "b/dir", "a/dir"); R(rename, "a/dir", "dir"); R(rename, "dir", "b/dir"));
  CHILD(int set = set_of(REFER | EXECUTE, 0, 0); beneath(set, ".", REFER); beneath(set, "a", EXECUTE); enforce(set); R(rename, "a/g", "b/w"); R(rename, "b/w", "a/g"); R(rename, "b/dir", "a/dir"); R(renameat2, AT_FDCWD, "a/in", AT_FDCWD, "b/dir", RENAME_EXCHANGE));
  /* A rule about the file itself goes with it. */
  touch("b/own");
  CHILD(int set = set_of(REFER | EXECUTE, 0, 0); beneath(set, ".", REFER); beneath(set, "a", EXECUTE); beneath(set, "b/own", EXECUTE); enforce(set); R(rename, "b/own", "a/own"); R(rename, "b/k", "a/k"); R(link, "a/own", "b/own"););
}
CASE(rename, landlock_layers) {
  VERSION();
  mkdir("a", 0755); mkdir("b", 0755); touch("a/f");
  CHILD(restrict_to(READ_FILE, ".", READ_FILE); restrict_to(REFER, ".", REFER); R(rename, "a/f", "b/f"));
  CHILD(restrict_to(REFER | READ_FILE, ".", REFER | READ_FILE); restrict_to(REFER | WRITE_FILE, ".", REFER); R(rename, "a/f", "b/f"); restrict_to(REFER | READ_FILE, "b", READ_FILE | REFER); R(rename, "b/f", "a/f"); R(open, "b/f", O_WRONLY); P(open("b/f", O_RDONLY) >= 0));
  CHILD(int set = set_of(REFER, 0, 0); enforce(set); R(rename, "b/f", "a/f"); R(rename, "b/f", "b/g"); R(rename, "b/g", "b/f"));
}
CASE(renameat2, landlock_exchanges) {
  VERSION();
  mkdir("a", 0755); mkdir("b", 0755); touch("a/f"); mkdir("a/d", 0755); touch("b/f");
  CHILD(restrict_to(MAKE_REG | REMOVE_FILE | REMOVE_DIR | MAKE_DIR, "a", MAKE_DIR | REMOVE_DIR | REMOVE_FILE); R(renameat2, AT_FDCWD, "a/f", AT_FDCWD, "a/d", RENAME_EXCHANGE); R(renameat2, AT_FDCWD, "a/d", AT_FDCWD, "a/e", 0); R(renameat2, AT_FDCWD, "a/e", AT_FDCWD, "a/d", 0));
  CHILD(restrict_to(MAKE_REG | REMOVE_FILE | REMOVE_DIR | MAKE_DIR, "a", MAKE_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_REG); R(renameat2, AT_FDCWD, "a/f", AT_FDCWD, "a/d", RENAME_EXCHANGE));
  CHILD(int set = set_of(MAKE_REG | MAKE_DIR | REMOVE_DIR | REMOVE_FILE | REFER, 0, 0); beneath(set, "a", MAKE_DIR | REMOVE_DIR | REFER); beneath(set, "b", ALL & (MAKE_REG | MAKE_DIR | REMOVE_FILE | REMOVE_DIR | REFER)); enforce(set); R(renameat2, AT_FDCWD, "a/f", AT_FDCWD, "b/d2", 0); R(renameat2, AT_FDCWD, "a/d", AT_FDCWD, "b/f", RENAME_EXCHANGE));
}
CASE(ioctl, landlock_devices) {
  VERSION();
  touch("f"); int n = 0, before = open("/dev/null", O_RDWR);
  CHILD(restrict_to(IOCTL_DEV, 0, 0); int fd = open("/dev/null", O_RDWR); R(ioctl, fd, FIONREAD, &n); R(ioctl, fd, 0x5413, buf); R(ioctl, fd, FIONBIO, &n); R(ioctl, fd, FIOCLEX); R(ioctl, fd, FIONCLEX); R(ioctl, fd, 0xdead, 0); R(ioctl, before, 0xdead, 0); fd = open("f", O_RDONLY); R(ioctl, fd, FIONREAD, &n); R(ioctl, fd, 0xdead, 0); fd = open("/dev/zero", O_RDONLY); R(ioctl, fd, 0xdead, 0); int p[2]; pipe(p); R(ioctl, p[0], FIONREAD, &n); fd = open("/dev/null", O_PATH); R(ioctl, fd, 0xdead, 0));
  CHILD(restrict_to(IOCTL_DEV, "/dev", IOCTL_DEV); int fd = open("/dev/null", O_RDWR); R(ioctl, fd, 0xdead, 0));
  CHILD(restrict_to(IOCTL_DEV, "/dev/zero", IOCTL_DEV); int fd = open("/dev/zero", O_RDWR); R(ioctl, fd, 0xdead, 0); fd = open("/dev/null", O_RDWR); R(ioctl, fd, 0xdead, 0));
}
CASE(execve, landlock) {
  VERSION();
  int fd = make("script", "#!/bin/true\n"); fchmod(fd, 0755); close(fd);
  const char *const v[] = {"true", 0};
  CHILD(restrict_to(EXECUTE, 0, 0); R(execve, "/bin/true", v, v + 1); R(execve, "script", v, v + 1); R(execve, "none", v, v + 1); R(access, "/bin/true", X_OK); R(execveat, open("/bin/true", O_PATH), "", v, v + 1, AT_EMPTY_PATH));
  CHILD(restrict_to(EXECUTE, "/", EXECUTE); execve("/bin/true", (char **)v, (char **)v + 1); out("not run\n"));
  CHILD(restrict_to(EXECUTE, "script", EXECUTE); R(execve, "script", v, v + 1));
  CHILD(restrict_to(EXECUTE | READ_FILE, "/", EXECUTE); R(execve, "/bin/true", v, v + 1));
  /* What is forbidden stays so. */
  touch("f");
  CHILD(restrict_to(READ_FILE, "/", READ_FILE); restrict_to(WRITE_FILE, 0, 0); execl("/bin/sh", "sh", "-c", "(echo x >f) 2>/dev/null && echo written || echo refused", (char *)0));
}
static void *opens_f(void *arg) { (void)arg; P(open("f", O_WRONLY) >= 0); return 0; }
CASE(landlock_restrict_self, is_the_threads_and_its_descendants) {
  VERSION();
  touch("f"); pthread_t t; int ends[2], back[2]; pipe(ends); pipe(back);
  pid_t beside = SPAWN(char c; read(ends[0], &c, 1); P(open("f", O_WRONLY) >= 0));
  CHILD(restrict_to(WRITE_FILE, 0, 0); pthread_create(&t, 0, opens_f, 0); pthread_join(t, 0); CHILD(P(open("f", O_WRONLY) >= 0)); CHILD(become(1000, 1000); P(open("f", O_WRONLY) >= 0)); CHILD(if (S(unshare, CLONE_NEWUSER) == 0) P(open("f", O_WRONLY) >= 0)));
  write(ends[1], "x", 1); WAIT(beside);
}
static void *restricts_itself(void *arg) { (void)arg; restrict_to(WRITE_FILE, 0, 0); P(open("f", O_WRONLY) >= 0); return 0; }
CASE(landlock_restrict_self, leaves_other_threads_alone) {
  VERSION();
  touch("f"); pthread_t t;
  CHILD(pthread_create(&t, 0, restricts_itself, 0); pthread_join(t, 0); P(open("f", O_WRONLY) >= 0));
}
CASE(mount, landlock_refuses_changes_of_the_tree) {
  VERSION();
  mkdir("d", 0755); mkdir("e", 0755);
  CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); mount("none", "d", "tmpfs", 0, 0); restrict_to(READ_FILE, 0, 0); R(mount, "none", "e", "tmpfs", 0, 0); R(mount, "none", "none", "tmpfs", 0, 0); R(mount, "d", "e", 0, MS_BIND, 0); R(mount, 0, "d", 0, MS_REMOUNT | MS_RDONLY, 0); R(mount, 0, "d", 0, MS_SHARED, 0); R(mount, "d", "e", 0, MS_MOVE, 0); R(umount2, "d", 0); R(umount2, "d", MNT_DETACH); R(umount2, "e", 0); R(umount2, "none", 0); R(pivot_root, "d", "d"); R(pivot_root, "none", "d"); R(move_mount, AT_FDCWD, "d", AT_FDCWD, "e", 0); P(S(unshare, CLONE_NEWNS)); int t = S(open_tree, AT_FDCWD, "d", 1); P(t >= 0); R(move_mount, t, "", AT_FDCWD, "e", 4); int f = S(fsopen, "tmpfs", 0); P(f >= 0); R(fsconfig, f, 6, 0, 0, 0); f = S(fspick, AT_FDCWD, "d", 0); R(fsconfig, f, 7, 0, 0, 0));
}
CASE(open, landlock_rules_hold_across_mounts) {
  VERSION();
  mkdir("a", 0755); mkdir("a/m", 0755); mkdir("b", 0755); mkdir("b/s", 0755); touch("b/f"); touch("b/s/g");
  CHILD(NEED(S(unshare, CLONE_NEWNS) == 0); S(mount, "none", "/", 0, 1 << 18 | 1 << 14, 0); NEED(mount("b", "a/m", 0, MS_BIND, 0) == 0); CHILD(restrict_to(READ_FILE, "a", READ_FILE); P(open("a/m/f", O_RDONLY) >= 0); R(open, "b/f", O_RDONLY)); CHILD(restrict_to(READ_FILE, "b", READ_FILE); P(open("a/m/f", O_RDONLY) >= 0); P(open("b/f", O_RDONLY) >= 0)); CHILD(restrict_to(READ_FILE, "a/m", READ_FILE); P(open("a/m/s/g", O_RDONLY) >= 0); P(open("b/s/g", O_RDONLY) >= 0)); mount("none", "a/m", "tmpfs", 0, 0); touch("a/m/t"); CHILD(restrict_to(READ_FILE, "a", READ_FILE); P(open("a/m/t", O_RDONLY) >= 0)); CHILD(restrict_to(READ_FILE, "b", READ_FILE); R(open, "a/m/t", O_RDONLY)));
}
static int bound_to(int family, int port) {
  struct sockaddr_in6 a6 = {AF_INET6, htons(port), 0, IN6ADDR_LOOPBACK_INIT, 0}; struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
  int s = socket(family, SOCK_STREAM, 0), one = 1; setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, 4);
  long r = family == AF_INET ? bind(s, (void *)&a, sizeof a) : bind(s, (void *)&a6, sizeof a6);
  return r < 0 ? -errno : s;
}
static int port_of(int s) { struct sockaddr_in a; socklen_t n = sizeof a; getsockname(s, (void *)&a, &n); return ntohs(a.sin_port); }
CASE(bind, landlock_tcp_ports) {
  VERSION();
  CHILD(NEED(S(unshare, CLONE_NEWNET) == 0); struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP}; NEED(ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &lo) == 0);
    int set = set_of(0, BIND_TCP, 0); at_port(set, 1234, BIND_TCP); enforce(set);
    P(bound_to(AF_INET, 1234) >= 0); V("other", bound_to(AF_INET, 1235)); V("any", bound_to(AF_INET, 0)); V("six", bound_to(AF_INET6, 1235));
    struct sockaddr_in a = {AF_INET, htons(1235), {htonl(INADDR_ANY)}, {0}};
    int u = socket(AF_INET, SOCK_DGRAM, 0), s = socket(AF_INET, SOCK_STREAM, 0), x = socket(AF_UNIX, SOCK_STREAM, 0);
    L(bind(u, (void *)&a, sizeof a)); L(bind(s, (void *)&a, 1)); L(bind(s, (void *)&a, 8)); L(bind(s, 0, 0)); a.sin_family = 99; L(bind(s, (void *)&a, sizeof a)); a.sin_family = AF_INET6; L(bind(s, (void *)&a, sizeof a)); a.sin_family = AF_UNSPEC; L(bind(s, (void *)&a, sizeof a)); a.sin_addr.s_addr = 1; L(bind(s, (void *)&a, sizeof a)); a.sin_addr.s_addr = 0; a.sin_port = htons(1234); L(bind(s, (void *)&a, 4)); a.sin_family = AF_UNIX; L(bind(x, (void *)&a, 2)); L(listen(s, 1)));
}
CASE(connect, landlock_tcp_ports) {
  VERSION();
  CHILD(int l = bound_to(AF_INET, 0); NEED(l >= 0); listen(l, 5); int port = port_of(l); int other = bound_to(AF_INET, 0); listen(other, 5);
    CHILD(int set = set_of(0, CONNECT_TCP | BIND_TCP, 0); at_port(set, port, CONNECT_TCP); enforce(set);
      struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}}; int s = socket(AF_INET, SOCK_STREAM, 0);
      P(connect(s, (void *)&a, sizeof a)); int t = socket(AF_INET, SOCK_STREAM, 0); a.sin_port = htons(port_of(other)); L(connect(t, (void *)&a, sizeof a)); L(connect(t, (void *)&a, 1)); L(connect(t, (void *)&a, 10)); a.sin_family = AF_UNSPEC; L(connect(s, (void *)&a, sizeof a)); L(connect(s, (void *)&a, 4)); a.sin_family = AF_INET6; L(connect(t, (void *)&a, sizeof a)); int u = socket(AF_INET, SOCK_DGRAM, 0); a.sin_family = AF_INET; L(connect(u, (void *)&a, sizeof a)); V("bind", bound_to(AF_INET, 0)));
    CHILD(int set = set_of(0, BIND_TCP, 0); enforce(set); struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}}; int s = socket(AF_INET, SOCK_STREAM, 0); P(connect(s, (void *)&a, sizeof a)); int set2 = set_of(0, CONNECT_TCP, 0); at_port(set2, 1, CONNECT_TCP); enforce(set2); s = socket(AF_INET, SOCK_STREAM, 0); L(connect(s, (void *)&a, sizeof a))));
}
CASE(connect, landlock_abstract_sockets) {
  VERSION();
  struct sockaddr_un a; socklen_t n; place_for_sockets(&a, &n, "s"); int l = socket(AF_UNIX, SOCK_STREAM, 0); P(bind(l, (void *)&a, n)); listen(l, 9);
  struct sockaddr_un d; socklen_t dn; place_for_sockets(&d, &dn, "d"); int g = socket(AF_UNIX, SOCK_DGRAM, 0); P(bind(g, (void *)&d, dn));
  struct sockaddr_un f = {AF_UNIX, "path"}; int h = socket(AF_UNIX, SOCK_STREAM, 0); P(bind(h, (void *)&f, sizeof f)); listen(h, 9);
  int early = socket(AF_UNIX, SOCK_DGRAM, 0); P(connect(early, (void *)&d, dn));
  CHILD(enforce(set_of(0, 0, ABSTRACT)); int s = socket(AF_UNIX, SOCK_STREAM, 0); L(connect(s, (void *)&a, n)); L(connect(s, (void *)&f, sizeof f)); L(connect(s, (void *)&a, n)); int u = socket(AF_UNIX, SOCK_DGRAM, 0); L(connect(u, (void *)&d, dn)); L(sendto(u, "x", 1, 0, (void *)&d, dn)); L(send(early, "x", 1, 0)); L(sendto(early, "x", 1, 0, (void *)&d, dn)); L(connect(early, (void *)&d, dn));
    struct sockaddr_un o; socklen_t on; place_for_sockets(&o, &on, "own"); int k = socket(AF_UNIX, SOCK_STREAM, 0); P(bind(k, (void *)&o, on)); listen(k, 9); CHILD(int c = socket(AF_UNIX, SOCK_STREAM, 0); L(connect(c, (void *)&o, on)); enforce(set_of(0, 0, ABSTRACT)); c = socket(AF_UNIX, SOCK_STREAM, 0); L(connect(c, (void *)&o, on))); int p[2]; P(socketpair(AF_UNIX, SOCK_DGRAM, 0, p)); L(send(p[0], "x", 1, 0)));
  CHILD(enforce(set_of(0, 0, SIGNALS)); int s = socket(AF_UNIX, SOCK_STREAM, 0); L(connect(s, (void *)&a, n)));
  /* A socket belongs to the domain in which it was made. */
  CHILD(struct sockaddr_un o; socklen_t on; place_for_sockets(&o, &on, "old"); int k = socket(AF_UNIX, SOCK_STREAM, 0); enforce(set_of(0, 0, ABSTRACT)); P(bind(k, (void *)&o, on)); listen(k, 9); int c = socket(AF_UNIX, SOCK_STREAM, 0); L(connect(c, (void *)&o, on)));
}
static void *sends_itself(void *arg) { (void)arg; enforce(set_of(0, 0, SIGNALS)); R(tgkill, getpid(), getpid(), 0); P(S(kill, getpid(), 0)); P(S(kill, getppid(), 0)); return 0; }
CASE(kill, landlock) {
  VERSION();
  pid_t parent = getpid(); int ends[2]; pipe(ends); signal(SIGUSR1, SIG_IGN); signal(SIGCONT, SIG_IGN);
  pid_t sibling = SPAWN(char c; read(ends[0], &c, 1));
  CHILD(enforce(set_of(0, 0, SIGNALS)); P(S(kill, parent, 0)); P(S(kill, parent, SIGUSR1)); P(S(kill, parent, SIGCONT)); P(S(tgkill, parent, parent, SIGUSR1)); P(S(tkill, parent, SIGUSR1)); P(S(kill, sibling, SIGKILL)); P(S(kill, getpid(), 0)); P(S(kill, 0x3fffffff, 0)); P(S(kill, parent, 99)); siginfo_t i = {.si_signo = SIGUSR1, .si_code = SI_QUEUE}; P(S(rt_sigqueueinfo, parent, SIGUSR1, &i)); int p = S(pidfd_open, parent, 0); P(S(pidfd_send_signal, p, 0, 0, 0)); pid_t child = SPAWN(pause()); P(S(kill, child, SIGKILL)); WAIT(child); CHILD(P(S(kill, getppid(), 0)); enforce(set_of(0, 0, SIGNALS)); P(S(kill, getppid(), 0)); P(S(kill, parent, 0))); CHILD(enforce(set_of(READ_FILE, 0, 0)); P(S(kill, getppid(), 0)); P(S(kill, parent, 0))));
  CHILD(enforce(set_of(READ_FILE, 0, ABSTRACT)); P(S(kill, parent, 0)));
  CHILD(pthread_t t; pthread_create(&t, 0, sends_itself, 0); pthread_join(t, 0); P(S(kill, parent, 0)));
  write(ends[1], "x", 1); WAIT(sibling);
}
CASE(fcntl, landlock_signals_of_files) {
  VERSION();
  catch_signal(SIGIO, 0); catch_signal(SIGURG, 0); int p[2], done[2]; pipe(done); socketpair(AF_UNIX, SOCK_STREAM, 0, p);
  pid_t parent = getpid();
  fcntl(p[0], F_SETFL, O_ASYNC);
  CHILD(enforce(set_of(0, 0, SIGNALS)); P(fcntl(p[0], F_SETOWN, parent)); P(fcntl(p[0], F_GETOWN) == parent); write(p[1], "x", 1)); P(caught);
  fcntl(p[0], F_SETOWN, parent); CHILD(enforce(set_of(0, 0, SIGNALS)); write(p[1], "x", 1)); P(caught);
}
CASE(ptrace, landlock) {
  VERSION();
  int ends[2], ready[2]; pipe(ends); pipe(ready); pid_t parent = getpid(); char word[8];
  pid_t other = SPAWN(char c; write(ready[1], "x", 1); read(ends[0], &c, 1)); read(ready[0], word, 1);
  CHILD(restrict_to(WRITE_FILE, 0, 0); P(S(ptrace, PTRACE_ATTACH, other, 0, 0)); P(S(ptrace, PTRACE_SEIZE, other, 0, 0)); struct iovec a = {word, 8}; struct iovec b = {word, 8}; P(S(process_vm_readv, other, &a, 1, &b, 1, 0)); P(S(kcmp, getpid(), other, 0, 0, 0)); char name[64]; sprintf(name, "/proc/%d/exe", other); P(S(readlink, name, buf, 100)); sprintf(name, "/proc/%d/mem", other); P(S(open, name, O_RDONLY)); sprintf(name, "/proc/%d/status", other); P(S(open, name, O_RDONLY) >= 0); sprintf(name, "/proc/%d/fd", other); P(S(open, name, O_RDONLY) >= 0); int fd = S(pidfd_open, other, 0); P(S(pidfd_getfd, fd, 0, 0)); P(S(kill, parent, 0)); P(S(readlink, "/proc/self/exe", buf, 100) > 0);
    pid_t child = SPAWN(char c; write(ready[1], "x", 1); read(ends[0], &c, 1)); read(ready[0], word, 1); P(S(ptrace, PTRACE_SEIZE, child, 0, 0)); P(S(process_vm_readv, child, &a, 1, &b, 1, 0)); kill(child, SIGKILL); WAIT(child);
    child = SPAWN(restrict_to(WRITE_FILE, 0, 0); P(S(process_vm_readv, getppid(), &a, 1, &b, 1, 0)); write(ready[1], "x", 1); char c; read(ends[0], &c, 1)); read(ready[0], word, 1); P(S(process_vm_readv, child, &a, 1, &b, 1, 0)); kill(child, SIGKILL); WAIT(child));
  CHILD(P(S(ptrace, PTRACE_TRACEME, 0, 0, 0)));
  /* A parent in a domain may not trace a child outside of it, which only another thread's child can be. */
  CHILD(restrict_to(WRITE_FILE, 0, 0); P(S(ptrace, PTRACE_TRACEME, 0, 0, 0)));
  CHILD(restrict_to(WRITE_FILE, 0, 0); CHILD(P(S(ptrace, PTRACE_TRACEME, 0, 0, 0))));
  write(ends[1], "x", 1); WAIT(other);
}
/* Whoever forbids itself to read a file gets no descriptor with an event of it either. */
CASE(read, landlock_files_of_fanotify_events) {
  VERSION();
  mkdir("in", 0755); mkdir("out", 0755); touch("in/f"); touch("out/g");
  CHILD(int group = S(fanotify_init, FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY); NEED(group >= 0);
    P(S(fanotify_mark, group, FAN_MARK_ADD, (u64)FAN_OPEN, AT_FDCWD, "in/f")); P(S(fanotify_mark, group, FAN_MARK_ADD, (u64)FAN_OPEN, AT_FDCWD, "out/g"));
    close(open("out/g", O_RDONLY)); close(open("in/f", O_RDONLY));
    restrict_to(READ_FILE, "in", READ_FILE);
    for (int i = 0; i < 4; i++) {
      struct fanotify_event_metadata events[4]; long n = S(read, group, events, sizeof events);
      for (int k = 0; n > 0 && k < n / (long)sizeof *events; k++) if (events[k].fd >= 0) { char name[64]; sprintf(name, "/proc/self/fd/%d", events[k].fd); long len = readlink(name, buf, 100); out("opened %c\n", len > 0 ? buf[len - 1] : '?'); close(events[k].fd); }
    });
}
CASE(fcntl, landlock_domain_that_outlives_its_tasks) {
  VERSION();
  int p[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, p); pid_t parent = getpid(); close(make("f", "text"));
  CHILD(restrict_to(WRITE_FILE, "f", WRITE_FILE); P(fcntl(p[0], F_SETOWN, parent)));
  unlink("f"); P(fcntl(p[0], F_SETOWN, parent)); P(fcntl(p[0], F_GETOWN) == parent);
}
