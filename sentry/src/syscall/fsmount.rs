//! Mounts by descriptors: fsopen(2), fsconfig(2), fsmount(2), fspick(2), open_tree(2), move_mount(2), mount_setattr(2), and
//! statmount(2) and listmount(2), which tell of mounts.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use abi::errno::{
    E2BIG, EBUSY, EFAULT, EINVAL, EMSGSIZE, ENODATA, ENODEV, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM,
};
use abi::{Errno, UserAddr};
use base::io::Sink;
use base::lock::{Lock, rank};
use fs::anon::anon_metadata;
use fs::file::{FileDescription, FileOps, Metadata, oflag};
use fs::vfs::{Mount, MountChange, MountFlags, MountNamespace, Onto, ROOTFS_ID, SuperBlock, root_in_fs};

use super::SysResult;
use super::mount::{
    MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, path_file, propagation, reconfigure, recursive,
};
use crate::filesystems;
use crate::task::Ctx;

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;

/// How far the making of a file system has come.
#[derive(Debug)]
enum Phase {
    /// Options are being given.
    Create,
    /// It is there, and nobody has mounted it.
    Made(Arc<SuperBlock>),
    /// `fspick`: options of a mounted one are being given.
    Reconfigure(Arc<SuperBlock>),
    /// It could not be made or changed.
    Failed {
        /// It was made before.
        is_made: bool,
    },
}

#[derive(Debug)]
struct State {
    phase: Phase,
    source: Option<String>,
    options: Vec<u8>,
    readonly: bool,
    messages: VecDeque<String>,
}

/// What fsopen(2) and fspick(2) open.
#[derive(Debug)]
struct FsContextFile {
    fstype: Vec<u8>,
    state: Lock<State, { rank::LEAF }>,
}

impl FsContextFile {
    fn open(fstype: Vec<u8>, phase: Phase, readonly: bool) -> Arc<FileDescription> {
        let state = State { phase, source: None, options: Vec::new(), readonly, messages: VecDeque::new() };
        let ops = Box::new(Self { fstype, state: Lock::new(state) });
        FileDescription::new(ops, None, oflag::RDWR)
    }

    fn log(&self, text: String) {
        /// Messages that are kept (Linux `fc_log`).
        const KEPT: usize = 8;
        let mut state = self.state.lock();
        if state.messages.len() == KEPT {
            state.messages.pop_front();
        }
        state.messages.push_back(text);
    }
}

