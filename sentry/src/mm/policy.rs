//! Memory policies (numa(7); Linux 6.18 mm/mempolicy.c) on a machine with one node, 0: kept and reported.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::errno::{EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP};
use base::memmap::{Access, MappingOrigin};

use super::vma::{Backing, VmFlags, Vma};
use super::{MemoryManager, State};

/// `MPOL_DEFAULT` and its like.
#[expect(missing_docs, reason = "set_mempolicy(2) explains each")]
pub mod mode {
    pub const DEFAULT: u32 = 0;
    pub const PREFERRED: u32 = 1;
    pub const BIND: u32 = 2;
    pub const INTERLEAVE: u32 = 3;
    pub const LOCAL: u32 = 4;
    pub const PREFERRED_MANY: u32 = 5;
    pub const WEIGHTED_INTERLEAVE: u32 = 6;
}

/// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_NUMA_BALANCING`.
const STATIC: u32 = 1 << 15;
const RELATIVE: u32 = 1 << 14;
const BALANCING: u32 = 1 << 13;
/// The machine's only node, as a mask.
pub const NODES: u64 = 1;

/// Where pages are to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// One of [`mode`], not the default.
    pub mode: u32,
    /// `MPOL_F_*`.
    pub flags: u32,
    /// The nodes as [`Policy::shown_nodes`] tells them.
    nodes: u64,
}

impl Policy {
    /// What a mode with its flags and the first 64 nodes mean; `None` is the default policy (`sanitize_mpol_flags`,
    /// `mpol_new`, `mpol_set_nodemask`).
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(raw: u32, nodes: u64) -> Result<Option<Self>, Errno> {
        let (flags, mode) = Self::split(raw)?;
        let fixed = flags & (STATIC | RELATIVE) != 0;
        let policy = |mode, nodes| Ok(Some(Self { mode, flags, nodes }));
        match mode {
            mode::DEFAULT if nodes == 0 => Ok(None),
            mode::PREFERRED if nodes == 0 && !fixed => policy(mode::LOCAL, 0),
            mode::LOCAL if nodes == 0 && !fixed => policy(mode::LOCAL, 0),
            mode::DEFAULT | mode::LOCAL => Err(EINVAL),
            _ if nodes == 0 => Err(EINVAL),
            // Relative numbers wrap around, so that each means the one node.
            _ if flags & RELATIVE == 0 && nodes & NODES == 0 => Err(EINVAL),
            _ if fixed => policy(mode, nodes),
            _ => policy(mode, nodes & NODES),
        }
    }

    /// Flags and mode, checked.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn split(raw: u32) -> Result<(u32, u32), Errno> {
        let flags = raw & (STATIC | RELATIVE | BALANCING);
        let mode = raw & !flags;
        let balances = matches!(mode, mode::BIND | mode::PREFERRED_MANY);
        if mode > mode::WEIGHTED_INTERLEAVE
            || flags & STATIC != 0 && flags & RELATIVE != 0
            || flags & BALANCING != 0 && !balances
        {
            return Err(EINVAL);
        }
        Ok((flags, mode))
    }

    /// As numa_maps shows it (`mpol_to_str`).
    pub fn text(&self) -> String {
        let mut text = match self.mode {
            mode::PREFERRED => "prefer",
            mode::BIND => "bind",
            mode::INTERLEAVE => "interleave",
            mode::LOCAL => "local",
            mode::PREFERRED_MANY => "prefer (many)",
            mode::WEIGHTED_INTERLEAVE => "weighted interleave",
            _ => "default",
        }
        .to_owned();
        let flags = [(STATIC, "static"), (RELATIVE, "relative"), (BALANCING, "balancing")];
        let set: Vec<&str> =
            flags.iter().filter(|(bit, _)| self.flags & bit != 0).map(|&(_, name)| name).collect();
        if !set.is_empty() {
            text += &format!("={}", set.join("|"));
        }
        if self.nodes & NODES != 0 || self.flags & RELATIVE != 0 {
            text += ":0";
        }
        text
    }

    /// The nodes that get_mempolicy(2) tells: those given, where they were to be kept.
    pub fn shown_nodes(&self) -> u64 {
        self.nodes
    }
}

