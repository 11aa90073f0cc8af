/* mmap, munmap, mprotect, mremap, brk, madvise, msync, mincore: results, errnos and what the bytes are afterwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define P 4096
#define SHOW(name, e)                                                               \
  do {                                                                              \
    errno = 0;                                                                      \
    long r_ = (long)(e);                                                            \
    printf("%-36s %s errno %d\n", name, r_ == -1 ? "-1" : r_ == 0 ? "0" : "+", errno); \
  } while (0)
static char *map(size_t n) { return mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

int main() {
  setvbuf(stdout, 0, _IONBF, 0);
  SHOW("mmap length 0", mmap(0, 0, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  SHOW("mmap no type", mmap(0, P, 3, MAP_ANONYMOUS, -1, 0));
  SHOW("mmap both types", mmap(0, P, 3, 3 | MAP_ANONYMOUS, -1, 0));
  SHOW("mmap bad offset", mmap(0, P, 3, MAP_PRIVATE, 0, 1));
  SHOW("mmap bad fd", mmap(0, P, 3, MAP_PRIVATE, 99, 0));
  SHOW("mmap too long", mmap(0, 1ul << 47, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  SHOW("mmap huge length", mmap(0, -P, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  SHOW("mmap fixed unaligned", mmap((void *)0x10001, P, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  SHOW("mmap fixed kernel", mmap((void *)0x7ffffffff000, P, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  char *a = map(8 * P);
  SHOW("fixed noreplace", mmap(a, P, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  for (int i = 0; i < 8; i++) a[i * P] = i + 1;
  SHOW("munmap unaligned", munmap(a + 1, P));
  SHOW("munmap 0", munmap(a, 0));
  SHOW("munmap middle", munmap(a + 3 * P, P));
  SHOW("munmap again", munmap(a + 3 * P, P));
  SHOW("mprotect over the hole", mprotect(a, 8 * P, PROT_READ));
  SHOW("mprotect bad prot", mprotect(a, P, 0x40));
  SHOW("mprotect 0", mprotect(a, 0, PROT_READ));
  SHOW("mprotect rw", mprotect(a, 3 * P, PROT_READ | PROT_WRITE));
  printf("bytes %d %d %d %d\n", a[0], a[P], a[2 * P], a[4 * P]);
  char *b = mremap(a, 3 * P, 6 * P, MREMAP_MAYMOVE);
  printf("moved %d bytes %d %d %d %d\n", b != a, b[0], b[P], b[2 * P], b[5 * P]);
  SHOW("mremap old gone", mremap(a, P, P, 0));
  SHOW("mremap shrink", mremap(b, 6 * P, 2 * P, 0));
  SHOW("mremap new 0", mremap(b, P, 0, 0));
  SHOW("mremap unaligned", mremap(b + 1, P, P, 0));
  SHOW("mremap bad flags", mremap(b, P, P, 8));
  SHOW("mremap fixed alone", mremap(b, P, P, MREMAP_FIXED, a));
  char *c = map(4 * P);
  memset(c, 7, 4 * P);
  SHOW("mremap fixed", mremap(b, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, c + P));
  printf("bytes %d %d %d %d\n", c[0], c[P], c[2 * P], c[3 * P]);
  c = map(2 * P);
  memset(c, 7, 2 * P);
  char *d = mremap(c, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
  printf("dontunmap %d: %d %d, left %d\n", d != c, d[0], d[P], c[0]);
  SHOW("madvise dontneed", madvise(d, 2 * P, MADV_DONTNEED));
  printf("zero %d %d\n", d[0], d[P]);
  SHOW("madvise unaligned", madvise(d + 1, P, MADV_DONTNEED));
  SHOW("madvise unknown", madvise(d, P, 999));
  SHOW("madvise hole", madvise(a, 8 * P, MADV_DONTNEED));
  SHOW("madvise 0", madvise(a, 0, MADV_WILLNEED));
  d[0] = 9;
  SHOW("wipeonfork", madvise(d, P, MADV_WIPEONFORK));
  SHOW("dontfork", madvise(d + P, P, MADV_DONTFORK));
  fflush(stdout);
  pid_t pid = fork();
  if (!pid) {
    unsigned char v;
    int r = mincore(d + P, P, &v);
    printf("child sees %d, next %d errno %d\n", d[0], r, errno);
    fflush(stdout);
    _exit(0);
  }
  waitpid(pid, 0, 0);
  char *s = mmap(0, 2 * P, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char *q = map(2 * P);
  s[0] = q[0] = 1;
  fflush(stdout);
  pid = fork();
  if (!pid) {
    s[0] = 2;
    q[0] = 2;
    s[P] = 5;
    _exit(0);
  }
  waitpid(pid, 0, 0);
  printf("shared %d %d private %d\n", s[0], s[P], q[0]);
  char *t = mremap(s, 0, 2 * P, MREMAP_MAYMOVE);
  printf("second view %d, same %d\n", t != s, (t[0] = 33, s[0]));
  SHOW("mremap 0 private", mremap(q, 0, P, MREMAP_MAYMOVE));
  char name[] = "/tmp/rf-forms-XXXXXX";
  int fd = mkstemp(name);
  unlink(name);
  if (write(fd, "hello", 5) != 5 || ftruncate(fd, 3 * P)) return 1;
  char *f = mmap(0, 3 * P, 3, MAP_SHARED, fd, 0), *g = mmap(0, 3 * P, 3, MAP_PRIVATE, fd, 0);
  f[1] = 'u';
  printf("shared %.5s private %.5s\n", f, g);
  g[0] = 'J';
  char buf[6] = {0};
  pread(fd, buf, 5, 0);
  printf("file %s private %.5s\n", buf, g);
  pwrite(fd, "world", 5, P);
  printf("page 2 %.5s %.5s\n", f + P, g + P);
  SHOW("msync", msync(f, 3 * P, MS_SYNC));
  SHOW("msync both", msync(f, P, MS_SYNC | MS_ASYNC));
  SHOW("msync hole", msync(a, 8 * P, MS_SYNC));
  SHOW("msync unaligned", msync(f + 1, P, MS_SYNC));
  int ro = open("/etc/passwd", O_RDONLY);
  SHOW("shared write of read-only fd", mmap(0, P, PROT_WRITE, MAP_SHARED, ro, 0));
  char *w = mmap(0, P, PROT_READ, MAP_SHARED, ro, 0);
  SHOW("mprotect write of it", mprotect(w, P, PROT_READ | PROT_WRITE));
  SHOW("mmap of a directory", mmap(0, P, PROT_READ, MAP_PRIVATE, open("/", O_RDONLY), 0));
  char *brk0 = sbrk(0);
  SHOW("sbrk", sbrk(10 * P));
  brk0[9 * P] = 1;
  SHOW("sbrk back", sbrk(-10 * P));
  SHOW("sbrk again", sbrk(10 * P));
  printf("fresh %d\n", brk0[9 * P]);
  struct rlimit l = {64 << 20, RLIM_INFINITY};
  setrlimit(RLIMIT_DATA, &l);
  SHOW("beyond RLIMIT_DATA", map(128 << 20));
  SHOW("sbrk beyond it", sbrk(128 << 20));
  SHOW("reserve a terabyte", mmap(0, 1ul << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  l.rlim_cur = 200ul << 20;
  unsigned char vec[4];
  SHOW("mincore bad range", mincore(a, 8 * P, vec));
  SHOW("mincore unaligned", mincore(s + 1, P, vec));
  SHOW("mlock", mlock(s, 2 * P));
  SHOW("munlock", munlock(s, 2 * P));
  return 0;
}
