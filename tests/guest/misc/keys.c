/* Keys and keyrings. Each case begins with a session keyring of its own. */
#include "../case.h"
#define T (-1)
#define PR (-2)
#define SE (-3)
#define US (-4)
#define SESSION() NEED(S(keyctl, 1, 0) > 0)
#define USER(...) CHILD(become(1000, 1000); __VA_ARGS__)

static long add(const char *kind, const char *name, const char *text, long ring) {
  return S(add_key, kind, name, text, strlen(text), ring);
}
/* Describes a key without its number. */
static void describe(const char *what, long key) {
  memset(buf, 0, 200);
  long n = S(keyctl, 6, key, buf, 200);
  if (n < 0) V(what, n);
  else out("%s: %ld %s\n", what, n, buf);
}

CASE(add_key, errnos) {
  SESSION();
  char *long_name = memset(pages(3), 'n', 5000), big[40] = "a_type_with_a_name_that_is_too_long_____";
  R(add_key, "user", "a", "b", 1 << 20, SE);
  R(add_key, "", "a", "b", 1, SE);
  R(add_key, ".dead", "a", "b", 1, SE);
  R(add_key, big, "a", "b", 1, SE);
  R(add_key, "user", long_name, "b", 1, SE);
  R(add_key, "user", "", "b", 1, SE);
  R(add_key, "user", 0, "b", 1, SE);
  R(add_key, "user", "a", 0, 0, SE);
  R(add_key, "user", "a", 0, 5, SE);
  R(add_key, "user", "a", long_name, 32768, SE);
  OK(add_key, "user", ".a", "b", 1, SE);
  R(add_key, "keyring", ".a", 0, 0, SE);
  R(add_key, "keyring", "a", "b", 1, SE);
  R(add_key, "nonesuch", "a", "b", 1, SE);
  R(add_key, "user", "a", "b", 1, 0);
  R(add_key, "user", "a", "b", 1, -6);
  R(add_key, "user", "a", "b", 1, -7);
  R(add_key, "user", "a", "b", 1, -8);
  R(add_key, "user", "a", "b", 1, -9);
  R(add_key, "user", "a", "b", 1, 0x7ffffff0);
  long k = OK(add_key, "user", "a", "b", 1, SE);
  R(add_key, "user", "a", "b", 1, k);
  P(S(add_key, "user", "a", "cc", 2, SE) == k);
  show_bytes("read", buf, S(keyctl, 11, k, buf, 9));
  R(add_key, "logon", "nocolon", "b", 1, SE);
  R(add_key, "logon", ":a", "b", 1, SE);
  long l = OK(add_key, "logon", "s:a", "b", 1, SE);
  R(keyctl, 11, l, buf, 9);
  describe("logon", l);
  describe("user", k);
  P(S(add_key, "keyring", "r", 0, 0, SE) != S(add_key, "keyring", "r", 0, 0, SE));
}

CASE(keyctl, describe_and_read) {
  SESSION();
  long k = add("user", "name", "payload", SE);
  R(keyctl, 6, k, 0, 0);
  R(keyctl, 6, k, buf, 5);
  P(buf[0]);
  R(keyctl, 6, k, BAD, 100);
  R(keyctl, 11, k, 0, 0);
  R(keyctl, 11, k, buf, 3);
  P(buf[0]);
  R(keyctl, 11, k, BAD, 100);
  R(keyctl, 11, 0x7ffffff0, buf, 9);
  R(keyctl, 11, 0, buf, 9);
  int ids[9] = {0};
  R(keyctl, 11, SE, ids, 36);
  P(ids[0] == k);
  describe("session", SE);
  describe("user", US);
  describe("user's session", -5);
  R(keyctl, 6, T, buf, 100);
  R(keyctl, 6, PR, buf, 100);
  R(keyctl, 17, k, buf, 100);
  P(buf[0]);
}

CASE(keyctl, special_keyrings) {
  SESSION();
  R(keyctl, 0, T, 0);
  OK(keyctl, 0, T, 1);
  OK(keyctl, 0, T, 0);
  describe("thread", T);
  R(keyctl, 0, PR, 0);
  OK(keyctl, 0, PR, 1);
  describe("process", PR);
  R(keyctl, 0, -6, 1);
  R(keyctl, 0, -7, 1);
  R(keyctl, 0, -8, 1);
  R(keyctl, 0, -9, 1);
  R(keyctl, 0, 0, 1);
  CHILD(R(keyctl, 0, T, 0); R(keyctl, 0, PR, 0); OK(keyctl, 0, SE, 0));
  long s = S(keyctl, 0, SE, 0);
  CHILD(P(S(keyctl, 0, SE, 0) == s); P(S(keyctl, 1, 0) != s));
  P(S(keyctl, 0, SE, 0) == s);
  P(S(keyctl, 0, US, 0) == S(keyctl, 0, US, 1));
}

