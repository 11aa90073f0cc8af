/* What administrators do: accounting, the log, sysctl, promised processor time, what a program says of itself. */
#include "../case.h"
#include <sys/prctl.h>
#define USER(...) CHILD(become(1000, 1000); __VA_ARGS__)

static long put(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0) return -errno;
  long n = write(fd, text, strlen(text));
  n = n < 0 ? -errno : n;
  close(fd);
  return n;
}
static void get(const char *path, char *text, int size) {
  int fd = open(path, O_RDONLY);
  long n = fd < 0 ? 0 : read(fd, text, size - 1);
  text[n < 0 ? 0 : n] = 0;
  close(fd);
}
/* Writes and reads back, and leaves what was there. In a namespace of its own where there is one for it. */
static void number(const char *path, const char *const *texts) {
  char old[300], now[300];
  get(path, old, sizeof old);
  for (; *texts; texts++) {
    long r = put(path, *texts);
    get(path, now, sizeof now);
    out("%s \"%s\" %s %ld %s", strrchr(path, '/'), *texts, r < 0 ? error_name(-r) : "ok", r < 0 ? 0 : r, now);
    put(path, old);
  }
}
#define NUMBERS(path, ...) number("/proc/sys/" path, (const char *const[]){__VA_ARGS__, 0})

CASE(sysctl, ipc) {
  NEED(S(unshare, CLONE_NEWIPC) == 0);
  NUMBERS("kernel/msgmax", "100", "0", "-1", "0x10", "2147483648", "x", "", "5 6", "7x", "+1", "0x+1", "0+7", "-0x1", "--1");
  NUMBERS("kernel/msgmnb", "1000", "-1", "17");
  NUMBERS("kernel/msgmni", "5", "32768", "32769", "-1");
  NUMBERS("kernel/shmmni", "5", "32768", "32769", "-1");
  NUMBERS("kernel/shmmax", "4096", "18446744073709551615");
  NUMBERS("kernel/shmall", "4096", "0");
  NUMBERS("kernel/sem", "10 20 30 40", "11", "12 13", "1 2 3 32769");
  NUMBERS("fs/mqueue/msg_max", "20", "0", "65536", "65537");
  NUMBERS("fs/mqueue/msgsize_max", "128", "127", "16777216", "16777217");
  NUMBERS("fs/mqueue/queues_max", "5");
}
CASE(sysctl, ipc_effects) {
  NEED(S(unshare, CLONE_NEWIPC) == 0);
  put("/proc/sys/kernel/msgmax", "10");
  int q = S(msgget, 0, 0600);
  struct { long type; char text[100]; } m = {1, "x"};
  R(msgsnd, q, &m, 10, 0);
  R(msgsnd, q, &m, 11, 0);
  put("/proc/sys/kernel/msgmni", "2");
  OK(msgget, 0, 0600);
  R(msgget, 0, 0600);
  put("/proc/sys/kernel/msgmni", "100");
  put("/proc/sys/kernel/msgmnb", "20");
  q = S(msgget, 0, 0600);
  R(msgsnd, q, &m, 10, 04000);
  R(msgsnd, q, &m, 10, 04000);
  R(msgsnd, q, &m, 10, 04000);
  put("/proc/sys/kernel/shmmax", "8192");
  OK(shmget, 0, 8192, 0600);
  R(shmget, 0, 8193, 0600);
  put("/proc/sys/kernel/shmall", "3");
  R(shmget, 0, 8192, 0600);
  OK(shmget, 0, 4096, 0600);
  put("/proc/sys/kernel/shmall", "100");
  put("/proc/sys/kernel/shmmni", "2");
  R(shmget, 0, 4096, 0600);
  put("/proc/sys/kernel/sem", "3 8 2 5");
  R(semget, 0, 4, 0600);
  int s = S(semget, 0, 3, 0600);
  OK(semget, 0, 3, 0600);
  R(semget, 0, 3, 0600);
  short ops[9] = {0};
  R(semop, s, ops, 2);
  R(semop, s, ops, 3);
}
CASE(sysctl, next_id) {
  NEED(S(unshare, CLONE_NEWIPC) == 0);
  show("/proc/sys/kernel/msg_next_id");
  V("put", put("/proc/sys/kernel/msg_next_id", "65540"));
  R(msgget, 0, 0600);
  show("/proc/sys/kernel/msg_next_id");
  R(msgget, 0, 0600);
  V("put", put("/proc/sys/kernel/shm_next_id", "7"));
  R(shmget, 0, 1, 0600);
  V("put", put("/proc/sys/kernel/shm_next_id", "7"));
  R(shmget, 0, 1, 0600);
  V("put", put("/proc/sys/kernel/sem_next_id", "-1"));
}
CASE(sysctl, of_the_machine_is_not_for_users) {
  USER(V("pid_max", put("/proc/sys/kernel/pid_max", "1000")); V("nr_open", put("/proc/sys/fs/nr_open", "1000"));
       V("printk", put("/proc/sys/kernel/printk", "1")); V("core_pattern", put("/proc/sys/kernel/core_pattern", "x"));
       V("max_map_count", put("/proc/sys/vm/max_map_count", "10")); V("msgmax", put("/proc/sys/kernel/msgmax", "10")));
}

