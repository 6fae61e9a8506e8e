//! The default `config.json` that `orlop spec` writes.
