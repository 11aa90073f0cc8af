/* What /proc says of processes that have ended, and files of single processes. */
#include "../case.h"
static void look(const char *dir, const char *name) {
  char path[99]; snprintf(path, sizeof path, "%s/%s", dir, name);
  int fd = open(path, O_RDONLY);
  if (fd < 0) { out("%s: open %s\n", name, error_name(errno)); return; }
  long n = read(fd, buf, 100);
  if (n < 0) out("%s: read %s\n", name, error_name(errno)); else out("%s: %s\n", name, n ? "something" : "nothing");
  close(fd);
}
static void link_of(const char *dir, const char *name) { char path[99]; snprintf(path, sizeof path, "%s/%s", dir, name); long n = readlink(path, buf, 99); int fd = open(path, O_PATH); out("%s: %s, %s\n", name, n < 0 ? error_name(errno) : "there", fd < 0 ? "not to be opened" : "opened"); close(fd); }
static const char *const texts[] = {"stat", "statm", "status", "comm", "cmdline", "environ", "auxv", "maps", "smaps", "smaps_rollup", "mem", "mounts", "mountinfo", "mountstats", "limits", "io", "cgroup", "oom_score", "oom_score_adj", "coredump_filter", "wchan", "personality", "uid_map", "gid_map", "setgroups", "timens_offsets", "timerslack_ns"};
static const char *const links[] = {"exe", "cwd", "root", "ns/cgroup", "ns/ipc", "ns/mnt", "ns/net", "ns/pid", "ns/pid_for_children", "ns/time", "ns/user", "ns/uts", "fd/0"};
enum { TEXTS = sizeof texts / sizeof *texts, LINKS = sizeof links / sizeof *links };
CASE(open, proc_of_a_zombie) {
  pid_t p = SPAWN(0); siginfo_t i; waitid(P_PID, p, &i, WEXITED | WNOWAIT);
  char dir[32]; snprintf(dir, sizeof dir, "/proc/%d", p);
  for (int n = 0; n < TEXTS; n++) look(dir, texts[n]);
  for (int n = 0; n < LINKS; n++) link_of(dir, links[n]);
  WAIT(p); look(dir, "stat"); link_of(dir, "exe");
}
CASE(read, proc_files_that_were_opened_before_the_end) {
  int go[2], fds[TEXTS]; pipe(go); char dir[32], path[99];
  pid_t p = SPAWN(char c; read(go[0], &c, 1)); snprintf(dir, sizeof dir, "/proc/%d", p);
  for (int n = 0; n < TEXTS; n++) { snprintf(path, sizeof path, "%s/%s", dir, texts[n]); fds[n] = open(path, O_RDONLY); }
  write(go[1], "x", 1); siginfo_t s; waitid(P_PID, p, &s, WEXITED | WNOWAIT);
  for (int i = 0; i < 2; i++) {
    for (int n = 0; n < TEXTS; n++) if (!strstr(" auxv mounts mountinfo mountstats uid_map gid_map setgroups ", texts[n])) { long r = pread(fds[n], buf, 100, 0); out("%s %s: %s\n", i ? "gone" : "zombie", texts[n], r < 0 ? error_name(errno) : r ? "something" : "nothing"); }
    if (i == 0) WAIT(p);
  }
}
CASE(lseek, memory_has_no_end) {
  int fd = open("/proc/self/mem", O_RDWR); long at;
  R(lseek, fd, 16, 0); R(lseek, fd, 16, 1); R(lseek, fd, 0, 2); R(lseek, fd, 0, 3); R(lseek, fd, 0, 4); R(lseek, fd, 0, 5); R(lseek, fd, -8192, 0); R(lseek, fd, -4096, 1); R(read, fd, buf, 1); R(lseek, fd, 12288, 1); R(read, fd, buf, 1);
  at = 77; P(S(lseek, fd, &at, 0) == (long)&at); long got = 0; R(read, fd, &got, 8); P(got); P(S(lseek, fd, 0, 1) == (long)&at + 8);
}
static void filter_is(const char *when) { char text[20] = {0}; int fd = open("/proc/self/coredump_filter", O_RDONLY); read(fd, text, 19); close(fd); out("%s: %s", when, text); }
CASE(write, coredump_filter) {
  int fd = open("/proc/self/coredump_filter", O_RDWR); filter_is("at first");
  static const char *const values[] = {"0x7f", "077\n", "9", "0xffffffff", "0", "+3"};
  for (int i = 0; i < 6; i++) { out("%s: %ld\n", values[i], (long)pwrite(fd, values[i], strlen(values[i]), 0)); filter_is("then"); }
  static const char *const wrong[] = {"", "x", "-1", "0x100000000", "99999999999", "1 2", " 1", "08", "0x", "1\n\n", "\n"};
  for (int i = 0; i < 11; i++) V(wrong[i], pwrite(fd, wrong[i], strlen(wrong[i]), 0) < 0 ? -errno : 1);
  P(pwrite(fd, "0x3\0x", 6, 0)); P(pwrite(fd, "3\0", 2, 0)); filter_is("still"); CHILD(filter_is("child"); pwrite(fd, "5", 1, 0); filter_is("parent's"));
  filter_is("parent"); CHILD(fd = open("/proc/self/coredump_filter", O_RDWR); pwrite(fd, "0x21", 4, 0); execl("/bin/cat", "cat", "/proc/self/coredump_filter", (char *)0));
  struct stat s; stat("/proc/self/coredump_filter", &s); X(s.st_mode);
}
CASE(read, the_lines_of_proc_stat) {
  FILE *f = fopen("/proc/stat", "r"); char *line = 0, last[32] = ""; size_t room = 0;
  while (getline(&line, &room, f) > 0) { char name[32]; sscanf(line, "%31s", name); if (!strncmp(name, "cpu", 3)) name[3] = 0; if (strcmp(name, last)) out("%s\n", name); strcpy(last, name); if (!strcmp(name, "softirq")) { int n = 0; for (char *c = line; *c; c++) n += *c == ' '; P(n); } }
}
/* Who else has the pages of an area (proc_pid_smaps(5)). */
static void sharing(const char *what, void *at) {
  FILE *f = fopen("/proc/self/smaps", "r"); char *line = 0; size_t room = 0; int here = 0; unsigned long from, to, kb; char name[40]; long sum[4] = {0};
  while (getline(&line, &room, f) > 0) { if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = from <= (u64)at && (u64)at < to; else if (here && sscanf(line, "%39[^:]: %lu", name, &kb) == 2) { if (!strcmp(name, "Rss")) sum[0] = kb; if (!strcmp(name, "Pss")) sum[1] = kb; if (!strncmp(name, "Shared_", 7) && strncmp(name, "Shared_H", 8)) sum[2] += kb; if (!strncmp(name, "Private_", 8) && strncmp(name, "Private_H", 9)) sum[3] += kb; } }
  fclose(f); free(line); out("%s: present %ld, part %ld, shared %ld, private %ld\n", what, sum[0], sum[1], sum[2], sum[3]);
}
CASE(read, smaps_knows_who_shares) {
  char *own = pages(18) + 4096, *shared = shared_pages(18) + 4096; mprotect(own - 4096, 4096, 0); mprotect(own + 65536, 4096, 0); mprotect(shared - 4096, 4096, 0); mprotect(shared + 65536, 4096, 0); memset(own, 1, 65536); memset(shared, 1, 65536);
  sharing("own", own); sharing("shared by nobody", shared);
  int up[2], down[2]; pipe(up); pipe(down);
  pid_t p = SPAWN(char c; volatile char sum = 0; for (int i = 0; i < 65536; i += 4096) sum += own[i] + shared[i]; write(up[1], "x", 1); read(down[0], &c, 1); memset(own, 2, 65536); write(up[1], "x", 1); read(down[0], &c, 1));
  char c; read(up[0], &c, 1); sharing("shared by two", shared);
  write(down[1], "x", 1); read(up[0], &c, 1); sharing("copied", own); sharing("still shared", shared); write(down[1], "x", 1); WAIT(p); sharing("alone", shared);
}
