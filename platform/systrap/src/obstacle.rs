//! What a host does not allow, and what helps.

use platform::Error;

/// The error for `what`, which the host refused with error number `errno`: one line that ends with what helps.
pub(crate) fn refused(what: &str, errno: i32) -> Error {
    let error = std::io::Error::from_raw_os_error(errno);
    Error::Broken(format!("systrap: {what}: {error}{}", remedy(what, errno)))
}

/// What helps where `what` failed with error number `errno`.
fn remedy(what: &str, errno: i32) -> &'static str {
    match (what, errno) {
        ("mapping the stub", libc::EACCES | libc::EPERM) => {
            "; the host must allow PROT_EXEC mappings of memfds (SELinux: execmem)"
        }
        (_, libc::EACCES | libc::EPERM | libc::ENOSYS) => {
            "; a seccomp profile forbids it, which a container may have: allow the calls that docs/host-calls.md lists \
             (podman, docker: --security-opt seccomp=unconfined)"
        }
        // F_DUPFD says so where the limit leaves no room.
        ("passing the memory files", libc::EINVAL) | (_, libc::EMFILE) => {
            "; raise the limit on open files (ulimit -n)"
        }
        (_, libc::EAGAIN) => "; raise the limit on processes (ulimit -u, a container's pids.max)",
        (_, libc::ENOMEM) => {
            "; let the process reserve addresses (ulimit -v unlimited, vm.overcommit_memory not 2)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_is_one_line_that_says_what_helps() {
        let helps = [
            ("the seccomp filter", libc::EPERM, "--security-opt"),
            ("cloning the process", libc::ENOSYS, "--security-opt"),
            ("cloning the process", libc::EAGAIN, "ulimit -u"),
            ("memory file", libc::ENOMEM, "ulimit -v"),
            ("memory file", libc::EMFILE, "ulimit -n"),
            ("passing the memory files", libc::EINVAL, "ulimit -n"),
            ("mapping the stub", libc::EACCES, "execmem"),
        ];
        for (what, errno, help) in helps {
            let text = refused(what, errno).to_string();
            assert!(text.contains(what) && text.contains(help) && text.lines().count() == 1, "{text}");
        }
    }
}
