//! What `orlop features` says: the runtime's abilities in the schema of the runtime specification.
