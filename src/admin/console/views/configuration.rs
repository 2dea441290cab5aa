//! pgfunnel itself: its configuration, its state, and what is wrong with it.

use super::{VIEWS, View, int, moment, pools, row, text};
use crate::admin::Survey;
use crate::admin::snapshot::diagnosis;
use crate::backend::Backend;
use crate::cancel::Handle;
use crate::client::Access;
use crate::session::Session;
use crate::trouble;

pub(super) static HELP: View = View {
    name: "HELP",
    what: "this",
    columns: &[text("command"), text("what")],
    rows: |_| {
        let shows = VIEWS.iter().map(|view| row![format!("SHOW {}", view.name), view.what]);
        shows.chain(ACTIONS.iter().map(|(command, what)| row![*command, *what])).collect()
    },
};

const ACTIONS: [(&str, &str); 14] = [
    (
        "PAUSE [db]",
        "let nobody have a backend: clients wait, up to pause_timeout; answers when all backends are closed",
    ),
    ("RESUME [db]", "go on after PAUSE or KILL"),
    ("DISABLE db", "let no new clients in (55000)"),
    ("ENABLE db", "let them in again"),
    ("RECONNECT [db]", "replace all backends, each when its client gives it back"),
    ("WAIT_CLOSE [db]", "wait until those that RECONNECT or RELOAD replaces have gone"),
    ("KILL db", "end all clients of a database at once (57P01), and PAUSE it"),
    ("KILL_CLIENT id", "end one client at once (57P01)"),
    ("SET key = value", "change a setting until the next RELOAD; also databases.NAME.key, users.NAME.key"),
    ("RELOAD", "read the configuration again: all of it or, if anything is wrong, nothing"),
    ("SHUTDOWN", "end at once"),
    ("SHUTDOWN WAIT_FOR_SERVERS", "end when the running transactions are over"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "end when all clients have left"),
    ("BEGIN, COMMIT, ROLLBACK …", "what drivers say of their own accord has no effect here"),
];

pub(super) static DIAGNOSIS: View = View {
    name: "DIAGNOSIS",
    what: "what is wrong now, in one sentence",
    columns: &[text("severity"), text("sentence")],
    rows: |watched| {
        let found = diagnosis(watched, &Survey::of(&watched.clients));
        vec![row![found.severity.as_str(), found.sentence]]
    },
};

pub(super) static ERRORS: View = View {
    name: "ERRORS",
    what: "the last errors, the newest first",
    columns: &[
        text("at"),
        int("count"),
        text("side"),
        text("sqlstate"),
        text("message"),
        text("pool"),
        text("application_name"),
    ],
    rows: |_| {
        let shown = trouble::last().into_iter().map(|trouble| {
            row![
                moment(trouble.at.elapsed().unwrap_or_default()),
                trouble.count,
                trouble.side.as_str(),
                &*trouble.code,
                &*trouble.message,
                &*trouble.pool,
                &*trouble.application,
            ]
        });
        shown.collect()
    },
};

pub(super) static CONFIG: View = View {
    name: "CONFIG",
    what: "the settings of the top level",
    columns: &[text("key"), text("value"), text("default"), text("changeable")],
    rows: |watched| {
        let config = watched.registry.config();
        let settings = config.settings().into_iter().map(|setting| {
            row![setting.key, setting.value, setting.default, if setting.changeable { "yes" } else { "no" }]
        });
        // What tools made for PgBouncer look for.
        let theirs = [("max_client_conn", config.max_clients), ("max_user_connections", 0)];
        settings.chain(theirs.map(|(key, value)| row![key, value.to_string(), None::<&str>, "no"])).collect()
    },
};

pub(super) static USERS: View = View {
    name: "USERS",
    what: "the users that are listed",
    columns: &[
        text("name"),
        text("pool_mode"),
        int("max_user_connections"),
        int("current_connections"),
        int("max_user_client_connections"),
        int("current_client_connections"),
        text("console"),
    ],
    rows: |watched| {
        let (config, pools) = (watched.registry.config(), watched.registry.all());
        let mut users: Vec<_> = config.users.iter().collect();
        users.sort_by_key(|(name, _)| *name);
        let shown = users.into_iter().map(|(name, user)| {
            let own = || pools.iter().filter(|pool| pool.key.user == *name);
            row![
                name.as_str(),
                user.pool.mode.map(pools::mode),
                user.max_leases.unwrap_or(0),
                own().map(|pool| pool.backends().len()).sum::<usize>(),
                user.max_clients.unwrap_or(0),
                own().map(|pool| pool.clients.load(std::sync::atomic::Ordering::Acquire)).sum::<usize>(),
                Access::of(&config.console, name).map(|access| match access {
                    Access::Admin => "admin",
                    Access::Stats => "stats",
                }),
            ]
        });
        shown.collect()
    },
};

pub(super) static MEM: View = View {
    name: "MEM",
    what: "memory in bytes: of each client and backend without buffers, and of the process",
    columns: &[text("name"), int("size"), int("used"), int("free"), int("memtotal")],
    rows: |watched| {
        let clients = watched.clients.all().len();
        let backends: usize = watched.registry.all().iter().map(|pool| pool.backends().len()).sum();
        let (client, backend) = (size_of::<Session>() + size_of::<Handle>(), size_of::<Backend>());
        vec![
            row!["client_cache", client, clients, 0_u64, client * clients],
            row!["server_cache", backend, backends, 0_u64, backend * backends],
            row!["process", None::<u64>, None::<u64>, None::<u64>, resident()],
        ]
    },
};

/// The process's resident memory in bytes; `None` where there is no `/proc`.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

pub(super) static STATE: View = View {
    name: "STATE",
    what: "whether it is paused, or ends",
    columns: &[text("key"), text("value")],
    rows: |watched| {
        let (paused, draining) = (watched.registry.is_paused(None), watched.readiness.is_draining());
        let yes = |is: bool| if is { "yes" } else { "no" };
        vec![
            row!["active", yes(!paused)],
            row!["paused", yes(paused)],
            row!["suspended", "no"],
            row!["draining", yes(draining)],
        ]
    },
};

pub(super) static VERSION: View = View {
    name: "VERSION",
    what: "the version",
    columns: &[text("version")],
    rows: |_| vec![row![concat!("pgfunnel ", env!("CARGO_PKG_VERSION"))]],
};