impl MemoryManager {
    /// mbind(2): gives the areas in `range` a policy.
    ///
    /// # Errors
    /// `EFAULT`: something in the range, for the default policy all of it, is not mapped.
    pub fn bind(&self, range: Range<u64>, policy: Option<Policy>) -> Result<(), Errno> {
        let mut st = self.state.write();
        if !st.vmas.intersects(range.clone()) || policy.is_some() && !st.vmas.covers(range.clone()) {
            return Err(EFAULT);
        }
        let policy = policy.map(Arc::new);
        for piece in pieces(&st, &range) {
            st.vmas.update(piece, |v| v.policy = policy.clone());
        }
        Ok(())
    }

    /// The policy of the area at `addr`.
    ///
    /// # Errors
    /// `EFAULT`: nothing is mapped there.
    pub fn policy_at(&self, addr: u64) -> Result<Option<Policy>, Errno> {
        let st = self.state.read();
        Ok(st.vmas.find(addr).ok_or(EFAULT)?.policy.as_deref().copied())
    }

    /// set_mempolicy_home_node(2): the areas of `range` that have a policy must have one with a home.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: another kind of policy; `ENOENT`: none.
    pub fn set_home_node(&self, range: Range<u64>) -> Result<(), Errno> {
        let st = self.state.read();
        let mut found = false;
        for vma in st.vmas.overlapping(range) {
            let Some(policy) = &vma.policy else { continue };
            if !matches!(policy.mode, mode::BIND | mode::PREFERRED_MANY) {
                return Err(EOPNOTSUPP);
            }
            found = true;
        }
        if found { Ok(()) } else { Err(ENOENT) }
    }

    /// Whether the page at `addr` is in memory.
    ///
    /// # Errors
    /// `EFAULT`: nothing is mapped there.
    pub fn is_present(&self, addr: u64) -> Result<bool, Errno> {
        let st = self.state.read();
        st.vmas.find(addr).ok_or(EFAULT)?;
        Ok(st.pmas.overlapping(addr..addr + 1).next().is_some())
    }

    /// Touches the page at `addr` and tells its node.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn node_of(&self, addr: u64) -> Result<i32, Errno> {
        self.handle_fault(addr, Access::READ).map_err(|_| EFAULT)?;
        Ok(0)
    }

    /// mseal(2): the areas of `range` keep what they are.
    ///
    /// # Errors
    /// `ENOMEM`: something in the range is not mapped.
    pub fn seal(&self, range: Range<u64>) -> Result<(), Errno> {
        let mut st = self.state.write();
        if !st.vmas.covers(range.clone()) {
            return Err(ENOMEM);
        }
        for piece in pieces(&st, &range) {
            st.vmas.update(piece, |v| v.flags |= VmFlags::SEALED);
        }
        Ok(())
    }
}

impl State {
    /// Whether a sealed area lies in `range`.
    pub(super) fn is_sealed(&self, range: &Range<u64>) -> bool {
        self.vmas.overlapping(range.clone()).any(|v| v.flags.contains(VmFlags::SEALED))
    }
}

/// The areas within `range`.
fn pieces(st: &State, range: &Range<u64>) -> Vec<Range<u64>> {
    st.vmas.overlapping(range.clone()).map(|v| v.start.max(range.start)..v.end.min(range.end)).collect()
}

impl MemoryManager {
    /// Whether the file with this device and inode number is mapped.
    pub(crate) fn maps_file(&self, id: (u64, u64)) -> bool {
        // Files are asked for their numbers after the lock.
        let origins: Vec<Arc<dyn MappingOrigin>> = {
            let st = self.state.read();
            let file = |v: &Vma| match &v.backing {
                Backing::File { file, .. } => Some(file.origin.clone()),
                Backing::Anonymous => None,
            };
            st.vmas.iter().filter_map(file).collect()
        };
        origins.iter().any(|origin| origin.id() == id)
    }

    /// What of `PR_SET_MDWE` a child or the next program gets.
    pub(crate) fn inherited_mdwe(&self) -> u8 {
        const NO_INHERIT: u8 = 2;
        let own = self.mdwe.load(Ordering::Relaxed);
        if own & NO_INHERIT != 0 { 0 } else { own }
    }
}
