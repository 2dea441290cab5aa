//! Everything that the live page shows of one moment, and the facts that its first sentence is made from.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Watched;
use super::diagnosis::{Diagnosis, Facts, Holders, PoolFacts, Refusal, diagnose};
use super::survey::{Crowd, Seen, Survey, TOP};
use crate::activity::State;
use crate::error::{Side, SqlState};
use crate::pool::{Pool, Sample};
use crate::track::PinReason;
use crate::trouble::{self, Trouble};

/// A refusal of longer ago says nothing of now.
const MOMENT: Duration = Duration::from_secs(10);

/// A moment, as the page reads it. Times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    version: &'static str,
    severity: &'static str,
    sentence: String,
    clients: usize,
    max_clients: usize,
    pools: Vec<PoolShown>,
    callers: Vec<CallerShown>,
    waiting: Vec<ClientShown>,
    transactions: Vec<ClientShown>,
    pins: Vec<PinShown>,
    errors: Vec<ErrorShown>,
}

#[derive(Debug, Serialize)]
struct PoolShown {
    name: String,
    size: usize,
    active: usize,
    idle: usize,
    waiting: usize,
    in_transaction: usize,
    pinned: usize,
    clients: usize,
    oldest_wait: f64,
    needed: usize,
    free: Option<usize>,
}

#[derive(Debug, Serialize)]
struct CallerShown {
    application: String,
    user: String,
    /// By [`State`].
    clients: [usize; 5],
    longest_wait: f64,
    longest_silence: f64,
}

#[derive(Debug, Serialize)]
struct ClientShown {
    client: u64,
    application: String,
    pool: String,
    peer: String,
    state: &'static str,
    seconds: f64,
    backend: Option<i32>,
}

#[derive(Debug, Serialize)]
struct PinShown {
    client: u64,
    application: String,
    pool: String,
    reasons: Vec<&'static str>,
    by: String,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct ErrorShown {
    ago: f64,
    count: u64,
    side: &'static str,
    code: String,
    message: String,
    pool: String,
    application: String,
}

impl Snapshot {
    /// Of now.
    pub(super) fn of(watched: &Watched) -> Self {
        let survey = Survey::of(&watched.clients);
        let config = watched.registry.config();
        let mut pools = watched.registry.all();
        pools.sort_by_key(|pool| pool.key.to_string());
        let none = Crowd::default();
        let shown = |pool: &Arc<Pool>| PoolShown::of(pool, survey.pools.get(&pool.key).unwrap_or(&none));
        let pools = pools.iter().map(shown).collect();
        let diagnosis = diagnosis(watched, &survey);
        let Survey { callers, waiting, transactions, mut pinned, .. } = survey;
        pinned.sort_by_key(|seen| seen.client.pinned().map(|pin| pin.since));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            severity: diagnosis.severity.as_str(),
            sentence: diagnosis.sentence,
            clients: watched.connected(),
            max_clients: config.max_clients,
            pools,
            callers: callers
                .into_iter()
                .map(|(caller, clock)| CallerShown {
                    application: caller.application,
                    user: caller.user,
                    clients: clock.clients,
                    longest_wait: clock.longest(State::Waiting).as_secs_f64(),
                    longest_silence: clock.longest(State::IdleInTransaction).as_secs_f64(),
                })
                .collect(),
            waiting: waiting.iter().take(TOP).map(ClientShown::of).collect(),
            transactions: transactions.iter().take(TOP).map(ClientShown::of).collect(),
            pins: pinned.iter().take(TOP).filter_map(PinShown::of).collect(),
            errors: errors(),
        }
    }
}

impl PoolShown {
    fn of(pool: &Pool, crowd: &Crowd) -> Self {
        let sample = pool.sample();
        let Sample { active, waiting, size, .. } = sample;
        Self {
            name: pool.key.to_string(),
            size,
            active,
            idle: pool.idle(),
            waiting,
            in_transaction: crowd.clock.count(State::IdleInTransaction),
            pinned: crowd.clock.count(State::Pinned),
            clients: crowd.clock.clients.iter().sum(),
            oldest_wait: pool.oldest_wait().as_secs_f64(),
            needed: pool.needed(&sample, Duration::from_secs(10)),
            free: pool.headroom().map(|headroom| headroom.free()),
        }
    }
}

impl ClientShown {
    fn of(seen: &Seen) -> Self {
        let client = &seen.client;
        Self {
            client: client.id,
            application: client.application.to_string(),
            pool: client.pool.key.to_string(),
            peer: client.peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string()),
            state: seen.state.as_str(),
            seconds: seen.time.as_secs_f64(),
            backend: client.backend_pid(),
        }
    }
}

