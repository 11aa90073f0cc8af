/* Corners that a second large suite of others went to. */
#include "../case.h"
#include <dirent.h>
#include <elf.h>
#include <linux/futex.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>

/* A tmpfs of the case's own, so that neither mount options nor the kind of file system depend on the machine. */
static int own_tmpfs(void) {
  if (S(unshare, CLONE_NEWNS) < 0 || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) < 0) return 0;
  mkdir("own", 0777);
  return mount("own", "own", "tmpfs", 0, 0) == 0 && chdir("own") == 0 && chmod(".", 0777) == 0;
}

/* ---- programs ---- */

struct program {
  Elf64_Ehdr head;
  Elf64_Phdr parts[2];
  char rest[512];
};

/* A program that only ends, with one segment and room for a second. */
static struct program a_program(void) {
  static const char ends[] = {0x31, (char)0xff, (char)0xb8, 60, 0, 0, 0, 0x0f, 0x05};
  struct program p;
  memset(&p, 0, sizeof p);
  memcpy(p.head.e_ident, ELFMAG "\2\1\1", 7);
  p.head.e_type = ET_EXEC, p.head.e_machine = EM_X86_64, p.head.e_version = 1;
  p.head.e_phoff = offsetof(struct program, parts), p.head.e_phentsize = sizeof(Elf64_Phdr), p.head.e_phnum = 1;
  p.head.e_ehsize = sizeof p.head;
  p.head.e_entry = 0x400000 + offsetof(struct program, rest);
  p.parts[0] = (Elf64_Phdr){PT_LOAD, PF_R | PF_X, 0, 0x400000, 0, sizeof p, sizeof p, 4096};
  memcpy(p.rest, ends, sizeof ends);
  return p;
}

static void run(const struct program *p, const char *what) {
  int fd = open("program", O_WRONLY | O_CREAT | O_TRUNC, 0755);
  if (write(fd, p, sizeof *p) != sizeof *p) out("short write\n");
  close(fd);
  int status = reap(SPAWN(char *args[] = {"program", 0}; _exit(-(int)S(execve, "program", args, args))));
  if (WIFEXITED(status)) out("%s: %s\n", what, WEXITSTATUS(status) ? error_name(WEXITSTATUS(status)) : "ran");
  else out("%s: signal %d\n", what, WTERMSIG(status));
}

CASE(execve, what_is_found_too_late) {
  struct program p = a_program();
  run(&p, "good");
  p.parts[0].p_offset = 1;
  run(&p, "offset and address do not fit");
  p = a_program(), p.parts[0].p_memsz = 1;
  run(&p, "less in memory than in the file");
  p = a_program(), p.head.e_type = ET_DYN, p.parts[0].p_vaddr = 0xfffffffffffff000ul - sizeof p;
  run(&p, "beyond all addresses");
  p = a_program(), p.head.e_entry = 1ul << 63;
  run(&p, "entry beyond all addresses");
}

CASE(execve, interpreter_without_a_name) {
  struct program p = a_program();
  p.head.e_phnum = 2;
  p.parts[1] = (Elf64_Phdr){PT_INTERP, PF_R, offsetof(struct program, rest) + 100, 0, 0, 2, 2, 1};
  run(&p, "empty");
  memcpy(p.rest + 100, "/", 1);
  run(&p, "the root");
  p.parts[1].p_filesz = 1;
  run(&p, "one byte");
}

static char other_stack[65536] __attribute__((aligned(16)));
static int runs_id(void *unused) {
  char *args[] = {"./id", "-u", 0}, *env[] = {0};
  execve("./id", args, env);
  return 99;
}
static void id_by(int flags) {
  int pid = clone(runs_id, other_stack + sizeof other_stack, flags | SIGCHLD, 0);
  show_status("id", reap(pid));
}
CASE(execve, set_user_id_with_a_shared_directory) {
  NEED(own_tmpfs());
  NEED(system("cp /usr/bin/id id && chmod 4755 id") == 0);
  CHILD(become(1000, 1000); id_by(0); id_by(CLONE_FS); id_by(CLONE_FILES));
  CHILD(become(1000, 1000); prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); id_by(0));
  id_by(CLONE_FS);
}

