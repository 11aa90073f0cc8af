// Policies, priorities, affinity: what is accepted, what is reported, which errors.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYS(...) ({ long r_ = syscall(__VA_ARGS__); r_ < 0 ? -errno : r_; })
#define R(call) printf("  %s = %ld\n", #call, (long)(call))

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
    char more[64];
};

static void show(void) {
    struct sched_param p = {-1};
    struct attr a;
    memset(&a, 0, sizeof a);
    long policy = SYS(SYS_sched_getscheduler, 0);
    SYS(SYS_sched_getparam, 0, &p);
    long r = SYS(SYS_sched_getattr, 0, &a, 48, 0);
    printf("  policy %lx priority %d nice %ld attr %ld: size %u policy %u flags %llx nice %d priority %u\n", policy,
           p.sched_priority, 20 - SYS(SYS_getpriority, 0, 0), r, a.size, a.policy, (unsigned long long)a.flags, a.nice,
           a.priority);
}

#define STEP(name, ...)                     \
    do {                                    \
        printf("%s\n", name);               \
        fflush(stdout);                     \
        if (fork() == 0) {                  \
            __VA_ARGS__;                    \
            show();                         \
            fflush(stdout);                 \
            _exit(0);                       \
        }                                   \
        wait(NULL);                         \
    } while (0)

static long set(int policy, int priority) {
    struct sched_param p = {priority};
    return SYS(SYS_sched_setscheduler, 0, policy, &p);
}

static long setattr(uint32_t size, uint32_t policy, uint64_t flags, int nice, uint32_t priority) {
    struct attr a = {.size = size, .policy = policy, .flags = flags, .nice = nice, .priority = priority};
    return SYS(SYS_sched_setattr, 0, &a, 0);
}

