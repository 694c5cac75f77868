//! The program `rdev` as people and scripts use it: the real binary, real git, real HTTP.

mod backup;
mod client;
mod dependencies;
mod drain;
mod fault_list;
mod quickstart;
mod rdev;
mod up;
mod usage;