impl FileOps for FsContextFile {
    /// One message of what went wrong.
    fn read_at(&self, _offset: u64, dst: &mut dyn Sink) -> Result<usize, Errno> {
        let text = self.state.lock().messages.pop_front().ok_or(ENODATA)?;
        if text.len() > dst.remaining() {
            return Err(EMSGSIZE);
        }
        dst.put(text.as_bytes())
    }

    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(anon_metadata())
    }

    fn anonymous_name(&self) -> Option<Vec<u8>> {
        Some(b"anon_inode:[fscontext]".to_vec())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn context(file: &FileDescription) -> Result<&FsContextFile, Errno> {
    file.ops.as_any().downcast_ref().ok_or(EINVAL)
}

/// `fsopen(2)`.
pub(super) fn sys_fsopen(cx: &mut Ctx<'_>, fstype: UserAddr, flags: u32) -> SysResult {
    cx.check_mount()?;
    if flags & !1 != 0 {
        return Err(EINVAL.into());
    }
    let fstype = cx.mm.read_cstr(fstype, 4096)?;
    if !filesystems::NAMES.iter().any(|name| name.as_bytes() == fstype) {
        return Err(ENODEV.into());
    }
    let file = FsContextFile::open(fstype, Phase::Create, false);
    Ok(cx.install(file, flags & 1 != 0)? as u64)
}

/// `fspick(2)`.
pub(super) fn sys_fspick(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32) -> SysResult {
    const NOFOLLOW: u32 = 2;
    const EMPTY_PATH: u32 = 8;
    cx.check_mount()?;
    if flags & !0xf != 0 {
        return Err(EINVAL.into());
    }
    let place = cx.place_at(dirfd, path, flags & NOFOLLOW == 0, flags & EMPTY_PATH != 0)?;
    if !Arc::ptr_eq(&place.dentry, place.mount.root()) {
        return Err(EINVAL.into());
    }
    let sb = place.mount.sb().clone();
    let (name, readonly) = (sb.fstype().as_bytes().to_vec(), sb.is_readonly());
    let file = FsContextFile::open(name, Phase::Reconfigure(sb), readonly);
    Ok(cx.install(file, flags & 1 != 0)? as u64)
}

/// `fsconfig(2)`.
///
/// Source: Linux 6.12 fs/fsopen.c, `fsconfig`.
pub(super) fn sys_fsconfig(
    cx: &mut Ctx<'_>,
    fd: i32,
    command: u32,
    key: UserAddr,
    value: UserAddr,
    aux: i32,
) -> SysResult {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    const RECONFIGURE: u32 = 7;
    const CREATE_EXCL: u32 = 8;
    if fd < 0 {
        return Err(EINVAL.into());
    }
    let (has_key, has_value) = (!key.is_null(), !value.is_null());
    let is_right = match command {
        SET_FLAG => has_key && !has_value && aux == 0,
        SET_STRING => has_key && has_value && aux == 0,
        2 => has_key && has_value && aux > 0 && aux <= 1 << 20,
        3 | 4 => has_key && has_value && (aux == super::path::AT_FDCWD || aux >= 0),
        5 => has_key && !has_value && aux >= 0,
        CREATE | RECONFIGURE | CREATE_EXCL => !has_key && !has_value && aux == 0,
        _ => return Err(EOPNOTSUPP.into()),
    };
    if !is_right {
        return Err(EINVAL.into());
    }
    let file = cx.file(fd)?;
    let fc = context(&file)?;
    match command {
        SET_FLAG | SET_STRING => {
            let key = cx.mm.read_cstr(key, 256)?;
            let value = if has_value { Some(cx.mm.read_cstr(value, 256)?) } else { None };
            set_parameter(cx, fc, &key, value)?;
        }
        CREATE | CREATE_EXCL => {
            cx.check_mount()?;
            let (options, readonly) = {
                let mut state = fc.state.lock();
                if !matches!(state.phase, Phase::Create) {
                    return Err(EBUSY.into());
                }
                state.phase = Phase::Failed { is_made: false };
                (state.options.clone(), state.readonly)
            };
            let kernel = cx.task.kernel.clone();
            match filesystems::make(&kernel, &cx.walk(), &fc.fstype, &options, readonly) {
                Ok(sb) => fc.state.lock().phase = Phase::Made(sb),
                Err(e) => {
                    let name = String::from_utf8_lossy(&fc.fstype).into_owned();
                    fc.log(format!("e {name}: cannot be made: {e}\n"));
                    return Err(e.into());
                }
            }
        }
        RECONFIGURE => {
            let (sb, options, readonly) = {
                let mut state = fc.state.lock();
                let Phase::Reconfigure(sb) = &state.phase else { return Err(EBUSY.into()) };
                let sb = sb.clone();
                state.phase = Phase::Failed { is_made: true };
                (sb, std::mem::take(&mut state.options), state.readonly)
            };
            cx.check_owner(&sb)?;
            cx.landlock_mounts()?;
            reconfigure(&sb, &options, readonly)?;
            fc.state.lock().phase = Phase::Reconfigure(sb);
        }
        // No file system here takes blobs, paths or descriptors.
        _ => return Err(EINVAL.into()),
    }
    Ok(0)
}

fn set_parameter(cx: &Ctx<'_>, fc: &FsContextFile, key: &[u8], value: Option<Vec<u8>>) -> Result<(), Errno> {
    let mut state = fc.state.lock();
    if !matches!(state.phase, Phase::Create | Phase::Reconfigure(_)) {
        return Err(EBUSY);
    }
    match (key, value) {
        (b"ro", None) => state.readonly = true,
        (b"rw", None) => state.readonly = false,
        (b"sync" | b"async" | b"dirsync" | b"lazytime" | b"nolazytime" | b"mand" | b"nomand", None) => {}
        (b"source", Some(source)) => {
            if state.source.is_some() {
                return Err(EINVAL);
            }
            state.source = Some(String::from_utf8_lossy(&source).into_owned());
        }
        (key, value) => {
            // A comma would begin another option.
            let has_comma = key.contains(&b',') || value.as_ref().is_some_and(|v| v.contains(&b','));
            if has_comma || state.options.len() > 4096 {
                return Err(EINVAL);
            }
            let option = match &value {
                Some(value) => [key, b"=", value].concat(),
                None => key.to_vec(),
            };
            filesystems::check_option(&fc.fstype, &option, cx.task.kernel.memory.total())?;
            if !state.options.is_empty() {
                state.options.push(b',');
            }
            state.options.extend_from_slice(&option);
        }
    }
    Ok(())
}

/// The attributes that `MOUNT_ATTR_*` bits mean; `atime` is the field for access times.
fn attributes(bits: u64) -> Result<MountFlags, Errno> {
    const ATIME_FIELD: u64 = 0x70;
    let flags = u32::try_from(bits & !ATIME_FIELD).ok().and_then(MountFlags::from_bits).ok_or(EINVAL)?;
    match bits & ATIME_FIELD {
        0 => Ok(flags),
        0x10 => Ok(flags | MountFlags::NOATIME),
        0x20 => Ok(flags | MountFlags::STRICTATIME),
        _ => Err(EINVAL),
    }
}

/// `fsmount(2)`.
pub(super) fn sys_fsmount(cx: &mut Ctx<'_>, fd: i32, flags: u32, attrs: u32) -> SysResult {
    cx.check_mount()?;
    if flags & !1 != 0 {
        return Err(EINVAL.into());
    }
    let mut set = attributes(attrs.into())?;
    let file = cx.file(fd)?;
    let fc = context(&file)?;
    let made = || match &fc.state.lock().phase {
        Phase::Made(sb) => Ok(sb.clone()),
        Phase::Reconfigure(_) | Phase::Failed { is_made: true } => Err(EBUSY),
        Phase::Create | Phase::Failed { is_made: false } => Err(EINVAL),
    };
    let sb = made()?;
    cx.mounts().check_revealing(&sb, set)?;
    made()?;
    let source = {
        let mut state = fc.state.lock();
        // From now on it is like one that fspick(2) opened.
        state.phase = Phase::Reconfigure(sb.clone());
        state.options.clear();
        state.readonly = sb.is_readonly();
        state.source.clone().unwrap_or_else(|| "none".to_owned())
    };
    if sb.is_readonly() {
        set |= MountFlags::RDONLY;
    }
    let tree = cx.mounts().detached(&sb, &source, set)?;
    Ok(cx.install(fs::vfs::open_tree(tree), flags & 1 != 0)? as u64)
}

fn open_tree(cx: &Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32) -> Result<Arc<FileDescription>, Errno> {
    const CLONE: u32 = 1;
    const KNOWN: u32 =
        AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | CLONE | oflag::CLOEXEC;
    if flags & !KNOWN != 0 || flags & (AT_RECURSIVE | CLONE) == AT_RECURSIVE {
        return Err(EINVAL);
    }
    if flags & CLONE != 0 {
        cx.check_mount()?;
    }
    let place = cx.place_at(dirfd, path, flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0)?;
    if flags & CLONE != 0 {
        Ok(fs::vfs::open_tree(cx.mounts().clone_tree(&place, recursive(flags & AT_RECURSIVE != 0))?))
    } else {
        path_file(cx, place)
    }
}

/// `open_tree(2)`.
pub(super) fn sys_open_tree(cx: &mut Ctx<'_>, dirfd: i32, path: UserAddr, flags: u32) -> SysResult {
    let file = open_tree(cx, dirfd, path, flags)?;
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

/// `open_tree_attr(2)`.
///
/// Source: Linux 6.18 fs/namespace.c.
pub(super) fn sys_open_tree_attr(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    attr: UserAddr,
    size: u64,
) -> SysResult {
    if attr.is_null() && size != 0 {
        return Err(EINVAL.into());
    }
    let file = open_tree(cx, dirfd, path, flags)?;
    if !attr.is_null()
        && let Some(change) = mount_change(cx, attr, size)?
    {
        let place = file.path.clone().ok_or(EINVAL)?;
        let mounts = place.mount.namespace().ok_or(EINVAL)?;
        mounts.change(&place, change, recursive(flags & AT_RECURSIVE != 0))?;
    }
    Ok(cx.install(file, flags & oflag::CLOEXEC != 0)? as u64)
}

/// `move_mount(2)`.
///
/// Source: Linux 6.18 fs/namespace.c.
pub(super) fn sys_move_mount(
    cx: &mut Ctx<'_>,
    from_dir: i32,
    from: UserAddr,
    to_dir: i32,
    to: UserAddr,
    flags: u32,
) -> SysResult {
    const SET_GROUP: u32 = 0x100;
    const BENEATH: u32 = 0x200;
    cx.check_mount()?;
    if flags & !0x377 != 0 || flags & (SET_GROUP | BENEATH) == SET_GROUP | BENEATH {
        return Err(EINVAL.into());
    }
    let to = cx.place_at(to_dir, to, flags & 0x10 != 0, flags & 0x40 != 0)?;
    let from = cx.place_at(from_dir, from, flags & 1 != 0, flags & 4 != 0)?;
    cx.landlock_mounts()?;
    let (mounts, root) = {
        let fs = cx.fs.lock();
        (fs.mounts.clone(), fs.root.clone())
    };
    if flags & SET_GROUP != 0 {
        mounts.set_group(&to, &from, &cx.cred)?;
        return Ok(0);
    }
    let onto = if flags & BENEATH != 0 { Onto::Beneath } else { Onto::Top };
    mounts.move_mount(&to, &from, onto, &root)?;
    Ok(0)
}

/// Reads `struct mount_attr`; `None` when it asks for nothing.
///
/// Source: Linux 6.12 fs/namespace.c, `wants_mount_setattr`, `build_mount_kattr`.
fn mount_change(cx: &Ctx<'_>, attr: UserAddr, size: u64) -> Result<Option<MountChange>, Errno> {
    const SIZE: u64 = 32;
    const ATIME_FIELD: u64 = 0x70;
    const IDMAP: u64 = 0x10_0000;
    if size > 4096 {
        return Err(E2BIG);
    }
    if size < SIZE {
        return Err(EINVAL);
    }
    cx.check_mount()?;
    let mut rest = vec![0u8; (size - SIZE) as usize];
    let [set, clear, kind, userns]: [u64; 4] = cx.mm.read_value(attr)?;
    cx.mm.read_exact(attr.checked_add(SIZE).ok_or(EFAULT)?, &mut rest)?;
    if rest.iter().any(|&b| b != 0) {
        return Err(E2BIG);
    }
    if set == 0 && clear == 0 && kind == 0 {
        return Ok(None);
    }
    if kind & !(MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0 || kind.count_ones() > 1 {
        return Err(EINVAL);
    }
    if (set | clear) & IDMAP != 0 || userns > i32::MAX as u64 {
        // Identifiers are not mapped.
        return Err(EINVAL);
    }
    let mut change = MountChange { set: attributes(set)?, ..MountChange::default() };
    change.clear = match clear & ATIME_FIELD {
        ATIME_FIELD => {
            attributes(clear & !ATIME_FIELD)? | MountFlags::ATIME.difference(MountFlags::NODIRATIME)
        }
        0 if set & ATIME_FIELD == 0 => attributes(clear)?,
        _ => return Err(EINVAL),
    };
    if kind != 0 {
        change.propagation = Some(propagation(kind)?);
    }
    Ok(Some(change))
}

/// `mount_setattr(2)`.
pub(super) fn sys_mount_setattr(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: UserAddr,
    flags: u32,
    attr: UserAddr,
    size: u64,
) -> SysResult {
    if flags & !(AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 {
        return Err(EINVAL.into());
    }
    let Some(change) = mount_change(cx, attr, size)? else { return Ok(0) };
    let place = cx.place_at(dirfd, path, flags & AT_SYMLINK_NOFOLLOW == 0, flags & AT_EMPTY_PATH != 0)?;
    cx.mounts().change(&place, change, recursive(flags & AT_RECURSIVE != 0))?;
    Ok(0)
}

/// `struct mnt_id_req`.
struct Request {
    id: u64,
    param: u64,
}

fn request(cx: &Ctx<'_>, addr: UserAddr) -> Result<Request, Errno> {
    const SIZE_0: u64 = 24;
    let size: u32 = cx.mm.read_value(addr)?;
    if size > 4096 {
        return Err(E2BIG);
    }
    if u64::from(size) < SIZE_0 {
        return Err(EINVAL);
    }
    let mut bytes = vec![0u8; size as usize];
    cx.mm.read_exact(addr, &mut bytes)?;
    let word = |i: usize| bytes.get(i..i + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    if bytes.get(32..).unwrap_or_default().iter().any(|&b| b != 0) {
        return Err(E2BIG);
    }
    // The spare word, and another namespace's number.
    if word(0) >> 32 != 0 || size >= 32 && word(24) != 0 {
        return Err(EINVAL);
    }
    // The first number of a mount is beyond those of old (`MNT_UNIQUE_ID_OFFSET`).
    if word(8) <= 1 << 31 {
        return Err(EINVAL);
    }
    Ok(Request { id: word(8), param: word(16) })
}

/// The mount that `statmount` and `listmount` ask for.
fn find(mounts: &MountNamespace, id: u64) -> Result<Arc<Mount>, Errno> {
    mounts.mounts().into_iter().find(|m| m.unique_id() == id).ok_or(ENOENT)
}

/// Attributes as `MOUNT_ATTR_*`.
fn shown_attributes(mount: &Mount) -> u64 {
    u64::from(mount.flags().bits())
}

/// `statmount(2)`.
///
/// Source: Linux 6.12 fs/namespace.c, `do_statmount`; include/uapi/linux/mount.h.
pub(super) fn sys_statmount(
    cx: &mut Ctx<'_>,
    req: UserAddr,
    buf: UserAddr,
    size: u64,
    flags: u32,
) -> SysResult {
    const FIXED: usize = 512;
    const SB_BASIC: u64 = 1;
    const MNT_BASIC: u64 = 2;
    const PROPAGATE_FROM: u64 = 4;
    const NS_ID: u64 = 0x40;
    /// Mask bit and place of each string's offset.
    const STRINGS: [(u64, usize); 5] = [(8, 104), (0x10, 108), (0x20, 36), (0x80, 4), (0x200, 124)];
    if flags != 0 {
        return Err(EINVAL.into());
    }
    let request = request(cx, req)?;
    let (mounts, root) = {
        let fs = cx.fs.lock();
        (fs.mounts.clone(), fs.root.clone())
    };
    let mount = find(&mounts, request.id)?;
    let place = mounts.place_of(&mount, &root);
    if place.is_none() && !cx.cred.has(base::cred::cap::SYS_ADMIN) {
        return Err(EPERM.into());
    }
    let sb = mount.sb();
    let mut out = vec![0u8; FIXED];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let mut mask = 0;
    if request.param & SB_BASIC != 0 {
        mask |= SB_BASIC;
        put(16, &((sb.dev() >> 8 & 0xfff) as u32).to_le_bytes());
        put(20, &(((sb.dev() & 0xff) | (sb.dev() >> 12 & !0xff)) as u32).to_le_bytes());
        put(24, &sb.root().inode().statfs().map_or(0, |s| s.kind).to_le_bytes());
        put(32, &u32::from(sb.is_readonly()).to_le_bytes());
    }
    let (peers, master) = mount.groups();
    if request.param & MNT_BASIC != 0 {
        mask |= MNT_BASIC;
        let parent = mount.parent().map(|p| p.mount);
        let (parent_id, parent_old) =
            parent.map_or((ROOTFS_ID | 1 << 32, ROOTFS_ID), |p| (p.unique_id(), p.id()));
        let mut kind = 0;
        for (is_set, bit) in [
            (peers.is_some(), MS_SHARED),
            (master.is_some(), MS_SLAVE),
            (mount.is_unbindable(), MS_UNBINDABLE),
        ] {
            kind |= if is_set { bit } else { 0 };
        }
        let kind = if kind == 0 { MS_PRIVATE } else { kind };
        put(40, &mount.unique_id().to_le_bytes());
        put(48, &parent_id.to_le_bytes());
        put(56, &(mount.id() as u32).to_le_bytes());
        put(60, &(parent_old as u32).to_le_bytes());
        put(64, &shown_attributes(&mount).to_le_bytes());
        put(72, &kind.to_le_bytes());
        put(80, &peers.unwrap_or(0).to_le_bytes());
        put(88, &master.unwrap_or(0).to_le_bytes());
    }
    if request.param & PROPAGATE_FROM != 0 {
        mask |= PROPAGATE_FROM;
        put(96, &master.unwrap_or(0).to_le_bytes());
    }
    if request.param & NS_ID != 0 {
        mask |= NS_ID;
        put(112, &mounts.id().to_le_bytes());
    }
    let options = sb.options();
    let texts: [Vec<u8>; 5] = [
        root_in_fs(&mount),
        place.unwrap_or_default(),
        sb.fstype().as_bytes().to_vec(),
        options.strip_prefix(',').unwrap_or(&options).as_bytes().to_vec(),
        mount.source().as_bytes().to_vec(),
    ];
    // Offset 0 is an empty string.
    let mut strings = vec![0u8];
    for ((bit, at), text) in STRINGS.into_iter().zip(texts) {
        if request.param & bit != 0 && !text.is_empty() {
            mask |= bit;
            put(at, &(strings.len() as u32).to_le_bytes());
            strings.extend_from_slice(&text);
            strings.push(0);
        }
    }
    put(8, &mask.to_le_bytes());
    let wants_text = request.param & STRINGS.iter().fold(0, |all, (bit, _)| all | bit) != 0;
    let total = FIXED + if wants_text { strings.len() } else { 0 };
    put(0, &(total as u32).to_le_bytes());
    if wants_text {
        if size < total as u64 {
            return Err(EOVERFLOW.into());
        }
        out.extend_from_slice(&strings);
    }
    out.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    cx.mm.write_all(buf, &out)?;
    Ok(0)
}

/// `listmount(2)`.
///
/// Source: Linux 6.12 fs/namespace.c, `do_listmount`.
pub(super) fn sys_listmount(
    cx: &mut Ctx<'_>,
    req: UserAddr,
    ids: UserAddr,
    count: u64,
    flags: u32,
) -> SysResult {
    const ROOT: u64 = u64::MAX;
    const REVERSE: u32 = 1;
    if flags & !REVERSE != 0 {
        return Err(EINVAL.into());
    }
    if count > 1_000_000 {
        return Err(EOVERFLOW.into());
    }
    let request = request(cx, req)?;
    let (mounts, root) = {
        let fs = cx.fs.lock();
        (fs.mounts.clone(), fs.root.clone())
    };
    let top = match request.id {
        ROOT => root.clone(),
        id => find(&mounts, id)?.root_place(),
    };
    let mut list: Vec<u64> = mounts
        .mounts()
        .into_iter()
        .filter(|m| request.id == ROOT || m.unique_id() != request.id)
        .filter(|m| mounts.place_of(m, &top).is_some())
        .map(|m| m.unique_id())
        .collect();
    if flags & REVERSE != 0 {
        list.reverse();
        list.retain(|&id| request.param == 0 || id < request.param);
    } else {
        list.retain(|&id| id > request.param);
    }
    list.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    let bytes: Vec<u8> = list.iter().flat_map(|id| id.to_le_bytes()).collect();
    cx.mm.write_all(ids, &bytes)?;
    Ok(list.len() as u64)
}
