//! Pools and the databases that they are of.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CONSOLE, Row, View, int, row, servers, text, wait};
use crate::activity::State;
use crate::admin::{Survey, Watched};
use crate::config::{PoolMode, PoolSize};
use crate::pool::{Doing, Pool};

/// All pools, by name.
pub(super) fn sorted(watched: &Watched) -> Vec<Arc<Pool>> {
    let mut pools = watched.registry.all();
    pools.sort_by(|one, other| (&one.key.database, &one.key.user).cmp(&(&other.key.database, &other.key.user)));
    pools
}

pub(super) fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    }
}

pub(super) static POOLS: View = View {
    name: "POOLS",
    what: "clients and backends of each pool, by what they do",
    columns: &[
        text("database"),
        text("user"),
        int("cl_active"),
        int("cl_waiting"),
        int("cl_active_cancel_req"),
        int("cl_waiting_cancel_req"),
        int("sv_active"),
        int("sv_active_cancel"),
        int("sv_being_canceled"),
        int("sv_idle"),
        int("sv_used"),
        int("sv_tested"),
        int("sv_login"),
        int("maxwait"),
        int("maxwait_us"),
        text("pool_mode"),
        int("pool_size"),
        int("cl_idle"),
        int("sv_idle_in_transaction"),
        int("sv_pinned"),
        int("paused"),
    ],
    rows: |watched| {
        let (survey, holders) = (Survey::of(&watched.clients), servers::holders(watched));
        let shown = sorted(watched).into_iter().map(|pool| {
            let clock = survey.pools.get(&pool.key).map(|crowd| crowd.clock).unwrap_or_default();
            let backends = pool.backends();
            let doing = |all: &[Doing]| backends.iter().filter(|member| all.contains(&member.doing())).count();
            let lent = backends.iter().filter(|member| holders.contains_key(&servers::key(&member.identity))).count();
            let (waits, wait_us) = wait(pool.oldest_wait());
            row![
                pool.key.database.as_str(),
                pool.key.user.as_str(),
                clock.clients.iter().sum::<usize>() - clock.count(State::Waiting),
                clock.count(State::Waiting),
                0_u64,
                0_u64,
                lent,
                0_u64,
                doing(&[Doing::Cancelling, Doing::Closing]),
                pool.idle(),
                doing(&[Doing::Listening]),
                doing(&[Doing::Cleaning]),
                pool.connecting(),
                waits,
                wait_us,
                mode(pool.settings.load().mode),
                pool.sample().size,
                clock.count(State::Idle),
                clock.count(State::IdleInTransaction),
                clock.count(State::Pinned),
                pool.is_held(),
            ]
        });
        shown.chain([console_pool(watched)]).collect()
    },
};

/// The console itself, as PgBouncer shows its own: tools take a table without a row for a failure.
fn console_pool(watched: &Watched) -> Row {
    let [mut row, none] = [row![CONSOLE, CONSOLE, watched.consoles.load(Ordering::Acquire)], row![0_u64]];
    row.extend(none.iter().cycle().take(12).cloned());
    row.extend(row!["statement", 0_u64, 0_u64, 0_u64, 0_u64, false]);
    row
}

