//! Backends, and whose they are.

use std::collections::HashMap;
use std::sync::Arc;

use super::clients::CONNECTION;
use super::{Row, View, address, moment, row};
use crate::activity::State;
use crate::admin::Watched;
use crate::backend::Identity;
use crate::cancel::Handle;
use crate::pool::{Doing, Member, Pool};

pub(super) static SERVERS: View = View {
    name: "SERVERS",
    what: "every backend, and which client has it",
    columns: CONNECTION,
    rows: |watched| {
        let holders = holders(watched);
        let mut rows = Vec::new();
        for pool in super::pools::sorted(watched) {
            rows.extend(
                pool.backends().iter().map(|member| server(&pool, member, holders.get(&key(&member.identity)))),
            );
        }
        rows
    },
};

/// Backends by where PostgreSQL knows them.
pub(super) struct ByIdentity(HashMap<usize, u64>);

impl ByIdentity {
    /// The `ptr` of a backend.
    pub(super) fn link(&self, identity: &Arc<Identity>) -> Option<String> {
        self.0.get(&key(identity)).map(|id| format!("s{id}"))
    }
}

pub(super) fn by_identity(watched: &Watched) -> ByIdentity {
    let pools = watched.registry.all();
    let members = pools.iter().flat_map(|pool| pool.backends());
    ByIdentity(members.map(|member| (key(&member.identity), member.id)).collect())
}

/// Clients by the backend that they have.
pub(super) fn holders(watched: &Watched) -> HashMap<usize, Arc<Handle>> {
    let clients = watched.clients.all().into_iter();
    clients.filter_map(|client| Some((key(&client.backend()?), client))).collect()
}

/// Of a backend that there is nobody else has the same.
pub(super) fn key(identity: &Arc<Identity>) -> usize {
    Arc::as_ptr(identity).addr()
}

fn server(pool: &Pool, member: &Member, holder: Option<&Arc<Handle>>) -> Row {
    let ((addr, port), (local_addr, local_port)) =
        (address(member.addresses.map(|(server, _)| server)), address(member.addresses.map(|(_, own)| own)));
    let (activity, time) = match holder.map(|client| client.activity.get()) {
        Some((State::Idle | State::Waiting, time)) => ("active", time),
        Some((state, time)) => (state.as_str(), time),
        None => (doing(member.doing()), member.since.elapsed()),
    };
    row![
        "S",
        pool.key.user.as_str(),
        member.identity.target.dbname.as_str(),
        "none",
        state(member, holder.is_some()),
        addr,
        port,
        local_addr,
        local_port,
        moment(member.since.elapsed()),
        moment(holder.and_then(|client| client.holds_for()).unwrap_or(member.since.elapsed())),
        0_u64,
        0_u64,
        pool.is_outdated(member),
        format!("s{}", member.id),
        holder.map(|client| format!("c{}", client.id)),
        member.identity.pid,
        if member.tls { "TLS" } else { "" },
        holder.map(|client| &*client.application),
        member.id,
        activity,
        holder.map(|_| time.as_micros() as u64),
    ]
}

/// PgBouncer's words.
fn state(member: &Member, lent: bool) -> &'static str {
    match member.doing() {
        Doing::Cancelling | Doing::Closing => "being_canceled",
        Doing::Cleaning => "tested",
        Doing::Listening => "used",
        Doing::Ready if lent => "active",
        Doing::Ready => "idle",
    }
}

fn doing(doing: Doing) -> &'static str {
    match doing {
        Doing::Ready => "idle",
        Doing::Listening => "listening",
        Doing::Cancelling => "cancelling",
        Doing::Cleaning => "cleaning",
        Doing::Closing => "closing",
    }
}
