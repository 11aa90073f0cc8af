//! The file system `cgroup2`.

use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::errno::{EINVAL, EISDIR, ENOENT, ENOTDIR, EPERM};
use base::io::{Sink, Source};
use base::lock::{Lock, rank};
use base::time::Time;
use base::wait::{Events, WaitQueue};
use fs::file::{DirEntry, FileDescription, FileOps, Metadata};
use fs::vfs::{FileType, Inode, Owner, SetAttributes, StatFs, mode};

use super::Cgroup;
use super::control::{FILES, File};
use crate::kernel::Kernel;

/// `CGROUP2_SUPER_MAGIC`.
const MAGIC: u64 = 0x6367_7270;
const DEV: u64 = 0x1c;
/// Most bytes that one write hands on.
const WRITE_MAX: usize = 4096;

/// A group's folder.
#[derive(Debug)]
struct Folder {
    group: Arc<Cgroup>,
    kernel: Weak<Kernel>,
    made: Time,
}

/// A file of a group.
#[derive(Debug)]
struct Node {
    group: Arc<Cgroup>,
    kernel: Weak<Kernel>,
    file: &'static File,
    made: Time,
}

/// The root of a mount that shows `group` and what is below it.
pub fn new_root(kernel: &Arc<Kernel>, group: &Arc<Cgroup>) -> Arc<dyn Inode> {
    let made = Time::from_ns(host::clock::now_ns(host::clock::HostClock::Realtime));
    Arc::new(Folder { group: group.clone(), kernel: Arc::downgrade(kernel), made })
}

/// The group whose folder a descriptor is of.
pub fn group_of(file: &FileDescription) -> Option<Arc<Cgroup>> {
    let inode = file.path.as_ref()?.inode();
    inode.as_any().downcast_ref::<Folder>().map(|folder| folder.group.clone())
}

fn metadata(group: &Cgroup, name: &str, bits: u32, ino: u64, made: Time) -> Metadata {
    let kind = if name.is_empty() { mode::IFDIR } else { mode::IFREG };
    let (uid, gid, bits) = group.owner(name, bits);
    Metadata {
        dev: DEV,
        ino,
        mode: kind | bits,
        nlink: if name.is_empty() { 2 } else { 1 },
        uid,
        gid,
        blksize: 4096,
        atime: made,
        mtime: made,
        ctime: made,
        ..Metadata::default()
    }
}

fn set(group: &Cgroup, name: &'static str, bits: u32, set: &SetAttributes) {
    let mut owner = group.owner(name, bits);
    owner.0 = set.uid.unwrap_or(owner.0);
    owner.1 = set.gid.unwrap_or(owner.1);
    owner.2 = set.mode.unwrap_or(owner.2) & 0o7777;
    group.owners.lock().insert(name, owner);
}

fn file_ino(group: &Cgroup, file: &File) -> u64 {
    let at = FILES.iter().position(|f| f.name == file.name).unwrap_or(0) as u64;
    group.id << 8 | at | 1 << 40
}

fn statfs() -> StatFs {
    StatFs { kind: MAGIC, block_size: 4096, name_len: 255, ..StatFs::default() }
}

impl Folder {
    fn below(&self, group: Arc<Cgroup>) -> Arc<dyn Inode> {
        Arc::new(Self { group, kernel: self.kernel.clone(), made: self.made })
    }

    fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        self.group.children.lock().get(name).cloned()
    }
}

