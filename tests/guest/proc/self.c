// /proc/self and other tasks' directories: what does not depend on the machine must look as on Linux.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buf[1 << 20];

static long slurp(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -errno;
    long n = 0, r;
    while ((r = read(fd, buf + n, sizeof buf - 1 - n)) > 0) n += r;
    if (r < 0) n = -errno;
    close(fd);
    buf[n > 0 ? n : 0] = 0;
    return n;
}

static char *field(const char *name) {
    static char outs[8][300];
    static int next;
    char *out = outs[next++ % 8], key[64];
    snprintf(key, sizeof key, "\n%s:", name);
    char *at = strstr(buf, key);
    if (!at) return "missing";
    at += strlen(key);
    while (*at == '\t' || *at == ' ') at++;
    snprintf(out, sizeof outs[0], "%.*s", (int)strcspn(at, "\n"), at);
    return out;
}

// Without the signals that the test's own start may have set to be ignored.
static unsigned short_of(const char *set) { return strtoull(set, NULL, 16) & 0x7fffffff; }

static void link_of(const char *path) {
    char target[4096];
    struct stat st;
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = 0;
    char *slash = strrchr(target, '/');
    int e = errno;
    lstat(path, &st);
    printf("link %s = %zd %s mode %o size %ld\n", strstr(path, "self") ? path : "other", n > 0 ? (ssize_t)1 : -e,
           slash && strncmp(target, "/dev", 4) ? slash + 1 : target, st.st_mode, (long)st.st_size);
}

static void write_to(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) {
        printf("open %s: %d\n", path, errno);
        return;
    }
    long r = write(fd, text, strlen(text));
    printf("write %s %.20s = %ld\n", path, text, r < 0 ? -errno : r);
    close(fd);
}

static void *thread(void *arg) {
    (void)arg;
    char path[64], target[64] = {0};
    prctl(PR_SET_NAME, "worker thread name");
    readlink("/proc/thread-self", target, sizeof target - 1);
    printf("thread-self is a task of self: %d\n", strstr(target, "/task/") != NULL);
    printf("comm %ld ", slurp("/proc/thread-self/comm"));
    printf("%s", buf);
    slurp("/proc/thread-self/status");
    snprintf(path, sizeof path, "%d", gettid());
    printf("Pid is tid: %d; Tgid is pid: %d; Threads %s\n", !strcmp(field("Pid"), path), atoi(field("Tgid")) == getpid(),
           field("Threads"));
    snprintf(path, sizeof path, "/proc/%d/comm", gettid());
    printf("a thread has a directory: %d, which is not listed\n", access(path, F_OK));
    snprintf(path, sizeof path, "/proc/%d/task", getpid());
    DIR *d = opendir(path);
    int count = 0;
    while (readdir(d)) count++;
    closedir(d);
    printf("task entries %d\n", count);
    return NULL;
}

static int global = 42;

