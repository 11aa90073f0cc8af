/* Executes this very program with random bytes of its headers changed, and pieces of it, and scripts that go in circles: each
 * must fail, crash or run; the kernel under test must neither panic nor hang. Usage: bad_elf SECONDS SEED
 */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t s;
static uint64_t next(void) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; return s; }
static uint64_t odd(void) {
  static const uint64_t values[] = {0, 1, 2, 3, 7, 0xff, 0xfff, 0x1000, 0x1001, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffff, 0x800000000000, 0xffff800000000000, 0x7fffffffffffffff, (uint64_t)-1, (uint64_t)-4096};
  return next() & 3 ? values[next() % 19] : next();
}

int main(int argc, char **argv) {
  if (argc == 1) return 0; /* the changed program, when it runs at all */
  time_t end = time(0) + atoi(argv[1]);
  s = (argc > 2 ? strtoull(argv[2], 0, 0) : 1) * 0x9e3779b97f4a7c15ull | 1;
  static char image[4 << 20], copy[sizeof image];
  int fd = open("/proc/self/exe", O_RDONLY);
  long size = read(fd, image, sizeof image);
  char dir[] = "/tmp/bad_elf.XXXXXX";
  if (size < 4096 || !mkdtemp(dir) || chdir(dir)) return 1;
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  for (unsigned round = 0; time(0) < end; round++) {
    memcpy(copy, image, size);
    long n = size;
    Elf64_Ehdr *e = (void *)copy;
    Elf64_Phdr *p = (void *)(copy + e->e_phoff);
    int count = e->e_phnum, changes = 1 + next() % 3;
    switch (next() % 6) {
    case 0: n = next() % 2 ? next() % 200 : next() % size; break;
    case 1: while (changes--) copy[next() % 64] = odd(); break;
    case 2: while (changes--) ((uint64_t *)&p[next() % count])[next() % 7] = odd(); break;
    case 3: while (changes--) ((uint32_t *)&p[next() % count])[next() % 2] = odd() & 0xffff; break;
    case 4: while (changes--) memcpy(copy + 16 + next() % 48, &(uint64_t){odd()}, 8); break;
    case 5: n = sprintf(copy, "#!%s%s\n", (char *[]){"./x", "/proc/self/exe", "", "/", " ", "./x ./x"}[next() % 6], next() & 1 ? " -a" : ""); break;
    }
    unlink("x");
    fd = open("x", O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
    if (write(fd, copy, n) != n) return 1;
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
      int null = open("/dev/null", O_RDWR);
      dup2(null, 1);
      dup2(null, 2);
      alarm(2);
      execl("./x", "x", (char *)0);
      _exit(1);
    }
    waitpid(pid, 0, 0);
  }
  puts("survived");
  return 0;
}
