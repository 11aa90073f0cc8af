//! Answers that may be long: made piece by piece as the program reads, so that they take no memory meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::done;
use crate::Namespace;
use crate::report::Report;

/// Sockets looked at for one piece.
const SOCKETS: usize = 64;

/// Makes a message of what a socket tells, if that is wanted.
pub(crate) type Describe = Box<dyn Fn(&Report) -> Option<Vec<u8>> + Send + Sync>;

/// What is dumped.
pub(crate) enum Source {
    /// Messages that are few and made already.
    Made(Vec<Vec<u8>>),
    /// Sockets, of which the function makes messages.
    Sockets(Describe),
}

/// An answer of which the rest is still to be made.
pub(crate) struct Dump {
    seq: u32,
    port: u32,
    source: Source,
    /// The inode number of the last socket looked at; `None` once all were.
    cursor: Option<u64>,
    pending: VecDeque<Vec<u8>>,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Dump {
    /// An answer to request `seq` of `port`.
    pub(crate) fn new(seq: u32, port: u32, source: Source) -> Self {
        Self { seq, port, source, cursor: Some(0), pending: VecDeque::new() }
    }

    fn refill(&mut self, net: &Arc<Namespace>) {
        let Some(cursor) = self.cursor else { return };
        match &mut self.source {
            Source::Made(list) => {
                self.pending = std::mem::take(list).into();
                self.cursor = None;
            }
            Source::Sockets(make) => {
                let (reports, next) = net.reports_after(cursor, SOCKETS);
                self.pending.extend(reports.iter().filter_map(make));
                self.cursor = next;
            }
        }
    }

    /// The next piece, of about `size` bytes at most; whether it is the last.
    pub(super) fn next_chunk(&mut self, net: &Arc<Namespace>, size: usize) -> (Vec<u8>, bool) {
        let mut chunk = Vec::new();
        loop {
            match self.pending.front() {
                Some(first) if !chunk.is_empty() && chunk.len() + first.len() > size => {
                    return (chunk, false);
                }
                Some(_) => chunk.extend(self.pending.pop_front().unwrap_or_default()),
                None if self.cursor.is_some() => self.refill(net),
                None => break,
            }
        }
        if !chunk.is_empty() && chunk.len() + 20 > size {
            return (chunk, false);
        }
        chunk.extend(done(self.seq, self.port));
        (chunk, true)
    }
}
