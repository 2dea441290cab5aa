//! The kinds of value that name a place: listeners, networks, a server's host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::value::{Kind, Written};
use super::{ListenAddr, Network};

/// One address or several.
pub(super) struct Listeners;

impl Kind for Listeners {
    type Value = Vec<ListenAddr>;
    fn read(written: &Written<'_>) -> Result<Self::Value, String> {
        let right = "IP address and port (\"127.0.0.1:6432\", \"[::]:6432\"), absolute path of a Unix socket \
                     (\"/run/pgfunnel/.s.PGSQL.6432\"), or a list of them";
        written.entries(right, listener)
    }
}

fn listener(text: &str) -> Option<ListenAddr> {
    if text.starts_with('/') && !text.ends_with('/') && !text.contains('\0') {
        return Some(ListenAddr::Unix(PathBuf::from(text)));
    }
    socket_address(text).map(ListenAddr::Tcp)
}

/// `localhost` means 127.0.0.1; other names would need a resolver, whose answer may change.
fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => text.parse().ok(),
    }
}

/// One address that can be switched off.
pub(super) struct OptionalAddress;

impl Kind for OptionalAddress {
    type Value = Option<SocketAddr>;
    fn read(written: &Written<'_>) -> Result<Self::Value, String> {
        let text = written.text().map(str::trim);
        if text == Some("off") {
            return Ok(None);
        }
        text.and_then(socket_address)
            .map(Some)
            .ok_or_else(|| "IP address and port, such as \"127.0.0.1:9127\", or \"off\"".to_owned())
    }
}

/// Where an OpenTelemetry collector is, or "off".
pub(super) struct Collector;

impl Kind for Collector {
    type Value = Option<String>;
    fn read(written: &Written<'_>) -> Result<Self::Value, String> {
        let text = written.text().map(str::trim);
        if text == Some("off") {
            return Ok(None);
        }
        if cfg!(not(feature = "otlp")) {
            return Err("\"off\": this pgfunnel was built without it; \
                        build one with `cargo build --release --locked --features otlp`"
                .to_owned());
        }
        let is_url = |text: &&str| {
            let url = text.parse::<hyper::Uri>().ok();
            url.is_some_and(|url| url.scheme_str() == Some("http") && url.host().is_some() && url.query().is_none())
        };
        text.filter(is_url)
            .map(|url| Some(url.to_owned()))
            .ok_or_else(|| "the URL of a collector (http), such as \"http://127.0.0.1:4318\", or \"off\"".to_owned())
    }
}

/// Networks in CIDR notation; `[]` or "off" for none.
pub(super) struct Networks;

impl Kind for Networks {
    type Value = Vec<Network>;
    fn read(written: &Written<'_>) -> Result<Self::Value, String> {
        if written.list().is_some_and(|items| items.is_empty() || items == ["off"]) {
            return Ok(Vec::new());
        }
        let right = "a network such as \"10.0.0.0/8\" or a list of them";
        written.entries(right, network)?.into_iter().collect()
    }
}

/// `None`: not a network at all; `Some(Err)`: nearly one.
fn network(text: &str) -> Option<Result<Network, String>> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr.parse::<IpAddr>().ok()?, Some(prefix.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let (bits, address, width) = match addr {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, addr, 32),
        IpAddr::V6(v6) => (v6.to_bits(), addr, 128),
    };
    let prefix = prefix.unwrap_or(width);
    if prefix > width {
        return None;
    }
    let host_bits = bits.checked_shl(u32::from(prefix)).unwrap_or(0);
    if host_bits != 0 {
        return Some(Err(format!("a network; \"{text}\" has bits set behind its first {prefix}")));
    }
    Some(Ok(Network { addr: address, prefix }))
}

/// A server: host name, IP address, or directory of a Unix socket.
pub(super) struct Host;

impl Kind for Host {
    type Value = String;
    fn read(written: &Written<'_>) -> Result<String, String> {
        let right = "a host name, an IP address, or the absolute directory of a Unix socket".to_owned();
        let text = written.text().filter(|text| !text.is_empty()).ok_or_else(|| right.clone())?;
        if text.starts_with('/') || text.parse::<IpAddr>().is_ok() {
            return Ok(text.to_owned());
        }
        if text.contains("://") {
            return Err(format!("{right}; this is a URL, which belongs in the variable DATABASE_URL"));
        }
        if text.contains(':') {
            return Err(format!("{right}, without a port (that is the key \"port\") or brackets"));
        }
        let is_name = text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if is_name { Ok(text.to_owned()) } else { Err(right) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::value::Data;

    fn read<K: Kind>(text: &str) -> Result<K::Value, String> {
        K::read(&Written { data: Data::Variable(text), base: Path::new("") })
    }

    #[test]
    fn listeners() {
        let several = read::<Listeners>("127.0.0.1:6432, [::1]:6432,/run/p/.s.PGSQL.6432,localhost:7").expect("valid");
        let shown: Vec<String> = several
            .iter()
            .map(|listener| match listener {
                ListenAddr::Tcp(addr) => addr.to_string(),
                ListenAddr::Unix(path) => path.display().to_string(),
            })
            .collect();
        assert_eq!(shown, ["127.0.0.1:6432", "[::1]:6432", "/run/p/.s.PGSQL.6432", "127.0.0.1:7"]);
        for wrong in ["", "6432", "127.0.0.1", "127.0.0.1:65536", "db.example:5432", "/run/", "/a\0b", "127.0.0.1:1,"] {
            assert!(read::<Listeners>(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn networks() {
        for (text, prefix) in [("10.0.0.0/8", 8), ("127.0.0.1", 32), ("::1", 128), ("2001:db8::/32", 32), ("::/0", 0)] {
            let networks = read::<Networks>(text).expect(text);
            assert_eq!(networks.iter().map(|network| network.prefix).collect::<Vec<_>>(), [prefix], "{text}");
        }
        assert_eq!(read::<Networks>("off"), Ok(vec![]));
        for wrong in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0/8", "::1/64", "10.0.0.0/-1", "lan"] {
            assert!(read::<Networks>(wrong).is_err(), "{wrong:?}");
        }
        assert!(read::<Networks>("10.0.0.1/8").is_err_and(|right| right.contains("bits set behind its first 8")));
    }

    #[test]
    fn hosts() {
        for right in ["db", "db-1.example.com", "10.0.0.1", "::1", "fe80::1", "/run/postgresql", "münchen.de"] {
            assert_eq!(read::<Host>(right).as_deref(), Ok(right));
        }
        for wrong in ["", "db:5432", "[::1]", "a b", "postgres://db"] {
            assert!(read::<Host>(wrong).is_err(), "{wrong:?}");
        }
    }
}