impl Inode for Folder {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let mut meta = metadata(&self.group, "", 0o755, self.group.id, self.made);
        meta.nlink = 2 + self.group.children.lock().len() as u64;
        if self.group.is_removed.load(Ordering::SeqCst) {
            meta.nlink = 0;
        }
        Ok(meta)
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Directory)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(group) = self.child(name) {
            return Ok(self.below(group));
        }
        let file = self.group.files().find(|f| f.name.as_bytes() == name).ok_or(ENOENT)?;
        Ok(Arc::new(Node { group: self.group.clone(), kernel: self.kernel.clone(), file, made: self.made }))
    }

    fn create(&self, _name: &[u8], _mode: u32, _owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        Err(EPERM)
    }

    fn mkdir(&self, name: &[u8], _mode: u32, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        // A newline would make /proc/PID/cgroup ambiguous.
        if name.contains(&b'\n') {
            return Err(EINVAL);
        }
        if FILES.iter().any(|f| f.name.as_bytes() == name) {
            return Err(abi::errno::EEXIST);
        }
        let group = self.group.add_child(name)?;
        if (owner.uid, owner.gid) != (0, 0) {
            let mut owners = group.owners.lock();
            owners.insert("", (owner.uid, owner.gid, 0o755));
            owners.extend(FILES.iter().map(|f| (f.name, (owner.uid, owner.gid, f.mode))));
        }
        Ok(self.below(group))
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        self.group.remove_child(name).map_err(|e| if e == ENOENT { ENOTDIR } else { e })
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        set(&self.group, "", 0o755, attributes);
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        Ok(Box::new(OpenFolder(self)))
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(statfs())
    }

    /// Files come and go with the controllers.
    fn names_change(&self) -> bool {
        true
    }

    fn is_still(&self, _name: &[u8]) -> bool {
        !self.group.is_removed.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct OpenFolder(Arc<Folder>);

impl FileOps for OpenFolder {
    fn is_seekable(&self) -> bool {
        true
    }

    fn read_at(&self, _offset: u64, _dst: &mut dyn Sink) -> Result<usize, Errno> {
        Err(EISDIR)
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.0.metadata()
    }

    fn read_dir(&self, offset: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let group = &self.0.group;
        let above = group.parent.as_ref().map_or(group.id, |parent| parent.id);
        let dir = FileType::Directory.dt();
        let mut entries: Vec<(u64, u8, Vec<u8>)> =
            vec![(group.id, dir, b".".to_vec()), (above, dir, b"..".to_vec())];
        entries.extend(
            group.files().map(|f| (file_ino(group, f), FileType::Regular.dt(), f.name.as_bytes().to_vec())),
        );
        entries.extend(group.children.lock().iter().map(|(name, child)| (child.id, dir, name.clone())));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, (ino, kind, name)) in entries.iter().enumerate().skip(skip) {
            if !emit(DirEntry { ino: *ino, next: i as u64 + 1, kind: *kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(metadata(&self.group, self.file.name, self.file.mode, file_ino(&self.group, self.file), self.made))
    }

    fn file_type(&self) -> Result<FileType, Errno> {
        Ok(FileType::Regular)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<(), Errno> {
        set(&self.group, self.file.name, self.file.mode, attributes);
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: u32) -> Result<Box<dyn FileOps>, Errno> {
        let seen = self.group.event_count.load(Ordering::SeqCst);
        Ok(Box::new(OpenNode { node: self, text: Lock::new(None), seen: Lock::new(seen) }))
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(statfs())
    }

    fn is_still(&self, _name: &[u8]) -> bool {
        self.group.files().any(|f| f.name == self.file.name) && !self.group.is_removed.load(Ordering::SeqCst)
    }
}

/// An open file: its text is made anew by a read at offset 0.
#[derive(Debug)]
struct OpenNode {
    node: Arc<Node>,
    text: Lock<Option<Arc<[u8]>>, { rank::LEAF }>,
    /// How many events there had been at the last read.
    seen: Lock<u64, { rank::LEAF }>,
}

impl FileOps for OpenNode {
    fn is_seekable(&self) -> bool {
        true
    }

    fn takes_outer_locks(&self) -> bool {
        true
    }

    fn has_end(&self) -> bool {
        false
    }

    fn read_at(&self, offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let known = if offset == 0 { None } else { self.text.lock().clone() };
        let text = match known {
            Some(text) => text,
            None => {
                let node = &self.node;
                *self.seen.lock() = node.group.event_count.load(Ordering::SeqCst);
                let text: Arc<[u8]> = node.group.text(&node.kernel, node.file.name)?.into_bytes().into();
                *self.text.lock() = Some(text.clone());
                text
            }
        };
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        if rest.is_empty() { Ok(0) } else { dst.put(&rest[..rest.len().min(dst.remaining())]) }
    }

    fn write_at(&self, _offset: u64, src: &mut dyn Source) -> Result<usize, Errno> {
        let mut bytes = vec![0; src.remaining().min(WRITE_MAX)];
        let n = src.take(&mut bytes)?;
        let node = &self.node;
        node.group.take(&node.kernel, node.file.name, bytes.get(..n).unwrap_or_default())?;
        if let Some(kernel) = node.kernel.upgrade() {
            kernel.wake_main();
        }
        Ok(n)
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        // `O_TRUNC`, as in `echo 1 > file`, is no error.
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        self.node.metadata()
    }

    /// Source: Linux 6.18 fs/kernfs/file.c, `kernfs_generic_poll`.
    fn ready(&self) -> Events {
        let ready = Events::READABLE | Events::WRITABLE;
        let has_news = *self.seen.lock() != self.node.group.event_count.load(Ordering::SeqCst);
        if has_news { ready | Events::PRI | Events::ERR } else { ready }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        (self.node.file.name == "cgroup.events").then_some(&self.node.group.events)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