int main(void) {
    struct sched_param p = {0};
    for (int i = -1; i < 9; i++)
        printf("policy %d: %ld to %ld\n", i, SYS(SYS_sched_get_priority_min, i), SYS(SYS_sched_get_priority_max, i));
    setpriority(PRIO_PROCESS, 0, 0);
    set(0, 0);
    STEP("start", (void)0);
    STEP("set", R(set(0, 1)); R(set(1, 0)); R(set(1, 100)); R(set(1, 99)); show(); R(set(2, 5)); show(); R(set(3, 0)); show(); R(set(5, 0)));
    STEP("bad", R(set(4, 0)); R(set(6, 0)); R(set(-1, 0)); R(set(8, 0)); R(SYS(SYS_sched_setscheduler, 0, 0, NULL)); R(SYS(SYS_sched_setscheduler, -1, 0, &p));
         R(SYS(SYS_sched_setscheduler, 999999, 0, &p)); R(SYS(SYS_sched_setscheduler, 0, 0, (void *)8)); R(SYS(SYS_sched_getscheduler, -1)); R(SYS(SYS_sched_getscheduler, 999999));
         R(SYS(SYS_sched_getparam, 0, NULL)); R(SYS(SYS_sched_getparam, -1, &p)); R(SYS(SYS_sched_getparam, 999999, &p)); R(SYS(SYS_sched_getparam, 0, (void *)8)));
    STEP("setparam", R(SYS(SYS_sched_setparam, 0, &p)); p.sched_priority = 1; R(SYS(SYS_sched_setparam, 0, &p)); R(set(1, 10)); R(SYS(SYS_sched_setparam, 0, &p)));
    STEP("reset on fork", R(set(1 | 0x40000000, 10)); show(); fflush(stdout); if (fork() == 0) { show(); fflush(stdout); _exit(0); } wait(NULL));
    STEP("setattr", R(setattr(48, 0, 0, 5, 0)); show(); R(setattr(0, 0, 0, 99, 0)); show(); R(setattr(48, 2, 1, 3, 4)); show(); R(setattr(48, 2, 0x18, 3, 9)); R(setattr(48, 0, 0x80, 0, 0));
         R(setattr(47, 0, 0, 0, 0)); R(setattr(5000, 0, 0, 0, 0)); R(setattr(100, 0, 0, 0, 0)); R(setattr(48, -1, 0, 0, 0)); R(setattr(48, 9, 0, 0, 0)));
    STEP("setattr bad", struct attr a; memset(&a, 0, sizeof a); a.size = 100; a.more[10] = 1; R(SYS(SYS_sched_setattr, 0, &a, 0)); printf("  size %u\n", a.size); a.size = 1; R(SYS(SYS_sched_setattr, 0, &a, 0));
         R(SYS(SYS_sched_setattr, 0, NULL, 0)); R(SYS(SYS_sched_setattr, 0, &a, 1)); R(SYS(SYS_sched_setattr, -1, &a, 0)); a.size = 48; R(SYS(SYS_sched_setattr, 999999, &a, 0)));
    STEP("getattr bad", struct attr a; R(SYS(SYS_sched_getattr, 0, &a, 47, 0)); R(SYS(SYS_sched_getattr, 0, &a, 4097, 0)); R(SYS(SYS_sched_getattr, 0, NULL, 48, 0)); R(SYS(SYS_sched_getattr, 0, &a, 48, 1));
         R(SYS(SYS_sched_getattr, 999999, &a, 48, 0)); R(SYS(SYS_sched_getattr, 0, (void *)8, 48, 0)));
    STEP("nice", R(SYS(SYS_setpriority, 0, 0, 7)); show(); R(SYS(SYS_setpriority, 0, 0, 100)); show(); R(SYS(SYS_setpriority, 0, 0, -100)); show(); R(SYS(SYS_setpriority, 3, 0, 0));
         R(SYS(SYS_getpriority, 3, 0)); R(SYS(SYS_getpriority, 0, 999999)); R(SYS(SYS_setpriority, 0, 999999, 0)); R(SYS(SYS_getpriority, 0, -1)); R(SYS(SYS_setpriority, 0, 0, 1)));
    STEP("nice of others", R(SYS(SYS_setpriority, 0, 0, 5)); R(SYS(SYS_setresuid, 5, 5, 5)); R(SYS(SYS_setpriority, 0, 0, 4)); R(SYS(SYS_setpriority, 0, 0, 6)); R(SYS(SYS_setpriority, 0, getppid(), 9));
         R(SYS(SYS_getpriority, 0, getppid())); R(SYS(SYS_getpriority, 2, 5)); R(SYS(SYS_getpriority, 2, 4711)); R(set(1, 1)); R(set(0, 0)); R(set(3, 0)); R(set(5, 0)); R(set(0, 0));
         uint64_t one = 1; R(SYS(SYS_sched_setaffinity, getppid(), 8, &one)));
    STEP("group", setpgid(0, 0); R(SYS(SYS_setpriority, 1, 0, 11)); R(SYS(SYS_getpriority, 1, 0)); R(SYS(SYS_getpriority, 1, getpgrp())); R(SYS(SYS_getpriority, 1, 999999)));
    STEP("affinity", uint64_t m[16] = {0}; R(SYS(SYS_sched_getaffinity, 0, 128, m) > 0); printf("  %llx\n", (unsigned long long)m[0]); uint64_t last = m[0], one = 1; while (last & (last - 1)) last &= last - 1; R(SYS(SYS_sched_setaffinity, 0, 8, &one));
         m[0] = 0; R(SYS(SYS_sched_getaffinity, 0, 8, m)); printf("  %llx\n", (unsigned long long)m[0]); unsigned cpu = 9; R(SYS(SYS_getcpu, &cpu, NULL, NULL)); printf("  on %u\n", cpu);
         one = 0; R(SYS(SYS_sched_setaffinity, 0, 8, &one)); R(SYS(SYS_sched_setaffinity, 0, 0, &one)); one = 1ull << 63; R(SYS(SYS_sched_setaffinity, 0, 8, &one));
         R(SYS(SYS_sched_getaffinity, 0, 4, m)); R(SYS(SYS_sched_getaffinity, 0, 12, m)); R(SYS(SYS_sched_getaffinity, 999999, 8, m)); R(SYS(SYS_sched_getaffinity, -1, 8, m));
         R(SYS(SYS_sched_getaffinity, 0, 8, (void *)8)); R(SYS(SYS_sched_setaffinity, 0, 8, (void *)8)); R(SYS(SYS_sched_setaffinity, 999999, 8, m)); m[0] = 3; R(SYS(SYS_sched_setaffinity, 0, 128, m));
         fflush(stdout); R(SYS(SYS_sched_setaffinity, 0, 1, &last)); fflush(stdout); if (fork() == 0) { m[0] = 0; SYS(SYS_sched_getaffinity, 0, 8, m); SYS(SYS_getcpu, &cpu, NULL, NULL); printf("  child %llx on %u\n", (unsigned long long)m[0], cpu); fflush(stdout); _exit(0); } wait(NULL));
    STEP("interval", struct timespec ts; set(1, 1); R(SYS(SYS_sched_rr_get_interval, 0, &ts)); printf("  %ld\n", (long)ts.tv_nsec); R(SYS(SYS_sched_rr_get_interval, -1, &ts)); R(SYS(SYS_sched_rr_get_interval, 999999, &ts)); set(0, 0));
    STEP("personality", R(SYS(SYS_personality, 0xffffffff)); R(SYS(SYS_personality, 8)); struct utsname u; uname(&u); printf("  %s\n", u.machine); R(SYS(SYS_personality, 0x40000)); R(SYS(SYS_personality, 0xffffffff));
         fflush(stdout); if (fork() == 0) { R(SYS(SYS_personality, 0xffffffff)); fflush(stdout); _exit(0); } wait(NULL));
    return 0;
}
