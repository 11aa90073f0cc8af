//! Files without a path: pipes, eventfd, timerfd, epoll, and the standard streams of the host.
