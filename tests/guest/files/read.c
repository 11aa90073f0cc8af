/* read, write and their relatives with positions and vectors. */
#include "../case.h"
CASE(read, at_the_end) { int fd = make("f", "abc"); R(read, fd, buf, 10); S(lseek, fd, 0, 0); R(read, fd, buf, 10); R(read, fd, buf, 10); }
CASE(read, bad_fd) { R(read, -1, buf, 1); R(read, 99, buf, 1); R(read, -1, BAD, 1); }
