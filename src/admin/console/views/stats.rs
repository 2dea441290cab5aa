//! What has been done, by database: since each pool is there, and in the last minute. Times are in microseconds.

use std::collections::BTreeMap;

use super::{CONSOLE, Row, Shown as _, View, int, row, text};
use crate::admin::Watched;
use crate::pool::{Pool, Totals};
use crate::wire::rows::Value;

/// Totals and averages by database.
fn by_database(watched: &Watched) -> BTreeMap<String, (Totals, Totals)> {
    // The console itself, as PgBouncer shows its own.
    let mut all = BTreeMap::from([(CONSOLE.to_owned(), <(Totals, Totals)>::default())]);
    for pool in watched.registry.all() {
        let (totals, averages) = all.entry(pool.key.database.clone()).or_default();
        *totals = totals.plus(&pool.totals());
        *averages = averages.plus(&pool.averages());
    }
    all
}

/// In the order of PgBouncer's columns.
fn values(totals: &Totals) -> [u64; 8] {
    let Totals { leases, transactions, queries, received, sent, lease_time, query_time, wait_time } = *totals;
    [leases, transactions, queries, received, sent, lease_time, query_time, wait_time]
}

fn numbers(totals: &Totals) -> impl Iterator<Item = Value> {
    values(totals).into_iter().map(super::Shown::value)
}

fn one(name: String, totals: &Totals) -> Row {
    std::iter::once(name.value()).chain(numbers(totals)).collect()
}

pub(super) static STATS: View = View {
    name: "STATS",
    what: "totals and averages by database; times in microseconds",
    columns: &[
        text("database"),
        int("total_server_assignment_count"),
        int("total_xact_count"),
        int("total_query_count"),
        int("total_received"),
        int("total_sent"),
        int("total_xact_time"),
        int("total_query_time"),
        int("total_wait_time"),
        int("avg_server_assignment_count"),
        int("avg_xact_count"),
        int("avg_query_count"),
        int("avg_recv"),
        int("avg_sent"),
        int("avg_xact_time"),
        int("avg_query_time"),
        int("avg_wait_time"),
    ],
    rows: |watched| {
        let rows = by_database(watched).into_iter();
        rows.map(|(name, (totals, averages))| {
            let mut row = one(name, &totals);
            row.extend(numbers(&averages));
            row
        })
        .collect()
    },
};

const PLAIN: &[crate::wire::rows::Column] = &[
    text("database"),
    int("server_assignment_count"),
    int("xact_count"),
    int("query_count"),
    int("bytes_received"),
    int("bytes_sent"),
    int("xact_time"),
    int("query_time"),
    int("wait_time"),
];

pub(super) static STATS_TOTALS: View = View {
    name: "STATS_TOTALS",
    what: "the totals alone",
    columns: PLAIN,
    rows: |watched| by_database(watched).into_iter().map(|(name, (totals, _))| one(name, &totals)).collect(),
};

pub(super) static STATS_AVERAGES: View = View {
    name: "STATS_AVERAGES",
    what: "the averages alone: of the last whole minute; counts per second, times each",
    columns: PLAIN,
    rows: |watched| by_database(watched).into_iter().map(|(name, (_, averages))| one(name, &averages)).collect(),
};

pub(super) static TOTALS: View = View {
    name: "TOTALS",
    what: "the totals of all databases together",
    columns: &[text("name"), int("value")],
    rows: |watched| {
        let all = watched
            .registry
            .all()
            .iter()
            .fold(Totals::default(), |all, pool: &std::sync::Arc<Pool>| all.plus(&pool.totals()));
        let names = [
            "total_server_assignment_count",
            "total_xact_count",
            "total_query_count",
            "total_client_bytes",
            "total_server_bytes",
            "total_xact_time",
            "total_query_time",
            "total_wait_time",
        ];
        names.into_iter().zip(values(&all)).map(|(name, value)| row![name, value]).collect()
    },
};
