//! The runner around its builds: wake-ups, protection from scale-in.

mod protection;
mod wake_ups;
