//! The checker finds what it is there for.
