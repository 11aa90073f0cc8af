/* System V shared memory: every command and error. */
#include "print.h"
#include <sys/ipc.h>
#include <sys/shm.h>

static struct shmid_ds ds;
static void show(int id) {
  if (shmctl(id, IPC_STAT, &ds)) {
    printf("stat %d\n", errno);
    return;
  }
  printf("size %zu mode %o nattch %ld key %d cpid %d lpid %d a %d d %d c %d\n", ds.shm_segsz, ds.shm_perm.mode,
         (long)ds.shm_nattch, ds.shm_perm.__key != 0, ds.shm_cpid == getpid(), ds.shm_lpid == getpid(), ds.shm_atime > 0,
         ds.shm_dtime > 0, ds.shm_ctime > 0);
}
int main(void) {
  key_t key = 0x52460000 + (getpid() & 0xffff);
  E("no key", shmget(key, 4096, 0600));
  E("size 0", shmget(key, 0, IPC_CREAT | 0600));
  E("too large", shmget(key, ~0UL, IPC_CREAT | 0600));
  int id = OK("make", shmget(key, 10000, IPC_CREAT | 0640));
  E("excl", shmget(key, 10000, IPC_CREAT | IPC_EXCL | 0600));
  printf("same %d\n", shmget(key, 5000, 0) == id);
  printf("size 0 of one that exists %d\n", shmget(key, 0, 0) == id);
  E("larger", shmget(key, 20000, 0600));
  show(id);
  char *a = (char *)OK("attach", shmat(id, 0, 0));
  char *b = (char *)OK("again", shmat(id, 0, SHM_RDONLY));
  strcpy(a, "hello");
  printf("seen %s\n", b);
  show(id);
  char line[256], want[64];
  snprintf(want, sizeof want, "SYSV%08x (deleted)", key);
  FILE *f = fopen("/proc/self/maps", "r");
  int found = 0;
  while (fgets(line, sizeof line, f))
    if (strstr(line, want)) {
      unsigned long inode = 0;
      sscanf(line, "%*s %*s %*s %*s %lu", &inode);
      char perms[5] = "";
      sscanf(line, "%*s %4s", perms);
      printf("maps %s %d\n", perms, inode == (unsigned)id);
      found++;
    }
  fclose(f);
  printf("areas %d\n", found);
  E("taken", shmat(id, a, 0));
  E("unaligned", shmat(id, a + 1, 0));
  E("remap null", shmat(id, 0, SHM_REMAP));
  printf("remap %d\n", shmat(id, a, SHM_REMAP) == a);
  printf("rnd %d\n", shmat(id, b + 100, SHM_REMAP | SHM_RND) == b);
  E("write through mprotect", mprotect(b, 4096, PROT_READ));
  show(id);
  CHILD({
    printf("child sees %s\n", a);
    show(id);
    strcpy(a, "from child");
    E("child detach", shmdt(a));
    E("child detach twice", shmdt(a));
    show(id);
  });
  show(id);
  printf("parent sees %s\n", a);
  E("dt unaligned", shmdt(a + 1));
  E("dt nothing", shmdt((void *)0x10000));
  E("hole", munmap(a + 4096, 4096));
  show(id);
  E("dt with hole", shmdt(a));
  show(id);
  E("bad command", shmctl(id, 99, &ds));
  E("negative", shmctl(-1, IPC_STAT, &ds));
  E("stat fault", shmctl(id, IPC_STAT, (void *)8));
  E("set fault", shmctl(id, IPC_SET, (void *)8));
  ds.shm_perm.mode = 0604;
  E("set", shmctl(id, IPC_SET, &ds));
  ds.shm_perm.uid = -1;
  E("set bad", shmctl(id, IPC_SET, &ds));
  show(id);
  E("lock", shmctl(id, SHM_LOCK, 0));
  show(id);
  E("unlock", shmctl(id, SHM_UNLOCK, 0));
  struct shminfo info;
  struct shm_info si;
  OK("info", shmctl(0, IPC_INFO, (void *)&info));
  printf("%lx %lu %lu %lu %lx\n", info.shmmax, info.shmmin, info.shmmni, info.shmseg, info.shmall);
  OK("shm_info", shmctl(0, SHM_INFO, (void *)&si));
  printf("used %d\n", si.used_ids >= 1);
  int found_stat = 0;
  int max = shmctl(0, SHM_INFO, (void *)&si);
  for (int i = 0; i <= max; i++) found_stat += shmctl(i, SHM_STAT, &ds) == id;
  printf("stat by slot %d\n", found_stat);
  E("stat empty slot", shmctl(4000, SHM_STAT, &ds));
  CHILD({
    setgid(1234);
    setuid(1234);
    E("other", shmat(id, 0, SHM_RDONLY) == (void *)-1);
    E("other writes", shmat(id, 0, 0));
    E("other get", shmget(key, 0, 0222));
    E("other rm", shmctl(id, IPC_RMID, 0));
    E("other set", shmctl(id, IPC_SET, &ds));
    E("other lock", shmctl(id, SHM_LOCK, 0));
  });
  E("rm while attached", shmctl(id, IPC_RMID, 0));
  show(id);
  E("key is gone", shmget(key, 0, 0));
  printf("still %s\n", b);
  char *c = (char *)OK("attach removed", shmat(id, 0, 0));
  E("dt c", shmdt(c));
  E("dt b", shmdt(b));
  show(id);
  E("gone", shmctl(id, IPC_RMID, 0));
  E("attach gone", shmat(id, 0, 0));
  id = OK("private", shmget(IPC_PRIVATE, 4096, 0600));
  int *n = shmat(id, 0, 0);
  E("rm", shmctl(id, IPC_RMID, 0));
  for (int i = 0; i < 4; i++)
    if (!fork()) {
      for (int j = 0; j < 1000; j++) __sync_fetch_and_add(n, 1);
      _exit(0);
    }
  while (wait(0) > 0);
  printf("counted %d\n", *n);
  E("exec", shmat(id, 0, SHM_EXEC | SHM_RDONLY) != (void *)-1);
  E("negative at", shmat(-1, 0, 0));
  return 0;
}
