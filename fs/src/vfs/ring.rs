//! Mounts in an order in which each can come behind any other, or go, at a cost that does not grow with their number.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Mount;

#[derive(Debug)]
struct Node {
    mount: Weak<Mount>,
    before: Option<u64>,
    behind: Option<u64>,
}

/// The order. Mounts are known by their unique ids.
#[derive(Debug, Default)]
pub(super) struct Ring {
    nodes: HashMap<u64, Node>,
    first: Option<u64>,
    last: Option<u64>,
}

impl Ring {
    /// Puts `mount` behind `old`, or in front of all. It is not in the ring yet.
    pub(super) fn insert(&mut self, mount: &Arc<Mount>, old: Option<&Arc<Mount>>) {
        let id = mount.unique_id();
        let before = old.map(|old| old.unique_id()).filter(|old| self.nodes.contains_key(old));
        let behind = match before.and_then(|id| self.nodes.get_mut(&id)) {
            Some(node) => node.behind.replace(id),
            None => self.first.replace(id),
        };
        match behind.and_then(|id| self.nodes.get_mut(&id)) {
            Some(node) => node.before = Some(id),
            None => self.last = Some(id),
        }
        self.nodes.insert(id, Node { mount: Arc::downgrade(mount), before, behind });
    }

    /// Takes `mount` out, if it is in.
    pub(super) fn remove(&mut self, mount: &Mount) {
        let Some(Node { before, behind, .. }) = self.nodes.remove(&mount.unique_id()) else { return };
        match before.and_then(|id| self.nodes.get_mut(&id)) {
            Some(node) => node.behind = behind,
            None => self.first = behind,
        }
        match behind.and_then(|id| self.nodes.get_mut(&id)) {
            Some(node) => node.before = before,
            None => self.last = before,
        }
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All of them, from the one behind `mount` on, without it; from the first on if it is not there.
    pub(super) fn list_after(&self, mount: Option<&Mount>) -> Vec<Arc<Mount>> {
        let start = mount.map(Mount::unique_id).filter(|id| self.nodes.contains_key(id));
        let mut list = Vec::with_capacity(self.nodes.len());
        let mut at =
            start.and_then(|id| self.nodes.get(&id)).map_or(self.first, |node| node.behind.or(self.first));
        for _ in 0..self.nodes.len() {
            let Some(id) = at.filter(|id| Some(*id) != start) else { break };
            let Some(node) = self.nodes.get(&id) else { break };
            list.extend(node.mount.upgrade());
            at = if start.is_some() { node.behind.or(self.first) } else { node.behind };
        }
        list
    }
}
