//! The life of one environment: start, work, freeze, thaw, work again, end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::failure::{Failure, Phase};
use super::options::Messages;
use super::plan::{Ending, Plan};
use super::target::Target;

/// What became of an environment.
#[derive(Default)]
pub(super) struct Outcome {
    /// From the first SYN to the first ReadyForQuery; `None`: never logged in.
    pub(super) connect: Option<Duration>,
    /// The query right after the login.
    pub(super) first_query: Option<Duration>,
    /// Each transaction that was committed, from BEGIN sent to COMMIT answered.
    pub(super) transactions: Vec<Duration>,
    /// Where it failed, if it did.
    pub(super) failure: Option<(Phase, Failure)>,
    /// The connection of an environment that fell silent, to be kept open and unread.
    pub(super) silent: Option<Client>,
}

impl Outcome {
    /// An environment whose task panicked: a bug of ours, counted rather than hidden.
    pub(super) fn panicked(error: &tokio::task::JoinError) -> Self {
        Self { failure: Some((Phase::Transaction, Failure::new("panic", error.to_string()))), ..Self::default() }
    }
}

/// Lives the life of environment number `index`. Ends within the plan's time limits, whatever the server does.
pub(super) async fn live(target: Arc<Target>, plan: Arc<Plan>, index: u32) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(failure) = work(&target, &plan, index, &mut outcome).await {
        outcome.failure = Some(failure);
    }
    outcome
}

async fn work(target: &Target, plan: &Plan, index: u32, outcome: &mut Outcome) -> Result<(), (Phase, Failure)> {
    let ending = plan.ending(index);
    let start = Instant::now();
    let mut client = limited(plan.connect_timeout, Client::connect(target)).await.map_err(|f| (Phase::Connect, f))?;
    outcome.connect = Some(start.elapsed());

    let start = Instant::now();
    let first = limited(plan.query_timeout, client.query(&plan.first_query)).await;
    first.map_err(|f| (Phase::FirstQuery, f))?;
    outcome.first_query = Some(start.elapsed());

    for number in 1..=plan.transactions {
        let in_transaction = |f| (Phase::Transaction, f);
        if number == plan.transactions && ending == Ending::InTransaction {
            let began = async {
                client.query("BEGIN").await?;
                client.send_query(&plan.statement).await
            };
            limited(plan.query_timeout, began).await.map_err(in_transaction)?;
            client.reset();
            return Ok(());
        }
        let start = Instant::now();
        limited(plan.query_timeout, transact(&mut client, plan)).await.map_err(in_transaction)?;
        outcome.transactions.push(start.elapsed());
        // Frozen: nobody reads, nobody answers; what arrives waits in the kernel's buffer.
        tokio::time::sleep(plan.freeze(index, number)).await;
    }

    match ending {
        // The last word needs no answer: an error here has nobody left to fail.
        Ending::Terminate => drop(limited(plan.query_timeout, client.terminate()).await),
        Ending::Fin => drop(client),
        Ending::Reset | Ending::InTransaction => client.reset(),
        Ending::Silence => outcome.silent = Some(client),
    }
    Ok(())
}

async fn transact(client: &mut Client, plan: &Plan) -> Result<(), Failure> {
    match plan.messages {
        Messages::One => {
            client.query(&format!("BEGIN; {}; COMMIT", plan.statement)).await?;
        }
        Messages::Several => {
            client.query("BEGIN").await?;
            client.query(&plan.statement).await?;
            client.query("COMMIT").await?;
        }
    }
    Ok(())
}

async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Failure::timeout(limit)))
}
