//! Clocks and descriptors of the host, and the mappings of its memory.

pub mod clock;
pub mod file;
pub mod mapping;
pub mod memory;
pub mod stdio;
pub mod system;
pub mod thread;
pub mod xattr;
