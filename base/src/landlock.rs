//! Landlock: what tasks have forbidden themselves (landlock(7)).
//!
//! A [`Domain`] is a stack of layers, the innermost first; every layer must allow an access. Descendants share their
//! parents' domains, so that one domain is above another exactly when it is among its ancestors by identity.
//!
//! Source: Linux 6.18 Documentation/userspace-api/landlock.rst, security/landlock.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;
use abi::errno::{E2BIG, ENOMEM};

use crate::kept::Kept;

/// Rights to files (`LANDLOCK_ACCESS_FS_*`).
#[expect(missing_docs, reason = "landlock(7) explains each")]
pub mod access {
    pub const EXECUTE: u16 = 1;
    pub const WRITE_FILE: u16 = 1 << 1;
    pub const READ_FILE: u16 = 1 << 2;
    pub const READ_DIR: u16 = 1 << 3;
    pub const REMOVE_DIR: u16 = 1 << 4;
    pub const REMOVE_FILE: u16 = 1 << 5;
    pub const MAKE_CHAR: u16 = 1 << 6;
    pub const MAKE_DIR: u16 = 1 << 7;
    pub const MAKE_REG: u16 = 1 << 8;
    pub const MAKE_SOCK: u16 = 1 << 9;
    pub const MAKE_FIFO: u16 = 1 << 10;
    pub const MAKE_BLOCK: u16 = 1 << 11;
    pub const MAKE_SYM: u16 = 1 << 12;
    pub const REFER: u16 = 1 << 13;
    pub const TRUNCATE: u16 = 1 << 14;
    pub const IOCTL_DEV: u16 = 1 << 15;
    /// All.
    pub const ALL: u16 = u16::MAX;
    /// Those that mean something for what is no directory.
    pub const FILE: u16 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
}

/// Rights to ports (`LANDLOCK_ACCESS_NET_*`).
pub mod port {
    /// To bind a TCP socket to a port.
    pub const BIND_TCP: u8 = 1;
    /// To connect a TCP socket to a port.
    pub const CONNECT_TCP: u8 = 2;
    /// All.
    pub const ALL: u8 = 3;
}

/// What cannot be reached outside a domain (`LANDLOCK_SCOPE_*`).
pub mod scope {
    /// AF_UNIX sockets with abstract names.
    pub const ABSTRACT_UNIX_SOCKET: u8 = 1;
    /// Processes, by signals.
    pub const SIGNAL: u8 = 2;
    /// All.
    pub const ALL: u8 = 3;
}

/// The most layers of a domain (`LANDLOCK_MAX_NUM_LAYERS`).
pub const LAYERS_MAX: usize = 16;

/// The most rules about files in all rule sets together: each keeps an inode.
const FILE_RULES_MAX: usize = 16 << 10;

/// What a rule takes of the sentry's memory, roughly.
const RULE_BYTES: usize = 128;

static FILE_RULES: AtomicUsize = AtomicUsize::new(0);

/// A file: device and inode number.
pub type FileKey = (u64, u64);

/// For each layer, the innermost last, the rights that nothing has granted yet.
pub type Denied = [u16; LAYERS_MAX];

/// A rule about a file and all beneath it.
#[derive(Clone, Debug)]
struct FileRule {
    access: u16,
    /// The inode: while it is kept, its number stands for no other.
    _inode: Arc<dyn Any + Send + Sync>,
}

/// A set of rules, which becomes a layer.
#[derive(Debug)]
pub struct Rules {
    /// Rights to files that are denied where no rule grants them.
    pub files: u16,
    /// The same of ports.
    pub ports: u8,
    /// What cannot be reached outside.
    pub scoped: u8,
    by_file: HashMap<FileKey, FileRule>,
    by_port: HashMap<u16, u8>,
    kept: Kept,
}

impl Rules {
    /// Without any rule.
    pub fn new(files: u16, ports: u8, scoped: u8) -> Self {
        Self { files, ports, scoped, by_file: HashMap::new(), by_port: HashMap::new(), kept: Kept::default() }
    }

    /// A copy, to which rules can be added.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn duplicate(&self) -> Result<Self, Errno> {
        let count = self.by_file.len() + self.by_port.len();
        let kept = Kept::new(count * RULE_BYTES).map_err(|_| ENOMEM)?;
        reserve(self.by_file.len())?;
        let mut copy = Self::new(self.files, self.ports, self.scoped);
        (copy.by_file, copy.by_port, copy.kept) = (self.by_file.clone(), self.by_port.clone(), kept);
        Ok(copy)
    }

    /// Grants `access` to file `key` and all beneath it, beside what other rules grant.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn grant_file(
        &mut self,
        key: FileKey,
        access: u16,
        inode: Arc<dyn Any + Send + Sync>,
    ) -> Result<(), Errno> {
        if let Some(rule) = self.by_file.get_mut(&key) {
            rule.access |= access;
            return Ok(());
        }
        self.make_room()?;
        reserve(1)?;
        self.by_file.insert(key, FileRule { access, _inode: inode });
        Ok(())
    }

    /// Grants `access` to `port`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn grant_port(&mut self, port: u16, access: u8) -> Result<(), Errno> {
        if !self.by_port.contains_key(&port) {
            self.make_room()?;
        }
        *self.by_port.entry(port).or_default() |= access;
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), Errno> {
        let count = self.by_file.len() + self.by_port.len() + 1;
        self.kept.resize(count * RULE_BYTES).map_err(|_| ENOMEM)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        FILE_RULES.fetch_sub(self.by_file.len(), Ordering::Relaxed);
    }
}

fn reserve(count: usize) -> Result<(), Errno> {
    let take = |used: usize| used.checked_add(count).filter(|&sum| sum <= FILE_RULES_MAX);
    FILE_RULES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(drop).map_err(|_| ENOMEM)
}

