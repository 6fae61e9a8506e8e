//! The plan: every kernel operation that a configuration asks for, in order, as data.

pub mod mount_options;
