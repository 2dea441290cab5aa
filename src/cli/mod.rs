//! Subcommands: what they take and what they exit with. Wires; the work is done in the modules that they call.

mod check;
mod run;
pub mod storm;
mod text;

use std::env::VarError;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style};
use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigErrors, environment};

/// A wrong configuration (also what clap exits with for wrong arguments); 1 is a failure at run time.
const EXIT_CONFIG: u8 = 2;

/// A PostgreSQL connection-pooling proxy for AWS Lambda and other serverless callers.
#[derive(Debug, Parser)]
#[command(name = "pgfunnel", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  DATABASE_URL=postgres://app:secret@db:5432/app pgfunnel run
      Serve one database on 127.0.0.1:6432 with 20 backends; no file needed
  pgfunnel check --config config/pgfunnel.toml
      Say what is wrong with a configuration, without starting
  pgfunnel run --config config/pgfunnel.toml
      Serve what the file says; every key also by variable, such as PGFUNNEL_POOL_SIZE=40
  pgfunnel storm --url postgres://app:secret@127.0.0.1:6432/app
      See what 500 Lambda environments do to it";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until SIGTERM (drains) or SIGINT (at once); SIGHUP reloads
    #[command(after_help = run::HELP)]
    Run(ConfigArgs),
    /// Validate the configuration without starting
    #[command(after_help = check::HELP)]
    Check(ConfigArgs),
    /// Storm a PostgreSQL server or pooler the way AWS Lambda does
    Storm(Box<storm::Args>),
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file (TOML); without one, the environment alone configures
    #[arg(short, long, value_name = "FILE", env = "PGFUNNEL_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(self.config.as_deref(), environment())
    }
}

/// Parse the arguments, do what they say, and say how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return tell(&told),
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Storm(args) => match runtime(1) {
            Ok(runtime) => runtime.block_on(storm::run(*args)),
            Err(problem) => {
                print_labelled("error", AnsiColor::Red, format!("cannot start: {problem}"));
                ExitCode::FAILURE
            }
        },
    }
}

/// One thread runs everything itself: no work stealing, no cross-thread wake-ups.
fn runtime(worker_threads: usize) -> io::Result<Runtime> {
    let mut builder = if worker_threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if worker_threads > 1 {
        builder.worker_threads(worker_threads);
    }
    builder.thread_name("pgfunnel").enable_all().build()
}

/// What `PGFUNNEL_LOG` asks for; `info` if it asks for nothing.
fn log_filter() -> Result<EnvFilter, String> {
    let text = match std::env::var("PGFUNNEL_LOG") {
        // As every variable (src/config/env.rs): it would hide all but errors.
        Ok(text) if text.is_empty() => return Err("PGFUNNEL_LOG: is empty; unset it or give it a value".to_owned()),
        Ok(text) => text,
        Err(VarError::NotPresent) => "info".to_owned(),
        Err(VarError::NotUnicode(_)) => return Err("PGFUNNEL_LOG: must be UTF-8".to_owned()),
    };
    let right = "must be a log filter such as \"info\" or \"pgfunnel::pool=debug,info\"";
    EnvFilter::builder().parse(&text).map_err(|problem| format!("PGFUNNEL_LOG = {text:?}: {right}: {problem}"))
}

/// Says what clap has to say: what is wrong with the arguments, or the help that was asked for.
fn tell(told: &clap::Error) -> ExitCode {
    match told.print() {
        Err(problem) if !told.use_stderr() => not_printed(&problem),
        _ => ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(EXIT_CONFIG)),
    }
}

/// Everything that a subcommand has to say on stdout.
///
/// # Errors
/// What to exit with if it cannot be written, which has been said.
fn print(text: impl Display) -> Result<(), ExitCode> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|problem| not_printed(&problem))
}

/// Who has closed the pipe knows it.
fn not_printed(problem: &io::Error) -> ExitCode {
    if problem.kind() != io::ErrorKind::BrokenPipe {
        print_labelled("error", AnsiColor::Red, format!("cannot write to stdout: {problem}"));
    }
    ExitCode::FAILURE
}

/// Every error on a line of its own, in the manner of clap's.
fn print_errors(errors: &ConfigErrors) -> ExitCode {
    for error in errors.iter() {
        print_labelled("error", AnsiColor::Red, error);
    }
    ExitCode::from(EXIT_CONFIG)
}

/// The same for one error that is not the configuration's.
fn print_error(problem: &str) -> ExitCode {
    print_labelled("error", AnsiColor::Red, problem);
    ExitCode::from(EXIT_CONFIG)
}

/// `label: message` on stderr. A closed stderr is nobody's concern.
fn print_labelled(label: &str, color: AnsiColor, message: impl Display) {
    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = if coloured { color.on_default().bold() } else { Style::new() };
    let _ = writeln!(io::stderr(), "{style}{label}:{style:#} {message}");
}
