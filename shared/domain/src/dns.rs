//! The names of a project in DNS: what a request asks for, and what the store keeps.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::{EnumCount, EnumString, IntoStaticStr, VariantArray};
use ulid::Ulid;
use unicode_security::MixedScript;
use utoipa::ToSchema;

use crate::Invalid;
use crate::git_url::UrlPolicy;
use crate::hostname::Hostname;
use crate::ids::{ProjectId, text};
use crate::names::names;
use crate::project::Project;
use crate::time::Timestamp;

/// A name in the configured zone, in ASCII, lower case, without the final dot. Beside host
/// names (see [`Hostname`]) a first label `*`, and labels that begin with `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "site.example.com")]
pub struct DomainName(String);

impl DomainName {
    /// Reads what a person wrote: a name in `zone`, or a bare label, which becomes
    /// `<label>.<zone>`. Names in Unicode become Punycode; a label that mixes scripts is refused.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn in_zone(text: &str, zone: &Hostname) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("domain", why));
        if text.is_empty() || text.len() > 1000 {
            return invalid("must have 1 to 253 characters");
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return invalid("must not have blanks or control characters");
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let full = if text.contains('.') { text.to_owned() } else { format!("{text}.{zone}") };
        let mixed = |label: &str| !label.is_ascii() && !label.is_single_script();
        if full.split('.').any(mixed) {
            return invalid("must not mix scripts within a label");
        }
        let ascii = if full.is_ascii() {
            full.to_ascii_lowercase()
        } else {
            match idna::domain_to_ascii_strict(&full) {
                Ok(ascii) => ascii,
                Err(_) => return invalid("is not an internationalised domain name"),
            }
        };
        for label in ascii.split('.').filter(|label| label.starts_with("xn--")) {
            let (shown, read) = idna::domain_to_unicode(label);
            if read.is_err() || !shown.is_single_script() {
                return invalid("has a label in Punycode that is not a name in one script");
            }
        }
        let name: Self = ascii.parse()?;
        if !name.is_in(zone) {
            return Err(Invalid::new("domain", format!("must be in the zone {zone}")));
        }
        Ok(name)
    }

    /// Whether it is the zone itself or a name below it.
    pub fn is_in(&self, zone: &Hostname) -> bool {
        let zone = zone.as_str();
        self.0 == zone || self.0.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether only an administrator of domains may use it: the zone itself, a wildcard, and
    /// names with a label that begins with `_` (`_acme-challenge` proves who owns a name).
    pub fn is_reserved(&self, zone: &Hostname) -> bool {
        let special = |label: &str| label == "*" || label.starts_with('_');
        self.0 == zone.as_str() || self.0.split('.').any(special)
    }
}

impl FromStr for DomainName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("domain", why));
        if text.is_empty() || text.len() > 253 {
            return invalid("must have 1 to 253 characters");
        }
        let plain: Vec<&str> = text
            .split('.')
            .enumerate()
            .map(|(at, label)| match (at, label) {
                (0, "*") => "x",
                _ => label.strip_prefix('_').unwrap_or(label),
            })
            .collect();
        match plain.join(".").parse::<Hostname>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(Invalid::new("domain", error.why)),
        }
    }
}

text!(DomainName);

/// The kind of a record.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
    EnumString,
)]
#[strum(parse_err_ty = Invalid, parse_err_fn = unknown_kind)]
pub enum RecordKind {
    /// An IPv4 address.
    A,
    /// Another name.
    #[serde(rename = "CNAME")]
    #[strum(serialize = "CNAME")]
    Cname,
}

names!(RecordKind);

fn unknown_kind(_: &str) -> Invalid {
    Invalid::new("record type", "must be A or CNAME")
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "target")]
pub enum Target {
    /// To an address.
    A(Ipv4Addr),
    /// To another name.
    #[serde(rename = "CNAME")]
    Cname(Hostname),
}

