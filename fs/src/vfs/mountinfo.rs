//! What /proc shows of mounts (proc_pid_mountinfo(5)).

use std::fmt::Write as _;
use std::sync::Arc;

use super::mount::{Mount, MountFlags, ROOTFS_ID};
use super::{MountNamespace, VfsPath};

/// Names of a mount's attributes, in Linux's order.
///
/// Source: Linux 6.12 fs/proc_namespace.c, `show_mnt_opts`.
fn attributes(mount: &Mount) -> String {
    let flags = mount.flags();
    let relatime = !flags.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME);
    let named = [
        (flags.contains(MountFlags::NOSUID), ",nosuid"),
        (flags.contains(MountFlags::NODEV), ",nodev"),
        (flags.contains(MountFlags::NOEXEC), ",noexec"),
        (flags.contains(MountFlags::NOATIME), ",noatime"),
        (flags.contains(MountFlags::NODIRATIME), ",nodiratime"),
        (relatime, ",relatime"),
        (flags.contains(MountFlags::NOSYMFOLLOW), ",nosymfollow"),
    ];
    named.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect()
}

fn access(is_readonly: bool) -> &'static str {
    if is_readonly { "ro" } else { "rw" }
}

/// A path or name with what would end a field as octal escapes (Linux `mangle_path`).
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &b in bytes {
        match b {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => out.extend_from_slice(format!("\\{b:03o}").as_bytes()),
            b => out.push(b),
        }
    }
}

/// The path of a mount's root in its own file system: not `/` for parts that are bound.
pub fn root_in_fs(mount: &Mount) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = mount.root().clone();
    while let Some(parent) = at.parent() {
        names.push(at.name());
        at = parent;
    }
    let mut path: Vec<u8> = names.iter().rev().flat_map(|name| [&b"/"[..], name].concat()).collect();
    if path.is_empty() {
        path.push(b'/');
    }
    if mount.root().is_dead() {
        path.extend_from_slice(b"//deleted");
    }
    path
}

impl MountNamespace {
    /// The mount's place as seen from `root`; `None` outside of it.
    pub fn place_of(&self, mount: &Arc<Mount>, root: &VfsPath) -> Option<Vec<u8>> {
        let at = mount.root_place();
        let (path, reached) = at.climb(root);
        if reached {
            return Some(path.strip_suffix(b" (deleted)").map_or(path.clone(), <[u8]>::to_vec));
        }
        // The first mount is below what is mounted on `/`.
        let is_first = Arc::ptr_eq(mount, &self.root_mount()) && self.root().is_same(root);
        (at.is_same(root) || is_first).then(|| b"/".to_vec())
    }

    /// `/proc/PID/mounts`, as seen from `root`.
    pub fn mounts_text(&self, root: &VfsPath) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.mounts() {
            let Some(at) = self.place_of(&mount, root) else { continue };
            escape(mount.source().as_bytes(), &mut text);
            text.push(b' ');
            escape(&at, &mut text);
            let (rw, sb) = (access(mount.is_readonly()), mount.sb());
            let line = format!(" {} {rw}{}{} 0 0\n", sb.fstype(), attributes(&mount), sb.options());
            text.extend_from_slice(line.as_bytes());
        }
        text
    }

    /// `/proc/PID/mountinfo`, as seen from `root`.
    ///
    /// Source: Linux 6.12 fs/proc_namespace.c, `show_mountinfo`.
    pub fn mountinfo_text(&self, root: &VfsPath) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.mounts() {
            let Some(at) = self.place_of(&mount, root) else { continue };
            let sb = mount.sb();
            let (major, minor) = (sb.dev() >> 8 & 0xfff, (sb.dev() & 0xff) | (sb.dev() >> 12 & !0xff));
            let parent = mount.parent().map_or(ROOTFS_ID, |p| p.mount.id());
            text.extend_from_slice(format!("{} {parent} {major}:{minor} ", mount.id()).as_bytes());
            escape(&root_in_fs(&mount), &mut text);
            text.push(b' ');
            escape(&at, &mut text);
            let own = access(mount.flags().contains(MountFlags::RDONLY));
            let mut rest = format!(" {own}{}", attributes(&mount));
            let (peers, master) = mount.groups();
            for (name, group) in [("shared", peers), ("master", master)] {
                if let Some(group) = group {
                    let _ = write!(rest, " {name}:{group}");
                }
            }
            if mount.is_unbindable() {
                rest.push_str(" unbindable");
            }
            text.extend_from_slice(format!("{rest} - {} ", sb.fstype()).as_bytes());
            escape(mount.source().as_bytes(), &mut text);
            text.extend_from_slice(format!(" {}{}\n", access(sb.is_readonly()), sb.options()).as_bytes());
        }
        text
    }

    /// `/proc/PID/mountstats`, as seen from `root`.
    pub fn mountstats_text(&self, root: &VfsPath) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.mounts() {
            let Some(at) = self.place_of(&mount, root) else { continue };
            text.extend_from_slice(b"device ");
            escape(mount.source().as_bytes(), &mut text);
            text.extend_from_slice(b" mounted on ");
            escape(&at, &mut text);
            text.extend_from_slice(format!(" with fstype {}\n", mount.fstype()).as_bytes());
        }
        text
    }
}
