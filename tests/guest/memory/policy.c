/* Memory policies on one node, seals, guard pages, and advice about the memory of others. */
#include "../case.h"
#include <sys/shm.h>
#ifndef SYS_pidfd_open
enum { SYS_pidfd_open = 434 };
#endif
#define RW (PROT_READ|PROT_WRITE)
CASE(get_mempolicy, kept) {
  int m; u64 mask[16]; u64 one = 1;
  for (int mode = 0; mode < 9; mode++) for (int e = 0; e < 2; e++) { out("mode %d mask %d: ", mode, e); R(set_mempolicy, mode, e ? &one : 0, e ? 64 : 0); m = -1; memset(mask, 0xff, sizeof mask); R(get_mempolicy, &m, mask, 1024, 0, 0); out("%d %lx %lx\n", m, mask[0], mask[1]); }
  for (u32 f = 13; f < 16; f++) { out("flag %u: ", f); R(set_mempolicy, 2 | 1u << f, &one, 64); R(get_mempolicy, &m, mask, 1024, 0, 0); X(m); }
  R(set_mempolicy, 3 | 0x2000, &one, 64);
  R(set_mempolicy, 2 | 0xc000, &one, 64);
  R(set_mempolicy, 1|0x8000, 0, 0);
  R(set_mempolicy, 0x8000, 0, 0);
  R(set_mempolicy, 2, &one, 1);
  R(set_mempolicy, 2, &one, 2);
  R(set_mempolicy, 2, &one, 0);
  R(set_mempolicy, 2, &one, -1);
  R(set_mempolicy, 2, &one, 40000);
  u64 two = 2, three = 3, z = 0;
  R(set_mempolicy, 2, &two, 64);
  R(set_mempolicy, 2, &three, 64);
  R(get_mempolicy, &m, mask, 1024, 0, 0);
  X(mask[0]);
  R(set_mempolicy, 3, &z, 64);
  R(set_mempolicy, 1, &z, 64);
  R(set_mempolicy, 1, &two, 64);
  R(get_mempolicy, &m, mask, 1024, 0, 0);
  P(m);
  X(mask[0]);
}

CASE(get_mempolicy, flags) {
  int m; u64 mask[16]; char *p = pages(2); p[0] = 1;
  R(get_mempolicy, &m, 0, 0, p, 0);
  R(get_mempolicy, &m, 0, 0, p, 1);
  R(get_mempolicy, &m, mask, 1024, p, 2);
  P(m);
  R(get_mempolicy, &m, mask, 1024, p, 3);
  P(m);
  R(get_mempolicy, &m, mask, 1024, p + 4096, 3);
  P(m);
  R(get_mempolicy, &m, mask, 1024, BAD, 2);
  R(get_mempolicy, &m, mask, 1024, BAD, 3);
  R(get_mempolicy, &m, mask, 63, 0, 0);
  R(get_mempolicy, &m, mask, 64, 0, 0);
  R(get_mempolicy, &m, mask, 1023, 0, 0);
  R(get_mempolicy, &m, mask, 1024, 0, 1);
  R(get_mempolicy, &m, mask, 1024, 0, 2);
  R(get_mempolicy, &m, mask, 1024, 0, 5);
  R(get_mempolicy, &m, mask, 1024, 0, 4);
  R(get_mempolicy, 0, 0, 0, 0, 0);
  R(get_mempolicy, 0, BAD, 1024, 0, 0);
  R(get_mempolicy, 0, 0, 0, 0, 8);
  R(get_mempolicy, 0, mask, 1024, p, 4);
  u64 one=1;
  R(set_mempolicy,3,&one,64);
  R(get_mempolicy, &m,0,0,0,1);
  P(m);
  R(get_mempolicy,&m,0,0,0,0);
}

