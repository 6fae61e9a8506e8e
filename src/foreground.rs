//! A container in the foreground: signals forwarded, the terminal relayed, the exit status returned.