pub(super) static PRESSURE: View = View {
    name: "PRESSURE",
    what: "demand for backends against what there is, and who has most of them",
    columns: &[
        text("database"),
        text("user"),
        int("pressure_percent"),
        int("demand"),
        int("pool_size"),
        int("active"),
        int("idle_in_transaction"),
        int("pinned"),
        int("waiting"),
        int("oldest_wait_us"),
        int("needed_10s"),
        int("needed_60s"),
        int("database_free"),
        text("top_caller"),
        int("top_caller_demand"),
        int("top_caller_idle_in_transaction"),
    ],
    rows: |watched| {
        let survey = Survey::of(&watched.clients);
        let shown = sorted(watched).into_iter().map(|pool| {
            let (sample, crowd) = (pool.sample(), survey.pools.get(&pool.key));
            let clock = crowd.map(|crowd| crowd.clock).unwrap_or_default();
            let top = crowd.and_then(|crowd| crowd.callers.iter().max_by_key(|(_, clock)| clock.demand()));
            let demand = sample.active + sample.waiting;
            row![
                pool.key.database.as_str(),
                pool.key.user.as_str(),
                100 * demand / sample.size.max(1),
                demand,
                sample.size,
                sample.active,
                clock.count(State::IdleInTransaction),
                clock.count(State::Pinned),
                sample.waiting,
                pool.oldest_wait().as_micros() as u64,
                pool.needed(&sample, Duration::from_secs(10)),
                pool.needed(&sample, Duration::from_secs(60)),
                pool.headroom().map(|headroom| headroom.free()),
                top.map(|(name, _)| &**name),
                top.map(|(_, clock)| clock.demand()),
                top.map(|(_, clock)| clock.count(State::IdleInTransaction)),
            ]
        });
        shown.collect()
    },
};

pub(super) static DATABASES: View = View {
    name: "DATABASES",
    what: "every database that clients can ask for, and where it is",
    columns: &[
        text("name"),
        text("host"),
        int("port"),
        text("database"),
        text("force_user"),
        int("pool_size"),
        int("min_pool_size"),
        int("reserve_pool_size"),
        text("pool_mode"),
        int("max_connections"),
        int("current_connections"),
        int("paused"),
        int("disabled"),
        // As PgBouncer's before 1.23 has it.
        int("reserve_pool"),
    ],
    rows: databases,
};

fn databases(watched: &Watched) -> Vec<Row> {
    let (config, registry, pools) = (watched.registry.config(), &watched.registry, sorted(watched));
    let mut names: Vec<&str> = config.databases.keys().map(String::as_str).collect();
    names.extend(pools.iter().map(|pool| pool.key.database.as_str()));
    names.sort_unstable();
    names.dedup();
    let shown = names.into_iter().filter_map(|name| {
        let database = config.database(name)?;
        let own = pools.iter().filter(|pool| pool.key.database == name);
        let size = match database.pool.size {
            PoolSize::Count(size) => Some(size),
            // It depends on the server.
            PoolSize::Share(_) => own.clone().map(|pool| pool.sample().size).max(),
        };
        Some(row![
            name,
            database.host.as_str(),
            database.port,
            database.dbname.as_deref().unwrap_or(name),
            None::<String>,
            size,
            database.pool.min_idle,
            0_u64,
            mode(database.pool.mode),
            database.max_backends.unwrap_or(0),
            own.map(|pool| pool.backends().len()).sum::<usize>(),
            registry.is_paused(Some(name)),
            registry.is_disabled(name),
            0_u64,
        ])
    });
    let console = row![
        CONSOLE,
        None::<String>,
        None::<u64>,
        CONSOLE,
        None::<String>,
        0_u64,
        0_u64,
        0_u64,
        "statement",
        0_u64,
        0_u64,
        false,
        false,
        0_u64,
    ];
    shown.chain([console]).collect()
}

pub(super) static LISTS: View = View {
    name: "LISTS",
    what: "how many there are of everything",
    columns: &[text("list"), int("items")],
    rows: |watched| {
        let (config, pools, clients) = (watched.registry.config(), watched.registry.all(), watched.clients.all().len());
        let idle: usize = pools.iter().map(|pool| pool.idle()).sum();
        let active: usize = pools.iter().map(|pool| pool.active.load(Ordering::Acquire)).sum();
        vec![
            row!["databases", config.databases.len()],
            row!["users", config.users.len()],
            row!["pools", pools.len()],
            row!["free_clients", 0_u64],
            row!["used_clients", clients],
            row!["login_clients", watched.connected().saturating_sub(clients)],
            row!["free_servers", idle],
            row!["used_servers", active],
            row!["dns_names", 0_u64],
            row!["dns_zones", 0_u64],
            row!["dns_queries", 0_u64],
            row!["dns_pending", 0_u64],
        ]
    },
};
