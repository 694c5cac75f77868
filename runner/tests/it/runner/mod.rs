//! The runner around its builds: wake-ups, protection from scale-in, versions side by side.

mod protection;
mod versions;
mod wake_ups;
