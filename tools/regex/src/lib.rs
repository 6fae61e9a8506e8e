//! `oci-spec` has one regular expression (`execCPUAffinity`, a list of numbers), and asks the crate `regex` for it, whose tables of Unicode
//! are a megabyte of the program and 130 kB that are relocated at each start. `regex-lite`, by the same authors, has the same names.
pub use regex_lite::*;