CASE(mbind, kept) {
  int m;
  u64 mask[16], one = 1;
  char *p = pages(8);
  p[0] = p[4096] = 1;
  R(mbind, p + 4096, 8192, 3, &one, 64, 0);
  for (int i = 0; i < 4; i++) { R(get_mempolicy, &m, mask, 1024, p + 4096 * i, 2); P(m); }
  CHILD(R(get_mempolicy, &m, mask, 1024, p + 4096, 2); P(m));
  R(mbind, p, 0, 99, &one, 64, 0);
  R(mbind, p, 0, 2, &one, 64, 0);
  R(mbind, p, -1l, 2, &one, 64, 0);
  R(mbind, p, 4097, 2, &one, 64, 0);
  R(get_mempolicy, &m, 0, 0, p + 4096, 2);
  P(m);
  munmap(p + 4 * 4096, 4096);
  R(mbind, p, 8 * 4096, 2, &one, 64, 0);
  R(mbind, p, 8 * 4096, 0, 0, 0, 0);
  R(get_mempolicy, &m, 0, 0, p + 4096, 2);
  P(m);
  for (int f = 0; f < 6; f++) { out("flag %d ", f); R(mbind, p, 4096, 2, &one, 64, 1 << f); }
  R(mbind, p, 8*4096, 0, 0, 0, 1);
  R(mbind, p, 8192, 0, 0, 0, 1);
  CHILD(become(1000, 1000); R(mbind, p, 4096, 2, &one, 64, 4));
  R(mbind, p, 4096, 2|0x8000, &one, 64, 0);
  R(mbind, p, 4096, 4, 0, 0, 0);
  R(mbind, p, 4096, 4, &one, 64, 0);
  R(mbind, BAD, 4096, 2, &one, 64, 0);
  R(mbind, 0x10000, 4096, 2, &one, 64, 0);
}

CASE(mbind, maps) {
  u64 one = 1;
  char *p = pages(4);
  R(mbind, p + 4096, 8192, 2, &one, 64, 0);
  char name[200];
  FILE *f = fopen("/proc/self/maps", "r");
  int n = 0;
  while (fgets(name, 200, f)) { unsigned long a, b; sscanf(name, "%lx-%lx", &a, &b); if (a < (u64)p + 16384 && b > (u64)p) n++; }
  P(n);
  fclose(f);
}

CASE(set_mempolicy_home_node, rules) {
  char *p = pages(4);
  u64 one = 1;
  R(set_mempolicy_home_node, p, 4096, 0, 0);
  R(mbind, p, 4096, 2, &one, 64, 0);
  R(set_mempolicy_home_node, p, 4096, 0, 0);
  R(set_mempolicy_home_node, p, 8192, 0, 0);
  R(set_mempolicy_home_node, p + 1, 4096, 0, 0);
  R(set_mempolicy_home_node, p, 0, 0, 0);
  R(set_mempolicy_home_node, p, 4096, 1, 0);
  R(set_mempolicy_home_node, p, 4096, 5000, 0);
  R(mbind, p, 4096, 3, &one, 64, 0);
  R(set_mempolicy_home_node, p, 4096, 0, 0);
  R(mbind, p, 4096, 5, &one, 64, 0);
  R(set_mempolicy_home_node, p, 4096, 0, 0);
  R(set_mempolicy_home_node, BAD, 4096, 0, 0);
  R(set_mempolicy_home_node, 0x10000, 4096, 0, 0);
}

CASE(migrate_pages, rules) {
  u64 one = 1, two = 2, z = 0;
  R(migrate_pages, 0, 64, &one, &one);
  R(migrate_pages, 0, 64, &two, &one);
  R(migrate_pages, 0, 64, &one, &two);
  R(migrate_pages, 0, 64, &z, &z);
  R(migrate_pages, 0, 64, &one, &z);
  R(migrate_pages, getpid(), 64, &one, &one);
  R(migrate_pages, 0, 64, &one, BAD);
  R(migrate_pages, 0, 0, &one, &one);
  CHILD(become(1000, 1000); R(migrate_pages, 0, 64, &one, &one); R(migrate_pages, 1, 64, &one, &one));
  R(migrate_pages, -1, 64, &one, &one);
  u64 big[2] = {1, 1}
  ;
  R(migrate_pages, 0, 128, big, &one);
  R(migrate_pages,0,128,&one,big);
}

