//! Where a repository is: syntax, and which addresses an installation allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};
use utoipa::ToSchema;

use crate::Invalid;
use crate::ids::text;

/// A clone URL: `https://`, `http://` or `file:///`, without credentials,
/// query or fragment; at most 2,000 bytes.
///
/// SSH is not offered: rdev speaks smart HTTP by itself (see `docs/adr`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "https://git.example.com/team/site.git")]
pub struct GitUrl(String);

/// Which addresses a clone URL may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlPolicy {
    /// Loopback, private and unique-local addresses are allowed. Link-local never is.
    pub allow_private: bool,
    /// `file:` URLs are allowed for repositories below this folder.
    pub file_root: Option<PathBuf>,
}

impl GitUrl {
    /// The URL of a bare repository in a folder of this machine.
    ///
    /// # Errors
    /// When the path is relative or is not UTF-8.
    pub fn from_folder(folder: &Path) -> Result<Self, Invalid> {
        let url = Url::from_file_path(folder)
            .map_err(|()| Invalid::new("clone URL", "needs an absolute folder"))?;
        url.as_str().parse()
    }

    /// The folder of a `file:` URL.
    pub fn to_folder(&self) -> Option<PathBuf> {
        self.url().filter(|url| url.scheme() == "file")?.to_file_path().ok()
    }

    /// `scheme://host:port` of an HTTP URL, the unit that credentials belong to.
    pub fn origin(&self) -> Option<String> {
        let url = self.url()?;
        url.has_host().then(|| url.origin().ascii_serialization())
    }

    /// The host of an HTTP URL, without its port.
    pub fn host(&self) -> Option<String> {
        self.url()?.host_str().map(str::to_owned)
    }

    /// Whether an installation with this policy may use the URL.
    ///
    /// Names are checked again when they have been resolved, at connect; this
    /// catches literal addresses, `localhost` and folders early.
    ///
    /// # Errors
    /// Why not, in words for the API's answer.
    pub fn check(&self, policy: &UrlPolicy) -> Result<(), Invalid> {
        let invalid = |why: &str| Err(Invalid::new("clone URL", why));
        let Some(url) = self.url() else {
            return invalid("is not a URL");
        };
        match url.host() {
            None => match (self.to_folder(), &policy.file_root) {
                (Some(folder), Some(root)) if below(&folder, root) => Ok(()),
                _ => invalid("may use file: only for a repository below the data folder"),
            },
            Some(host) => policy.check_host(&host),
        }
    }

    fn url(&self) -> Option<Url> {
        Url::parse(&self.0).ok()
    }
}

impl UrlPolicy {
    /// Whether a host may be named. A name is checked again when it has been resolved.
    ///
    /// # Errors
    /// Why not.
    pub fn check_host(&self, host: &Host<&str>) -> Result<(), Invalid> {
        match host {
            Host::Ipv4(ip) => self.check_address(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => self.check_address(IpAddr::V6(*ip)),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                let local = name == "localhost" || name.ends_with(".localhost");
                if local && !self.allow_private {
                    let why = "must not name a loopback address (git.allow_private_addresses)";
                    return Err(Invalid::new("clone URL", why));
                }
                Ok(())
            }
        }
    }

    /// Whether this address may be connected to.
    ///
    /// # Errors
    /// Why not: link-local, multicast and unspecified addresses never,
    /// loopback and private ones when the policy does not allow them.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), Invalid> {
        let ip = match ip.to_canonical() {
            IpAddr::V6(v6) => embedded(v6).map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 => v4,
        };
        let invalid = |why: &str| Err(Invalid::new("clone URL", why));
        let (never, private) = match ip {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                let shared = a == 100 && (64..128).contains(&b);
                (
                    v4.is_link_local()
                        || v4.is_multicast()
                        || v4.is_broadcast()
                        || a == 0
                        || a >= 240,
                    v4.is_loopback() || v4.is_private() || shared,
                )
            }
            IpAddr::V6(v6) => (
                v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified(),
                // The last: site-local, from before unique-local.
                v6.is_loopback() || v6.is_unique_local() || v6.segments()[0] & 0xffc0 == 0xfec0,
            ),
        };
        if never {
            return invalid("must not name a link-local, multicast or unspecified address");
        }
        if private && !self.allow_private {
            return invalid(
                "must not name a loopback or private address (git.allow_private_addresses)",
            );
        }
        Ok(())
    }
}

/// Whether a folder is below another one. A `..` with an escaped slash is not special in the
/// URL, but the operating system would follow it.
fn below(folder: &Path, root: &Path) -> bool {
    let plain = folder.components().all(|part| !matches!(part, Component::ParentDir));
    plain && folder.starts_with(root) && folder != root
}

