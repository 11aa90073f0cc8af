//! platform/kvm
