/* Copy on write among a tree of processes and threads: every process sees its own bytes only. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define N 600
static uint32_t *pages[N];
static void fill(uint32_t tag) {
  for (int i = 0; i < N; i++) pages[i][tag % 1024] = tag + i;
}
static int check(uint32_t tag) {
  for (int i = 0; i < N; i++)
    if (pages[i][tag % 1024] != tag + i) return 0;
  return 1;
}
static volatile int stop;
static volatile uint32_t *counter;
static void *spin(void *x) {
  while (!stop) counter[0]++, counter[1024] = counter[0];
  return 0;
}
static int tree(int depth, uint32_t tag) {
  fill(tag);
  int bad = 0;
  pid_t kids[3];
  for (int k = 0; k < 3 && depth > 0; k++) {
    kids[k] = fork();
    if (kids[k] == 0) _exit(!check(tag) || tree(depth - 1, tag * 4 + k + 1));
    fill(tag + 100000 * (k + 1));
  }
  for (int k = 0; k < 3 && depth > 0; k++) {
    int s;
    waitpid(kids[k], &s, 0);
    bad |= s != 0;
  }
  return bad || !check(tag + (depth > 0 ? 300000 : 0));
}
int main() {
  char *area = mmap(0, N * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < N; i++) pages[i] = (uint32_t *)(area + 4096 * i);
  counter = (uint32_t *)mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  printf("tree %s\n", tree(3, 7) ? "WRONG" : "right");
  pthread_t t[2];
  for (int i = 0; i < 2; i++) pthread_create(&t[i], 0, spin, 0);
  int bad = 0;
  for (int i = 0; i < 40; i++) {
    fflush(stdout);
    pid_t p = fork();
    if (!p) {
      uint32_t a = counter[0], b = counter[1024];
      usleep(1000);
      _exit(counter[0] != a || counter[1024] != b);
    }
    int s;
    waitpid(p, &s, 0);
    bad |= s != 0;
  }
  stop = 1;
  for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
  printf("snapshots %s\n", bad ? "MOVE" : "stand still");
  return 0;
}
