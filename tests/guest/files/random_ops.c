// Random operations from a fixed seed: on the bytes of one file (as fsx does), and on the names of a tree (as fsstress
// does). Each result is printed, so the native run is the model. On a tmpfs, and on what /tmp is.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static uint64_t state;
static uint32_t rnd(uint32_t n) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (state >> 20) % n;
}
static uint32_t hash(const void *p, size_t n, uint32_t h) {
    const unsigned char *b = p;
    while (n--) h = (h ^ *b++) * 16777619u;
    return h;
}
static const char *name(long r) { return r < 0 ? strerrorname_np(errno) : ""; }

enum { MAX = 300000 };
static unsigned char model[MAX + 1], buf[MAX + 1];

static void check(int fd, size_t size, int step, const char *what) {
    struct stat st;
    fstat(fd, &st);
    if ((size_t)st.st_size != size) printf("%d %s: size %ld, should be %zu\n", step, what, (long)st.st_size, size);
    if (pread(fd, buf, MAX, 0) != (ssize_t)size || memcmp(buf, model, size)) {
        size_t i = 0;
        while (i < size && buf[i] == model[i]) i++;
        printf("%d %s: differs at %zu\n", step, what, i);
        exit(1);
    }
}

static void bytes(uint64_t seed, int steps) {
    state = seed;
    memset(model, 0, sizeof model);
    int fd = open("bytes", O_CREAT | O_RDWR | O_TRUNC, 0600), other = open("other", O_CREAT | O_RDWR | O_TRUNC, 0600);
    size_t size = 0;
    uint32_t h = 2166136261u;
    for (int i = 0; i < steps; i++) {
        size_t at = rnd(MAX), len = rnd(rnd(3) ? 5000 : 70000);
        if (at + len > MAX) len = MAX - at;
        const char *what = "";
        for (size_t k = 0; k < len; k += 97) buf[k] = rnd(256);
        int op = rnd(12);
        long r = 0;
        switch (op) {
        case 0: case 1: case 2:
            what = "pwrite";
            for (size_t k = 0; k < len; k++) buf[k] = (i + k * 7) & 255;
            r = pwrite(fd, buf, len, at);
            memcpy(model + at, buf, len);
            if (len && at + len > size) size = at + len;
            break;
        case 3:
            what = "ftruncate";
            r = ftruncate(fd, at);
            if (at < size) memset(model + at, 0, size - at);
            size = at;
            break;
        case 4: {
            what = "mapped write";
            if (!size) break;
            unsigned char *m = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            at %= size;
            if (at + len > size) len = size - at;
            for (size_t k = 0; k < len; k++) m[at + k] = model[at + k] = (i * 3 + k) & 255;
            if (rnd(2)) msync(m, size, MS_SYNC);
            munmap(m, size);
            break;
        }
        case 5: {
            what = "mapped read";
            if (!size) break;
            unsigned char *m = mmap(0, size, PROT_READ, rnd(2) ? MAP_SHARED : MAP_PRIVATE, fd, 0);
            r = memcmp(m, model, size);
            // Behind the end, up to the page's, zeros.
            for (size_t k = size; k % 4096; k++) r |= m[k];
            munmap(m, size);
            break;
        }
        case 6:
            what = "punch";
            if (!len) break;
            r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len);
            if (at < size) memset(model + at, 0, (at + len > size ? size : at + len) - at);
            break;
        case 7:
            what = "allocate";
            if (!len) break;
            r = fallocate(fd, 0, at, len);
            if (at + len > size) size = at + len;
            break;
        case 8:
            what = "zero range";
            if (!len) break;
            r = fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, at, len);
            if (at < size) memset(model + at, 0, (at + len > size ? size : at + len) - at);
            break;
        case 9: {
            what = "copy_file_range";
            loff_t from = rnd(size + 1), to = at;
            if (from + len > (size_t)size) len = size - from;
            // Overlaps are refused.
            if (from < to + (loff_t)len && to < from + (loff_t)len) break;
            if (to + len > MAX) break;
            memcpy(buf, model + from, len);
            loff_t a = from, b = to;
            for (size_t done = 0; done < len;) {
                r = copy_file_range(fd, &a, fd, &b, len - done, 0);
                if (r <= 0) break;
                done += r;
            }
            memcpy(model + to, buf, len);
            if (len && to + len > size) size = to + len;
            break;
        }
        case 10: {
            what = "sendfile";
            off_t from = rnd(size + 1);
            ftruncate(other, 0), lseek(other, 0, SEEK_SET);
            while (len > 0 && (r = sendfile(other, fd, &from, len)) > 0) len -= r;
            off_t end = lseek(other, 0, SEEK_CUR);
            pread(other, buf, end, 0);
            r = memcmp(buf, model + from - end, end);
            break;
        }
        default: {
            what = "vectors";
            struct iovec v[3] = {{buf, len / 3}, {buf + 100000, len / 5}, {buf + 200000, len / 7}};
            for (int k = 0; k < 3; k++) memset(v[k].iov_base, i + k, v[k].iov_len);
            r = pwritev(fd, v, 3, at);
            size_t p = at;
            for (int k = 0; k < 3; p += v[k].iov_len, k++) memcpy(model + p, v[k].iov_base, v[k].iov_len);
            if (p > at && p > size) size = p;
            break;
        }
        }
        if (r < 0) printf("%d %s: %s\n", i, what, name(r));
        if (r > 0 && (op == 5 || op == 10)) printf("%d %s: wrong\n", i, what);
        check(fd, size, i, what);
        h = hash(&size, sizeof size, h);
    }
    printf("bytes: %zu %08x %08x\n", size, h, hash(model, size, 1));
    close(fd), close(other);
    unlink("bytes"), unlink("other");
}

