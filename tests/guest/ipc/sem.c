/* System V semaphores: operations, undo, timeouts, every command and error. */
#include "print.h"
#include <sys/ipc.h>
#include <sys/sem.h>

union semun {
  int val;
  struct semid_ds *buf;
  unsigned short *array;
  struct seminfo *info;
};
static int op(int id, int num, int by, int flags) {
  struct sembuf b = {num, by, flags};
  return semop(id, &b, 1);
}
static void show(int id) {
  unsigned short v[8];
  struct semid_ds ds;
  if (semctl(id, 0, GETALL, (union semun){.array = v})) {
    printf("getall %d\n", errno);
    return;
  }
  semctl(id, 0, IPC_STAT, (union semun){.buf = &ds});
  printf("values %d %d %d nsems %ld mode %o otime %d ctime %d pid %d\n", v[0], v[1], v[2], (long)ds.sem_nsems,
         ds.sem_perm.mode, ds.sem_otime > 0, ds.sem_ctime > 0, semctl(id, 0, GETPID) == getpid());
}
static void nothing(int s) {}
int main(void) {
  key_t key = 0x52460000 + (getpid() & 0xffff);
  union semun u;
  struct semid_ds ds;
  E("none", semget(key, 3, 0600));
  E("zero", semget(key, 0, IPC_CREAT | 0600));
  E("many", semget(key, 40000, IPC_CREAT | 0600));
  E("negative", semget(key, -1, IPC_CREAT | 0600));
  int id = OK("make", semget(key, 3, IPC_CREAT | 0600));
  E("excl", semget(key, 3, IPC_CREAT | IPC_EXCL | 0600));
  E("more", semget(key, 4, 0));
  printf("fewer %d\n", semget(key, 0, 0) == id);
  show(id);
  E("up", op(id, 0, 2, 0));
  E("down", op(id, 0, -1, 0));
  E("nowait", op(id, 0, -2, IPC_NOWAIT));
  E("zero nowait", op(id, 0, 0, IPC_NOWAIT));
  E("zero", op(id, 1, 0, 0));
  E("efbig", op(id, 3, 1, 0));
  E("range", op(id, 0, 32767, 0));
  E("no ops", semop(id, 0, 0));
  E("fault", semop(id, (void *)8, 1));
  struct sembuf many[501];
  memset(many, 0, sizeof many);
  E("too many", semop(id, many, 501));
  for (int i = 0; i < 501; i++) many[i].sem_num = 1;
  E("500", semop(id, many, 500));
  E("bad id", op(-1, 0, 1, 0));
  E("unknown id", op(0x7fff0123, 0, 1, 0));
  struct timespec t = {0, 20000000}, bad = {0, 1000000000}, neg = {-1, 0};
  struct sembuf down = {1, -1, 0};
  E("timeout", semtimedop(id, &down, 1, &t));
  E("bad timeout", semtimedop(id, &down, 1, &bad));
  E("negative timeout", semtimedop(id, &down, 1, &neg));
  E("timeout fault", syscall(SYS_semtimedop, id, &down, 1, 8));
  struct sembuf both[] = {{0, -1, 0}, {1, -1, IPC_NOWAIT}};
  E("all or nothing", semop(id, both, 2));
  show(id);
  struct sembuf twice[] = {{2, 3, 0}, {2, -2, 0}, {0, 0, IPC_NOWAIT}};
  E("undone in order", semop(id, twice, 3));
  show(id);
  u.val = 5;
  E("setval", semctl(id, 2, SETVAL, u));
  u.val = 32768;
  E("setval range", semctl(id, 2, SETVAL, u));
  u.val = -1;
  E("setval negative", semctl(id, 2, SETVAL, u));
  u.val = 1;
  E("setval num", semctl(id, 3, SETVAL, u));
  E("getval", semctl(id, 2, GETVAL));
  E("getval num", semctl(id, -1, GETVAL));
  unsigned short v[] = {1, 0, 7}, over[] = {1, 40000, 1};
  u.array = v;
  E("setall", semctl(id, 0, SETALL, u));
  u.array = over;
  E("setall range", semctl(id, 0, SETALL, u));
  u.array = (void *)8;
  E("setall fault", semctl(id, 0, SETALL, u));
  E("getall fault", semctl(id, 0, GETALL, u));
  show(id);
  E("bad command", semctl(id, 0, 99));
  E("bad command and id", semctl(-1, 0, 99));

  /* A waiter is counted, and woken. */
  fflush(stdout);
  pid_t p = fork();
  if (!p) {
    struct sembuf w = {1, -2, 0};
    _exit(semop(id, &w, 1) ? errno : 77);
  }
  wait_asleep(p);
  printf("ncnt %d zcnt %d\n", semctl(id, 1, GETNCNT), semctl(id, 1, GETZCNT));
  E("one", op(id, 1, 1, 0));
  E("two", op(id, 1, 1, 0));
  int st;
  waitpid(p, &st, 0);
  printf("woken %d, pid is its %d\n", WEXITSTATUS(st), semctl(id, 1, GETPID) == p);
  p = fork();
  if (!p) _exit(op(id, 0, 0, 0) ? errno : 78);
  wait_asleep(p);
  printf("ncnt %d zcnt %d\n", semctl(id, 0, GETNCNT), semctl(id, 0, GETZCNT));
  E("to zero", op(id, 0, -1, 0));
  waitpid(p, &st, 0);
  printf("woken %d\n", WEXITSTATUS(st));

  /* Signals always end the wait. */
  struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &sa, 0);
  p = fork();
  if (!p) _exit(op(id, 0, -1, 0) ? errno : 79);
  wait_asleep(p);
  kill(p, SIGUSR1);
  waitpid(p, &st, 0);
  printf("interrupted %d, waiting %d\n", WEXITSTATUS(st), semctl(id, 0, GETNCNT));

  /* Undo. */
  CHILD({
    op(id, 0, 3, SEM_UNDO);
    op(id, 2, -2, SEM_UNDO);
    show(id);
    CHILD({ E("inherited undo is not", op(id, 1, 1, SEM_UNDO)); });
    E("undo range", op(id, 2, 32760, SEM_UNDO));
  });
  show(id);
  CHILD({
    op(id, 0, 3, SEM_UNDO);
    op(id, 0, -2, 0);
    show(id);
  });
  show(id);
  CHILD({
    op(id, 0, 4, SEM_UNDO);
    u.val = 2;
    semctl(id, 0, SETVAL, u);
  });
  show(id);
  p = fork();
  if (!p) {
    op(id, 0, -2, SEM_UNDO);
    execl("/bin/true", "true", NULL);
    _exit(1);
  }
  waitpid(p, &st, 0);
  show(id);

  struct seminfo info;
  u.info = &info;
  OK("ipc_info", semctl(0, 0, IPC_INFO, u));
  printf("%d %d %d %d %d %d %d %d %d %d\n", info.semmap, info.semmni, info.semmns, info.semmnu, info.semmsl,
         info.semopm, info.semume, info.semusz, info.semvmx, info.semaem);
  int max = OK("sem_info", semctl(0, 0, SEM_INFO, u)), hit = 0;
  u.buf = &ds;
  for (int i = 0; i <= max; i++) hit += semctl(i, 0, SEM_STAT, u) == id;
  printf("stat by slot %d\n", hit);
  E("empty slot", semctl(31000, 0, SEM_STAT, u));
  semctl(id, 0, IPC_STAT, u);
  ds.sem_perm.mode = 0604;
  E("set", semctl(id, 0, IPC_SET, u));
  show(id);
  CHILD({
    setgid(1234);
    setuid(1234);
    E("other reads", semctl(id, 0, GETVAL));
    E("other waits for zero", op(id, 1, 0, IPC_NOWAIT));
    E("other writes", op(id, 0, 1, 0));
    E("other sets", semctl(id, 0, SETVAL, (union semun){.val = 1}));
    E("other removes", semctl(id, 0, IPC_RMID));
  });
  p = fork();
  if (!p) _exit(op(id, 0, -30, 0) ? errno : 80);
  wait_asleep(p);
  E("remove", semctl(id, 0, IPC_RMID));
  waitpid(p, &st, 0);
  printf("waiter got %d\n", WEXITSTATUS(st));
  E("gone", op(id, 0, 1, 0));
  E("gone ctl", semctl(id, 0, GETVAL));

  /* Contention: four processes pass a token. */
  id = semget(IPC_PRIVATE, 4, 0600);
  op(id, 0, 1, 0);
  int *n = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 4; i++)
    if (!fork()) {
      for (int j = 0; j < 200; j++) {
        op(id, i, -1, 0);
        ++*n;
        op(id, (i + 1) % 4, 1, 0);
      }
      _exit(0);
    }
  while (wait(0) > 0);
  printf("rounds %d\n", *n);
  E("remove", semctl(id, 0, IPC_RMID));
  return 0;
}
