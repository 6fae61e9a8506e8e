//! The runtime specification's rules for `config.json`, without a look at the host.
