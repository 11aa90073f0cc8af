//! Benchmarks of the `ringfence` binary.
