//! The Linux-compatible kernel: tasks, memory, signals, time, and the system calls.
//!
//! Reading order: `kernel.rs` (what a sandbox is), `task/run.rs` (the loop of a guest thread), `syscall/table.rs` (every
//! system call by number), then the folder of the subsystem.

pub mod aio;
pub mod cgroup;
pub mod filesystems;
pub mod futex;
pub mod ipc;
pub mod kernel;
pub mod keys;
pub mod klog;
pub mod mm;
pub mod ns;
pub mod proc;
pub mod ptrace;
pub mod seccomp;
pub mod signal;
pub mod strace;
pub mod syscall;
pub mod system;
pub mod task;
pub mod terminal;
pub mod time;

pub use kernel::{Kernel, Setup};
