//! Namespaces (namespaces(7)): what a task sees of the system.

use std::sync::Arc;

use crate::ipc::sem::UndoList;
use crate::ipc::{Budget, IpcNamespace};
use crate::task::Task;

/// The namespaces of a task; replaced as a whole.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// System V IPC and POSIX message queues.
    pub ipc: Arc<IpcNamespace>,
}

impl Namespaces {
    /// Those of the first task.
    pub fn first() -> Arc<Self> {
        Arc::new(Self { ipc: IpcNamespace::new(Arc::<Budget>::default()) })
    }
}

impl Task {
    /// The IPC namespace.
    pub fn ipc(&self) -> Arc<IpcNamespace> {
        self.namespaces.lock().ipc.clone()
    }

    /// What semop(2) notes to be undone at the end.
    pub fn undo_list(&self) -> Arc<UndoList> {
        let mut slot = self.sem_undo.lock();
        slot.get_or_insert_with(|| UndoList::new(self.group.pid)).clone()
    }
}
