// SIGIO and SIGURG: owners, F_SETSIG, O_ASYNC by fcntl and ioctl, on sockets and pipes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void check(const char *what, long r) {
    if (r < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, r);
}

// Waits for one of the blocked signals, and tells of it.
static void expect(const char *what, int own_fd) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGURG);
    sigaddset(&set, SIGRTMIN + 3);
    siginfo_t info;
    struct timespec limit = {.tv_nsec = 300 * 1000 * 1000};
    int s = sigtimedwait(&set, &info, &limit);
    if (s < 0) {
        printf("%s: none\n", what);
        return;
    }
    // One event may give several.
    siginfo_t more;
    struct timespec now = {0};
    while (sigtimedwait(&set, &more, &now) > 0) {}
    printf("%s: signal %d", what, s);
    if (s > 31)
        printf(" code %d band %lx own fd %d", info.si_code, info.si_band & (POLLIN | POLLOUT | POLLHUP | POLLPRI),
               info.si_fd == own_fd);
    else
        printf(" code %d", info.si_code == SI_KERNEL);
    printf("\n");
}

static void pair_of(const char *name, int fds[2]) {
    printf("== %s\n", name);
    check("getown", fcntl(fds[0], F_GETOWN));
    check("getsig", fcntl(fds[0], F_GETSIG));
    struct f_owner_ex ex = {.type = 77, .pid = 77};
    check("getown_ex", fcntl(fds[0], F_GETOWN_EX, &ex));
    printf("type %d pid %d\n", ex.type, ex.pid);
    check("setown nobody", fcntl(fds[0], F_SETOWN, 2000000));
    check("setown group nobody", fcntl(fds[0], F_SETOWN, -2000000));
    check("setown min", fcntl(fds[0], F_SETOWN, 0x80000000));
    ex.type = 5;
    check("setown_ex type", fcntl(fds[0], F_SETOWN_EX, &ex));
    check("setsig 65", fcntl(fds[0], F_SETSIG, 65));
    check("setfl without owner", fcntl(fds[0], F_SETFL, O_NONBLOCK | O_ASYNC));
    printf("flags %o\n", fcntl(fds[0], F_GETFL) & (O_ASYNC | O_NONBLOCK));
    write(fds[1], "a", 1);
    expect("without owner", fds[0]);
    check("setown", fcntl(fds[0], F_SETOWN, getpid()));
    printf("own %d\n", fcntl(fds[0], F_GETOWN) == getpid());
    write(fds[1], "b", 1);
    expect("with owner", fds[0]);
    check("setsig", fcntl(fds[0], F_SETSIG, SIGRTMIN + 3));
    write(fds[1], "c", 1);
    expect("with signal", fds[0]);
    int off = 0, on = 1;
    check("fioasync off", ioctl(fds[0], FIOASYNC, &off));
    printf("flags %o\n", fcntl(fds[0], F_GETFL) & (O_ASYNC | O_NONBLOCK));
    write(fds[1], "d", 1);
    expect("off", fds[0]);
    check("fioasync on", ioctl(fds[0], FIOASYNC, &on));
    ex.type = F_OWNER_TID;
    ex.pid = gettid();
    check("setown_ex", fcntl(fds[0], F_SETOWN_EX, &ex));
    write(fds[1], "e", 1);
    expect("thread", fds[0]);
    check("setown group", fcntl(fds[0], F_SETOWN, -getpgrp()));
    printf("group %d\n", fcntl(fds[0], F_GETOWN) == -getpgrp());
    uid_t uids[2] = {9, 9};
    check("uids", fcntl(fds[0], 17 /* F_GETOWNER_UIDS */, uids));
    write(fds[1], "f", 1);
    expect("group", fds[0]);
    if (!fork()) {
        write(fds[1], "child", 5);
        _exit(0);
    }
    wait(NULL);
    expect("from a child", fds[0]);
    char buf[100];
    printf("read %zd\n", read(fds[0], buf, sizeof buf));
    close(fds[1]);
    expect("peer gone", fds[0]);
    close(fds[0]);
}

int main(void) {
    setpgid(0, 0);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    int fds[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
    pair_of("stream", fds);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, fds);
    pair_of("datagram", fds);
    pipe(fds);
    pair_of("pipe", fds);

    int l = socket(AF_INET, SOCK_STREAM, 0), a, c;
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof sin;
    bind(l, (void *)&sin, n);
    listen(l, 3);
    getsockname(l, (void *)&sin, &n);
    fcntl(l, F_SETOWN, getpid());
    fcntl(l, F_SETFL, O_ASYNC);
    c = socket(AF_INET, SOCK_STREAM, 0);
    connect(c, (void *)&sin, n);
    expect("to accept", l);
    a = accept(l, NULL, NULL);
    fds[0] = a, fds[1] = c;
    pair_of("tcp", fds);
    c = socket(AF_INET, SOCK_STREAM, 0);
    connect(c, (void *)&sin, n);
    a = accept(l, NULL, NULL);
    expect("to accept", l);
    int who = getpid(), got = 0;
    check("siocspgrp", ioctl(a, SIOCSPGRP, &who));
    check("siocgpgrp", ioctl(a, SIOCGPGRP, &got));
    printf("own %d\n", who == got);
    send(c, "u", 1, MSG_OOB);
    expect("urgent", a);
    int at = -1;
    ioctl(a, SIOCATMARK, &at);
    printf("at mark %d\n", at);
    send(c, "n", 1, 0);
    expect("normal", a);
    who = 1 << 30;
    check("fiosetown", ioctl(a, FIOSETOWN, &who));

    int e = eventfd(0, 0), on = 1;
    check("eventfd fioasync", ioctl(e, FIOASYNC, &on));
    check("eventfd setfl", fcntl(e, F_SETFL, O_ASYNC));
    printf("flags %o\n", fcntl(e, F_GETFL) & O_ASYNC);
    return 0;
}
