//! What goes wrong, where and how often.

use hyper::StatusCode;
use rand::RngExt;
use serde_json::json;

use super::Plan;
use super::call::{Call, Service};

/// What is done to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is refused as one too many, and not done.
    Throttle,
    /// It is answered with an error of this status and code, and not done: 403 and
    /// `AccessDeniedException`, for instance.
    Refuse(u16, &'static str),
    /// It is answered with status 500, and not done.
    Error,
    /// It is not done, and its connection stays open and silent.
    Hang,
    /// Its connection is closed without an answer, and it is not done: the service is gone.
    Gone,
    /// It is done, and its connection closed without an answer.
    LoseAnswer,
    /// It is done, and its connection stays open and silent.
    HoldAnswer,
}

/// Which calls a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Any,
    Service(Service),
    Operation(Service, &'static str),
}

/// A rule of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Which calls it is about.
    pub on: On,
    /// The share of them that it applies to, 0 to 1.
    pub share: f64,
    /// How often it still applies; `None`: always.
    pub times: Option<u32>,
    pub fault: Fault,
}

impl Rule {
    /// Every such call.
    pub fn always(on: On, fault: Fault) -> Self {
        Self { on, share: 1.0, times: None, fault }
    }

    /// The next such calls.
    pub fn next(times: u32, on: On, fault: Fault) -> Self {
        Self { on, share: 1.0, times: Some(times), fault }
    }

    /// A share of such calls, 0 to 1.
    pub fn share(share: f64, on: On, fault: Fault) -> Self {
        Self { on, share, times: None, fault }
    }
}

impl On {
    fn matches(self, call: &Call) -> bool {
        match self {
            Self::Any => true,
            Self::Service(service) => service == call.service,
            Self::Operation(service, operation) => {
                service == call.service && operation == call.operation
            }
        }
    }
}

impl Plan {
    /// What happens to a call.
    pub(super) fn fault(&mut self, call: &Call) -> Option<Fault> {
        for rule in &mut self.rules {
            if !rule.on.matches(call) || rule.times == Some(0) {
                continue;
            }
            if rule.share < 1.0 && !self.chance.random_bool(rule.share) {
                continue;
            }
            rule.times = rule.times.map(|times| times - 1);
            return Some(rule.fault.clone());
        }
        None
    }
}

impl Fault {
    /// The answer that says so, where there is one instead of the service's.
    pub(super) fn answer(&self, call: &Call) -> Option<(StatusCode, String)> {
        let (status, code) = match self {
            Self::Throttle => (400, "ThrottlingException"),
            Self::Refuse(status, code) => (*status, *code),
            Self::Error => (500, "InternalFailure"),
            Self::Hang | Self::Gone | Self::LoseAnswer | Self::HoldAnswer => return None,
        };
        let status = StatusCode::from_u16(status).expect("an HTTP status");
        let of = match call.service {
            Service::DynamoDb => "com.amazonaws.dynamodb.v20120810",
            Service::Sqs => "com.amazonaws.sqs",
            Service::Other => "com.amazonaws",
        };
        let message = format!("{code} by the proxy");
        Some((status, json!({"__type": format!("{of}#{code}"), "message": message}).to_string()))
    }
}
