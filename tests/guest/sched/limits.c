// Resource limits of the process and of others, and processor time.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SYS(...) ({ long r_ = syscall(__VA_ARGS__); r_ < 0 ? -errno : r_; })
#define R(call) printf("  %s = %ld\n", #call, (long)(call))

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static void burn(double s) {
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    while (b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) / 1e9 < s);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    unsigned long lim[2] = {0};
    struct rusage ru;
    R(SYS(SYS_prlimit64, 0, 16, NULL, lim));
    R(SYS(SYS_prlimit64, 0, 99, (void *)8, lim));
    R(SYS(SYS_prlimit64, 999999, 7, NULL, lim));
    R(SYS(SYS_prlimit64, 999999, 99, NULL, lim));
    R(SYS(SYS_getrlimit, 16, lim));
    R(SYS(SYS_getrlimit, 7, NULL));
    R(SYS(SYS_setrlimit, 7, NULL));
    lim[0] = 10, lim[1] = 5;
    R(SYS(SYS_setrlimit, 7, lim));
    lim[0] = 10, lim[1] = (1 << 20) + 1;
    R(SYS(SYS_setrlimit, 7, lim));
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    lim[0] = 100, lim[1] = 200;
    R(SYS(SYS_prlimit64, child, 7, lim, NULL));
    lim[0] = lim[1] = 0;
    R(SYS(SYS_prlimit64, child, 7, NULL, lim));
    printf("  %lu %lu\n", lim[0], lim[1]);
    if (fork() == 0) {
        setresuid(5, 5, 5);
        R(SYS(SYS_prlimit64, child, 7, NULL, lim));
        lim[0] = lim[1] = 7;
        R(SYS(SYS_setrlimit, 7, lim));
        lim[1] = 8;
        R(SYS(SYS_setrlimit, 7, lim));
        _exit(0);
    }
    wait(NULL);
    kill(child, 9);
    waitpid(child, NULL, 0);

    R(SYS(SYS_getrusage, 2, &ru));
    R(SYS(SYS_getrusage, 0, NULL));
    burn(0.1);
    volatile char *fresh = malloc(8 << 20);
    for (int i = 0; i < 8 << 20; i += 4096)
        fresh[i] = 1;
    getrusage(RUSAGE_SELF, &ru);
    printf("self used %d, has memory %d, faults %d\n", seconds(ru.ru_utime) + seconds(ru.ru_stime) > 0.09,
           ru.ru_maxrss > 100 && ru.ru_maxrss < 1 << 20, ru.ru_minflt > 0);
    getrusage(RUSAGE_CHILDREN, &ru);
    printf("children used little %d\n", seconds(ru.ru_utime) + seconds(ru.ru_stime) < 0.08);
    child = fork();
    if (child == 0) {
        burn(0.1);
        _exit(0);
    }
    int status;
    wait4(child, &status, 0, &ru);
    printf("wait4 tells %d, has memory %d\n", seconds(ru.ru_utime) + seconds(ru.ru_stime) > 0.09, ru.ru_maxrss > 10);
    getrusage(RUSAGE_CHILDREN, &ru);
    printf("children used %d\n", seconds(ru.ru_utime) + seconds(ru.ru_stime) > 0.09);
    struct tms t;
    clock_t a = times(&t), b;
    printf("times: self %d children %d\n", t.tms_utime + t.tms_stime >= 9, t.tms_cutime + t.tms_cstime >= 9);
    usleep(100000);
    b = times(NULL);
    printf("ticks go on %d\n", b - a >= 9 && b - a < 100);
    struct timespec ts, before;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(50000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    printf("sleeping costs nothing %d\n",
           (ts.tv_sec - before.tv_sec) * 1000000000L + ts.tv_nsec - before.tv_nsec < 30000000);
    return 0;
}
