/* Threads at a site while it is patched, and signals that arrive anywhere in a patched call: no frame ever shows an
 * address that the program does not have, and every call gives its result. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

typedef long (*call_t)(void);

#define THREADS 4
#define SITES 120

static uint8_t *code;
static pthread_barrier_t barrier;
static atomic_int wrong;

static void *hammer(void *arg)
{
    long tid = syscall(SYS_gettid), ppid = getppid();
    for (int site = 0; site < SITES; site++) {
        call_t call = (call_t)(uintptr_t)(code + 32 * site);
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < 6; i++) {
            long got = call();
            if (got != (site % 2 ? tid : ppid))
                wrong++;
        }
    }
    return arg;
}

static void threads(void)
{
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(code, 0xcc, 4096);
    for (int site = 0; site < SITES; site++) {
        uint8_t forms[3][16] = {
            {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3},
            {0x48, 0xc7, 0xc0, 0, 0, 0, 0, 0x0f, 0x05, 0xc3},
            {0x68, 0, 0, 0, 0, 0x58, 0x0f, 0x05, 0xc3},
        };
        static const int number_at[3] = {1, 3, 1};
        uint8_t *form = forms[site % 3];
        form[number_at[site % 3]] = site % 2 ? SYS_gettid : SYS_getppid;
        memcpy(code + 32 * site, form, 16);
        for (int i = 10; i < 32; i++)
            code[32 * site + i] = 0xcc;
    }
    mprotect(code, 4096, PROT_READ | PROT_EXEC);
    pthread_barrier_init(&barrier, NULL, THREADS);
    pthread_t list[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&list[i], NULL, hammer, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(list[i], NULL);
    printf("threads: %s\n", wrong ? "WRONG" : "ok");
}

static volatile sig_atomic_t signals, strange, jumps;
static sigjmp_buf env;

static void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    signals++;
    if ((uint64_t)uc->uc_mcontext.gregs[REG_RIP] >> 47 || (uint64_t)uc->uc_mcontext.gregs[REG_RSP] >> 47)
        strange++;
    if (syscall(SYS_gettid) != gettid() || syscall(SYS_getppid) != getppid())
        strange++;
    (void)sig, (void)info;
}

static void on_signal_jump(int sig, siginfo_t *info, void *context)
{
    on_signal(sig, info, context);
    jumps++;
    siglongjmp(env, 1);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void calls_for(double duration)
{
    long ppid = getppid(), tid = gettid();
    double end = seconds() + duration;
    while (seconds() < end)
        for (int i = 0; i < 20; i++)
            if (syscall(SYS_getppid) != ppid || syscall(SYS_gettid) != tid || getpid() != tid)
                wrong++;
}

static void timer(int us)
{
    struct itimerval t = {{0, us}, {0, us}};
    setitimer(ITIMER_REAL, &t, NULL);
}

static void storm(void)
{
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &a, NULL);
    for (int i = 0; i < 30; i++)
        calls_for(0);
    timer(700);
    calls_for(0.7);
    timer(0);
    printf("storm: %s\n", signals > 3 && !strange && !wrong ? "ok" : "WRONG");

    a.sa_sigaction = on_signal_jump;
    a.sa_flags |= SA_NODEFER;
    sigaction(SIGALRM, &a, NULL);
    double end = seconds() + 0.7;
    sigsetjmp(env, 1);
    timer(900);
    if (seconds() < end)
        calls_for(end - seconds());
    timer(0);
    printf("jumps out: %s\n", jumps > 2 && !strange && !wrong ? "ok" : "WRONG");
}

static atomic_int stop;
static pthread_t main_thread;

static void *sender(void *arg)
{
    while (!stop) {
        pthread_kill(main_thread, SIGUSR1);
        usleep(200);
    }
    return arg;
}

static void from_thread(void)
{
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &a, NULL);
    main_thread = pthread_self();
    pthread_t thread;
    signals = 0;
    pthread_create(&thread, NULL, sender, NULL);
    calls_for(0.7);
    stop = 1;
    pthread_join(thread, NULL);
    printf("from a thread: %s\n", signals > 3 && !strange && !wrong ? "ok" : "WRONG");
}

/* Single steps through patched calls: the steps are the program's. */
static void on_step(int sig, siginfo_t *info, void *context)
{
    on_signal(sig, info, context);
}

static void steps(void)
{
    struct sigaction a = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &a, NULL);
    call_t call = (call_t)(uintptr_t)code;
    long result = 0;
    signals = 0;
    for (int i = 0; i < 3; i++) {
        asm volatile("pushf\n orl $0x100,(%%rsp)\n popf\n call *%1\n pushf\n andl $~0x100,(%%rsp)\n popf\n"
                     : "=a"(result)
                     : "r"(call)
                     : "rcx", "r11", "memory", "cc");
        if (result != getppid())
            wrong++;
    }
    printf("steps: %s\n", signals >= 3 * 5 && !strange && !wrong ? "ok" : "WRONG");
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    threads();
    storm();
    from_thread();
    steps();
    return 0;
}