CASE(keyctl, join_by_name) {
  SESSION();
  R(keyctl, 1, ".hidden");
  R(keyctl, 1, BAD);
  R(keyctl, 1, "");
  long one = OK(keyctl, 1, "ringfence-conformance-a");
  describe("joined", SE);
  CHILD(P(S(keyctl, 1, "ringfence-conformance-b") != one); P(S(keyctl, 0, SE, 0) == one));
  OK(keyctl, 1, "ringfence-conformance-a");
  R(keyctl, 5, SE, 0x3f3f0000);
  CHILD(S(keyctl, 1, 0); P(S(keyctl, 1, "ringfence-conformance-a") == one));
}

CASE(keyctl, update) {
  SESSION();
  long k = add("user", "a", "one", SE), r = S(add_key, "keyring", "r", 0, 0, SE);
  R(keyctl, 2, k, "three", 5);
  show_bytes("read", buf, S(keyctl, 11, k, buf, 9));
  R(keyctl, 2, k, "x", 0);
  R(keyctl, 2, k, "x", 4097);
  R(keyctl, 2, k, BAD, 4);
  R(keyctl, 2, r, "x", 1);
  R(keyctl, 2, 0x7ffffff0, "x", 1);
  R(keyctl, 5, k, 0x3b0b0000);
  R(keyctl, 2, k, "x", 1);
}

CASE(keyctl, link_and_unlink) {
  SESSION();
  long k = add("user", "a", "one", SE), r = S(add_key, "keyring", "r", 0, 0, SE);
  R(keyctl, 8, k, r);
  R(keyctl, 8, k, r);
  R(keyctl, 11, r, 0, 0);
  long other = add("user", "a", "two", US);
  R(keyctl, 8, other, r);
  R(keyctl, 11, r, 0, 0);
  R(keyctl, 9, k, r);
  R(keyctl, 9, other, r);
  R(keyctl, 9, other, r);
  R(keyctl, 9, other, US);
  R(keyctl, 8, r, k);
  R(keyctl, 9, k, k);
  R(keyctl, 9, k, 0x7ffffff0);
  R(keyctl, 9, 0x7ffffff0, r);
  R(keyctl, 8, r, r);
  long inner = S(add_key, "keyring", "inner", 0, 0, r);
  R(keyctl, 8, r, inner);
  R(keyctl, 8, SE, inner);
  R(keyctl, 7, r);
  R(keyctl, 11, r, 0, 0);
  R(keyctl, 7, k);
}

CASE(keyctl, depth) {
  SESSION();
  long top = S(add_key, "keyring", "0", 0, 0, SE), at = top;
  char name[4];
  for (int i = 1; i < 9; i++) {
    sprintf(name, "%d", i);
    at = S(add_key, "keyring", name, 0, 0, at);
    if (at < 0) V("deeper", at);
  }
  long other = S(add_key, "keyring", "other", 0, 0, SE);
  R(keyctl, 8, top, other);
  add("user", "deep", "x", at);
  R(keyctl, 10, SE, "user", "deep", 0);
}

CASE(keyctl, move) {
  SESSION();
  long a = S(add_key, "keyring", "a", 0, 0, SE), b = S(add_key, "keyring", "b", 0, 0, SE), k = add("user", "k", "x", a);
  R(keyctl, 30, k, a, b, 2);
  R(keyctl, 30, k, a, b, 0);
  R(keyctl, 11, a, 0, 0);
  R(keyctl, 11, b, 0, 0);
  R(keyctl, 30, k, a, b, 0);
  R(keyctl, 30, k, b, b, 0);
  add("user", "k", "y", a);
  R(keyctl, 30, k, b, a, 1);
  R(keyctl, 30, k, b, a, 0);
  R(keyctl, 11, a, 0, 0);
  R(keyctl, 30, k, k, a, 0);
}

CASE(keyctl, search) {
  SESSION();
  long r = S(add_key, "keyring", "r", 0, 0, SE), k = add("user", "find-me", "x", r), d = S(add_key, "keyring", "d", 0, 0, SE);
  P(S(keyctl, 10, SE, "user", "find-me", 0) == k);
  P(S(keyctl, 10, r, "user", "find-me", d) == k);
  R(keyctl, 11, d, 0, 0);
  P(S(keyctl, 10, SE, "keyring", "r", 0) == r);
  P(S(keyctl, 10, r, "keyring", "r", 0) == r);
  R(keyctl, 10, SE, "user", "find", 0);
  R(keyctl, 10, SE, "logon", "find-me", 0);
  R(keyctl, 10, SE, "nonesuch", "find-me", 0);
  R(keyctl, 10, k, "user", "find-me", 0);
  R(keyctl, 10, SE, "user", BAD, 0);
  R(keyctl, 5, k, 0x37370000);
  R(keyctl, 10, SE, "user", "find-me", 0);
  R(keyctl, 5, k, 0x3f3f0000);
  R(keyctl, 3, k);
  R(keyctl, 10, SE, "user", "find-me", 0);
  R(keyctl, 6, k, buf, 100);
}

