//! From the `linux.seccomp` section to one classic BPF program.
