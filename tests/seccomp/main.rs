//! The seccomp compiler, seen from outside: an interpreter runs its programs, and what they answer is held against the
//! meaning of the section, against libseccomp and against the kernel.

mod errors;
mod interpreter;
mod kernel;
mod libseccomp;
mod meaning;
mod profiles;
#[path = "../common/rounds.rs"]
mod rounds;
mod section;
