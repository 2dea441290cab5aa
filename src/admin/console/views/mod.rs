//! What can be shown: each a table with fixed columns, made from one look at clients and pools. PgBouncer's columns come
//! first, under its names and in its order, so that tools made for it work; ours come behind.

mod clients;
mod configuration;
mod pools;
mod servers;
mod stats;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;

use crate::admin::Watched;
use crate::config::Console;
use crate::wire::rows::{Column, Type, Value};

/// The console's name among databases.
const CONSOLE: &str = Console::NAMES[0];

/// A row of a table.
pub(super) type Row = Vec<Value>;

/// A table.
pub(super) struct View {
    /// Behind `SHOW`.
    pub(super) name: &'static str,
    /// For `SHOW HELP`.
    what: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) rows: fn(&Watched) -> Vec<Row>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for View {}

static VIEWS: [&View; 27] = [
    &configuration::HELP,
    &configuration::DIAGNOSIS,
    &pools::PRESSURE,
    &clients::WAITING,
    &clients::PINS,
    &clients::CALLERS,
    &pools::POOLS,
    &clients::CLIENTS,
    &servers::SERVERS,
    &pools::DATABASES,
    &configuration::USERS,
    &stats::STATS,
    &stats::STATS_TOTALS,
    &stats::STATS_AVERAGES,
    &stats::TOTALS,
    &pools::LISTS,
    &configuration::CONFIG,
    &configuration::MEM,
    &configuration::STATE,
    &configuration::VERSION,
    &configuration::ERRORS,
    &nothing::DNS_HOSTS,
    &nothing::DNS_ZONES,
    &nothing::PEERS,
    &nothing::PEER_POOLS,
    &clients::ACTIVE_SOCKETS,
    &clients::SOCKETS,
];

/// The table of this name, in capitals.
pub(super) fn find(name: &str) -> Option<&'static View> {
    VIEWS.into_iter().find(|view| view.name == name)
}

/// A column of texts.
const fn text(name: &'static str) -> Column {
    Column { name, kind: Type::Text }
}

/// A column of numbers.
const fn int(name: &'static str) -> Column {
    Column { name, kind: Type::Int8 }
}

/// What can be a value.
trait Shown {
    fn value(self) -> Value;
}

impl Shown for &str {
    fn value(self) -> Value {
        Value::Text(self.to_owned())
    }
}

impl Shown for String {
    fn value(self) -> Value {
        Value::Text(self)
    }
}

impl Shown for u64 {
    fn value(self) -> Value {
        Value::Int(i64::try_from(self).unwrap_or(i64::MAX))
    }
}

impl Shown for usize {
    fn value(self) -> Value {
        (self as u64).value()
    }
}

impl Shown for u16 {
    fn value(self) -> Value {
        Value::Int(self.into())
    }
}

impl Shown for i32 {
    fn value(self) -> Value {
        Value::Int(self.into())
    }
}

/// PgBouncer's booleans.
impl Shown for bool {
    fn value(self) -> Value {
        Value::Int(self.into())
    }
}

impl<T: Shown> Shown for Option<T> {
    fn value(self) -> Value {
        self.map_or(Value::Null, Shown::value)
    }
}

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::admin::console::views::Shown::value($value)),*] };
}
use row;

/// Seconds, and the microseconds of the last one: PgBouncer's `wait` and `wait_us`.
fn wait(time: Duration) -> (u64, u64) {
    (time.as_secs(), time.subsec_micros().into())
}

/// A moment, as PgBouncer writes it.
fn moment(ago: Duration) -> Option<String> {
    let at = OffsetDateTime::from(SystemTime::now().checked_sub(ago)?);
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC")).ok()
}

/// Address and port; a Unix socket has `unix` and none.
fn address(address: Option<SocketAddr>) -> (String, u16) {
    address.map_or_else(|| ("unix".to_owned(), 0), |address| (address.ip().to_canonical().to_string(), address.port()))
}

/// What PgBouncer shows and pgfunnel has not.
mod nothing {
    use super::{View, int, text};

    pub(super) static DNS_HOSTS: View = View {
        name: "DNS_HOSTS",
        what: "nothing: names are looked up for each new backend",
        columns: &[text("hostname"), int("ttl"), text("addrs")],
        rows: |_| Vec::new(),
    };

    pub(super) static DNS_ZONES: View = View {
        name: "DNS_ZONES",
        what: "nothing: as DNS_HOSTS",
        columns: &[text("zonename"), text("serial"), int("count")],
        rows: |_| Vec::new(),
    };

    pub(super) static PEERS: View = View {
        name: "PEERS",
        what: "nothing: instances do not know of each other",
        columns: &[int("peer_id"), text("host"), int("port"), int("pool_size")],
        rows: |_| Vec::new(),
    };

    pub(super) static PEER_POOLS: View = View {
        name: "PEER_POOLS",
        what: "nothing: as PEERS",
        columns: &[
            int("peer_id"),
            int("cl_active_cancel_req"),
            int("cl_waiting_cancel_req"),
            int("sv_active_cancel"),
            int("sv_login"),
        ],
        rows: |_| Vec::new(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_columns_have_names_of_their_own() {
        for view in VIEWS {
            assert_eq!(find(view.name), Some(view));
            let mut names: Vec<&str> = view.columns.iter().map(|column| column.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), view.columns.len(), "{}", view.name);
        }
        assert_eq!(find("NOTHING"), None);
    }

    #[test]
    fn moments_are_written_as_pgbouncer_does() {
        let text = moment(Duration::from_secs(5)).unwrap();
        assert!(text.len() == "2026-11-28 03:05:58 UTC".len() && text.ends_with(" UTC"), "{text}");
    }
}
