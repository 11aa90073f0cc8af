// A FUSE server that answers with random bytes, or not at all, and clients that use what it serves. Nobody but the
// clients may be harmed. Usage: fuse_liar SECONDS SEED
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;
static uint32_t rnd(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}

static const char *dir = "/tmp/fuse-liar";

static void client(void) {
    char path[300], buf[5000];
    for (;;) {
        snprintf(path, sizeof path, "%s/%c%s", dir, 'a' + rnd() % 4, rnd() % 3 ? "" : "/x");
        struct stat s;
        struct statfs f;
        switch (rnd() % 14) {
        case 0: stat(path, &s); break;
        case 1: statfs(dir, &f); break;
        case 2: readlink(path, buf, sizeof buf); break;
        case 3: mkdir(path, 0755); break;
        case 4: unlink(path); break;
        case 5: rename(path, "/tmp/fuse-liar/b"); break;
        case 6: truncate(path, 5); break;
        case 7: getxattr(path, "user.a", buf, sizeof buf); break;
        case 8: listxattr(path, buf, sizeof buf); break;
        case 9: symlink("x", path); break;
        case 10: link(path, "/tmp/fuse-liar/c"); break;
        case 11: execl(path, path, (char *)0); break;
        case 12: {
            DIR *d = opendir(rnd() % 2 ? dir : path);
            for (int i = 0; d && i < 100 && readdir(d); i++);
            if (d) closedir(d);
            break;
        }
        default: {
            int fd = open(path, rnd() % 2 ? O_RDWR | O_CREAT : O_RDONLY, 0644);
            if (fd < 0) break;
            read(fd, buf, sizeof buf);
            write(fd, buf, sizeof buf);
            lseek(fd, 0, SEEK_END);
            fsync(fd);
            close(fd);
        }
        }
    }
}

// An answer that looks right as far as it goes, so that more than the first check is met.
static int answer(char *out, uint32_t op, uint64_t unique) {
    int len = rnd() % 4 ? (op == 1 || op == 35 ? 128 + rnd() % 2 * 16 : op == 3 || op == 4 ? 104 : rnd() % 200) : rnd() % 4200;
    for (int i = 0; i < len; i++) out[16 + i] = rnd() % 3 ? 0 : rnd();
    if (rnd() % 2 && len >= 104) {
        uint64_t node = 2 + rnd() % 5;
        int attr = op == 1 || op == 35 || op == 9 ? 40 : 16;
        if (attr == 40) memcpy(out + 16, &node, 8);
        uint32_t mode = (rnd() % 2 ? S_IFDIR : S_IFREG) | 0755;
        if (attr + 64 <= len) memcpy(out + 16 + attr + 60, &mode, 4);
    }
    int error = rnd() % 5 == 0 ? -(int)(rnd() % 600) : 0;
    if (error) len = rnd() % 4 ? 0 : len;
    uint32_t total = 16 + len + (rnd() % 50 == 0);
    if (rnd() % 50 == 0) unique ^= 2;
    memcpy(out, &total, 4), memcpy(out + 4, &error, 4), memcpy(out + 8, &unique, 8);
    return 16 + len;
}

int main(int argc, char **argv) {
    int seconds = argc > 1 ? atoi(argv[1]) : 3;
    state = argc > 2 ? atoi(argv[2]) : 1;
    time_t end = time(0) + seconds;
    mkdir(dir, 0755);
    signal(SIGPIPE, SIG_IGN);
    for (int round = 0; time(0) < end; round++) {
        int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
        if (fd < 0) return perror("/dev/fuse"), 1;
        char options[100];
        snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
        if (mount("liar", dir, "fuse", 0, options)) return perror("mount"), 1;
        pid_t clients[3];
        for (int i = 0; i < 3; i++)
            if (!(clients[i] = fork())) {
                state += 1000 * round + i, close(fd);
                client();
            }
        static char in[140000], out[140000];
        for (int n = 0, most = 50 + rnd() % 400; n < most && time(0) < end; n++) {
            struct pollfd ready = {fd, POLLIN, 0};
            // All clients may wait for answers that never come.
            if (poll(&ready, 1, 200) <= 0) break;
            long got = read(fd, in, sizeof in);
            if (got < 40) break;
            uint32_t op;
            uint64_t unique;
            memcpy(&op, in + 4, 4), memcpy(&unique, in + 8, 8);
            if (op == 2 || op == 18 || op == 29) continue;
            if (op == 26) {
                uint32_t init[] = {16 + 24, 0, 0, 0, 7, 31, 0, 0x20, 0, 1 << 17};
                memcpy(init + 2, &unique, 8);
                write(fd, init, sizeof init);
                continue;
            }
            if (rnd() % 40 == 0) continue;
            write(fd, out, answer(out, op, unique));
        }
        if (rnd() % 2) close(fd), fd = -1;
        for (int i = 0; i < 3; i++) kill(clients[i], SIGKILL), waitpid(clients[i], 0, 0);
        if (umount2(dir, MNT_DETACH)) return perror("umount"), 1;
        close(fd);
    }
    puts("survived");
    return 0;
}