/// The IPv4 address inside an IPv6 address: NAT64 (`64:ff9b::/96`),
/// 6to4 (`2002::/16`), and the old IPv4-compatible form (`::/96`).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(of(g, h)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        // Not `::` and `::1`, which are IPv6's own.
        [0, 0, 0, 0, 0, 0] if g != 0 => Some(of(g, h)),
        _ => None,
    }
}

impl FromStr for GitUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("clone URL", why));
        if text.is_empty() || text.len() > 2000 {
            return invalid("must have 1 to 2000 bytes");
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return invalid("must not have blanks, control characters or backslashes");
        }
        let lower = text.to_ascii_lowercase();
        if ["%00", "%0a", "%0d"].iter().any(|code| lower.contains(code)) {
            return invalid("must not have encoded control characters");
        }
        let Ok(url) = Url::parse(text) else {
            return invalid("is not a URL");
        };
        match url.scheme() {
            "https" | "http" if url.has_host() => {}
            // With another host it has no path on this machine.
            "file" if url.to_file_path().is_ok() => {}
            _ => return invalid("must begin with https://, http:// or file:///"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not hold credentials; configure them for the host");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return invalid("must not have a query or a fragment");
        }
        if url.path().len() < 2 {
            return invalid("must name a repository");
        }
        Ok(Self(url.into()))
    }
}

text!(GitUrl);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_and_file_urls_are_clone_urls() {
        for good in
            ["https://h/a.git", "http://h:1/a", "file:///srv/a.git", "https://[2001:db8::1]/a"]
        {
            assert!(good.parse::<GitUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "/srv/a.git",
            "ext::sh -c x",
            "ext::x",
            "ssh://-oProxyCommand=x/y",
            "ssh://h/a",
            "git@h:a.git",
            "https://u@h/a",
            "https://u:p@h/a",
            "https://h/a?x",
            "https://h/a#x",
            "https://h",
            "https://h/",
            "https://h/a\0",
            "https://h/a%00",
            "https://h/a\n",
            "file://h/a",
            "--upload-pack=x",
            "https:///a b",
            "javascript:x",
            "https://h\\a/b",
        ] {
            assert!(bad.parse::<GitUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_origin_is_scheme_host_and_port_and_a_folder_has_none() {
        let origin = |url: &str| url.parse::<GitUrl>().expect(url).origin();
        let at = |origin: &str| Some(origin.to_owned());
        assert_eq!(origin("https://Git.Example.com:443/a/b.git"), at("https://git.example.com"));
        assert_eq!(origin("http://git.example.com:3000/a"), at("http://git.example.com:3000"));
        assert_eq!(origin("file:///data/repos/a.git"), None);
    }

    #[test]
    fn a_policy_refuses_addresses_that_are_ours_alone() {
        let closed = UrlPolicy::default();
        let open = UrlPolicy { allow_private: true, file_root: Some("/data/repos".into()) };
        let check = |url: &str, policy| url.parse::<GitUrl>().expect(url).check(policy).is_ok();
        for private in [
            "http://127.0.0.1/a",
            "http://0177.0.0.1/a",
            "http://2130706433/a",
            "http://10.1.2.3/a",
            "http://192.168.1.1/a",
            "http://172.16.0.1/a",
            "http://localhost/a",
            "http://x.localhost/a",
            "http://localhost./a",
            "http://[::1]/a",
            "http://[fd00::1]/a",
            "http://[::ffff:10.0.0.1]/a",
            "http://100.64.0.1/a",
            "http://[64:ff9b::7f00:1]/a",
            "http://[2002:7f00:1::]/a",
            "http://[fec0::1]/a",
            "file:///data/repos/a.git",
        ] {
            assert!(!check(private, &closed), "{private}");
            assert!(check(private, &open), "{private}");
        }
        for never in [
            "http://169.254.169.254/a",
            "http://[fe80::1]/a",
            "http://0.0.0.0/a",
            "http://[::]/a",
            "http://[::ffff:169.254.169.254]/a",
            "http://[::a9fe:a9fe]/a",
            "http://[64:ff9b::a9fe:a9fe]/a",
            "file:///etc/a.git",
            "file:///data/repos/../../etc/a",
            "file:///data/repos/a.git%2f..%2f..%2f..%2fetc%2fa",
            "file:///data/repos/%2e%2e/%2e%2e/etc/a",
            "file:///data/repos/a%2F%2e%2E%2F..%2F..%2Fetc",
            "file:///data/repos",
        ] {
            assert!(!check(never, &open), "{never}");
        }
        assert!(check("https://git.example.com/a", &closed));
    }
}
