//! vDSO
