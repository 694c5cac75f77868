//! The schema of `rdev.db`.

use crate::database::Schema;

pub(crate) const SCHEMA: Schema = Schema {
    what: "the store",
    migrations: &[
        include_str!("../../migrations/store-1.sql"),
        include_str!("../../migrations/store-2.sql"),
        include_str!("../../migrations/store-3.sql"),
        include_str!("../../migrations/store-4.sql"),
        include_str!("../../migrations/store-5.sql"),
        include_str!("../../migrations/store-6.sql"),
        include_str!("../../migrations/store-7.sql"),
        include_str!("../../migrations/store-8.sql"),
    ],
    durable: true,
};
