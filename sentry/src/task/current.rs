//! Which guest thread the calling host thread runs, for files whose answer depends on who asks: signalfd, terminals.

use std::cell::RefCell;
use std::sync::Arc;

use super::Task;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// The guest thread that the calling host thread runs.
pub fn current() -> Option<Arc<Task>> {
    CURRENT.try_with(|c| c.borrow().clone()).ok().flatten()
}

/// Whether the calling host thread runs a guest thread.
pub fn is_task() -> bool {
    CURRENT.try_with(|c| c.borrow().is_some()).unwrap_or(false)
}

/// Whether `task` is the guest thread that the calling host thread runs.
pub fn is_current(task: &Task) -> bool {
    CURRENT.try_with(|c| c.borrow().as_deref().is_some_and(|t| std::ptr::eq(t, task))).unwrap_or(false)
}

/// Says which guest thread the calling host thread runs.
pub(super) fn set_current(task: Option<Arc<Task>>) {
    fs::notify::set_caller(task.as_ref().map_or(0, |t| t.group.pid), task.as_ref().map_or(0, |t| t.tid));
    let former = CURRENT.with(|c| c.replace(task));
    drop(former);
}