/* ---- names ---- */

CASE(fchmodat, no_name_comes_before_the_descriptor) {
  int null = open("/dev/null", O_RDONLY);
  struct timespec t[2] = {{1, 0}, {2, 0}};
  R(fchmodat, -1, "", 0444);
  R(fchmodat, null, "", 0444);
  R(mkdirat, -1, "", 0755);
  R(mknodat, -1, "", S_IFREG | 0644, 0);
  R(unlinkat, -1, "", 0);
  R(symlinkat, "x", -1, "");
  R(renameat, -1, "", -1, "y");
  R(renameat, -1, "x", -1, "");
  R(linkat, -1, "", -1, "y", 0);
  R(openat, -1, "", O_RDONLY);
  R(faccessat, -1, "", 0);
  R(fchownat, -1, "", 0, 0, 0);
  R(utimensat, -1, "", t, 0);
  R(newfstatat, -1, "", buf, 0);
  R(newfstatat, -1, "", buf, AT_EMPTY_PATH);
  R(readlinkat, -1, "", buf, 10);
  R(fchmodat, -1, "x", 0444);
}

CASE(linkat, a_descriptor_of_somebody_else) {
  mkdir("d", 0777);
  chmod("d", 0777);
  touch("f");
  int fd = open("f", O_RDONLY), dir = open("d", O_RDONLY), wd = open(".", O_PATH);
  R(linkat, fd, "", dir, "root", AT_EMPTY_PATH);
  R(linkat, AT_FDCWD, "", dir, "wd", AT_EMPTY_PATH);
  R(linkat, wd, "", dir, "wd", AT_EMPTY_PATH);
  R(linkat, -1, "", dir, "none", AT_EMPTY_PATH);
  CHILD(become(1000, 1000); R(linkat, fd, "", dir, "user", AT_EMPTY_PATH));
}

CASE(open, direct_where_there_is_no_such_thing) {
  mkfifo("fifo", 0600);
  const char *paths[] = {".", "/", "/proc", "/proc/self/status", "/dev/null", "/dev/zero", "/sys", "/dev/pts", "fifo"};
  for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
    out("%s ", paths[i]);
    V("open", S(open, paths[i], O_RDONLY | O_DIRECT | O_NONBLOCK));
    int fd = open(paths[i], O_RDONLY | O_NONBLOCK);
    out("%s ", paths[i]);
    V("F_SETFL", S(fcntl, fd, F_SETFL, O_DIRECT | O_NONBLOCK));
  }
  int p[2];
  NEED(pipe(p) == 0);
  R(fcntl, p[0], F_SETFL, O_DIRECT);
  snprintf(buf, 100, "/proc/self/fd/%d", p[0]);
  V("the pipe by its name", S(open, buf, O_RDONLY | O_DIRECT));
}

CASE(getdents64, part_of_the_buffer) {
  char name[16], *end = edge();
  for (int i = 0; i < 40; i++) snprintf(name, 16, "name-%02d", i), touch(name);
  for (int old = 0; old < 2; old++) {
    int fd = open(".", O_RDONLY), names = 0;
    for (long n; (n = old ? S(getdents, fd, end - 200, 4096) : S(getdents64, fd, end - 200, 4096)) != 0;) {
      if (n < 0) { V("getdents", n); break; }
      for (char *at = end - 200; at < end - 200 + n; at += *(unsigned short *)(at + 16)) names++;
    }
    P(names);
    lseek(fd, 0, SEEK_SET);
    V("nothing fits", old ? S(getdents, fd, end - 8, 4096) : S(getdents64, fd, end - 8, 4096));
    V("a negative size", old ? S(getdents, fd, buf, 0x80000000u) : S(getdents64, fd, buf, -1));
    V("the first again", (old ? S(getdents, fd, buf, 65536) : S(getdents64, fd, buf, 65536)) > 40 * 24);
    V("a negative size at the end", old ? S(getdents, fd, buf, 0x80000000u) : S(getdents64, fd, buf, -1));
  }
}

