/* System V message queues: types, limits, every command and error. */
#include "print.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

static struct {
  long type;
  char text[9000];
} m;
static long snd(int id, long type, const char *text, int flags) {
  m.type = type;
  strcpy(m.text, text);
  return msgsnd(id, &m, strlen(text), flags);
}
static void rcv(int id, long type, int flags, size_t size) {
  memset(&m, 0, sizeof m);
  errno = 0;
  ssize_t n = msgrcv(id, &m, size, type, flags);
  printf("got %zd %d type %ld <%s>\n", n, errno, m.type, m.text);
}
static void show(int id) {
  struct msqid_ds d;
  if (msgctl(id, IPC_STAT, &d)) {
    printf("stat %d\n", errno);
    return;
  }
  printf("q %lu bytes %lu max %lu mode %o s %d r %d c %d lsp %d lrp %d\n", d.msg_qnum, d.__msg_cbytes, d.msg_qbytes,
         d.msg_perm.mode, d.msg_stime > 0, d.msg_rtime > 0, d.msg_ctime > 0, d.msg_lspid == getpid(),
         d.msg_lrpid == getpid());
}
static void nothing(int s) {}
int main(void) {
  key_t key = 0x52460000 + (getpid() & 0xffff);
  struct msqid_ds d;
  E("none", msgget(key, 0600));
  int id = OK("make", msgget(key, IPC_CREAT | 0600));
  E("excl", msgget(key, IPC_CREAT | IPC_EXCL | 0600));
  printf("same %d\n", msgget(key, 0) == id);
  show(id);
  E("type 0", snd(id, 0, "x", 0));
  E("type -1", snd(id, -1, "x", 0));
  E("size", msgsnd(id, &m, 9000, 0));
  m.type = 1;
  E("size 2", msgsnd(id, &m, 8193, 0));
  E("fault", msgsnd(id, (void *)8, 1, 0));
  E("bad id", msgsnd(-1, &m, 1, 0));
  E("unknown id", msgsnd(0x7fff0123, &m, 1, 0));
  E("a", snd(id, 3, "three", 0));
  E("b", snd(id, 1, "one", 0));
  E("c", snd(id, 2, "two", 0));
  E("d", snd(id, 1, "one again", 0));
  E("empty", snd(id, 9, "", 0));
  show(id);
  rcv(id, 2, 0, 100);
  rcv(id, -2, 0, 100);
  rcv(id, 1, MSG_EXCEPT, 100);
  rcv(id, 1, 0, 3);
  rcv(id, 1, MSG_NOERROR, 3);
  rcv(id, 5, IPC_NOWAIT, 100);
  rcv(id, 0, MSG_COPY | IPC_NOWAIT, 100);
  rcv(id, 1, MSG_COPY | IPC_NOWAIT, 100);
  rcv(id, 0, MSG_COPY, 100);
  rcv(id, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT, 100);
  rcv(id, 0, 0, 100);
  rcv(id, 0, IPC_NOWAIT, 100);
  E("rcv bad id", msgrcv(-1, &m, 1, 0, 0));
  E("rcv bad size", msgrcv(id, &m, -1, 0, 0));
  show(id);
  /* Full. */
  memset(m.text, 'x', sizeof m.text);
  m.type = 1;
  E("8192", msgsnd(id, &m, 8192, IPC_NOWAIT));
  E("8192", msgsnd(id, &m, 8192, IPC_NOWAIT));
  E("full", msgsnd(id, &m, 1, IPC_NOWAIT));
  E("zero bytes fit", msgsnd(id, &m, 0, IPC_NOWAIT));
  show(id);
  fflush(stdout);
  int st;
  pid_t p = fork();
  if (!p) {
    m.type = 7;
    _exit(msgsnd(id, &m, 10, 0) ? errno : 77);
  }
  wait_asleep(p);
  printf("drain %zd\n", msgrcv(id, &m, 9000, 0, 0));
  waitpid(p, &st, 0);
  printf("sender %d\n", WEXITSTATUS(st));
  printf("drain %zd\n", msgrcv(id, &m, 9000, 0, 0));
  printf("drain %zd\n", msgrcv(id, &m, 9000, 7, 0));
  printf("drain %zd\n", msgrcv(id, &m, 9000, 0, 0));
  fflush(stdout);
  p = fork();
  if (!p) _exit(msgrcv(id, &m, 100, 4, 0) == 2 && m.text[0] == 'h' ? 66 : 1);
  wait_asleep(p);
  E("other type", snd(id, 5, "zz", 0));
  E("its type", snd(id, 4, "hi", 0));
  waitpid(p, &st, 0);
  printf("receiver %d\n", WEXITSTATUS(st));
  rcv(id, 0, 0, 10);
  struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &sa, 0);
  fflush(stdout);
  p = fork();
  if (!p) _exit(msgrcv(id, &m, 100, 0, 0) < 0 ? errno : 1);
  wait_asleep(p);
  kill(p, SIGUSR1);
  waitpid(p, &st, 0);
  printf("interrupted %d\n", WEXITSTATUS(st));
  msgctl(id, IPC_STAT, &d);
  d.msg_qbytes = 100;
  d.msg_perm.mode = 0604;
  E("set", msgctl(id, IPC_SET, &d));
  show(id);
  E("over", msgsnd(id, &m, 101, IPC_NOWAIT));
  E("set fault", msgctl(id, IPC_SET, (void *)8));
  E("stat fault", msgctl(id, IPC_STAT, (void *)8));
  E("bad command", msgctl(id, 99, &d));
  E("negative", msgctl(-1, IPC_STAT, &d));
  CHILD({
    setgid(1234);
    setuid(1234);
    E("other reads", msgrcv(id, &m, 10, 0, IPC_NOWAIT));
    E("other writes", msgsnd(id, &m, 10, IPC_NOWAIT));
    E("other gets", msgget(key, 0200));
    E("other removes", msgctl(id, IPC_RMID, 0));
    E("other sets", msgctl(id, IPC_SET, &d));
  });
  struct msginfo info;
  OK("info", msgctl(0, IPC_INFO, (void *)&info));
  printf("%d %d %d %d %d %d %d %d\n", info.msgpool, info.msgmap, info.msgmax, info.msgmnb, info.msgmni > 0, info.msgssz,
         info.msgtql, info.msgseg);
  int max = OK("msg_info", msgctl(0, MSG_INFO, (void *)&info)), hit = 0;
  for (int i = 0; i <= max; i++) hit += msgctl(i, MSG_STAT, &d) == id;
  printf("by slot %d\n", hit);
  fflush(stdout);
  p = fork();
  if (!p) _exit(msgrcv(id, &m, 100, 0, 0) < 0 ? errno : 1);
  wait_asleep(p);
  E("remove", msgctl(id, IPC_RMID, 0));
  waitpid(p, &st, 0);
  printf("waiter got %d\n", WEXITSTATUS(st));
  E("gone", msgrcv(id, &m, 100, 0, 0));
  E("gone snd", msgsnd(id, &m, 1, 0));
  return 0;
}
