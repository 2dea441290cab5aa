//! What all clients are doing at one moment, by pool and by caller. Costs a walk over the clients: each is locked for no
//! longer than it takes to copy a few numbers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::activity::State;
use crate::cancel::{Clients, Handle};
use crate::pool::PoolKey;

/// Callers that are told apart, and clients that are shown of each kind; the rest is counted.
pub(super) const TOP: usize = 10;

/// A moment.
#[derive(Default)]
pub struct Survey {
    /// By pool.
    pub pools: HashMap<PoolKey, Crowd>,
    /// Clients that are connected by TLS.
    pub tls: usize,
    /// By `application_name` and user, those with the greatest demand first.
    pub callers: Vec<(Caller, Clock)>,
    /// Clients that wait for a backend, who waits longest first.
    pub waiting: Vec<Seen>,
    /// Clients that hold a backend in a transaction, who has held it longest first.
    pub transactions: Vec<Seen>,
    /// Clients that are pinned, in no order.
    pub pinned: Vec<Seen>,
}

/// The clients of one pool.
#[derive(Debug, Default)]
pub struct Crowd {
    /// All of them.
    pub clock: Clock,
    /// By `application_name`.
    pub callers: HashMap<Box<str>, Clock>,
}

/// A client as it was then.
#[derive(Clone)]
pub struct Seen {
    /// Who it is.
    pub client: Arc<Handle>,
    /// What it did.
    pub state: State,
    /// For how long: waiting, or holding its backend.
    pub time: Duration,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// `application_name`: the name of a Lambda function.
    pub application: String,
    /// The database user.
    pub user: String,
}

/// How many clients are in each state, and how long the one that is in it longest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Clients, by [`State`].
    pub clients: [usize; 5],
    /// The longest, by [`State`].
    pub longest: [Duration; 5],
}

impl Clock {
    fn note(&mut self, state: State, time: Duration) {
        let at = state as usize;
        if let (Some(clients), Some(longest)) = (self.clients.get_mut(at), self.longest.get_mut(at)) {
            *clients += 1;
            *longest = time.max(*longest);
        }
    }

    fn add(&mut self, other: &Clock) {
        for (own, other) in self.clients.iter_mut().zip(other.clients) {
            *own += other;
        }
        for (own, other) in self.longest.iter_mut().zip(other.longest) {
            *own = other.max(*own);
        }
    }

    /// Clients in this state.
    pub fn count(&self, state: State) -> usize {
        self.clients.get(state as usize).copied().unwrap_or(0)
    }

    /// How long the client is in this state that is in it longest; zero: none is.
    pub fn longest(&self, state: State) -> Duration {
        self.longest.get(state as usize).copied().unwrap_or_default()
    }

    /// Clients that hold a backend or wait for one.
    pub fn demand(&self) -> usize {
        State::ALL.into_iter().filter(|state| *state != State::Idle).map(|state| self.count(state)).sum()
    }
}

impl Survey {
    /// Of these clients, now.
    pub fn of(clients: &Clients) -> Self {
        let mut survey = Self::default();
        for client in clients.all() {
            survey.note(client);
        }
        let mut callers: HashMap<Caller, Clock> = HashMap::new();
        for (key, crowd) in &survey.pools {
            for (application, clock) in &crowd.callers {
                let caller = Caller { application: application.to_string(), user: key.user.clone() };
                callers.entry(caller).or_default().add(clock);
            }
        }
        survey.callers = ranked(callers);
        for seen in [&mut survey.waiting, &mut survey.transactions] {
            seen.sort_by_key(|seen| std::cmp::Reverse(seen.time));
        }
        survey
    }

    fn note(&mut self, client: Arc<Handle>) {
        let (state, time) = client.activity.get();
        self.tls += usize::from(client.tls);
        let key = &client.pool.key;
        if !self.pools.contains_key(key) {
            self.pools.insert(key.clone(), Crowd::default());
        }
        let Some(crowd) = self.pools.get_mut(key) else { return };
        crowd.clock.note(state, time);
        match crowd.callers.get_mut(&*client.application) {
            Some(clock) => clock.note(state, time),
            None => crowd.callers.entry(client.application.clone()).or_default().note(state, time),
        }
        if client.pinned().is_some() {
            self.pinned.push(Seen { client: client.clone(), state, time });
        }
        match state {
            State::Idle | State::Pinned => {}
            State::Waiting => self.waiting.push(Seen { client, state, time }),
            State::Active | State::IdleInTransaction => {
                let time = client.holds_for().unwrap_or(time);
                self.transactions.push(Seen { client, state, time });
            }
        }
    }
}

/// By demand, then by number, then by name; beyond [`TOP`] together as `other`.
fn ranked(callers: HashMap<Caller, Clock>) -> Vec<(Caller, Clock)> {
    let mut all: Vec<(Caller, Clock)> = callers.into_iter().collect();
    let rank = |(caller, clock): &(Caller, Clock)| {
        let all: usize = clock.clients.iter().sum();
        (std::cmp::Reverse((clock.demand(), all)), caller.clone())
    };
    all.sort_by_cached_key(rank);
    if all.len() > TOP {
        let mut other = Clock::default();
        all.drain(TOP..).for_each(|(_, clock)| other.add(&clock));
        all.push((Caller { application: "other".into(), user: "other".into() }, other));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_the_greatest_demand_are_named() {
        let mut callers = HashMap::new();
        for n in 0..30 {
            let mut clock = Clock::default();
            clock.note(State::Idle, Duration::from_secs(100));
            (0..n).for_each(|_| clock.note(State::Waiting, Duration::from_secs(n)));
            callers.insert(Caller { application: format!("f{n}"), user: "app".into() }, clock);
        }
        let ranked = ranked(callers);
        assert_eq!(ranked.len(), TOP + 1);
        assert_eq!(ranked[0].0.application, "f29");
        assert_eq!(ranked[0].1.demand(), 29);
        let (other, clock) = &ranked[TOP];
        assert_eq!(other.application, "other");
        assert_eq!((clock.count(State::Idle), clock.count(State::Waiting)), (20, (0..20).sum()));
        assert_eq!(clock.longest(State::Waiting), Duration::from_secs(19));
    }
}
