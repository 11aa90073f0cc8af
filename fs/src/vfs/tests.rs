//! Tests of the path walk over a tmpfs.
