//! `linux/io_uring.h`: layouts and numbers of io_uring(7).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct io_uring_sqe`: a request. Unions have the name of their most common member.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "io_uring_enter(2) explains each")]
pub struct Sqe {
    pub opcode: u8,
    pub flags: u8,
    pub ioprio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    pub op_flags: u32,
    pub user_data: u64,
    /// Also `buf_group`.
    pub buf_index: u16,
    pub personality: u16,
    /// Also `splice_fd_in`.
    pub file_index: u32,
    pub addr3: u64,
    pub pad2: u64,
}

/// `struct io_uring_cqe`: an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "io_uring(7) explains each")]
pub struct Cqe {
    pub user_data: u64,
    pub res: i32,
    pub flags: u32,
}

/// `struct io_sqring_offsets`, and with other names `struct io_cqring_offsets`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "io_uring_setup(2) explains each")]
pub struct RingOffsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    /// `flags`; of the completion ring `overflow`.
    pub flags: u32,
    /// `dropped`; of the completion ring `cqes`.
    pub dropped: u32,
    /// `array`; of the completion ring `flags`.
    pub array: u32,
    pub resv1: u32,
    pub user_addr: u64,
}

/// `struct io_uring_params`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "io_uring_setup(2) explains each")]
pub struct Params {
    pub sq_entries: u32,
    pub cq_entries: u32,
    pub flags: u32,
    pub sq_thread_cpu: u32,
    pub sq_thread_idle: u32,
    pub features: u32,
    pub wq_fd: u32,
    pub resv: [u32; 3],
    pub sq_off: RingOffsets,
    pub cq_off: RingOffsets,
}

/// `IORING_OP_*`.
#[expect(missing_docs, reason = "io_uring_enter(2) explains each")]
pub mod op {
    pub const NOP: u8 = 0;
    pub const READV: u8 = 1;
    pub const WRITEV: u8 = 2;
    pub const FSYNC: u8 = 3;
    pub const READ_FIXED: u8 = 4;
    pub const WRITE_FIXED: u8 = 5;
    pub const POLL_ADD: u8 = 6;
    pub const POLL_REMOVE: u8 = 7;
    pub const SYNC_FILE_RANGE: u8 = 8;
    pub const SENDMSG: u8 = 9;
    pub const RECVMSG: u8 = 10;
    pub const TIMEOUT: u8 = 11;
    pub const TIMEOUT_REMOVE: u8 = 12;
    pub const ACCEPT: u8 = 13;
    pub const ASYNC_CANCEL: u8 = 14;
    pub const LINK_TIMEOUT: u8 = 15;
    pub const CONNECT: u8 = 16;
    pub const FALLOCATE: u8 = 17;
    pub const OPENAT: u8 = 18;
    pub const CLOSE: u8 = 19;
    pub const FILES_UPDATE: u8 = 20;
    pub const STATX: u8 = 21;
    pub const READ: u8 = 22;
    pub const WRITE: u8 = 23;
    pub const FADVISE: u8 = 24;
    pub const MADVISE: u8 = 25;
    pub const SEND: u8 = 26;
    pub const RECV: u8 = 27;
    pub const OPENAT2: u8 = 28;
    pub const EPOLL_CTL: u8 = 29;
    pub const SPLICE: u8 = 30;
    pub const PROVIDE_BUFFERS: u8 = 31;
    pub const REMOVE_BUFFERS: u8 = 32;
    pub const TEE: u8 = 33;
    pub const SHUTDOWN: u8 = 34;
    pub const RENAMEAT: u8 = 35;
    pub const UNLINKAT: u8 = 36;
    pub const MKDIRAT: u8 = 37;
    pub const SYMLINKAT: u8 = 38;
    pub const LINKAT: u8 = 39;
    pub const MSG_RING: u8 = 40;
    pub const FSETXATTR: u8 = 41;
    pub const SETXATTR: u8 = 42;
    pub const FGETXATTR: u8 = 43;
    pub const GETXATTR: u8 = 44;
    pub const SOCKET: u8 = 45;
    pub const SEND_ZC: u8 = 47;
    pub const SENDMSG_ZC: u8 = 48;
    pub const FIXED_FD_INSTALL: u8 = 54;
    pub const FTRUNCATE: u8 = 55;
    pub const BIND: u8 = 56;
    pub const LISTEN: u8 = 57;
    /// The first number without an operation, in Linux 6.12.
    pub const LAST: u8 = 58;
}

/// `IORING_SETUP_*`.
#[expect(missing_docs, reason = "io_uring_setup(2) explains each")]
pub mod setup {
    pub const IOPOLL: u32 = 1;
    pub const SQPOLL: u32 = 1 << 1;
    pub const SQ_AFF: u32 = 1 << 2;
    pub const CQSIZE: u32 = 1 << 3;
    pub const CLAMP: u32 = 1 << 4;
    pub const ATTACH_WQ: u32 = 1 << 5;
    pub const R_DISABLED: u32 = 1 << 6;
    pub const SUBMIT_ALL: u32 = 1 << 7;
    pub const COOP_TASKRUN: u32 = 1 << 8;
    pub const TASKRUN_FLAG: u32 = 1 << 9;
    pub const SQE128: u32 = 1 << 10;
    pub const CQE32: u32 = 1 << 11;
    pub const SINGLE_ISSUER: u32 = 1 << 12;
    pub const DEFER_TASKRUN: u32 = 1 << 13;
    pub const NO_MMAP: u32 = 1 << 14;
    pub const REGISTERED_FD_ONLY: u32 = 1 << 15;
    pub const NO_SQARRAY: u32 = 1 << 16;
    pub const ALL: u32 = (1 << 17) - 1;
}

