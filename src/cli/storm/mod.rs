//! `pgfunnel storm`: a load generator that behaves like AWS Lambda. Many environments start at a rate, connect, work,
//! are frozen with their socket open, thaw, work again and are reaped, some of them rudely. It runs against any
//! PostgreSQL or pooler, and never uses more than one connection per environment plus one that watches.

mod client;
mod environment;
mod failure;
mod keys;
mod login;
mod monitor;
mod options;
mod plan;
mod progress;
mod report;
mod target;
mod url;

pub use options::Args;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use environment::Outcome;
use monitor::Monitor;
use plan::Plan;
use progress::Progress;
use report::{Report, Tally};
use target::Target;

use super::print;

/// Descriptors needed beside the environments' sockets: standard streams, the runtime, the monitor.
const SPARE_DESCRIPTORS: u64 = 64;

/// Could not start: wrong arguments, an unknown host, a monitor that cannot log in (as clap's usage errors).
const EXIT_NOT_STARTED: u8 = 2;
/// Interrupted with Ctrl-C (128 + SIGINT, as shells count).
const EXIT_INTERRUPTED: u8 = 130;

/// Runs the storm and prints its report to stdout. Failed environments are a result, not an error: the exit code is 0
/// unless `--fail-on-error` says otherwise, 1 if the report cannot be written, 2 if the storm could not start, 130 after
/// Ctrl-C.
pub async fn run(args: Args) -> ExitCode {
    let storm = match Storm::prepare(&args).await {
        Ok(storm) => storm,
        Err(message) => {
            complain(message);
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    let report = storm.run().await;
    let printed = if args.json { print(report.to_json() + "\n") } else { print(&report) };
    if let Err(code) = printed {
        return code;
    }
    match () {
        () if report.interrupted => ExitCode::from(EXIT_INTERRUPTED),
        () if args.fail_on_error && report.failed > 0 => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    }
}

/// A storm that is ready to break loose: everything that can be wrong beforehand has been looked at.
struct Storm {
    plan: Arc<Plan>,
    target: Arc<Target>,
    monitor: Option<Monitor>,
}

impl Storm {
    async fn prepare(args: &Args) -> Result<Self, String> {
        let plan = Arc::new(args.plan());
        let target = Arc::new(Target::resolve(args.url()?, plan.connect_timeout).await?);
        raise_descriptor_limit(plan.environments as u64);
        let monitor = match &args.monitor_url {
            None => None,
            Some(url) => {
                let target = Target::resolve(url, plan.connect_timeout).await?;
                Some(Monitor::start(target, &plan, args.monitor_database.as_deref()).await?)
            }
        };
        Ok(Self { plan, target, monitor })
    }

    /// Starts every environment when it is due, gathers what became of it, and stops early on Ctrl-C.
    async fn run(self) -> Report {
        let Self { plan, target, monitor } = self;
        let mut tally = Tally::new();
        let mut progress = Progress::new(plan.environments);
        let mut living: JoinSet<Outcome> = JoinSet::new();
        // Silently vanished environments: their sockets stay open, unread, until the storm is over.
        let mut silent = Vec::new();
        let start = Instant::now();
        let mut started = 0;
        let mut interrupted = false;
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);

        while started < plan.environments || !living.is_empty() {
            tokio::select! {
                () = tokio::time::sleep_until(start + plan.rate.due(started)), if started < plan.environments => {
                    living.spawn(environment::live(Arc::clone(&target), Arc::clone(&plan), started));
                    started += 1;
                }
                Some(ended) = living.join_next() => {
                    // A task can only fail to join by a panic of ours; then the environment counts as failed.
                    let mut outcome = ended.unwrap_or_else(|e| Outcome::panicked(&e));
                    silent.extend(outcome.silent.take());
                    tally.add(outcome);
                }
                _ = &mut interrupt => {
                    interrupted = true;
                    break;
                }
            }
            progress.show(started, &tally);
        }
        living.shutdown().await;
        let duration = start.elapsed();
        drop(silent);
        progress.finish();
        let backends = match monitor {
            Some(monitor) => Some(monitor.stop().await),
            None => None,
        };
        tally.into_report(started, duration, backends, interrupted)
    }
}

/// One descriptor per environment; when even the hard limit is too low the storm says so and runs all the same.
fn raise_descriptor_limit(environments: u64) {
    let needed = environments.saturating_add(SPARE_DESCRIPTORS);
    match rlimit::increase_nofile_limit(needed) {
        Ok(limit) if limit >= needed => {}
        Ok(limit) => complain(format_args!(
            "{environments} environments need {needed} file descriptors, the hard limit is {limit} \
             (ulimit -Hn): some connections will fail with EMFILE"
        )),
        Err(error) => complain(format_args!("the file descriptor limit could not be raised: {error}")),
    }
}

/// On stderr; if that is closed, nobody wants to know.
fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "pgfunnel storm: {message}");
}