CASE(lseek, end_of_generated_directories) {
  const char *paths[] = {"/proc", "/proc/self", "/proc/self/fd", "/proc/sys/kernel", "/sys", "/dev/pts"};
  for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
    int fd = open(paths[i], O_RDONLY | O_DIRECTORY);
    out("%s ", paths[i]);
    V("end", S(lseek, fd, 0, SEEK_END));
    out("%s ", paths[i]);
    V("entries", S(getdents64, fd, buf, sizeof buf) > 48);
  }
}

static long atime(const char *path) {
  struct stat s;
  return lstat(path, &s) < 0 ? -1 : s.st_atim.tv_sec;
}
CASE(readlink, access_times_of_links) {
  NEED(own_tmpfs());
  touch("f");
  NEED(symlink("f", "l") == 0);
  struct timespec old[2] = {{1000, 0}, {2000, 0}};
  const char *ways[] = {"lstat", "open", "readlink", "a path through it"};
  NEED(symlink(".", "d") == 0);
  for (int i = 0; i < 4; i++) {
    const char *link = i == 3 ? "d" : "l";
    utimensat(AT_FDCWD, link, old, AT_SYMLINK_NOFOLLOW);
    if (i == 1) close(open("l", O_RDONLY));
    if (i == 2) L(readlink("l", buf, 10));
    if (i == 3) P(access("d/f", F_OK));
    out("%s: %s\n", ways[i], atime(link) == 1000 ? "as before" : "new");
  }
}

/* ---- files with capabilities ---- */

static const unsigned char net_raw[20] = {1, 0, 0, 2, 0, 0x20};
static void caps(const char *what) {
  long n = getxattr("f", "security.capability", buf, 20);
  out("%s: %s\n", what, n > 0 ? "has them" : error_name(errno));
  setxattr("f", "security.capability", net_raw, 20, 0);
}
CASE(chown, capabilities_go) {
  int fd = make("f", "text");
  NEED(setxattr("f", "security.capability", net_raw, 20, 0) == 0);
  caps("given");
  R(chmod, "f", 0755);
  caps("chmod");
  R(chown, "f", -1, -1);
  caps("chown to nobody else");
  R(chown, "f", 5, 5);
  caps("chown");
  R(pwrite64, fd, "x", 1, 0);
  caps("write");
  R(ftruncate, fd, 100);
  caps("ftruncate");
  close(open("f", O_WRONLY | O_TRUNC));
  caps("open with O_TRUNC");
}

/* ---- inotify ---- */

static void events(int fd) {
  long n = S(read, fd, buf, sizeof buf);
  for (char *at = buf; n > 0 && at < buf + n;) {
    struct inotify_event *e = (void *)at;
    out("  %d %#x %s\n", e->wd, e->mask, e->len ? e->name : "-");
    at += sizeof *e + e->len;
  }
  out("  %s\n", n < 0 ? error_name(-n) : "end");
}

CASE(inotify_add_watch, two_names_of_a_file) {
  int i = inotify_init1(IN_NONBLOCK);
  touch("a");
  R(link, "a", "b");
  R(inotify_add_watch, i, "a", IN_ALL_EVENTS);
  R(inotify_add_watch, i, "b", IN_ALL_EVENTS);
  touch("later");
  R(inotify_add_watch, i, "later", IN_MODIFY);
  R(link, "later", "c");
  int fd = open("b", O_WRONLY), c = open("c", O_WRONLY);
  R(write, fd, "x", 1);
  R(write, c, "x", 1);
  close(fd);
  events(i);
  unlink("a");
  events(i);
  unlink("b");
  events(i);
}

CASE(inotify_add_watch, a_removed_directory_that_is_open) {
  int i = inotify_init1(IN_NONBLOCK);
  mkdir("d", 0755);
  int fd = open("d", O_RDONLY);
  R(inotify_add_watch, i, "d", IN_DELETE_SELF);
  R(rmdir, "d");
  events(i);
  close(fd);
  events(i);
}

CASE(inotify_add_watch, what_happens_by_a_removed_name) {
  int i = inotify_init1(IN_NONBLOCK);
  int fd = make("f", "");
  R(inotify_add_watch, i, "f", IN_ALL_EVENTS | IN_EXCL_UNLINK);
  unlink("f");
  R(write, fd, "x", 1);
  R(fchmod, fd, 0600);
  R(ftruncate, fd, 9);
  events(i);
  close(fd);
  events(i);
}