CASE(move_pages, rules) {
  char *p = pages(3);
  p[0] = 1;
  p[4096] = 1;
  void *l[4] = {p, p + 4096, (void*)0x10000, KERNEL}
  ;
  int n[4] = {0}
  , s[4] = {99, 99, 99, 99}
  ;
  R(move_pages, 0, 4, l, 0, s, 0);
  for (int i = 0; i < 4; i++) P(s[i]);
  R(move_pages, 0, 4, l, n, s, 2);
  for (int i = 0; i < 4; i++) P(s[i]);
  n[0] = 1;
  R(move_pages, 0, 1, l, n, s, 2);
  P(s[0]);
  n[0] = -1;
  R(move_pages, 0, 1, l, n, s, 2);
  P(s[0]);
  n[0] = 0;
  R(move_pages, 0, 0, l, n, s, 2);
  R(move_pages, 0, 1, l, n, BAD, 2);
  R(move_pages, 0, 1, l, BAD, s, 2);
  R(move_pages, 0, 1, l, 0, BAD, 2);
  R(move_pages, 0, 1, l, n, s, 4);
  CHILD(become(1000, 1000); R(move_pages, 0, 1, l, n, s, 4); R(move_pages, 0, 1, l, n, s, 0); R(move_pages, 1, 1, l, n, s, 2));
  R(move_pages, getpid(), 1, l, 0, s, 0);
  R(move_pages, -1, 1, l, 0, s, 0);
  n[0]=5000;
  R(move_pages, 0, 1, l, n, s, 2);
  P(s[0]);
  R(move_pages, 0, 1, l, n, s, 6);
}

