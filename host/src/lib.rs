//! Clocks and descriptors of the host, and the mappings of its memory.
