//! The runner around its builds: protection from scale-in.

mod protection;
