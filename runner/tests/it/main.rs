//! Tests of the runner: git, processes, agents' parsers, and whole builds.

mod agent_command;
mod agent_parsers;
mod control;
mod ghosts;
mod git;
mod hostile;
mod outcomes;
mod process;
mod protection;
mod redact;
mod remote;
mod world;