CASE(mseal, rules) {
  char *p = pages(6);
  p[0] = 1;
  NEED(S(mseal, p, 0, 0) != -ENOSYS);
  R(mseal, p + 4096, 4096, 0);
  R(mseal, p + 4096, 4096, 0);
  R(mprotect, p, 4096, PROT_READ);
  R(mprotect, p + 4096, 4096, PROT_READ);
  R(mprotect, p, 3 * 4096, PROT_NONE);
  R(munmap, p, 8192);
  R(munmap, p + 4096, 4096);
  P(S(mmap, p + 4096, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  R(mremap, p + 4096, 4096, 8192, MREMAP_MAYMOVE, 0);
  R(mremap, p + 4096, 4096, 4096, 3, p + 5 * 4096);
  R(mremap, p + 8192, 4096, 4096, 3, p + 4096);
  for (int a = 0; a < 26; a++) { if (a == 12 || a == 13) continue; long r = S(madvise, p + 4096, 4096, a); out("madvise %d %ld\n", a, r); }
  mprotect(p + 8192, 4096, PROT_READ);
  R(mseal, p + 8192, 4096, 0);
  R(madvise, p + 8192, 4096, MADV_DONTNEED);
  R(madvise, p + 8192, 4096, MADV_DONTFORK);
  R(mprotect, p + 8192, 4096, RW);
  R(mseal, p + 3 * 4096, 0, 0);
  R(mseal, p, -1l, 0);
  R(mseal, p + 3 * 4096, 4095, 0);
  R(munmap, p + 3 * 4096, 4096);
  munmap(p + 4 * 4096, 4096);
  R(mseal, p + 4 * 4096, 8192, 0);
  R(munmap, p + 5 * 4096, 4096);
  CHILD(R(munmap, p + 4096, 4096));
  R(mlock, p + 4096, 4096);
  R(munlock, p+4096, 4096);
  char line[300];
  FILE*f=fopen("/proc/self/smaps","r");
  int in=0;
  while(fgets(line,300,f)){unsigned long a,b; if(sscanf(line,"%lx-%lx",&a,&b)==2) in = a==(u64)p+4096; if(in&&!strncmp(line,"VmFlags",7)) out("%s",line);}
  char *v[]={"true",0}
  ;
  execv("/bin/true",v);
}

CASE(madvise, guards) {
  char *p = pages(6);
  NEED(S(madvise, p, 0, 102) == 0);
  memset(p, 7, 6 * 4096);
  R(madvise, p + 4096, 8192, 102);
  R(madvise, p + 4096, 8192, 102);
  struct iovec l = {buf, 4096}
  , r = {p + 4096, 4096}
  ;
  int fds[2];
  pipe(fds);
  R(write, fds[1], p + 4096, 10);
  R(process_vm_readv, getpid(), &l, 1, &r, 1, 0);
  pid_t c = SPAWN(*(volatile char *)(p + 4096));
  WAIT(c);
  c = SPAWN(*(volatile char *)(p + 4096) = 1);
  WAIT(c);
  c = SPAWN(out("%d\n", p[0] + p[3 * 4096]));
  WAIT(c);
  R(madvise, p, 6 * 4096, MADV_DONTNEED);
  c = SPAWN(*(volatile char *)(p + 4096));
  WAIT(c);
  R(mprotect, p, 6 * 4096, PROT_READ);
  c = SPAWN(*(volatile char *)(p + 4096));
  WAIT(c);
  R(mprotect, p, 6 * 4096, RW);
  c = SPAWN(*(volatile char *)(p + 4096));
  WAIT(c);
  R(madvise, p, 6 * 4096, MADV_POPULATE_READ);
  R(madvise, p + 4096, 4096, 103);
  P(p[4096]);
  c = SPAWN(*(volatile char *)(p + 8192));
  WAIT(c);
  R(madvise, p, 6 * 4096, 103);
  P(p[8192]);
  R(madvise, p + 4096, 4096, 102);
  char *q = mremap(p, 3 * 4096, 3 * 4096, 3, pages(3));
  c = SPAWN(*(volatile char *)(q + 4096));
  WAIT(c);
  R(mlock, q, 4096);
  R(madvise, q, 4096, 102);
  R(madvise, q + 1, 4096, 102);
  R(madvise, BAD + 4088, 4096, 102);
  int fd = memfd_create("x", 0);
  ftruncate(fd, 8192);
  char *m = mmap(0, 8192, RW, MAP_SHARED, fd, 0);
  R(madvise, m, 4096, 102);
  c = SPAWN(*(volatile char *)m);
  WAIT(c);
  char *ro = mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  R(madvise, ro, 4096, 102);
  R(madvise, ro, 4096, 103);
  char map[300];
  FILE *f = fopen("/proc/self/maps", "r");
  int n = 0;
  while (fgets(map, 300, f)) { unsigned long a, b; sscanf(map, "%lx-%lx", &a, &b); if (a < (u64)q + 3 * 4096 && b > (u64)q) n++; }
  P(n);
  munmap(p+3*4096,4096);
  R(madvise, p + 3*4096, 8192, 102);
  R(madvise,q+4096,4096,102);
  R(munmap,q+4096,4096);
  int pf = S(pidfd_open, getpid(), 0);
  R(process_madvise, pf, &l, 1, 102, 0);
}

CASE(process_madvise, other) {
  char *p = pages(2);
  p[0] = 1;
  int fd;
  struct iovec v[3] = {{p, 4096}, {p + 4096, 4096}, {BAD, 4096}}
  ;
  pid_t c = SPAWN(pause());
  fd = S(pidfd_open, c, 0);
  for (int a = 0; a < 26; a++) { if (a == 12 || a == 13) continue; long r = S(process_madvise, fd, v, 2, a, 0); out("%d: %ld\n", a, r); }
  R(process_madvise, fd, v, 3, 20, 0);
  R(process_madvise, fd, v + 2, 1, 20, 0);
  R(process_madvise, fd, v, 0, 20, 0);
  R(process_madvise, fd, v, 1025, 20, 0);
  R(process_madvise, fd, v, -1, 20, 0);
  v[0].iov_base = p + 1;
  R(process_madvise, fd, v, 1, 20, 0);
  v[0].iov_base = p;
  v[0].iov_len = 1;
  R(process_madvise, fd, v, 1, 20, 0);
  CHILD(become(1000, 1000); R(process_madvise, fd, v, 1, 20, 0));
  int own = S(pidfd_open, getpid(), 0);
  NEED(S(process_madvise, own, v, 1, 4, 0) == 1);
  for (int a = 0; a < 26; a++) { if (a == 12 || a == 13) continue; long r = S(process_madvise, own, v, 1, a, 0); out("%d: %ld\n", a, r); }
  CHILD(become(1000,1000); int f2 = S(pidfd_open, getpid(),0); R(process_madvise, f2, v, 1, 20, 0));
  kill(c, 9);
  reap(c);
  R(process_madvise, fd, v, 1, 20, 0);
}

CASE(process_mrelease, dying) {
  int go[2];
  pipe(go);
  pid_t c = SPAWN(pause());
  int fd = S(pidfd_open, c, 0);
  R(process_mrelease, fd, 0);
  kill(c, 9);
  reap(c);
  R(process_mrelease, fd, 0);
  CHILD(become(1000,1000); int f2 = S(pidfd_open, getppid(), 0); R(process_mrelease, f2, 0));
  R(process_mrelease, open("/", O_RDONLY), 0);
  R(process_mrelease,99,1);
}