CASE(prctl, set_mm_map) {
  u64 map[13] = {0};
  u32 size = 0;
  NEED(S(prctl, 35, 15, &size, 0, 0) == 0);
  P(size);
  R(prctl, 35, 15, BAD, 0, 0);
  R(prctl, 35, 14, map, 8, 0);
  R(prctl, 35, 14, BAD, 104, 0);
  R(prctl, 35, 14, map, 104, 0);
  R(prctl, 35, 14, map, 104, 1);
  char *p = pages(16);
  for (int i = 0; i < 11; i++) map[i] = (u64)p + i * 4096;
  map[12] = 0xffffffffull << 32;
  CHILD(strcpy(p + 7 * 4096, "new arguments"); R(prctl, 35, 14, map, 104, 0); show("/proc/self/cmdline"));
  map[0] = map[1];
  R(prctl, 35, 14, map, 104, 0);
  map[0] = (u64)p;
  map[12] |= 100000;
  R(prctl, 35, 14, map, 104, 0);
}

struct attr { u32 size, policy; u64 flags; int nice; u32 priority; u64 runtime, deadline, period; };
CASE(sched_setattr, deadline_parameters) {
  struct attr a = {.size = 48, .policy = 6};
  R(sched_setattr, 0, &a, 0);
  a.runtime = 1000, a.deadline = a.period = 1000000;
  R(sched_setattr, 0, &a, 0);
  a.runtime = 2000000;
  R(sched_setattr, 0, &a, 0);
  a.runtime = 10000, a.period = 900000;
  R(sched_setattr, 0, &a, 0);
  a.deadline = a.period = 90000;
  R(sched_setattr, 0, &a, 0);
  a.deadline = a.period = 5000000000ull;
  R(sched_setattr, 0, &a, 0);
  a.deadline = a.period = 1ull << 63;
  R(sched_setattr, 0, &a, 0);
  a.deadline = a.period = 1000000, a.priority = 1;
  R(sched_setattr, 0, &a, 0);
  a.priority = 0;
  USER(R(sched_setattr, 0, &a, 0));
  R(sched_setscheduler, 0, 6, &a.priority);
}

CASE(reboot, arguments) {
  R(reboot, 0xfee1dead, 0, 0, 0);
  R(reboot, 0xfee1dead, 672274793, 0x12345678, 0);
  R(reboot, 0, 672274793, 0, 0);
}
/* Who waits for the end that a command brings. */
static void pause_or_end(u32 command) { if (command != 0x89abcdef && command) pause(); }
#define INSIDE(...) \
  ({ pid_t p_ = raw_call(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0, 0); if (p_ == 0) { __VA_ARGS__; _exit(0); } p_; })
CASE(reboot, ends_a_pid_namespace) {
  const u32 commands[] = {0x01234567, 0x4321fedc, 0xcdef0123, 0x89abcdef, 0};
  for (int i = 0; i < 5; i++) {
    pid_t p = INSIDE(CHILD(long r = S(reboot, 0xfee1dead, 672274793, commands[i], 0); V("returned", r)); pause_or_end(commands[i]));
    NEED(p > 0);
    show_status("namespace", reap(p));
  }
}

static void accounting(void) {
  touch("log");
  NEED(S(acct, "log") == 0);
  CHILD(_exit(7));
  pid_t killed = fork();
  if (killed == 0) raise(SIGKILL);
  reap(killed);
  R(acct, 0);
  int fd = open("log", O_RDONLY), found = 0;
  u8 r[64];
  while (read(fd, r, 64) == 64) {
    u32 status, pid, parent;
    memcpy(&status, r + 4, 4), memcpy(&pid, r + 16, 4), memcpy(&parent, r + 20, 4);
    found++;
    out("pid %d of %d flag %x version %d status %#x uid %d\n", pid, parent, r[0] & 0x19, r[1], status, r[8]);
  }
  P(found);
}
/* Accounting is a PID namespace's own. */
CASE(acct, writes_records) {
  pid_t p = INSIDE(accounting());
  NEED(p > 0);
  WAIT(p);
}
CASE(acct, errnos) {
  mkdir("d", 0755);
  R(acct, "d");
  R(acct, "/dev/null");
  R(acct, BAD);
  R(acct, "none");
  USER(R(acct, "none"));
}
