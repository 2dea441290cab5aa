//! Who may see the live page and the metrics. This machine may; others only if the configuration says so; and whoever it
//! is shows the token, if there is one. Pure.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config::{HttpAccess, Password};

/// What a request says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor<'a> {
    /// Where it comes from.
    pub(super) peer: IpAddr,
    /// Its `Authorization` header.
    pub(super) authorization: Option<&'a str>,
    /// Its `Host` header.
    pub(super) host: Option<&'a str>,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Its network may not.
    Network,
    /// It lacks the token, or has another.
    Token,
    /// It means another host: a page of somebody else's that has its name resolved to this machine (DNS rebinding).
    Host,
}

impl Denied {
    /// What to do about it.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Denied::Network => {
                "not from here: add this network to http_from, or set http_token and no http_from, in pgfunnel's configuration\n"
            }
            Denied::Token => "the token (http_token) is wanted: as a bearer token, or as the password of any user\n",
            Denied::Host => "ask for an address or for localhost, or set http_token in pgfunnel's configuration\n",
        }
    }
}

/// Whether it may.
pub(super) fn admit(access: &HttpAccess, visitor: Visitor<'_>) -> Result<(), Denied> {
    let peer = visitor.peer.to_canonical();
    let configured = match access.from.as_slice() {
        [] => access.token.is_some(),
        networks => networks.iter().any(|network| network.contains(peer)),
    };
    if !peer.is_loopback() && !configured {
        return Err(Denied::Network);
    }
    match &access.token {
        Some(token) if visitor.authorization.is_some_and(|shown| shows(shown, token)) => Ok(()),
        Some(_) => Err(Denied::Token),
        // A browser on this machine is asked by whatever page it shows; a name that is not ours gives that away. The names
        // that networks of `http_from` have for us are not known: there only the token helps.
        None if peer.is_loopback() && !visitor.host.is_none_or(is_local) => Err(Denied::Host),
        None => Ok(()),
    }
}

/// A bearer token (RFC 6750), or the password of Basic credentials (RFC 7617), which browsers ask for by themselves.
fn shows(authorization: &str, token: &Password) -> bool {
    let Some((scheme, credentials)) = authorization.split_once(' ') else { return false };
    let credentials = credentials.trim();
    let is_token = |shown: &[u8]| verify_slices_are_equal(shown, token.0.as_bytes()).is_ok();
    if scheme.eq_ignore_ascii_case("bearer") {
        return is_token(credentials.as_bytes());
    }
    let decoded = BASE64_STANDARD.decode(credentials).unwrap_or_default();
    let password = decoded.iter().position(|byte| *byte == b':').and_then(|colon| decoded.get(colon + 1..));
    scheme.eq_ignore_ascii_case("basic") && password.is_some_and(is_token)
}

/// An address, or the name that every machine has for itself: nobody else can give these to a browser.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;

    fn asks(access: &HttpAccess, peer: &str, authorization: Option<&str>, host: &str) -> Result<(), Denied> {
        admit(access, Visitor { peer: peer.parse().unwrap(), authorization, host: Some(host) })
    }

    #[test]
    fn closed_by_default_but_for_this_machine() {
        let access = HttpAccess::default();
        for (peer, host, expected) in [
            ("127.0.0.1", "127.0.0.1:9127", Ok(())),
            ("::1", "[::1]:9127", Ok(())),
            ("::ffff:127.0.0.1", "localhost:9127", Ok(())),
            ("127.0.0.1", "evil.example:9127", Err(Denied::Host)),
            ("127.0.0.1", "localhost.evil.example", Err(Denied::Host)),
            ("10.0.0.1", "10.0.0.2", Err(Denied::Network)),
        ] {
            assert_eq!(asks(&access, peer, None, host), expected, "{peer} {host}");
        }
    }

    #[test]
    fn networks_and_the_token() {
        let network = Network { addr: "10.0.0.0".parse().unwrap(), prefix: 8 };
        let networks = HttpAccess { from: vec![network], token: None };
        assert_eq!(asks(&networks, "10.1.2.3", None, "pgfunnel.internal"), Ok(()));
        assert_eq!(asks(&networks, "11.1.2.3", None, "x"), Err(Denied::Network));
        let token = HttpAccess { token: Some(Password("s3cret:x".into())), ..HttpAccess::default() };
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for (shown, expected) in [
            (None, Err(Denied::Token)),
            (Some("Bearer s3cret:x".to_owned()), Ok(())),
            (Some("bearer s3cret:x".to_owned()), Ok(())),
            (Some("Bearer s3cret".to_owned()), Err(Denied::Token)),
            (Some("Bearer ".to_owned()), Err(Denied::Token)),
            (Some("s3cret:x".to_owned()), Err(Denied::Token)),
            (Some(basic("anybody:s3cret:x")), Ok(())),
            (Some(basic("s3cret:x")), Err(Denied::Token)),
            (Some("Basic !!".to_owned()), Err(Denied::Token)),
        ] {
            for peer in ["127.0.0.1", "192.0.2.1"] {
                assert_eq!(asks(&token, peer, shown.as_deref(), "pgfunnel.internal"), expected, "{shown:?}");
            }
        }
        let both = HttpAccess { from: networks.from, ..token };
        assert_eq!(asks(&both, "11.1.2.3", Some("Bearer s3cret:x"), "x"), Err(Denied::Network));
    }
}
