//! Schema versions: `PRAGMA user_version` is the number of migrations that were applied.

use rusqlite::Connection;

/// The result of migrating a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Migrated {
    /// The file has every migration.
    Current,
    /// A newer program wrote the file. It was not changed.
    Newer {
        /// The file's version.
        found: usize,
    },
}

/// Applies those of `migrations` that the file lacks. One transaction contains one
/// migration and the new version.
pub(crate) fn migrate(conn: &Connection, migrations: &[&str]) -> rusqlite::Result<Migrated> {
    let version = |conn: &Connection| {
        conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
            .map(|version| usize::try_from(version).unwrap_or(usize::MAX))
    };
    let found = version(conn)?;
    if found > migrations.len() {
        return Ok(Migrated::Newer { found });
    }
    for (done, sql) in migrations.iter().enumerate().skip(found) {
        let transaction = conn.unchecked_transaction()?;
        transaction.execute_batch(sql)?;
        transaction.execute_batch(&format!("PRAGMA user_version = {}", done + 1))?;
        transaction.commit()?;
    }
    Ok(Migrated::Current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(conn: &Connection) -> Vec<String> {
        conn.prepare("SELECT name FROM sqlite_schema ORDER BY name")
            .and_then(|mut all| all.query_map([], |row| row.get(0))?.collect())
            .expect("a list of tables")
    }

    #[test]
    fn each_missing_migration_is_applied_once() {
        let conn = Connection::open_in_memory().expect("a database");
        let first = ["CREATE TABLE a (x INTEGER) STRICT"];
        assert_eq!(migrate(&conn, &first).expect("version 1"), Migrated::Current);
        let both =
            [first[0], "CREATE TABLE b (x INTEGER) STRICT; CREATE TABLE c (x INTEGER) STRICT"];
        for _ in 0..2 {
            assert_eq!(migrate(&conn, &both).expect("version 2"), Migrated::Current);
            assert_eq!(tables(&conn), ["a", "b", "c"]);
        }
        assert_eq!(migrate(&conn, &first).expect("an answer"), Migrated::Newer { found: 2 });
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let conn = Connection::open_in_memory().expect("a database");
        let broken = [
            "CREATE TABLE a (x INTEGER) STRICT",
            "CREATE TABLE b (x INTEGER) STRICT; CREATE TABLE a (x INTEGER) STRICT",
        ];
        migrate(&conn, &broken).expect_err("table a is there twice");
        assert_eq!(tables(&conn), ["a"]);
        let mended = [broken[0], "CREATE TABLE b (x INTEGER) STRICT"];
        assert_eq!(migrate(&conn, &mended).expect("version 2"), Migrated::Current);
        assert_eq!(tables(&conn), ["a", "b"]);
    }
}
