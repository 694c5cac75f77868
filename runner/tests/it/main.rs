//! Tests of the runner: git, processes, agents' parsers, and whole builds.

mod agent;
mod attempt;
mod build;
mod git;
mod process;
mod redact;
mod runner;
mod world;
