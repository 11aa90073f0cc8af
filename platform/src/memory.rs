//! The memory file.

/// The memory file.
#[derive(Debug)]
pub struct MemoryFile;
