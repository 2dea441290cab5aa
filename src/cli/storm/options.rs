//! The command line of `pgfunnel storm`, and how its values are read.

use std::time::Duration;

use clap::ValueEnum;

use super::plan::{Plan, Rate};

/// Storm a PostgreSQL server or pooler the way AWS Lambda does.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to connect, as libpq: postgres://user:password@host:port/database?sslmode=require
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    url: Option<String>,

    /// Environments that start in all, each with one connection
    #[arg(long, short = 'n', default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    environments: u32,

    /// How fast they start: COUNT/TIME, or COUNT per second; the default is what Lambda grants one function
    #[arg(long, default_value = "1000/10s", value_name = "RATE", value_parser = parse_rate)]
    rate: Rate,

    /// First query of an environment, right after its login
    #[arg(long, default_value = "SELECT 1", value_name = "SQL")]
    first_query: String,

    /// Transactions that each environment runs
    #[arg(long, default_value_t = 5, value_name = "N")]
    transactions: u32,

    /// Length of a transaction: BEGIN; SELECT pg_sleep(MS / 1000); COMMIT
    #[arg(long, default_value_t = 10, value_name = "MS")]
    transaction_ms: u32,

    /// What a transaction runs between BEGIN and COMMIT, instead of pg_sleep
    #[arg(long, conflicts_with = "transaction_ms", value_name = "SQL")]
    transaction: Option<String>,

    /// BEGIN, the statement and COMMIT one by one with a round trip each, or all in one message
    #[arg(long, value_enum, default_value_t = Messages::Several)]
    messages: Messages,

    /// How long an environment is frozen after each transaction, give or take a half: socket open, nobody answering
    #[arg(long, default_value = "500ms", value_name = "TIME", value_parser = parse_duration)]
    freeze: Duration,

    /// Percent that vanish without a FIN: half reset their connection, half fall silent until the storm is over
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    reap_without_fin: u8,

    /// Percent that are killed in mid-transaction: BEGIN done, connection reset
    #[arg(long, default_value_t = 2, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    die_in_transaction: u8,

    /// An environment that is not logged in after this has failed
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_duration)]
    connect_timeout: Duration,

    /// A query or transaction that takes longer has failed
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    query_timeout: Duration,

    /// Count the server's client backends while the storm runs, over one more connection to this server itself
    #[arg(long, value_name = "URL")]
    pub(super) monitor_url: Option<String>,

    /// Count only backends of this database
    #[arg(long, requires = "monitor_url", value_name = "NAME")]
    pub(super) monitor_database: Option<String>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    pub(super) json: bool,

    /// Exit with 1 if any environment failed
    #[arg(long)]
    pub(super) fail_on_error: bool,
}

/// How a transaction travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Messages {
    /// Three Query messages, each answered before the next, as drivers do.
    Several,
    /// One Query message with three statements.
    One,
}

impl Args {
    pub(super) fn url(&self) -> Result<&str, String> {
        self.url.as_deref().ok_or_else(|| "where to? give --url or set DATABASE_URL".to_owned())
    }

    pub(super) fn plan(&self) -> Plan {
        let sleep = || format!("SELECT pg_sleep({})", f64::from(self.transaction_ms) / 1e3);
        Plan {
            environments: self.environments,
            rate: self.rate,
            first_query: self.first_query.clone(),
            transactions: self.transactions,
            statement: self.transaction.clone().unwrap_or_else(sleep),
            messages: self.messages,
            freeze: self.freeze,
            reap_without_fin: self.reap_without_fin,
            die_in_transaction: self.die_in_transaction,
            connect_timeout: self.connect_timeout,
            query_timeout: self.query_timeout,
        }
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    let (count, per) = text.split_once('/').unwrap_or((text, "1s"));
    let count = count.trim().parse::<u32>().ok().filter(|&c| c > 0);
    let count = count.ok_or("a rate is COUNT/TIME with COUNT from 1, such as 1000/10s")?;
    // "1000/s" reads naturally, too.
    let per = if per.trim().starts_with(|c: char| c.is_ascii_digit()) {
        parse_duration(per)
    } else {
        parse_duration(&format!("1{}", per.trim()))
    }?;
    Ok(Rate { count, per })
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is no time: write 300ms, 1.5s or 2min");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "ms" => number / 1e3,
        "s" => number,
        "min" | "m" => number * 60.0,
        "" if number == 0.0 => 0.0,
        _ => return Err(wrong()),
    };
    // A day is more than any storm needs, and keeps every sum of instants representable.
    Some(seconds).filter(|&s| s <= 86_400.0).map(Duration::from_secs_f64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("300ms", 300), ("1.5s", 1_500), ("2min", 120_000), ("2m", 120_000), ("0", 0), (" 7 s ", 7_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5", "-1s", "1h", "1..5s", "9e9s", "99999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        let lambda = parse_rate("1000/10s").unwrap();
        assert_eq!(lambda.due(0), Duration::ZERO);
        assert_eq!(lambda.due(500), Duration::from_secs(5));
        assert_eq!(parse_rate("200").unwrap().due(100), Duration::from_millis(500));
        assert_eq!(parse_rate("200/s").unwrap().due(100), Duration::from_millis(500));
        for text in ["", "0", "0/1s", "-5", "x/1s", "5/", "5/x"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