impl Target {
    /// Reads a target of a kind. Addresses are four decimal numbers without leading zeros, and
    /// public ones unless `allow_private`.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn parse(kind: RecordKind, text: &str, allow_private: bool) -> Result<Self, Invalid> {
        match kind {
            RecordKind::A => {
                let Ok(ip) = text.parse::<Ipv4Addr>() else {
                    return Err(Invalid::new("target", "of an A record must be an IPv4 address"));
                };
                let policy = UrlPolicy { allow_private, file_root: None };
                // Documentation and benchmark addresses lead nowhere either.
                let nowhere = ip.is_documentation() && !allow_private;
                if nowhere || policy.check_address(ip.into()).is_err() {
                    return Err(Invalid::new("target", "must be a public address"));
                }
                Ok(Self::A(ip))
            }
            RecordKind::Cname => {
                let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
                match text.parse() {
                    Ok(name) => Ok(Self::Cname(name)),
                    Err(error) => Err(Invalid::new("target", error.why)),
                }
            }
        }
    }

    /// Its kind.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::A(_) => RecordKind::A,
            Self::Cname(_) => RecordKind::Cname,
        }
    }

    /// The content of a record, without a final dot.
    pub fn content(&self) -> String {
        match self {
            Self::A(ip) => ip.to_string(),
            Self::Cname(name) => name.to_string(),
        }
    }
}

/// Seconds that resolvers may keep an answer: 60 to 86,400, or 1 for the provider's own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u64", into = "u64")]
#[schema(value_type = u64, minimum = 1, maximum = 86400, example = 300)]
pub struct Ttl(u32);

impl Ttl {
    /// The provider decides.
    pub const AUTOMATIC: Self = Self(1);

    /// In seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self::AUTOMATIC
    }
}

impl TryFrom<u64> for Ttl {
    type Error = Invalid;

    fn try_from(seconds: u64) -> Result<Self, Invalid> {
        match u32::try_from(seconds) {
            Ok(seconds @ (1 | 60..=86_400)) => Ok(Self(seconds)),
            _ => Err(Invalid::new("ttl", "must be 1 (automatic) or lie between 60 and 86400")),
        }
    }
}

impl From<Ttl> for u64 {
    fn from(ttl: Ttl) -> Self {
        ttl.0.into()
    }
}

/// What a request may leave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsDefaults {
    /// The zone of every name.
    pub zone: Hostname,
    /// The target of a name without one.
    pub target: Option<Target>,
    /// Whether the provider's proxy stands before it, unless it says so.
    pub proxied: bool,
    /// Its time to live, unless it says one.
    pub ttl: Ttl,
    /// A records may lead to loopback and private addresses.
    pub allow_private: bool,
}

/// A record to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainSpec {
    /// The name.
    pub domain: DomainName,
    /// Where it leads.
    #[serde(flatten)]
    pub target: Target,
    /// Whether the provider's proxy stands before it, where there is one.
    pub proxied: bool,
    /// How long answers may be kept.
    pub ttl: Ttl,
}

impl DomainSpec {
    /// Checks the rules that concern several fields.
    ///
    /// # Errors
    /// A name that leads to itself.
    pub fn check(&self) -> Result<(), Invalid> {
        match &self.target {
            Target::Cname(name) if name.as_str() == self.domain.as_str() => {
                Err(Invalid::new("target", "must not be the domain itself"))
            }
            _ => Ok(()),
        }
    }
}

