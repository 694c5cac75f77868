//! Finding the resources of a deployed stack by its name.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::list_tables::ListTablesError;
use rdev_domain::ports::PortError;
use rdev_domain::retention::Retention;

use crate::error;
use crate::store::DynamoStore;

/// Why a stack's table is not known.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// There is none in this region and account.
    #[error("there is no table of a stack {0}: is it the right region and account?")]
    None(String),
    /// There is more than one candidate.
    #[error("the stack {stack} may have made any of {}; name one with --table", .tables.join(", "))]
    Many { stack: String, tables: Vec<String> },
    #[error("cannot list the tables")]
    List(#[source] PortError),
}

/// The table of a stack: CloudFormation calls it `<stack>-Table-<random>`.
///
/// # Errors
/// If there is not exactly one, or tables cannot be listed (`dynamodb:ListTables`).
pub async fn table(sdk: &SdkConfig, stack: &str) -> Result<String, StackError> {
    let mut pages = Client::new(sdk).list_tables().into_paginator().items().send();
    let mut tables = Vec::new();
    while let Some(name) = pages.next().await {
        let failed =
            |error| error::port_error::<ListTablesError>("*", "dynamodb:ListTables", error);
        let name = name.map_err(|error| StackError::List(failed(error)))?;
        if is_of(stack, &name) {
            tables.push(name);
        }
    }
    match tables.len() {
        0 => Err(StackError::None(stack.to_owned())),
        1 => Ok(tables.remove(0)),
        _ => Err(StackError::Many { stack: stack.to_owned(), tables }),
    }
}

/// A store without a queue, for callers that send no wake-ups.
pub fn store(sdk: &SdkConfig, table: String, retention: Retention) -> DynamoStore {
    DynamoStore::new(Client::new(sdk), table, retention)
}

/// The random part of a name has no hyphen. The name of a stack may have some.
fn is_of(stack: &str, table: &str) -> bool {
    let rest = table.strip_prefix(stack).and_then(|rest| rest.strip_prefix("-Table-"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_belongs_to_the_stack_whose_name_it_begins_with() {
        assert!(is_of("rdev", "rdev-Table-1ABC"));
        for other in ["rdev-dev-Table-1ABC", "rdev-Table-dev-Table-1ABC", "rdev-Table-", "rdev"] {
            assert!(!is_of("rdev", other), "{other}");
        }
    }
}