CASE(inotify_add_watch, copies_and_programs_read) {
  int i = inotify_init1(IN_NONBLOCK), in = make("in", "text"), to = make("to", ""), p[2];
  int other = inotify_init1(IN_NONBLOCK);
  R(inotify_add_watch, i, "in", IN_ACCESS);
  R(inotify_add_watch, other, "to", IN_MODIFY);
  lseek(in, 0, SEEK_SET);
  R(sendfile, to, in, 0, 4);
  events(i);
  events(other);
  off_t from = 0;
  R(copy_file_range, in, &from, to, 0, 4, 0);
  events(i);
  events(other);
  NEED(pipe(p) == 0);
  from = 0;
  R(splice, in, &from, p[1], 0, 4, 0);
  events(i);
  close(make("script", "#!/bin/true\n"));
  chmod("script", 0755);
  R(inotify_add_watch, i, "script", IN_ALL_EVENTS);
  CHILD(execl("./script", "script", (char *)0));
  events(i);
  R(inotify_add_watch, i, "/proc/self/limits", IN_OPEN | IN_ACCESS);
  int fd = open("/proc/self/limits", O_RDONLY);
  P(read(fd, buf, 1));
  events(i);
}

/* ---- signals ---- */

static void info_of(int signo) {
  sigset_t set;
  siginfo_t info;
  struct timespec none = {0, 0};
  sigemptyset(&set);
  sigaddset(&set, signo);
  memset(&info, 0, sizeof info);
  P(sigtimedwait(&set, &info, &none));
  out("code %d, %s process, user %d\n", info.si_code, info.si_pid == getpid() ? "own" : "no", info.si_uid);
}
CASE(write, who_sends_its_signals) {
  sigset_t set;
  sigfillset(&set);
  sigprocmask(SIG_BLOCK, &set, 0);
  int p[2], s[2], fd = make("f", "");
  NEED(pipe(p) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
  close(p[0]);
  close(s[0]);
  R(write, p[1], "x", 1);
  info_of(SIGPIPE);
  R(write, s[1], "x", 1);
  info_of(SIGPIPE);
  struct rlimit limit = {4, RLIM_INFINITY};
  setrlimit(RLIMIT_FSIZE, &limit);
  R(write, fd, "123456", 6);
  R(write, fd, "123456", 6);
  info_of(SIGXFSZ);
  R(ftruncate, fd, 100);
  info_of(SIGXFSZ);
}

CASE(fcntl, async_by_a_second_descriptor) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, 0);
  int p[2];
  NEED(pipe(p) == 0);
  int second = dup(p[0]);
  for (int i = 0; i < 3; i++) {
    int fd = i == 0 ? p[0] : second;
    if (i == 2) fcntl(fd, F_SETFL, 0);
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETSIG, SIGUSR2);
    fcntl(fd, F_SETFL, O_ASYNC);
    siginfo_t info;
    struct timespec t = {10, 0};
    if (write(p[1], "x", 1) != 1 || sigtimedwait(&set, &info, &t) < 0) { out("no signal\n"); continue; }
    out("%s descriptor\n", info.si_fd == p[0] ? "first" : info.si_fd == second ? "second" : "another");
  }
}

/* ---- futexes and threads ---- */

static u32 words[2];
static void *waits(void *unused) {
  S(futex, &words[0], FUTEX_WAIT_PRIVATE, 0, 0);
  return 0;
}
CASE(futex, private_and_shared_do_not_meet) {
  pthread_t t;
  pthread_create(&t, 0, waits, 0);
  while (S(futex, &words[0], FUTEX_REQUEUE_PRIVATE, 0, 1, &words[1]) != 1) sched_yield();
  R(futex, &words[1], FUTEX_WAKE, 1);
  R(futex, &words[1], FUTEX_WAKE_PRIVATE, 1);
  pthread_join(t, 0);
}

CASE(clone, thread_area_beyond_all_addresses) {
  R(clone, SIGCHLD | CLONE_SETTLS, 0, 0, 0, 1ul << 63);
  R(clone, SIGCHLD | CLONE_SETTLS, 0, 0, 0, KERNEL);
}
