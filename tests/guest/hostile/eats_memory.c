/* A child takes memory until it is killed; the parent goes on. For a sandbox with a memory limit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main() {
  pid_t child = fork();
  if (!child)
    for (;;) {
      char *m = malloc(1 << 20);
      if (!m) return 3;
      memset(m, 1, 1 << 20);
    }
  int status;
  waitpid(child, &status, 0);
  printf("child ended by signal %d\n", WTERMSIG(status));
  char *m = malloc(4 << 20);
  memset(m, 2, 4 << 20);
  puts("parent lives");
  return 0;
}
