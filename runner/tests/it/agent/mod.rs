//! Code agents: one that is run for real, and recorded output of the others.

mod command;
mod parsers;