/// A stack of layers.
#[derive(Debug)]
pub struct Domain {
    outer: Option<Arc<Self>>,
    rules: Arc<Rules>,
    /// How many layers there are.
    depth: usize,
}

/// Domains are the same when they are one.
impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Domain {}

impl Domain {
    /// A domain inside `outer` with one more layer.
    ///
    /// # Errors
    /// `E2BIG`: there are too many.
    pub fn new(outer: Option<Arc<Self>>, rules: Arc<Rules>) -> Result<Arc<Self>, Errno> {
        let depth = outer.as_ref().map_or(0, |outer| outer.depth) + 1;
        if depth > LAYERS_MAX {
            return Err(E2BIG);
        }
        Ok(Arc::new(Self { outer, rules, depth }))
    }

    /// The domain and those around it, the innermost first.
    fn around(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |domain| domain.outer.as_deref())
    }

    /// What each layer denies of `request` as long as no rule is looked at. To move files to another directory is denied
    /// even by layers that do not name that right.
    pub fn denied(&self, request: u16) -> Denied {
        let mut denied = [0; LAYERS_MAX];
        for domain in self.around() {
            if let Some(layer) = denied.get_mut(domain.depth - 1) {
                *layer = request & (domain.rules.files | access::REFER);
            }
        }
        denied
    }

    /// Takes from `denied` what rules about file `key` grant.
    pub fn grant(&self, key: FileKey, denied: &mut Denied) {
        for domain in self.around() {
            let rule = domain.rules.by_file.get(&key);
            if let (Some(rule), Some(layer)) = (rule, denied.get_mut(domain.depth - 1)) {
                *layer &= !rule.access;
            }
        }
    }

    /// Whether any layer restricts ports at all.
    pub fn restricts_ports(&self) -> bool {
        self.around().any(|domain| domain.rules.ports != 0)
    }

    /// Whether all layers grant `right` (`port::*`) to `port`.
    pub fn allows_port(&self, port: u16, right: u8) -> bool {
        self.around().all(|domain| {
            let granted = domain.rules.by_port.get(&port).copied().unwrap_or(0);
            right & domain.rules.ports & !granted == 0
        })
    }

    /// Whether `outer` restricts whoever `inner` restricts: nobody's domain is around all others.
    pub fn is_around(outer: Option<&Arc<Self>>, inner: Option<&Arc<Self>>) -> bool {
        let Some(outer) = outer else { return true };
        inner.is_some_and(|inner| inner.around().any(|domain| domain == &**outer))
    }

    /// Whether the domain keeps its tasks from reaching into `other` in a way that `scope` (`scope::*`) names.
    pub fn keeps_from(&self, other: Option<&Arc<Self>>, scope: u8) -> bool {
        let limit = self.around().find(|domain| domain.rules.scoped & scope != 0);
        limit.is_some_and(|limit| !other.is_some_and(|other| other.around().any(|domain| domain == limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(outer: Option<&Arc<Domain>>, rules: Rules) -> Arc<Domain> {
        Domain::new(outer.cloned(), Arc::new(rules)).unwrap()
    }

    #[test]
    fn every_layer_must_grant_an_access() {
        let mut first = Rules::new(access::READ_FILE | access::WRITE_FILE, 0, 0);
        first.grant_file((1, 1), access::READ_FILE, Arc::new(())).unwrap();
        let mut second = Rules::new(access::READ_FILE, 0, 0);
        second.grant_file((1, 2), access::READ_FILE, Arc::new(())).unwrap();
        let outer = layer(None, first);
        let inner = layer(Some(&outer), second);
        let mut denied = inner.denied(access::READ_FILE | access::EXECUTE);
        assert_eq!(denied[..2], [access::READ_FILE; 2]);
        inner.grant((1, 1), &mut denied);
        assert_eq!(denied[..2], [0, access::READ_FILE]);
        inner.grant((1, 2), &mut denied);
        assert_eq!(denied, [0; LAYERS_MAX]);
        assert_eq!(inner.denied(access::REFER)[..3], [access::REFER, access::REFER, 0]);
    }

    #[test]
    fn scopes_end_at_the_layer_that_has_them() {
        let open = layer(None, Rules::new(1, 0, 0));
        let scoped = layer(Some(&open), Rules::new(0, 0, scope::SIGNAL));
        let inside = layer(Some(&scoped), Rules::new(1, 0, 0));
        let beside = layer(Some(&open), Rules::new(1, 0, 0));
        assert!(!open.keeps_from(None, scope::SIGNAL));
        assert!(inside.keeps_from(None, scope::SIGNAL));
        assert!(inside.keeps_from(Some(&beside), scope::SIGNAL));
        assert!(!inside.keeps_from(Some(&scoped), scope::SIGNAL));
        assert!(!scoped.keeps_from(Some(&inside), scope::SIGNAL));
        assert!(!scoped.keeps_from(Some(&open), scope::ABSTRACT_UNIX_SOCKET));
        assert!(Domain::is_around(Some(&open), Some(&inside)));
        assert!(!Domain::is_around(Some(&beside), Some(&inside)));
        assert!(!Domain::is_around(Some(&open), None));
        assert!(Domain::is_around(None, Some(&inside)));
    }

    #[test]
    fn layers_are_limited() {
        let mut domain = layer(None, Rules::new(1, 0, 0));
        for _ in 1..LAYERS_MAX {
            domain = layer(Some(&domain), Rules::new(1, 0, 0));
        }
        assert_eq!(Domain::new(Some(domain), Arc::new(Rules::new(1, 0, 0))), Err(E2BIG));
    }
}
