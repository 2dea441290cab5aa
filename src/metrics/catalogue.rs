//! Every metric: its name, kind, labels and meaning. The meaning is the HELP of the exposition and the table in README.md,
//! and so written for those who read these.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Its HELP.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($($kind:ident $id:ident = $name:literal [$($label:ident),*] $help:literal;)*) => {
        $(pub(super) const $id: Entry = Entry {
            name: $name,
            kind: stringify!($kind),
            labels: &[$(stringify!($label)),*],
            help: $help,
        };)*

        /// All of them.
        pub const ALL: &[Entry] = &[$($id),*];
    };
}

catalogue! {
    gauge CLIENTS = "pgfunnel_clients" [database, user, state]
        "Logged-in clients, and those that wait for a backend in their login, by state: idle, waiting (for a backend), \
         active, idle_in_transaction, pinned (silent outside a transaction, and keeping a backend).";
    gauge BACKENDS = "pgfunnel_backends" [database, user, state]
        "Backends by state: active, idle_in_transaction, pinned (as their clients are), cancelling (what a client \
         that is gone left behind is being ended), cleaning (what a client set is being removed), listening (for \
         all clients of the pool), idle, connecting, closing.";
    gauge BACKENDS_TLS = "pgfunnel_backends_tls" [database, user]
        "Backends that are logged in, and connected by TLS.";
    gauge POOL_SIZE = "pgfunnel_pool_size" [database, user]
        "The most backends that the pool may have.";
    gauge DATABASE_CONNECTIONS = "pgfunnel_database_connections" [database, user, whose]
        "Connections that the database accepts from users, read from it every 15 s, by whose: own (the pool's), \
         others, free.";
    counter DATABASE_UNREACHABLE_SECONDS = "pgfunnel_database_unreachable_seconds_total" [database, user]
        "Time for which the last attempts to open a backend had failed.";
    gauge POOL_PAUSED = "pgfunnel_pool_paused" [database, user]
        "1 while an operator holds the pool (PAUSE or KILL on the admin console): clients wait.";
    gauge POOL_PRESSURE = "pgfunnel_pool_pressure" [database, user]
        "Clients that hold a backend or wait for one, over pgfunnel_pool_size. Above 1 clients wait.";
    gauge BACKENDS_NEEDED = "pgfunnel_backends_needed" [database, user, window]
        "Backends that would have served the last seconds (window) with a mean wait below 5 ms. Little's law: the \
         leases that were asked for, times their mean length, over the window; Erlang's C formula says how many \
         more keep the wait short. A client that comes back soon would have asked oftener had it not waited: each \
         of its waits counts as wait / (its pause before + mean length) leases more. Never above the most clients \
         that held or wanted a backend at one time.";
    gauge OLDEST_WAITER_SECONDS = "pgfunnel_oldest_waiter_seconds" [database, user]
        "How long the client has been waiting for a backend that waits longest.";
    histogram BORROW_WAIT_SECONDS = "pgfunnel_borrow_wait_seconds" [database, user, outcome]
        "Time from asking for a backend to the answer, by outcome: at_once, waited, timed_out (borrow_timeout: \
         53300), refused (max_waiting, pause_timeout, or the database's error), left (the client went, or cancelled).";
    histogram LEASE_HELD_SECONDS = "pgfunnel_lease_held_seconds" [database, user]
        "How long clients held a backend.";
    histogram QUERY_SECONDS = "pgfunnel_query_seconds" [database, user]
        "Time from a client's query to the end of its answer. Less pgfunnel_query_database_seconds it is waiting \
         for a backend.";
    histogram QUERY_FIRST_BYTES_SECONDS = "pgfunnel_query_first_bytes_seconds" [database, user]
        "Time from a client's query to the first bytes of its answer (the first row, or what comes before it), \
         waiting for a backend included.";
    histogram QUERY_DATABASE_SECONDS = "pgfunnel_query_database_seconds" [database, user]
        "Time from when there was a backend for a query to the end of its answer: the database's, the network's, \
         and pgfunnel's own (see pgfunnel_worker_busy_seconds_total).";
    counter QUERIES_TLS = "pgfunnel_queries_tls_total" [database, user]
        "Queries of clients that are connected by TLS; all are pgfunnel_query_seconds_count.";
    counter TRANSACTIONS = "pgfunnel_transactions_total" [database, user]
        "Leases that ended with their transaction.";
    counter CLIENT_BYTES = "pgfunnel_client_bytes_total" [database, user, direction]
        "Bytes received from clients and sent to them (direction), without TLS; counted when a lease ends.";
    counter BACKEND_CONNECTS = "pgfunnel_backend_connects_total" [database, user, outcome]
        "Attempts to open a backend by outcome: ok, failed.";
    counter BACKEND_CONNECTS_TLS = "pgfunnel_backend_connects_tls_total" [database, user]
        "Attempts to open a backend by TLS: those that went well so, and those that failed where tls demands it.";
    gauge CALLER_CLIENTS = "pgfunnel_caller_clients" [application, user, state]
        "Clients by application_name, user and state (as pgfunnel_clients): the ten callers with the greatest \
         demand, the rest as other.";
    gauge CALLER_LONGEST_WAIT_SECONDS = "pgfunnel_caller_longest_wait_seconds" [application, user]
        "How long a client of this caller has been waiting for a backend.";
    gauge CALLER_LONGEST_IDLE_IN_TRANSACTION_SECONDS = "pgfunnel_caller_longest_idle_in_transaction_seconds" [application, user]
        "How long a client of this caller has been silent in a transaction, holding a backend.";
    gauge CLIENTS_LOGGING_IN = "pgfunnel_clients_logging_in" []
        "Clients that are not among pgfunnel_clients yet.";
    gauge CLIENTS_TLS = "pgfunnel_clients_tls" []
        "Those of pgfunnel_clients that are connected by TLS.";
    gauge MAX_CLIENTS = "pgfunnel_max_clients" []
        "Clients that there may be: the setting max_clients.";
    histogram LOGIN_SECONDS = "pgfunnel_login_seconds" [phase]
        "Time that logins took that went well, by phase: startup (from accept to the startup packet; PROXY header \
         and TLS included), auth (from there to the first ReadyForQuery).";
    counter LOGINS = "pgfunnel_logins_total" [outcome]
        "Logins of clients by outcome: ok, denied (wrong user or password, TLS failed or missing), failed (another \
         error, a limit included), left (the client went before its end, as load balancers do that only look \
         whether the port is open).";
    counter DISCONNECTS = "pgfunnel_disconnects_total" [how]
        "Ends of logged-in clients by how: goodbye, vanished (its connection broke, or its machine acknowledged \
         nothing), idle (client_idle_timeout), frozen (silent in a transaction: idle_transaction_timeout), stopped \
         (pgfunnel ends, or was told to end it), database (its backend was lost), error (anything else, such as a \
         broken protocol).";
    counter REFUSALS = "pgfunnel_refusals_total" [setting]
        "Clients refused by a limit, by the name of the setting. Who waited in vain for a database that cannot be reached, \
         or refuses pgfunnel, is not among them.";
    counter TIMEOUTS = "pgfunnel_timeouts_total" [setting]
        "Statements cancelled (query_timeout) and clients ended (idle_transaction_timeout, client_idle_timeout, \
         client_login_timeout) because a limit of time has passed, by the name of the setting.";
    counter PINS = "pgfunnel_pins_total" [reason]
        "Clients that began to keep their backend beyond a transaction, by reason: see What pins.";
    counter ROLLED_BACK = "pgfunnel_rolled_back_total" []
        "Transactions rolled back because their client vanished or fell silent.";
    counter ERRORS = "pgfunnel_errors_total" [side, sqlstate]
        "Errors by pgfunnel, or that ended a client, by the side at fault (client, proxy, database) and SQLSTATE \
         (other: one that PostgreSQL does not know). Errors of single statements are the database's own and not \
         counted.";
    counter CANCELS = "pgfunnel_cancels_total" [outcome]
        "Cancel requests by outcome: sent, idle (nothing ran), unknown (no such key), failed.";
    counter BACKEND_CONNECT_ERRORS = "pgfunnel_backend_connect_errors_total" [sqlstate]
        "Attempts to open a backend that failed, by SQLSTATE: PostgreSQL's own (other: one that it does not know), \
         08001 if it cannot be reached.";
    counter LOG_LINES_LOST = "pgfunnel_log_lines_lost_total" []
        "Lines of the log that could not be written: a full disk, a pipe that is closed or that nobody reads.";
    counter RELOADS = "pgfunnel_reloads_total" [outcome]
        "Reloads of the configuration by outcome: ok, failed.";
    gauge CONFIG_READ_TIMESTAMP_SECONDS = "pgfunnel_config_read_timestamp_seconds" []
        "When the configuration in force was read, in seconds since 1970.";
    gauge CONFIG_INFO = "pgfunnel_config_info" [hash]
        "Always 1; a hash of the configuration in force, without secrets: the same for instances that are \
         configured alike.";
    gauge DRAINING = "pgfunnel_draining" []
        "1 while no new clients are taken and those that are there finish.";
    counter WORKER_BUSY_SECONDS = "pgfunnel_worker_busy_seconds_total" [worker]
        "Time that event loops (worker_threads) were not waiting for anything, by number. Over the queries \
         answered meanwhile it is what pgfunnel itself spent on each; near 1 per second a loop is used up.";
    gauge BUILD_INFO = "pgfunnel_build_info" [version]
        "Always 1; the version of this process.";
}
