/* Contended locks for some seconds: mutexes of all kinds, condition variables, semaphores, barriers, and processes that are
 * killed while they hold a robust lock. Ends with "done", or says what came to a halt: a wake-up was lost. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, KINDS = 6 };
static const char *const names[KINDS] = {"mutex", "priority mutex", "condition", "semaphore", "barrier", "robust"};
struct shared {
  pthread_mutex_t robust;
  volatile long rounds[KINDS];
  volatile long in_robust;
  volatile int stop;
  long broken;
};
static struct shared *s;
static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER, pi, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t ping, pong;
static pthread_barrier_t barrier;
static volatile long in_plain, in_pi;
static int turn;

static void enter(pthread_mutex_t *m, volatile long *inside, int kind) {
  pthread_mutex_lock(m);
  if (++*inside != 1) s->broken++;
  s->rounds[kind]++;
  --*inside;
  pthread_mutex_unlock(m);
}
static void *mutexes(void *a) {
  while (!s->stop) enter(&plain, &in_plain, 0);
  return 0;
}
static void *priority(void *a) {
  while (!s->stop) enter(&pi, &in_pi, 1);
  return 0;
}
static void *conditions(void *a) {
  int me = (long)a;
  pthread_mutex_lock(&lock);
  while (!s->stop) {
    while (turn != me && !s->stop) pthread_cond_wait(&cond, &lock);
    turn = (me + 1) % 3;
    s->rounds[2]++;
    pthread_cond_broadcast(&cond);
  }
  pthread_mutex_unlock(&lock);
  return 0;
}
static void *semaphores(void *a) {
  while (!s->stop) {
    sem_wait(a ? &ping : &pong);
    s->rounds[3]++;
    sem_post(a ? &pong : &ping);
  }
  return 0;
}
static void *barriers(void *a) {
  for (;;) {
    pthread_barrier_wait(&barrier);
    int stop = s->stop;
    s->rounds[4]++;
    pthread_barrier_wait(&barrier);
    if (stop) return 0;
  }
}
static void robust_process(unsigned seed) {
  for (;;) {
    int r = pthread_mutex_lock(&s->robust);
    if (r == EOWNERDEAD) {
      s->in_robust = 0;
      pthread_mutex_consistent(&s->robust);
    } else if (r) _exit(2);
    if (++s->in_robust != 1) s->broken++;
    s->rounds[5]++;
    if (rand_r(&seed) % 50 == 0) kill(getpid(), SIGKILL);
    --s->in_robust;
    pthread_mutex_unlock(&s->robust);
    if (s->stop) _exit(0);
  }
}
static void *processes(void *a) {
  unsigned seed = (long)a * 7919;
  while (!s->stop) {
    pid_t p = fork();
    if (!p) robust_process(seed++);
    seed += 13;
    waitpid(p, 0, 0);
  }
  return 0;
}
int main(int argc, char **argv) {
  int seconds = argc > 1 ? atoi(argv[1]) : 5;
  s = mmap(0, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&pi, &a);
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&s->robust, &a);
  pthread_barrier_init(&barrier, 0, 3);
  sem_init(&ping, 0, 1);
  sem_init(&pong, 0, 0);
  void *(*const bodies[KINDS])(void *) = {mutexes, priority, conditions, semaphores, barriers, processes};
  const int counts[KINDS] = {THREADS, THREADS, 3, 2, 3, 3};
  pthread_t t;
  for (int k = 0; k < KINDS; k++)
    for (long i = 0; i < counts[k]; i++) pthread_create(&t, 0, bodies[k], (void *)i);
  long last[KINDS] = {0};
  int still[KINDS] = {0};
  for (int second = 0; second < seconds; second++) {
    sleep(1);
    for (int k = 0; k < KINDS; k++) {
      still[k] = s->rounds[k] == last[k] ? still[k] + 1 : 0;
      last[k] = s->rounds[k];
      if (still[k] >= 20) {
        printf("%s came to a halt after %ld rounds\n", names[k], last[k]);
        return 1;
      }
    }
  }
  for (int k = 0; k < KINDS; k++)
    if (!s->rounds[k]) printf("%s: no round\n", names[k]);
  if (s->broken) printf("two at once: %ld times\n", s->broken);
  printf("done\n");
  fflush(stdout);
  s->stop = 1;
  _exit(0);
}
