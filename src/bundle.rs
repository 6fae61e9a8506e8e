//! Reading a bundle: `config.json`, its size and its syntax, and nothing else.