CASE(request_key, finds) {
  SESSION();
  long k = add("user", "ringfence-found", "x", SE), d = S(add_key, "keyring", "d", 0, 0, SE);
  P(S(request_key, "user", "ringfence-found", 0, 0) == k);
  P(S(request_key, "user", "ringfence-found", 0, d) == k);
  R(keyctl, 11, d, 0, 0);
  R(request_key, "user", "ringfence-missing", 0, d);
  R(request_key, "user", "ringfence-found", 0, k);
  R(request_key, "user", "ringfence-found", 0, -9);
  R(request_key, ".x", "ringfence-found", 0, 0);
  R(request_key, "keyring", "ringfence-missing", "info", 0);
  long t = add("user", "ringfence-found", "y", T);
  P(S(request_key, "user", "ringfence-found", 0, 0) == t);
  R(keyctl, 3, t);
  OK(request_key, "user", "ringfence-found", 0, 0);
}

CASE(keyctl, revoke_and_invalidate) {
  SESSION();
  long k = add("user", "a", "x", SE), r = S(add_key, "keyring", "r", 0, 0, SE), i = add("user", "i", "x", SE);
  R(keyctl, 3, k);
  R(keyctl, 3, k);
  R(keyctl, 8, k, r);
  R(keyctl, 9, k, SE);
  R(keyctl, 3, r);
  R(add_key, "user", "b", "x", 1, r);
  R(keyctl, 11, r, 0, 0);
  R(keyctl, 21, i);
  R(keyctl, 21, i);
  R(keyctl, 6, i, buf, 100);
  R(keyctl, 21, 0x7ffffff0);
}

CASE(keyctl, timeout) {
  SESSION();
  long k = add("user", "a", "x", SE);
  R(keyctl, 15, k, 1);
  while (S(keyctl, 11, k, 0, 0) == 1) nap(50);
  R(keyctl, 11, k, 0, 0);
  R(keyctl, 6, k, buf, 100);
  R(keyctl, 15, k, 0);
  R(keyctl, 10, SE, "user", "a", 0);
  long b = add("user", "b", "x", SE);
  R(keyctl, 15, b, 100000);
  R(keyctl, 15, b, 0);
  R(keyctl, 11, b, 0, 0);
}

CASE(keyctl, permissions) {
  SESSION();
  long k = add("user", "a", "x", SE);
  R(keyctl, 5, k, 0x40000000);
  R(keyctl, 5, k, 0x3f3f3f3f);
  describe("all", k);
  R(keyctl, 5, k, 0x3f000000);
  CHILD(S(keyctl, 1, 0); R(keyctl, 6, k, buf, 100); R(keyctl, 11, k, buf, 9); R(keyctl, 2, k, "y", 1); R(keyctl, 8, k, SE); R(keyctl, 5, k, 0));
  R(keyctl, 5, k, 0x3f010000);
  CHILD(S(keyctl, 1, 0); describe("view", k); R(keyctl, 11, k, buf, 9); R(keyctl, 9, k, SE));
  R(keyctl, 5, k, 0x3f020000);
  CHILD(S(keyctl, 1, 0); R(keyctl, 6, k, buf, 100); R(keyctl, 11, k, buf, 9));
  R(keyctl, 5, k, 0x3f100000);
  CHILD(S(keyctl, 1, 0); R(keyctl, 8, k, SE); R(keyctl, 11, k, 0, 0));
  R(keyctl, 5, k, 0x3f200000);
  CHILD(S(keyctl, 1, 0); R(keyctl, 3, k); R(keyctl, 11, k, 0, 0));
  long o = add("user", "o", "x", SE);
  R(keyctl, 5, o, 0x3f003f00);
  USER(S(keyctl, 1, 0); R(keyctl, 6, o, buf, 100));
  R(keyctl, 5, o, 0x3f000001);
  USER(S(keyctl, 1, 0); describe("other", o); R(keyctl, 11, o, buf, 9));
  USER(R(keyctl, 5, o, 0x3f3f3f3f));
}

CASE(keyctl, owners) {
  SESSION();
  long k = add("user", "a", "x", SE);
  R(keyctl, 4, k, -1, -1);
  R(keyctl, 4, k, 1000, -1);
  describe("given", k);
  R(keyctl, 4, k, -1, 77);
  describe("given", k);
  R(keyctl, 4, 0x7ffffff0, 1, 1);
  USER(S(keyctl, 1, 0); long m = add("user", "m", "x", SE); describe("mine", m); R(keyctl, 4, m, 0, -1); R(keyctl, 4, m, 1000, 1000); R(keyctl, 4, m, -1, 5); R(keyctl, 4, m, -1, 1000));
}

