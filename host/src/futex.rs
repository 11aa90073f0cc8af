//! Sleeping on a word of a mapping that other processes share.
#![expect(unsafe_code, reason = "makes raw system calls")]

use std::time::Duration;

use crate::mapping::Mapping;

/// Sleeps while the word at `offset` is `expected`, until somebody wakes it or `limit` is over. May return without a
/// reason.
pub fn wait(mapping: &Mapping, offset: u64, expected: u32, limit: Option<Duration>) {
    assert!(offset.is_multiple_of(4) && offset + 4 <= mapping.len(), "futex: {offset:#x} is outside");
    let limit = limit.map(|d| libc::timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is inside the mapping (checked above), and `limit` is null or a `timespec` of our own.
    unsafe { libc::syscall(libc::SYS_futex, mapping.address(offset), libc::FUTEX_WAIT, expected, limit) };
}

/// Wakes everybody who sleeps on the word at `offset`.
pub fn wake(mapping: &Mapping, offset: u64) {
    assert!(offset.is_multiple_of(4) && offset + 4 <= mapping.len(), "futex: {offset:#x} is outside");
    // SAFETY: the word is inside the mapping (checked above); the call only reads it.
    unsafe { libc::syscall(libc::SYS_futex, mapping.address(offset), libc::FUTEX_WAKE, i32::MAX) };
}
