//! `/proc/net`: what the network that the reader is in tells of itself.

use std::sync::Arc;

use fs::generated::{Builder, Named};
use fs::procfs::{DEV, FIRST_INO};
use fs::vfs::StatFs;
use net::Namespace;
use net::procnet::FILES;

use super::machine::made;
use crate::kernel::Kernel;

/// The network of the task that the calling host thread runs.
pub(super) fn of_reader(kernel: &Kernel) -> Arc<Namespace> {
    crate::task::current().map_or_else(|| kernel.net.clone(), |t| t.net())
}

/// The folder that every task shows as `net`.
pub(super) fn folder(kernel: &Arc<Kernel>) -> Named {
    let builder = Builder::new(DEV, StatFs::PROC, FIRST_INO + 0x2000);
    let weak = Arc::downgrade(kernel);
    let file = |&(name, make): &(&str, net::procnet::Make)| {
        (name.to_owned(), builder.text(made(&weak, move |kernel| make(&of_reader(kernel)))))
    };
    let files = FILES.iter().map(file).collect();
    ("net".to_owned(), builder.dir(files))
}
