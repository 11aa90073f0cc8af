//! The sandbox's own name in its `/etc/hosts`, by which programs find an address for it.

use base::cred::Credentials;
use fs::file::oflag;
use fs::vfs::{MountNamespace, Walk, mode};

/// Larger files are left alone.
const SIZE_MAX: usize = 1 << 20;
/// The address that Debian gives a machine without one of its own.
const ADDRESS: &str = "127.0.1.1";

/// Whether `text` has a line for `name`.
fn names(text: &[u8], name: &str) -> bool {
    text.split(|&b| b == b'\n').any(|line| {
        let line = line.split(|&b| b == b'#').next().unwrap_or(line);
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next().is_some() && words.any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Adds a line for `name` to `/etc/hosts`, unless there is one. The root's own file stays as it is: what is changed lies in the
/// overlay above it. Where there can be no such file, nothing happens: a sandbox works without it.
pub(crate) fn add(mounts: &MountNamespace, name: &str) {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || !name.bytes().all(is_name) {
        return;
    }
    let cred = Credentials::root();
    let top = mounts.root();
    let walk = Walk { root: top.clone(), base: top, cred: &cred, umask: 0 };
    let mut text = Vec::new();
    if let Ok(file) = walk.open(b"/etc/hosts", oflag::RDONLY | oflag::NONBLOCK, 0) {
        let is_file = file.ops.metadata().is_ok_and(|meta| meta.mode & mode::IFMT == mode::IFREG);
        if !is_file {
            return;
        }
        while text.len() < SIZE_MAX {
            match file.ops.read_at(text.len() as u64, &mut text) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
    if text.len() >= SIZE_MAX || names(&text, name) {
        return;
    }
    let mut line = String::new();
    if text.is_empty() {
        line.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    } else if text.last() != Some(&b'\n') {
        line.push('\n');
    }
    line.push_str(&format!("{ADDRESS}\t{name}\n"));
    let flags = oflag::WRONLY | oflag::CREAT | oflag::NONBLOCK;
    if let Ok(file) = walk.open(b"/etc/hosts", flags, 0o644) {
        let _ = file.ops.write_at(text.len() as u64, &mut line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_name_is_found_as_a_whole_word_behind_an_address() {
        let text = b"127.0.0.1 localhost\n# 1.2.3.4 box\n127.0.1.1\tBox.example box # not this\n10.0.0.1";
        assert!(names(text, "box") && names(text, "BOX") && names(text, "localhost"));
        assert!(!names(text, "not") && !names(text, "10.0.0.1") && !names(text, "bo"));
    }
}
