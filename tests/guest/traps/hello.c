/* The least that a program does: says something, forks, waits, ends. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main() {
  puts("hello");
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(7);
  int status;
  waitpid(child, &status, 0);
  printf("child %d\n", WEXITSTATUS(status));
  return 0;
}
