//! Checks of the table and the queues at the start of a program. A resource that is missing, of
//! another shape or denied does not become usable by another try.

use std::error::Error;
use std::fmt;

use aws_sdk_dynamodb::types::{
    KeySchemaElement, KeyType, Projection, ProjectionType, ScalarAttributeType, TableDescription,
};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::chain;

use crate::connect::Aws;
use crate::schema;
use crate::service_error::{Meaning, meaning};

/// Partition key and sort key. Both are strings.
type Keys = (&'static str, &'static str);

const TABLE_KEYS: Keys = ("pk", "sk");

/// An index: its name, its partition key, its sort key.
type Index = (&'static str, &'static str, &'static str);

/// Each index, and the attributes beside the keys that it must have: without them filtered
/// lists would be empty, without an error.
const INDEXES: [(Index, &[&str]); 2] = [(schema::LISTS, &schema::LISTED), (schema::DUE, &[])];

/// Why the program cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// There is no such table or queue in this region and account.
    #[error("there is no {0}: is it the right region and account, is the stack deployed?")]
    Missing(Resource),
    /// The resource exists, but is not as the template creates it.
    #[error("{resource} is not ours: {why}")]
    WrongShape {
        resource: Resource,
        /// The difference.
        why: String,
    },
    /// The credentials do not allow the check.
    #[error("{resource} is denied: it needs the permission {permission} ({message})")]
    Denied {
        resource: Resource,
        /// The IAM action.
        permission: &'static str,
        message: String,
    },
    /// No call is possible without region and credentials.
    #[error("cannot ask AWS for {resource}: are AWS_REGION and credentials set? ({message})")]
    NotConfigured { resource: Resource, message: String },
    /// The resource did not answer. Only this may be different at the next try.
    #[error("{resource} is not available: {message}")]
    Unavailable { resource: Resource, message: String },
}

/// A table or a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The table's name.
    Table(String),
    /// The queue's URL.
    Queue(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "table {name}"),
            Self::Queue(url) => write!(f, "queue {url}"),
        }
    }
}

impl CheckError {
    /// Whether another try may succeed. With every other error the program exits with code 78.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Checks the table and the queues once, with one call for each. Only a call that is throttled
/// or gets no answer is tried again, a few times.
///
/// # Errors
/// For the first resource that is not as the template creates it.
pub async fn resources(aws: &Aws) -> Result<(), CheckError> {
    let Aws { tables, queues, settings, .. } = aws;
    table(tables, &settings.table).await?;
    for url in settings.queues() {
        queue(queues, url).await?;
    }
    match &settings.dead_queue_url {
        Some(url) => queue(queues, url).await,
        None => Ok(()),
    }
}

async fn table(client: &aws_sdk_dynamodb::Client, name: &str) -> Result<(), CheckError> {
    let resource = Resource::Table(name.to_owned());
    let answer = client.describe_table().table_name(name).send().await;
    let answer =
        answer.map_err(|error| check_error(resource.clone(), "dynamodb:DescribeTable", &error))?;
    let description = answer.table.unwrap_or_else(|| TableDescription::builder().build());
    match wrong_shape(&description) {
        None => Ok(()),
        Some(why) => Err(CheckError::WrongShape { resource, why }),
    }
}

/// The difference from the table that the program needs.
fn wrong_shape(table: &TableDescription) -> Option<String> {
    if let Some(why) = wrong_keys(table, table.key_schema(), TABLE_KEYS) {
        return Some(why);
    }
    INDEXES.iter().find_map(|((name, hash, range), attributes)| {
        let mut indexes = table.global_secondary_indexes().iter();
        let Some(index) = indexes.find(|index| index.index_name() == Some(name)) else {
            return Some(format!("it has no index {name}"));
        };
        let wrong = wrong_keys(table, index.key_schema(), (hash, range));
        wrong
            .or_else(|| lacks(index.projection(), attributes))
            .map(|why| format!("in its index {name}, {why}"))
    })
}

/// The first of the attributes that an index does not have.
fn lacks(projection: Option<&Projection>, attributes: &[&str]) -> Option<String> {
    let projection = projection?;
    if projection.projection_type() == Some(&ProjectionType::All) {
        return None;
    }
    let has = projection.non_key_attributes();
    let missing = attributes.iter().find(|needed| !has.iter().any(|name| name == **needed))?;
    Some(format!("the attribute {missing:?} is not projected"))
}

fn wrong_keys(
    table: &TableDescription,
    actual: &[KeySchemaElement],
    needed: Keys,
) -> Option<String> {
    let kinds = [(KeyType::Hash, needed.0), (KeyType::Range, needed.1)];
    for (kind, name) in kinds {
        let found =
            actual.iter().find(|key| *key.key_type() == kind).map(|key| key.attribute_name());
        if found != Some(name) {
            let found = found.map_or_else(|| "nothing".to_owned(), |found| format!("{found:?}"));
            return Some(format!("the {} key is {found}, not {name:?}", kind.as_str()));
        }
        let mut types = table.attribute_definitions().iter();
        let text = types.any(|one| {
            one.attribute_name() == name && *one.attribute_type() == ScalarAttributeType::S
        });
        if !text {
            return Some(format!("the key {name:?} is not a string"));
        }
    }
    None
}

async fn queue(client: &aws_sdk_sqs::Client, url: &str) -> Result<(), CheckError> {
    let resource = Resource::Queue(url.to_owned());
    let answer = client
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .map_err(|error| check_error(resource.clone(), "sqs:GetQueueAttributes", &error))?;
    let arn = answer.attributes.as_ref().and_then(|all| all.get(&QueueAttributeName::QueueArn));
    if arn.is_some_and(|arn| arn.ends_with(".fifo")) {
        // In a FIFO queue one message that is not deleted would block a project.
        let why = "it is a FIFO queue, and must be a standard one".to_owned();
        return Err(CheckError::WrongShape { resource, why });
    }
    Ok(())
}

fn check_error<E>(
    resource: Resource,
    permission: &'static str,
    error: &SdkError<E, HttpResponse>,
) -> CheckError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default();
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let message = || match error.message() {
        Some(message) if !code.is_empty() => format!("{code}: {message}"),
        _ => chain(error),
    };
    match error {
        SdkError::ConstructionFailure(_) => {
            CheckError::NotConfigured { resource, message: message() }
        }
        // No call was made: there are no credentials for it.
        SdkError::DispatchFailure(failure)
            if failure.is_user() || (failure.is_other() && failure.as_other().is_none()) =>
        {
            CheckError::NotConfigured { resource, message: message() }
        }
        _ => match meaning(code, status) {
            Meaning::Missing => CheckError::Missing(resource),
            Meaning::Denied => CheckError::Denied { resource, permission, message: message() },
            Meaning::Unavailable => CheckError::Unavailable { resource, message: message() },
            Meaning::Broken => CheckError::WrongShape { resource, why: message() },
        },
    }
}
