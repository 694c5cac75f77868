//! The errors of services. `http/problem.rs` maps each to a status and a code.

use rdev_domain::Invalid;
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::spec::FieldError;
use rdev_domain::step::Refusal;

/// What services return.
pub type ServiceResult<T> = Result<T, ServiceError>;

/// An error of a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// An error of a port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Fields of the request break rules.
    #[error("{} fields break rules", .0.len())]
    Invalid(Vec<FieldError>),
    /// The key lacks a scope.
    #[error("{0}")]
    MissingScope(String),
    /// The project is being deleted.
    #[error("the project is being deleted")]
    ProjectDeleting,
    /// A repository that rdev did not create is not deleted by it.
    #[error("rdev did not create the project's repository and does not delete it")]
    RepositoryNotOurs,
    /// The forge creates no repositories.
    #[error(
        "this installation creates no repositories: name an existing one with `git_url`, or set \
         `repository` to false"
    )]
    ForgeNotConfigured,
    /// No CI runs for the repository.
    #[error("this installation has no CI for the repository")]
    CiNotConfigured,
    /// There is no DNS provider.
    #[error("this installation has no DNS provider ([dns])")]
    DnsNotConfigured,
    /// A system outside of rdev failed; the service has logged it.
    #[error(transparent)]
    Upstream(PortError),
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        Self::Port(refusal.into())
    }
}

impl From<Conflict> for ServiceError {
    fn from(conflict: Conflict) -> Self {
        Self::Port(conflict.into())
    }
}

/// A field that breaks a rule.
pub(crate) fn field(name: &str, message: impl Into<String>) -> FieldError {
    FieldError::new(name, message)
}

/// A field whose type refuses its value.
pub(crate) fn refused(name: &str, invalid: &Invalid) -> FieldError {
    field(name, invalid.why.clone())
}
