//! `pgfunnel check`: is the configuration right?

use std::process::ExitCode;

use clap::builder::styling::AnsiColor;

use super::{ConfigArgs, log_filter, print, print_error, print_errors, print_labelled};
use crate::config::Config;

pub(super) const HELP: &str = "\
Exits with 0 if the configuration is right (with warnings on stderr), with 2 if it is not.
Opens no socket and asks no database.

Examples:
  pgfunnel check --config config/pgfunnel.toml
  PGFUNNEL_POOL_SIZE=80% pgfunnel check -c config/pgfunnel.toml";

/// Validate and summarise.
pub(super) fn check(args: &ConfigArgs) -> ExitCode {
    if let Err(problem) = log_filter() {
        return print_error(&problem);
    }
    match args.load() {
        Ok(config) => {
            for warning in &config.warnings {
                print_labelled("warning", AnsiColor::Yellow, warning);
            }
            print(format!("config ok: {}\n", summary(&config))).err().unwrap_or(ExitCode::SUCCESS)
        }
        Err(errors) => print_errors(&errors),
    }
}

fn summary(config: &Config) -> String {
    let any = if config.any_database.is_some() { " and \"*\"" } else { "" };
    let listeners = config.listen.len();
    format!(
        "{} database{}{any}, {} user{}, {listeners} listener{}, at most {} backends for {} clients",
        config.databases.len(),
        plural(config.databases.len()),
        config.users.len(),
        plural(config.users.len()),
        plural(listeners),
        config.max_backends,
        config.max_clients,
    )
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
