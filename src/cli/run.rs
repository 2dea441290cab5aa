//! `pgfunnel run`: configuration -> logging, limits and runtime -> server.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use rlimit::Resource;
use tokio::runtime::Runtime;
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;

use super::{ConfigArgs, print_error, print_errors, runtime, text};
use crate::config::Config;
use crate::log::{Flush, Stderr};
use crate::server::descriptors;

pub(super) const HELP: &str = "\
Environment:
  DATABASE_URL     postgres://user:password@host:port/db?sslmode=…
                   Serve this database to this user
  PGFUNNEL_<KEY>   Any key of the configuration file, such as PGFUNNEL_POOL_SIZE; wins over the file
  PGFUNNEL_DATABASES__<NAME>__<KEY>, PGFUNNEL_ANY_DATABASE__<KEY>, PGFUNNEL_USERS__<NAME>__<KEY>
                   Keys of one database, of [databases.\"*\"], of one user
  PGFUNNEL_LOG     Log filter, such as \"debug\" or \"pgfunnel::pool=debug,info\" [default: info]

Logs go to stderr, as text on a terminal and as JSON otherwise.
Exits with 0 when told to stop, with 2 if the configuration is wrong, with 1 on other failures.

Examples:
  DATABASE_URL=postgres://app:secret@db:5432/app pgfunnel run
  pgfunnel run --config config/pgfunnel.toml
  PGFUNNEL_LISTEN=0.0.0.0:6432 pgfunnel run -c config/pgfunnel.toml";

/// Serve until told to stop.
pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => return print_errors(&errors),
    };
    let filter = match super::log_filter() {
        Ok(filter) => filter,
        Err(problem) => return print_error(&problem),
    };
    let _flush = match start_logging(filter) {
        Ok(flush) => flush,
        Err(problem) => return print_error(&format!("cannot start a thread that writes the log: {problem}")),
    };
    for warning in &config.warnings {
        warn!("{warning}");
    }
    raise_descriptor_limit(&config);
    match runtime(config.worker_threads) {
        Ok(runtime) => serve(runtime, config),
        Err(problem) => {
            error!("cannot start {} worker threads: {problem}", config.worker_threads);
            ExitCode::FAILURE
        }
    }
}

fn serve(runtime: Runtime, config: Config) -> ExitCode {
    let outcome = runtime.block_on(crate::server::run(config));
    // Whatever still runs (a key derivation, say) has no client left to serve.
    runtime.shutdown_background();
    crate::log::flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Text for people, JSON for machines.
fn start_logging(filter: EnvFilter) -> io::Result<Flush> {
    let (stderr, flush) = Stderr::open()?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if io::stderr().is_terminal() {
        let builder = builder.fmt_fields(debug_fn(text::field).delimited(" "));
        builder.with_ansi(std::env::var_os("NO_COLOR").is_none()).with_target(false).init();
    } else {
        builder.json().flatten_event(true).with_current_span(false).init();
    }
    Ok(flush)
}

/// Every client and backend is a descriptor. Raise the soft limit, and the hard one if we may; if that is not
/// enough, say so now rather than when accept fails.
fn raise_descriptor_limit(config: &Config) {
    let needed = descriptors(config) as u64;
    let Ok((soft, hard)) = Resource::NOFILE.get() else { return };
    if soft >= needed || Resource::NOFILE.set(needed, hard.max(needed)).is_ok() {
        return;
    }
    let reached = if Resource::NOFILE.set(hard, hard).is_ok() { hard } else { soft };
    warn!(
        limit = reached,
        needed,
        "file descriptor limit {reached} is below the {needed} that max_clients = {} and max_backends = {} may need; \
         raise it (ulimit -n, LimitNOFILE=) or lower max_clients",
        config.max_clients,
        config.max_backends,
    );
}
