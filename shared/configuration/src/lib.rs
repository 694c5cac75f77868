//! How rdev's programs read their configuration.
//!
//! A program stacks [`Layers`]: its defaults, a TOML file, the environment, its command line.
//! Later layers override earlier ones. The sections and their fields belong to the crates that
//! use them; nothing here knows one.

mod environment;
mod file;
mod layers;
mod log;

pub use environment::{Environment, Names};
pub use file::{default_data_dir, find_file};
pub use layers::{ConfigError, Layers};
pub use log::log_directives;
