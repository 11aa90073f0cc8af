//! A thread's page in the window: what user code at patched call sites gets answered there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::cred::Credentials;
use platform::window::{ANSWERED_HERE, thread};
use platform::{ThreadPage, Trap};

use super::Ctx;
use crate::mm::InWindow;

/// A thread's page, in the address space that the thread runs in: [`Ctx::release_mm`] gives it back. It does not refer to
/// that, since a fork is cheaper where nobody else does.
pub struct WindowPage {
    page: ThreadPage,
    /// The credentials that the page tells of.
    cred: Arc<Credentials>,
    /// Whether it answers: not where filters or a tracer are to see each call.
    answers: bool,
}

impl Ctx<'_> {
    /// Before user code runs: gives the thread a page once its process has patched call sites, and keeps it current.
    pub(super) fn prepare_window(&mut self) {
        if !self.mm.is_patched() {
            return;
        }
        let watched = self.task.seccomp.is_on() || self.task.trace.is_traced();
        let answers = !watched && self.cred.user_ns.is_first();
        match &self.window_page {
            None => {
                let Some(page) = self.mm.take_thread_page() else { return };
                self.context.set_thread_page(Some(page));
                self.window_page = Some(WindowPage { page, cred: self.cred.clone(), answers });
            }
            Some(own) if Arc::ptr_eq(&own.cred, &self.cred) && own.answers == answers => return,
            Some(_) => {}
        }
        let Some(own) = &mut self.window_page else { return };
        own.cred = self.cred.clone();
        own.answers = answers;
        let cred = &self.cred;
        let ids = [
            self.task.group.shown_pid.cast_unsigned(),
            self.task.shown_tid.cast_unsigned(),
            cred.uid,
            cred.euid,
            cred.gid,
            cred.egid,
        ];
        let words: [u64; ANSWERED_HERE.len()] =
            ids.map(|id| if answers { thread::KNOWN | u64::from(id) } else { 0 });
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.mm.memory().write(own.page.offset + thread::ANSWERS, &bytes);
    }

    /// Gives the page back: the thread leaves its address space.
    pub(super) fn release_window(&mut self) {
        let Some(own) = self.window_page.take() else { return };
        self.context.set_thread_page(None);
        let mut count = [0; 8];
        self.mm.memory().read(own.page.offset + thread::ANSWERED, &mut count);
        // The guest could have written anything.
        let answered = u64::from_le_bytes(count).min(1 << 48);
        if let Some(window) = self.task.kernel.platform.window() {
            window.counts.answered.fetch_add(answered, Ordering::Relaxed);
        }
        self.mm.give_thread_page(own.page);
    }

    /// What a trap is, seen from the call site if it came from the window.
    pub(super) fn outside_window(&mut self, trap: Trap) -> Option<Trap> {
        match self.mm.in_window(trap, &mut self.regs) {
            None => match trap {
                Trap::Exception { vector: 6, .. } if self.mm.patched_call_at(self.regs.rip) => {
                    self.regs.rip += 2;
                    Some(Trap::Syscall)
                }
                _ => Some(trap),
            },
            Some(InWindow::Trap(trap)) => Some(trap),
            Some(InWindow::Resume) => None,
            // Nothing is mapped there as far as the guest can know.
            Some(InWindow::Stray) => {
                Some(Trap::Fault { addr: self.regs.rip, access: base::memmap::Access::EXEC })
            }
        }
    }
}
