// What the programs about mounts share: their folder, results, and what mountinfo shows under that folder.
#ifndef MOUNTS_H
#define MOUNTS_H
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char top[64];
#define SHOW(call) show(#call, (call))
static void show(const char *what, long r) { printf("%s: %s\n", what, r < 0 ? strerrorname_np(errno) : r ? "+" : "0"); }

static long ids[400];
static int known;
static int number(long id) {
    for (int i = 0; i < known; i++)
        if (ids[i] == id) return i;
    ids[known] = id;
    return known++;
}

// The lines of mountinfo under our directory, with ids replaced and device numbers left out.
static void info(const char *title) {
    printf("-- %s\n", title);
    FILE *f = fopen("/proc/self/mountinfo", "r");
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0) {
        char root[512], at[512], opts[256], rest[2000] = "";
        int id, parent, ma, mi, n = 0;
        if (sscanf(line, "%d %d %d:%d %511s %511s %255s%n", &id, &parent, &ma, &mi, root, at, opts, &n) < 7) continue;
        if (strncmp(at, top, strlen(top))) continue;
        char *p = line + n;
        for (char *w = strtok(p, " \n"); w; w = strtok(NULL, " \n")) {
            char *colon = strchr(w, ':');
            if (colon && (!strncmp(w, "shared:", 7) || !strncmp(w, "master:", 7) || !strncmp(w, "propagate_from:", 15)))
                sprintf(rest + strlen(rest), " %.*s%d", (int)(colon + 1 - w), w, number(1000000 + atol(colon + 1)));
            else
                sprintf(rest + strlen(rest), " %s", w);
        }
        int up = !strcmp(at, top) ? -1 : number(parent);
        printf("%d %d %s %s %s%s\n", number(id), up, root, at + strlen(top), opts, rest);
    }
    free(line);
    fclose(f);
}

static char *in(const char *name) {
    static char bufs[8][128];
    static int i;
    char *b = bufs[i++ % 8];
    sprintf(b, "%s%s", top, name);
    return b;
}
static void touch(const char *name) { close(open(in(name), O_CREAT | O_WRONLY, 0644)); }
static int is(const char *name) { return !access(in(name), F_OK); }
#endif
