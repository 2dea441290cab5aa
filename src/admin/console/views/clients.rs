//! Clients: all, those that wait, those that are pinned, and who they are together.

use super::{Row, View, address, int, moment, row, servers, text, wait};
use crate::activity::State;
use crate::admin::{Survey, Watched};
use crate::cancel::Handle;
use crate::track::PinReason;
use crate::wire::rows::Column;

pub(super) static CLIENTS: View = View {
    name: "CLIENTS",
    what: "every client, and what it does",
    columns: CONNECTION,
    rows: |watched| {
        let members = servers::by_identity(watched);
        let mut clients = watched.clients.all();
        clients.sort_by_key(|client| client.id);
        clients.iter().map(|client| connection(client, &members)).collect()
    },
};

pub(super) static SOCKETS: View =
    View { name: "SOCKETS", what: "CLIENTS and SERVERS together", columns: CONNECTION, rows: sockets };

pub(super) static ACTIVE_SOCKETS: View = View {
    name: "ACTIVE_SOCKETS",
    what: "those of them that are linked to each other",
    columns: CONNECTION,
    rows: |watched| {
        sockets(watched)
            .into_iter()
            .filter(|row| row.get(LINK).is_some_and(|link| *link != super::Value::Null))
            .collect()
    },
};

fn sockets(watched: &Watched) -> Vec<Row> {
    let mut rows = (CLIENTS.rows)(watched);
    rows.extend((servers::SERVERS.rows)(watched));
    rows
}

/// PgBouncer's columns of clients and servers, and ours.
pub(super) const CONNECTION: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("id"),
    text("activity"),
    int("activity_us"),
];

/// Where `link` stands.
const LINK: usize = 15;

fn connection(client: &Handle, members: &servers::ByIdentity) -> Row {
    let (state, time) = client.activity.get();
    let (addr, port) = address(client.peer);
    let (waits, wait_us) = match state {
        State::Waiting => wait(time),
        _ => (0, 0),
    };
    row![
        "C",
        client.pool.key.user.as_str(),
        client.pool.key.database.as_str(),
        "none",
        // PgBouncer counts who does nothing among the active.
        if state == State::Waiting { "waiting" } else { "active" },
        addr,
        port,
        None::<String>,
        None::<u16>,
        moment(client.since.elapsed()),
        moment(time),
        waits,
        wait_us,
        false,
        format!("c{}", client.id),
        client.backend().and_then(|identity| members.link(&identity)),
        client.pid,
        if client.tls { "TLS" } else { "" },
        &*client.application,
        client.id,
        state.as_str(),
        time.as_micros() as u64,
    ]
}

pub(super) static WAITING: View = View {
    name: "WAITING",
    what: "clients that wait for a backend, who waits longest first",
    columns: &[
        int("id"),
        text("database"),
        text("user"),
        text("application_name"),
        text("addr"),
        int("wait"),
        int("wait_us"),
    ],
    rows: |watched| {
        let waiting = Survey::of(&watched.clients).waiting;
        let shown = waiting.iter().map(|seen| {
            let (client, (seconds, micros)) = (&seen.client, wait(seen.time));
            row![
                client.id,
                client.pool.key.database.as_str(),
                client.pool.key.user.as_str(),
                &*client.application,
                address(client.peer).0,
                seconds,
                micros,
            ]
        });
        shown.collect()
    },
};

pub(super) static PINS: View = View {
    name: "PINS",
    what: "clients that keep a backend beyond their transaction, why, and the statement that did it",
    columns: &[
        int("id"),
        text("database"),
        text("user"),
        text("application_name"),
        text("addr"),
        text("reasons"),
        text("statement"),
        int("pinned_us"),
        text("activity"),
        int("backend_pid"),
    ],
    rows: |watched| {
        let mut pinned = Survey::of(&watched.clients).pinned;
        pinned.sort_by_key(|seen| seen.client.pinned().map(|pin| pin.since));
        let shown = pinned.iter().filter_map(|seen| {
            let (client, pin) = (&seen.client, seen.client.pinned()?);
            Some(row![
                client.id,
                client.pool.key.database.as_str(),
                client.pool.key.user.as_str(),
                &*client.application,
                address(client.peer).0,
                pin.reasons().map(PinReason::as_str).collect::<Vec<_>>().join(", "),
                &*pin.by,
                pin.since.elapsed().as_micros() as u64,
                seen.state.as_str(),
                client.backend_pid(),
            ])
        });
        shown.collect()
    },
};

pub(super) static CALLERS: View = View {
    name: "CALLERS",
    what: "clients by application_name and user: what they do, those with the greatest demand first",
    columns: &[
        text("application_name"),
        text("user"),
        int("demand"),
        int("waiting"),
        int("active"),
        int("idle_in_transaction"),
        int("pinned"),
        int("idle"),
        int("longest_wait_us"),
        int("longest_idle_in_transaction_us"),
    ],
    rows: |watched| {
        let callers = Survey::of(&watched.clients).callers;
        let shown = callers.into_iter().map(|(caller, clock)| {
            row![
                caller.application,
                caller.user,
                clock.demand(),
                clock.count(State::Waiting),
                clock.count(State::Active),
                clock.count(State::IdleInTransaction),
                clock.count(State::Pinned),
                clock.count(State::Idle),
                clock.longest(State::Waiting).as_micros() as u64,
                clock.longest(State::IdleInTransaction).as_micros() as u64,
            ]
        });
        shown.collect()
    },
};
