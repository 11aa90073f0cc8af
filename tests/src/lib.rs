//! Integration tests of the `ringfence` binary; see `tests/`.