/// A name that a project has. No two projects have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its own id; part of the ownership tag that its record has at the provider.
    pub id: Ulid,
    /// The project.
    pub project_id: ProjectId,
    /// Which project of that name: its [`nonce`](crate::project::Project::nonce). Nil in records
    /// of versions that wrote none.
    #[serde(default)]
    pub project_nonce: Ulid,
    /// The record that it is to have.
    #[serde(flatten)]
    pub spec: DomainSpec,
    /// How far it is.
    pub state: DomainState,
    /// The record's id at the provider, once it is known.
    pub provider_record_id: Option<String>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Domain {
    /// A domain whose record does not exist yet.
    pub fn new(project: &Project, spec: DomainSpec, id: Ulid, now: Timestamp) -> Self {
        Self {
            id,
            project_id: project.id.clone(),
            project_nonce: project.nonce,
            spec,
            state: DomainState::Pending,
            provider_record_id: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// The text that marks the record at the provider as this domain's.
    pub fn ownership_tag(&self) -> String {
        format!("rdev:{}:{}", self.project_id, self.id)
    }
}

/// How far a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// The provider may or may not have it; adding it again goes on.
    Pending,
    /// The provider has it.
    Active,
    /// It is being removed; removing it again goes on.
    Deleting,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Hostname {
        "example.com".parse().expect("a zone")
    }

    #[test]
    fn a_name_lies_in_the_zone_and_a_bare_label_is_put_into_it() {
        for (text, name) in [
            ("site", "site.example.com"),
            ("Site.Example.COM", "site.example.com"),
            ("a.b.example.com.", "a.b.example.com"),
            ("example.com", "example.com"),
            ("*.example.com", "*.example.com"),
            ("_acme-challenge.site.example.com", "_acme-challenge.site.example.com"),
            ("b\u{fc}cher", "xn--bcher-kva.example.com"),
            ("\u{43f}\u{440}\u{438}", "xn--h1and.example.com"),
        ] {
            let read = DomainName::in_zone(text, &zone());
            assert_eq!(read.as_ref().map(DomainName::as_str), Ok(name), "{text}");
        }
        let (label, long) = ("a".repeat(64), format!("{}example.com", "a.".repeat(122)));
        for bad in [
            "",
            ".",
            "a..b.example.com",
            "-a",
            "a-",
            "evilexample.com",
            "example.com.evil.org",
            "example.org",
            "a b",
            "a\u{0}",
            "a.*.example.com",
            "*a",
            "p\u{430}ypal",
            "xn--pypal-4ve",
            "xn--zzzzzzzzzzzz",
            "__",
            "127.0.0.1",
            &label,
            &long,
        ] {
            assert!(DomainName::in_zone(bad, &zone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn apex_wildcard_and_underscore_are_for_administrators() {
        let reserved =
            |text: &str| DomainName::in_zone(text, &zone()).expect(text).is_reserved(&zone());
        for text in ["example.com", "*.example.com", "*.a.example.com", "_acme-challenge.a"] {
            assert!(reserved(&text.replace("_acme-challenge.a", "_acme-challenge")), "{text}");
        }
        assert!(!reserved("site") && !reserved("a.b.example.com"));
    }

    #[test]
    fn an_address_is_a_plain_public_one() {
        let a = |text: &str, private| Target::parse(RecordKind::A, text, private);
        assert_eq!(a("93.184.216.34", false), Ok(Target::A(Ipv4Addr::new(93, 184, 216, 34))));
        assert_eq!(a("93.184.216.34", false).expect("an address").content(), "93.184.216.34");
        for private in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1"] {
            assert!(a(private, false).is_err() && a(private, true).is_ok(), "{private}");
        }
        for never in
            ["0177.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "0.0.0.0", "1", "1.2.3", "", "a.b"]
        {
            assert!(a(never, true).is_err(), "{never}");
        }
    }

    #[test]
    fn a_ttl_is_automatic_or_between_a_minute_and_a_day() {
        for good in [1, 60, 300, 86_400] {
            assert!(Ttl::try_from(good).is_ok(), "{good}");
        }
        for bad in [0, 2, 59, 86_401, 10_u64.pow(10), u64::MAX] {
            assert!(Ttl::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_does_not_lead_to_itself() {
        let domain = DomainName::in_zone("a", &zone()).expect("a name");
        let target = Target::parse(RecordKind::Cname, "A.example.com.", false).expect("a name");
        assert_eq!(target.content(), "a.example.com");
        let spec = DomainSpec { domain, target, proxied: false, ttl: Ttl::default() };
        assert!(spec.check().is_err());
    }
}
