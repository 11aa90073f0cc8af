//! sentry

pub mod mm;
