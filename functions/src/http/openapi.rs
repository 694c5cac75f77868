//! The OpenAPI document: what the routers declare, and what all operations
//! have in common because of the middleware.

use rdev_domain::hostname::Hostname;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, ContactBuilder, Content, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi, Ref,
    RefOr, Required, Response, ResponseBuilder, schema,
};
use utoipa::{PartialSchema, ToSchema};

use crate::http::problem::{PROBLEM_JSON, ProblemBody};

/// The routers' document, with what every operation has in common.
pub fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("rdev")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("A prompt goes in, a pushed commit comes out. See docs/api.md."))
        .license(Some(LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).build()))
        .contact(Some(ContactBuilder::new().url(Some(env!("CARGO_PKG_REPOSITORY"))).build()))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    let mut schemas = vec![(ProblemBody::name().into_owned(), ProblemBody::schema())];
    ProblemBody::schemas(&mut schemas);
    schemas.push((Hostname::name().into_owned(), Hostname::schema()));
    components.schemas.extend(schemas);
    for (name, _, description) in SHARED {
        components.responses.insert(name.to_owned(), shared(description).into());
    }
    let mut key = Http::new(HttpAuthScheme::Bearer);
    key.bearer_format = Some("rdev_…".to_owned());
    key.description =
        Some("An API key. The names after it are the scopes that the operation needs.".to_owned());
    components.add_security_scheme("key", SecurityScheme::Http(key));
    for (path, item) in &mut document.paths.paths {
        let in_path = path.contains('{');
        for operation in [&mut item.get, &mut item.delete].into_iter().flatten() {
            describe(operation, in_path, false);
        }
        if let Some(operation) = &mut item.patch {
            describe(operation, in_path, true);
        }
        if let Some(operation) = &mut item.post {
            describe(operation, in_path, true);
            idempotent(operation);
        }
    }
    document
}

/// Every operation of a document: method, path, description.
pub(crate) fn operations(
    document: &OpenApi,
) -> impl Iterator<Item = (&'static str, &str, &Operation)> {
    document.paths.paths.iter().flat_map(|(path, item)| {
        let operations = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
        ];
        operations
            .into_iter()
            .filter_map(|(method, operation)| Some((method, path.as_str(), operation.as_ref()?)))
    })
}

/// Problems that many operations share: name, status, description.
const SHARED: [(&str, &str, &str); 11] = [
    ("Malformed", "400", "The body is not JSON: `malformed_json`; or a cursor is not of this list"),
    ("Unauthorized", "401", "No valid key: `unauthorized`"),
    ("MissingScope", "403", "The key lacks a scope: `missing_scope`"),
    ("NotFound", "404", "It does not exist: `not_found`"),
    ("Conflict", "409", "In conflict with what exists, or `request_in_flight`"),
    ("BodyTooLarge", "413", "More than 256 KiB: `body_too_large`"),
    ("UnsupportedMediaType", "415", "Not declared as JSON: `unsupported_media_type`"),
    ("InvalidRequest", "422", "A field breaks a rule: `invalid_request`, with `errors`"),
    ("RateLimited", "429", "Too many requests: `rate_limited`, with `Retry-After`"),
    ("Unavailable", "503", "Try again later: `unavailable`, with `Retry-After`"),
    ("Problem", "default", "Any other problem; see `code`"),
];

/// What the middleware may answer instead of the handler.
fn describe(operation: &mut Operation, in_path: bool, with_body: bool) {
    let keyed = operation.security.as_ref().is_some_and(|one| one.iter().any(needs_key));
    if keyed {
        refer(operation, &["401", "403", "429", "503"]);
    }
    if in_path {
        refer(operation, &["404"]);
    }
    if with_body {
        refer(operation, &["400", "413", "415", "422"]);
    }
    refer(operation, &["default"]);
}

fn idempotent(operation: &mut Operation) {
    refer(operation, &["409"]);
    let text = ObjectBuilder::new()
        .schema_type(schema::Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .pattern(Some("^[!-~]+$"));
    let parameter = ParameterBuilder::new()
        .name("idempotency-key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The same key and body within a day get the first answer again"))
        .schema(Some(text))
        .build();
    operation.parameters.get_or_insert_default().push(parameter.into());
}

/// Adds those of the shared problems that the operation does not describe itself.
fn refer(operation: &mut Operation, statuses: &[&str]) {
    for (name, status, _) in SHARED.iter().filter(|(_, status, _)| statuses.contains(status)) {
        let responses = &mut operation.responses.responses;
        let shared = RefOr::Ref(Ref::from_response_name(*name));
        responses.entry((*status).to_owned()).or_insert(shared);
    }
}

fn shared(description: &str) -> Response {
    let problem = Ref::from_schema_name(ProblemBody::name());
    let id = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(schema::Type::String)))
        .description(Some("The request's id"))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content(PROBLEM_JSON, Content::new(Some(problem)))
        .header("x-request-id", id)
        .build()
}

fn needs_key(requirement: &utoipa::openapi::security::SecurityRequirement) -> bool {
    *requirement != utoipa::openapi::security::SecurityRequirement::default()
}