int main(int argc, char **argv) {
    char path[128];
    setvbuf(stdout, NULL, _IONBF, 0);
    (void)argc;

    long n = slurp("/proc/self/stat");
    char *p = strrchr(buf, ')');
    int fields = 2;
    for (char *q = p; *q; q++) fields += *q == ' ';
    printf("stat: %d fields, ends with newline %d, pid matches %d, state %c\n", fields, buf[n - 1] == '\n',
           atoi(buf) == getpid(), p[2]);
    unsigned long long v[53];
    int i = 4;
    for (char *q = strtok(p + 4, " "); q; q = strtok(NULL, " ")) v[i++] = strtoull(q, NULL, 10);
    printf("ppid %d nice right %d threads %lld rsslim %llx exit_signal %lld policy %lld\n", (int)v[4] == getppid(),
           (long long)v[19] == getpriority(PRIO_PROCESS, 0), (long long)v[20], v[25], (long long)v[38], (long long)v[41]);
    printf("code inside %d, stack inside %d, args inside %d, env behind args %d\n",
           v[26] <= (uintptr_t)main && (uintptr_t)main < v[27], v[28] <= (uintptr_t)argv, (uintptr_t)argv[0] == v[48],
           v[49] == v[50] && v[50] < v[51]);





    slurp("/proc/self/status");
    printf("status: %.4s Umask %s State %s Tgid %d PPid %d TracerPid %s\n", buf + 6, field("Umask"), field("State"),
           atoi(field("Tgid")) == getpid(), atoi(field("PPid")) == getppid(), field("TracerPid"));
    printf("Uid %s Gid %s Threads %s\n", field("Uid"), field("Gid"), field("Threads"));
    printf("VmSize %d VmRSS %d VmStk %d VmExe %d\n", atoi(field("VmSize")) > 100, atoi(field("VmRSS")) > 10,
           atoi(field("VmStk")) >= 132, atoi(field("VmExe")) > 100);
    printf("SigBlk %s SigIgn %x NoNewPrivs %s\n", field("SigBlk"), short_of(field("SigIgn")), field("NoNewPrivs"));
    struct sigaction sa = {.sa_handler = SIG_IGN};
    sigaction(SIGUSR1, &sa, NULL);
    sa.sa_handler = (void (*)(int))main;
    sigaction(SIGUSR2, &sa, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGTERM);
    slurp("/proc/self/status");
    printf("SigPnd %s ShdPnd %s", field("SigPnd"), field("ShdPnd"));
    printf(" SigBlk %s", field("SigBlk"));
    printf(" SigIgn %x", short_of(field("SigIgn")));
    printf(" SigCgt %s\n", field("SigCgt"));

    printf("cmdline %d ", slurp("/proc/self/cmdline") > 0);
    printf("%s\n", strrchr(buf, '/') ? strrchr(buf, '/') + 1 : buf);
    n = slurp("/proc/self/environ");
    printf("environ %d\n", n > 0 && buf[n - 1] == 0);
    n = slurp("/proc/self/auxv");
    printf("auxv whole entries %d, ends with AT_NULL %d\n", n % 16 == 0, n >= 16 && ((long *)buf)[n / 8 - 2] == 0);
    printf("comm %ld %s", slurp("/proc/self/comm"), buf);
    write_to("/proc/self/comm", "a name that is too long");
    printf("comm %ld %s", slurp("/proc/self/comm"), buf);
    n = slurp("/proc/self/maps");
    printf("maps: stack %d heap %d vdso %d\n", strstr(buf, "[stack]") != NULL, strstr(buf, "[heap]") != NULL,
           strstr(buf, "[vdso]") != NULL);
    int a, b, c, d, e, f, g;
    n = slurp("/proc/self/statm");
    printf("statm %d numbers\n", sscanf(buf, "%d %d %d %d %d %d %d", &a, &b, &c, &d, &e, &f, &g));
    slurp("/proc/self/limits");
    printf("%.110s\n", buf);
    printf("oom_score_adj %ld %s", slurp("/proc/self/oom_score_adj"), buf);
    write_to("/proc/self/oom_score_adj", "500\n");
    printf("oom_score_adj %ld %s", slurp("/proc/self/oom_score_adj"), buf);
    write_to("/proc/self/oom_score_adj", "1001");
    write_to("/proc/self/oom_score_adj", "x");
    printf("personality %ld %s", slurp("/proc/self/personality"), buf);
    printf("uid_map %ld %s", slurp("/proc/self/uid_map"), buf);
    printf("timerslack %ld %s", slurp("/proc/self/timerslack_ns"), buf);
    write_to("/proc/self/stat", "x");
    write_to("/proc/meminfo", "x");
    write_to("/proc/sys/kernel/osrelease", "x");
    printf("mkdir %d", mkdir("/proc/x", 0777) ? errno : 0);
    printf(" creat %d", open("/proc/x", O_CREAT | O_WRONLY, 0666) < 0 ? errno : 0);
    printf(" unlink %d", unlink("/proc/version") ? errno : 0);
    printf(" rename %d", rename("/proc/version", "/proc/version2") ? errno : 0);
    printf(" chmod %d\n", chmod("/proc/self/stat", 0600) ? errno : 0);
    printf("leading zero %d, name %d, 0 %d\n", access("/proc/01", F_OK) ? errno : 0, access("/proc/x1", F_OK) ? errno : 0,
           access("/proc/0", F_OK) ? errno : 0);

    // Links.
    link_of("/proc/self/exe");
    link_of("/proc/self/root");
    char dir[] = "/tmp/proc-self-XXXXXX";
    mkdtemp(dir);
    chdir(dir);
    snprintf(path, sizeof path, "/proc/self/cwd");
    char target[256] = {0};
    readlink(path, target, sizeof target - 1);
    printf("cwd is the directory: %d\n", !strcmp(target, dir));
    int fd = open("file", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    write(fd, "hello", 5);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY);
    n = read(again, buf, 5);
    printf("reopened: %.5s, own offset %ld\n", buf, n);
    close(again);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    slurp(path);
    printf("fdinfo: %.*s\n", (int)(strstr(buf, "mnt_id") - buf), buf);
    unlink("file");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    memset(target, 0, sizeof target);
    readlink(path, target, sizeof target - 1);
    printf("deleted: %s\n", strrchr(target, '/'));
    again = open(path, O_RDONLY);
    n = read(again, buf, 5);
    printf("opened after unlink: %ld %.5s\n", n, buf);
    struct stat st, st2;
    stat(path, &st);
    fstat(fd, &st2);
    printf("stat through the link: same file %d nlink %ld\n", st.st_ino == st2.st_ino && st.st_dev == st2.st_dev,
           (long)st.st_nlink);
    rmdir(dir);
    memset(target, 0, sizeof target);
    readlink("/proc/self/cwd", target, sizeof target - 1);
    printf("cwd deleted: %d\n", strstr(target, " (deleted)") != NULL);
    chdir("/");
    int pipes[2];
    pipe(pipes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", pipes[0]);
    memset(target, 0, sizeof target);
    readlink(path, target, sizeof target - 1);
    printf("pipe: %.6s\n", target);
    write(pipes[1], "through", 7);
    again = open(path, O_RDONLY);
    n = read(again, buf, 7);
    printf("pipe opened again: %ld %.7s\n", n, buf);
    stat(path, &st);
    printf("fifo %d\n", S_ISFIFO(st.st_mode));
    snprintf(path, sizeof path, "/proc/self/fd/%d", 99);
    printf("closed fd: %d %d\n", open(path, O_RDONLY) < 0 ? errno : 0, readlink(path, target, 10) < 0 ? errno : 0);
    printf("fd as directory: %d\n", open("/proc/self/fd", O_RDONLY | O_DIRECTORY) >= 0);
    printf("link opened without following: %d\n", open("/proc/self/exe", O_RDONLY | O_NOFOLLOW) < 0 ? errno : 0);
    fd = open("/proc/self/exe", O_RDONLY);
    n = read(fd, buf, 4);
    printf("exe: %ld %.3s\n", n, buf + 1);

    // Memory.
    fd = open("/proc/self/mem", O_RDWR);
    int value = 0;
    n = pread(fd, &value, sizeof value, (off_t)(uintptr_t)&global);
    printf("mem read %ld %d", n, value);
    value = 43;
    n = pwrite(fd, &value, sizeof value, (off_t)(uintptr_t)&global);
    printf(" write %ld %d", n, global);
    n = pread(fd, &value, sizeof value, 4096);
    printf(" unmapped %d", n < 0 ? errno : 0);
    char *ro = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    n = pwrite(fd, "x", 1, (off_t)(uintptr_t)ro);
    printf(" forced %ld %c\n", n, ro[0]);

    // A text is made anew at its beginning.
    fd = open("/proc/self/comm", O_RDONLY);
    read(fd, buf, 100);
    prctl(PR_SET_NAME, "second");
    lseek(fd, 0, SEEK_SET);
    n = read(fd, buf, 100);
    printf("again: %.*s", (int)n, buf);
    char one[4] = {0};
    lseek(fd, 2, SEEK_SET);
    n = read(fd, one, 2);
    printf("in the middle: %ld %s\n", n, one);

    // Threads.
    pthread_t t;
    pthread_create(&t, NULL, thread, NULL);
    pthread_join(t, NULL);

    // Other processes.
    int ready[2];
    pipe(ready);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_NAME, "sleeper");
        write(ready[1], "x", 1);
        pause();
        _exit(0);
    }
    read(ready[0], buf, 1);
    usleep(100000);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    slurp(path);
    printf("child: %.7s %s ppid %d\n", buf + 6, field("State"), atoi(field("PPid")) == getpid());
    snprintf(path, sizeof path, "/proc/%d/fd", child);
    DIR *fds = opendir(path);
    int count = 0;
    while (readdir(fds)) count++;
    closedir(fds);
    printf("child has descriptors: %d\n", count > 4);
    snprintf(path, sizeof path, "/proc/%d/cmdline", child);
    int held = open(path, O_RDONLY);
    kill(child, SIGKILL);
    usleep(200000);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    slurp(path);
    printf("zombie: %.7s %s VmSize %s\n", buf + 6, field("State"), field("VmSize"));
    snprintf(path, sizeof path, "/proc/%d/cmdline", child);
    printf("zombie's cmdline %ld", slurp(path));
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    printf(" maps %ld", slurp(path));
    snprintf(path, sizeof path, "/proc/%d/exe", child);
    printf(" exe %d\n", readlink(path, target, 100) < 0 ? errno : 0);
    waitpid(child, NULL, 0);
    snprintf(path, sizeof path, "/proc/%d", child);
    printf("gone: %d, held file: %d\n", access(path, F_OK) ? errno : 0, read(held, buf, 10) <= 0);

    // Without privilege.
    fflush(stdout);
    if (fork() == 0) {
        setgid(1000);
        setuid(1000);
        snprintf(path, sizeof path, "/proc/%d/environ", getppid());
        printf("as another user: environ %ld", slurp(path));
        snprintf(path, sizeof path, "/proc/%d/maps", getppid());
        printf(" maps %ld", slurp(path));
        snprintf(path, sizeof path, "/proc/%d/exe", getppid());
        printf(" exe %d", readlink(path, target, 100) < 0 ? errno : 0);
        snprintf(path, sizeof path, "/proc/%d/fd", getppid());
        printf(" fd %d", open(path, O_RDONLY) < 0 ? errno : 0);
        snprintf(path, sizeof path, "/proc/%d/mem", getppid());
        printf(" mem %d", open(path, O_RDONLY) < 0 ? errno : 0);
        snprintf(path, sizeof path, "/proc/%d/stat", getppid());
        printf(" stat %d", slurp(path) > 0);
        snprintf(path, sizeof path, "/proc/%d/io", getppid());
        printf(" io %ld", slurp(path));
        printf(" own environ %ld", slurp("/proc/self/environ") > 0 ? 1 : slurp("/proc/self/environ"));
        printf(" own fd %d\n", open("/proc/self/fd", O_RDONLY) < 0 ? errno : 0);
        _exit(0);
    }
    wait(NULL);

    struct statfs fs;
    printf("statfs %d %lx", statfs("/proc/self", &fs), (long)fs.f_type);
    fstatfs(pipes[0], &fs);
    printf(" pipe %lx", (long)fs.f_type);
    printf(" sys %d %lx\n", statfs("/sys", &fs), (long)fs.f_type);
    return 0;
}