CASE(keyctl, quota) {
  SESSION();
  USER(become(54321, 54321); S(keyctl, 1, 0); char *big = memset(pages(3), 'x', 10000); int n = 0; long k; char name[30];
    for (; n < 10000; n++) { sprintf(name, "k%d", n); if ((k = S(add_key, "user", name, big, 4000, SE)) < 0) break; }
    V("ends", k); P(n); k = S(add_key, "user", "k0", big, 1, SE); P(k > 0); R(keyctl, 2, k, big, 4000); OK(add_key, "user", "small", big, 100, SE));
}

CASE(keyctl, restricted_keyring) {
  SESSION();
  long r = S(add_key, "keyring", "r", 0, 0, SE), k = add("user", "a", "x", SE);
  R(keyctl, 29, r, 0, "x");
  R(keyctl, 29, r, "user", 0);
  R(keyctl, 29, k, 0, 0);
  R(keyctl, 29, r, 0, 0);
  R(keyctl, 29, r, 0, 0);
  R(keyctl, 8, k, r);
  R(add_key, "user", "b", "x", 1, r);
}

CASE(keyctl, without_requests) {
  SESSION();
  long k = add("user", "a", "x", SE);
  R(keyctl, 12, k, "x", 1, SE);
  R(keyctl, 12, k, "x", 1 << 20, SE);
  R(keyctl, 13, k, 1, SE);
  R(keyctl, 19, k, 1, 0, SE);
  R(keyctl, 19, k, 1, 4095, SE);
  R(keyctl, 19, k, 1, 512, SE);
  R(keyctl, 19, k, 1, 5, SE);
  R(keyctl, 16, -1);
  R(keyctl, 16, 0);
  R(keyctl, 16, k);
  R(keyctl, 14, -1);
  R(keyctl, 14, 3);
  R(keyctl, 14, -1);
  R(keyctl, 14, 6);
  R(keyctl, 14, 8);
  R(keyctl, 14, 1);
  OK(keyctl, 0, T, 0);
  R(keyctl, 14, 0);
  CHILD(R(keyctl, 14, -1));
}

CASE(keyctl, session_to_parent) {
  SESSION();
  long s = S(keyctl, 0, SE, 0);
  CHILD(R(keyctl, 18));
  CHILD(S(keyctl, 1, 0); R(keyctl, 18));
  P(S(keyctl, 0, SE, 0) != s);
  CHILD(become(1000, 1000); S(keyctl, 1, 0); R(keyctl, 18));
}

CASE(keyctl, capabilities) {
  R(keyctl, 31, buf, 0);
  R(keyctl, 31, buf, 1);
  R(keyctl, 31, BAD, 1);
  memset(buf, 9, 20);
  R(keyctl, 31, buf, 10);
  P(buf[0] & 0xe1);
  P(buf[2]);
  P(buf[9]);
  P(buf[10]);
}

CASE(keyctl, in_proc) {
  SESSION();
  long k = add("user", "ringfence-in-proc", "four", SE);
  char want[20], *line = buf;
  sprintf(want, "%08lx ", k);
  int fd = open("/proc/keys", O_RDONLY);
  long n = 0, got;
  while (n < 60000 && (got = read(fd, buf + n, 60000 - n)) > 0) n += got;
  buf[n] = 0;
  line = strstr(buf, want);
  P(line != 0);
  if (line) { *strchr(line, '\n') = 0; show_bytes("line", line + 8, strlen(line + 8)); }
  fd = open("/proc/key-users", O_RDONLY);
  n = read(fd, buf, 5000);
  P(n > 10);
}

CASE(keyctl, closed_keyrings) {
  SESSION();
  long ring = add("keyring", "r", "", SE);
  add("user", "a", "x", ring);
  R(keyctl, 29, ring, 0, 0);
  R(add_key, "user", "a", "y", 1, ring);
  R(add_key, "user", "b", "y", 1, ring);
  R(add_key, "logon", "b", "y", 1, ring);
  R(add_key, "user", "a", "", 0, ring);
}

CASE(keyctl, lengths_to_read_keyrings) {
  SESSION();
  long ring = add("keyring", "r", "", SE);
  add("user", "a", "x", ring);
  char *page = pages(2);
  R(keyctl, 11, ring, page, 3);
  R(keyctl, 11, ring, page, 4);
  R(keyctl, 11, ring, page, 5);
  R(keyctl, 11, ring, page, 4095);
  R(keyctl, 11, ring, page, 4097);
  R(keyctl, 11, ring, 0, 5);
  R(keyctl, 11, ring, BAD, 5);
}