static char *path(char *out) {
    int depth = 1 + rnd(3);
    *out = 0;
    for (int i = 0; i < depth; i++) sprintf(out + strlen(out), "%s%c", i ? "/" : "", 'a' + rnd(5));
    return out;
}

static uint32_t tree(const char *dir, uint32_t h) {
    struct dirent **list;
    int n = scandir(dir, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char p[400], link[300] = "";
        if (list[i]->d_name[0] != '.') {
            snprintf(p, sizeof p, "%s/%s", dir, list[i]->d_name);
            struct stat st;
            lstat(p, &st);
            readlink(p, link, sizeof link - 1);
            h = hash(p, strlen(p), h), h = hash(link, strlen(link), h), h = hash(&st.st_mode, sizeof st.st_mode, h);
            if (!S_ISDIR(st.st_mode)) h = hash(&st.st_nlink, sizeof st.st_nlink, h), h = hash(&st.st_size, sizeof st.st_size, h);
            if (list[i]->d_type != IFTODT(st.st_mode)) printf("%s: type %d\n", p, list[i]->d_type);
            if (list[i]->d_ino != st.st_ino) printf("%s: number\n", p);
            if (S_ISDIR(st.st_mode)) h = tree(p, h);
        }
        free(list[i]);
    }
    if (n >= 0) free(list);
    return h;
}

static void names(uint64_t seed, int steps) {
    state = seed;
    uint32_t h = 2166136261u;
    for (int i = 0; i < steps; i++) {
        char a[64], b[64];
        path(a), path(b);
        long r = 0;
        int op = rnd(14), fd;
        errno = 0;
        switch (op) {
        case 0: case 1: r = mkdir(a, 0755); break;
        case 2: case 3: r = fd = open(a, O_CREAT | O_WRONLY | (rnd(2) ? O_EXCL : 0), 0644);
            if (fd >= 0) write(fd, b, rnd(60)), close(fd), r = 0;
            break;
        case 4: r = rmdir(a); break;
        case 5: r = unlink(a); break;
        case 6: case 7: r = rename(a, b); break;
        case 8: r = syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 1 + rnd(2)); break;
        case 9: r = link(a, b); break;
        case 10: r = symlink(a, b); break;
        case 11: r = fd = open(a, O_RDONLY | (rnd(2) ? O_NOFOLLOW : 0) | (rnd(3) ? 0 : O_DIRECTORY));
            if (fd >= 0) close(fd), r = 0;
            break;
        case 12: r = truncate(a, rnd(5000)); break;
        default: r = chmod(a, 0700 | rnd(0100)); break;
        }
        int e = r < 0 ? errno : 0;
        h = hash(&e, sizeof e, h);
        if (i % 250 == 249) printf("%d: %08x %08x\n", i, h, tree(".", 1));
        if (getenv("VERBOSE")) printf("%d op %d %s %s: %s\n", i, op, a, b, e ? strerrorname_np(e) : "0");
    }
}

static void both(const char *where) {
    char dir[100];
    sprintf(dir, "%s/random-XXXXXX", where);
    if (!mkdtemp(dir) || chdir(dir)) exit(2);
    for (uint64_t seed = 1; seed <= 2; seed++) {
        bytes(seed * 0x9e3779b97f4a7c15, 150);
        mkdir("tree", 0755);
        if (chdir("tree")) exit(2);
        names(seed * 0xd1342543de82ef95, 2000);
        if (chdir("..")) exit(2);
        char command[300];
        sprintf(command, "rm -rf %s/tree", dir);
        if (system(command)) puts("rm failed");
    }
    if (chdir("/") || rmdir(dir)) puts("left over");
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 4096);
    both("/tmp");
    unshare(CLONE_NEWNS);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (mount("t", "/mnt", "tmpfs", 0, NULL)) perror("mount");
    both("/mnt");
    puts("end");
    umount2("/mnt", MNT_DETACH);
    return 0;
}