impl PinShown {
    fn of(seen: &Seen) -> Option<Self> {
        let pin = seen.client.pinned()?;
        Some(Self {
            client: seen.client.id,
            application: seen.client.application.to_string(),
            pool: seen.client.pool.key.to_string(),
            reasons: pin.reasons().map(PinReason::as_str).collect(),
            by: pin.by.to_string(),
            seconds: pin.since.elapsed().as_secs_f64(),
        })
    }
}

fn errors() -> Vec<ErrorShown> {
    let shown = trouble::last().into_iter().take(2 * TOP).map(|trouble| ErrorShown {
        ago: trouble.at.elapsed().unwrap_or_default().as_secs_f64(),
        count: trouble.count,
        side: trouble.side.as_str(),
        code: trouble.code.into(),
        message: trouble.message.into(),
        pool: trouble.pool.into(),
        application: trouble.application.into(),
    });
    shown.collect()
}

/// The last client of a pool (empty: that was not logged in yet) that a limit of ours refused, if that was a moment ago. Other
/// errors of ours end sessions, and are those of who has a backend.
fn refusal(troubles: &[Trouble], pool: &str) -> Option<Refusal> {
    let refusals = [SqlState::TOO_MANY_CONNECTIONS, SqlState::CANNOT_CONNECT_NOW];
    let is_one = |trouble: &&Trouble| {
        trouble.side == Side::Proxy
            && *trouble.pool == *pool
            && refusals.iter().any(|code| code.code() == &*trouble.code)
    };
    let last = troubles.iter().find(is_one)?;
    // A clock that was put back makes it one of now.
    let ago = last.at.elapsed().unwrap_or_default();
    (ago < MOMENT).then(|| Refusal { message: last.message.to_string(), ago })
}

/// What is wrong now, in one sentence.
pub(super) fn diagnosis(watched: &Watched, survey: &Survey) -> Diagnosis {
    let troubles = trouble::last();
    diagnose(&Facts {
        clients: watched.connected(),
        max_clients: watched.registry.config().max_clients,
        draining: watched.readiness.is_draining(),
        pools: watched.registry.all().iter().map(|pool| facts(pool, survey, &troubles)).collect(),
        refused: refusal(&troubles, ""),
    })
}

/// What the first sentence is made from.
fn facts(pool: &Pool, survey: &Survey, troubles: &[Trouble]) -> PoolFacts {
    let (none, sample) = (Crowd::default(), pool.sample());
    let crowd = survey.pools.get(&pool.key).unwrap_or(&none);
    let settings = pool.settings.load();
    let waits = Holders { count: sample.waiting, longest: pool.oldest_wait(), ..holders(crowd, State::Waiting) };
    let greatest = crowd.callers.iter().max_by_key(|(_, clock)| clock.demand());
    let pins = survey.pinned.iter().filter(|seen| seen.client.pool.key == pool.key);
    let mut reasons: Vec<PinReason> = pins.filter_map(|seen| seen.client.pinned()?.reasons().next()).collect();
    reasons.sort_by_key(|reason| reason.as_str());
    let commonest = reasons.chunk_by(|one, other| one == other).max_by_key(|same| same.len());
    PoolFacts {
        name: pool.key.to_string(),
        size: sample.size,
        active: sample.active,
        in_transaction: holders(crowd, State::IdleInTransaction),
        pinned: holders(crowd, State::Pinned),
        running: holders(crowd, State::Active),
        waiting: waits,
        needed: pool.needed(&sample, Duration::from_secs(10)),
        free: pool.headroom().map(|headroom| headroom.free()),
        paused: pool.is_held(),
        unreachable: pool.unreachable().map(|error| (error.code.clone(), error.message.to_string())),
        silent: pool.silent().unwrap_or_default(),
        greatest: greatest.map_or_else(Default::default, |(name, clock)| (name.to_string(), clock.demand())),
        idle_transaction_timeout: settings.idle_transaction_timeout,
        max_leases_per_application: settings.max_leases_per_application,
        refused: refusal(troubles, &pool.key.to_string()),
        pin_reason: commonest.and_then(|same| same.first()).map(|reason| reason.as_str()),
    }
}

/// The clients of a pool that are in a state, and whose most of them are.
fn holders(crowd: &Crowd, state: State) -> Holders {
    let most = crowd.callers.iter().max_by_key(|(_, clock)| (clock.count(state), clock.longest(state)));
    Holders {
        count: crowd.clock.count(state),
        caller: most.map_or_else(String::new, |(name, _)| name.to_string()),
        of_caller: most.map_or(0, |(_, clock)| clock.count(state)),
        longest: crowd.clock.longest(state),
    }
}