/// `IORING_FEAT_*` that are announced: all of Linux 6.12 but `RECVSEND_BUNDLE`.
pub const FEATURES: u32 = 0x3fff | 1 << 15;

/// `IORING_ENTER_*`.
#[expect(missing_docs, reason = "io_uring_enter(2) explains each")]
pub mod enter {
    pub const GETEVENTS: u32 = 1;
    pub const SQ_WAKEUP: u32 = 2;
    pub const SQ_WAIT: u32 = 4;
    pub const EXT_ARG: u32 = 8;
    pub const REGISTERED_RING: u32 = 16;
    pub const ABS_TIMER: u32 = 32;
}

/// `IOSQE_*`.
#[expect(missing_docs, reason = "io_uring_enter(2) explains each")]
pub mod sqe {
    pub const FIXED_FILE: u8 = 1;
    pub const IO_DRAIN: u8 = 2;
    pub const IO_LINK: u8 = 4;
    pub const IO_HARDLINK: u8 = 8;
    pub const ASYNC: u8 = 16;
    pub const BUFFER_SELECT: u8 = 32;
    pub const CQE_SKIP_SUCCESS: u8 = 64;
    pub const ALL: u8 = 127;
}

/// `IORING_CQE_F_*`.
#[expect(missing_docs, reason = "io_uring(7) explains each")]
pub mod cqe {
    pub const BUFFER: u32 = 1;
    pub const MORE: u32 = 2;
    pub const SOCK_NONEMPTY: u32 = 4;
    pub const NOTIF: u32 = 8;
}

/// `IORING_SQ_*`: what the kernel tells in the ring's flags.
#[expect(missing_docs, reason = "io_uring_setup(2) explains each")]
pub mod sq {
    pub const NEED_WAKEUP: u32 = 1;
    pub const CQ_OVERFLOW: u32 = 2;
    pub const TASKRUN: u32 = 4;
}

/// Places to map from: `IORING_OFF_*`.
#[expect(missing_docs, reason = "io_uring_setup(2) explains each")]
pub mod place {
    pub const SQ_RING: u64 = 0;
    pub const CQ_RING: u64 = 0x800_0000;
    pub const SQES: u64 = 0x1000_0000;
}

/// Byte offsets in the mapped rings, as Linux has them (`struct io_rings`). Programs learn them from [`Params`].
#[expect(missing_docs, reason = "the fields of struct io_rings")]
pub mod rings {
    pub const SQ_HEAD: u32 = 0;
    pub const SQ_TAIL: u32 = 64;
    pub const CQ_HEAD: u32 = 128;
    pub const CQ_TAIL: u32 = 192;
    pub const SQ_MASK: u32 = 256;
    pub const CQ_MASK: u32 = 260;
    pub const SQ_ENTRIES: u32 = 264;
    pub const CQ_ENTRIES: u32 = 268;
    pub const SQ_DROPPED: u32 = 272;
    pub const SQ_FLAGS: u32 = 276;
    pub const CQ_FLAGS: u32 = 280;
    pub const CQ_OVERFLOW: u32 = 284;
    pub const CQES: u32 = 320;
}

/// `IORING_MAX_ENTRIES`.
pub const MAX_ENTRIES: u32 = 32768;
/// `IORING_MAX_CQ_ENTRIES`.
pub const MAX_CQ_ENTRIES: u32 = 2 * MAX_ENTRIES;

/// `IORING_REGISTER_*`.
#[expect(missing_docs, reason = "io_uring_register(2) explains each")]
pub mod register {
    pub const BUFFERS: u32 = 0;
    pub const UNREGISTER_BUFFERS: u32 = 1;
    pub const FILES: u32 = 2;
    pub const UNREGISTER_FILES: u32 = 3;
    pub const EVENTFD: u32 = 4;
    pub const UNREGISTER_EVENTFD: u32 = 5;
    pub const FILES_UPDATE: u32 = 6;
    pub const EVENTFD_ASYNC: u32 = 7;
    pub const PROBE: u32 = 8;
    pub const PERSONALITY: u32 = 9;
    pub const UNREGISTER_PERSONALITY: u32 = 10;
    pub const RESTRICTIONS: u32 = 11;
    pub const ENABLE_RINGS: u32 = 12;
    pub const FILES2: u32 = 13;
    pub const FILES_UPDATE2: u32 = 14;
    pub const BUFFERS2: u32 = 15;
    pub const BUFFERS_UPDATE: u32 = 16;
    pub const IOWQ_AFF: u32 = 17;
    pub const UNREGISTER_IOWQ_AFF: u32 = 18;
    pub const IOWQ_MAX_WORKERS: u32 = 19;
    pub const RING_FDS: u32 = 20;
    pub const UNREGISTER_RING_FDS: u32 = 21;
    pub const PBUF_RING: u32 = 22;
    pub const UNREGISTER_PBUF_RING: u32 = 23;
    pub const SYNC_CANCEL: u32 = 24;
    pub const FILE_ALLOC_RANGE: u32 = 25;
    pub const PBUF_STATUS: u32 = 26;
    /// The first number without an operation, in Linux 6.12.
    pub const LAST: u32 = 31;
    /// The descriptor is that of a registered ring.
    pub const USE_REGISTERED_RING: u32 = 1 << 31;
}
