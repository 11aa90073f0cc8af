//! Every call that ringfence makes to the host, one function each; the table of them, and the filter made from it.

pub mod calls;
pub mod clock;
pub mod file;
pub mod filter;
pub mod futex;
pub mod mapping;
pub mod memory;
pub mod net;
pub mod stdio;
pub mod system;
pub mod terminal;
pub mod thread;
pub mod watch;
pub mod xattr;
