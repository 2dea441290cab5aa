//! What a transaction has done to its client's session. Texts only tell that it may have done something; what came of it
//! is asked of the backend when the transaction is over and before the backend is given back: rolled back, in a
//! savepoint, `SET LOCAL`, in a function, it comes out right.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Session;
use super::expect::Expect;
use super::state::login_effects;
use crate::activity::State;
use crate::backend::{AskError, Backend, Carried};
use crate::log::counted;
use crate::pool::{Lease, Outcome};
use crate::track::params::Change;
use crate::track::{Effects, PinReason, effects, names};
use crate::wire::backend::{Status, put_parameter_status};

/// Names of custom parameters that are asked for: a client with more in one transaction stays with its backend. Where
/// nothing is ever asked (`pool_mode = "session"`) nothing else ends them.
const MOST_NAMES: usize = 1_000;

/// What must be asked of the backend when the transaction is over.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// [`Effects::PARAMETERS`]: the settings; [`Effects::ENDS`]: what pins.
    asks: Effects,
    /// The backend has said that something was set or reset.
    confirmed: bool,
    /// The transaction was more than one text, or one that depends on something else.
    mixed: bool,
    /// Something of the database may have done it.
    suspect: bool,
    /// Parameters may go back to what they were at login.
    pub(super) resets: bool,
    /// Such a text is being answered; nothing was sent behind it.
    pub(super) resetting: bool,
    /// A statement of it has been executed.
    executed: bool,
    /// Nothing of it, mostly.
    details: Option<Box<Details>>,
}

/// The texts and values.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// Custom parameters that a text has named.
    names: BTreeSet<String>,
    /// The transaction was this text alone, and what it comes to depends on nothing else.
    pure: Option<Arc<[u8]>>,
    /// Parameters whose change the client was not told, since it will not hold, and what it takes them to be.
    pub(super) untold: Vec<(String, String)>,
    /// Settings of the client's login that a `RESET` within a transaction takes away: put in force again behind it.
    reapply: Vec<(String, String)>,
}

impl Open {
    /// Whether anything must be asked.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.asks != Effects::NONE
    }

    /// The texts and values.
    pub(super) fn details(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// A text has named these. `false`: they are too many.
    #[must_use]
    fn name(&mut self, names: impl IntoIterator<Item = String>) -> bool {
        names.into_iter().all(|name| {
            let known = &mut self.details().names;
            known.contains(&name) || known.len() < MOST_NAMES && known.insert(name)
        })
    }

    /// What the client takes a parameter to be whose change it was not told.
    pub(super) fn untold(&self, name: &str) -> Option<&String> {
        let untold = self.details.iter().flat_map(|details| &details.untold).rfind(|(untold, _)| untold == name);
        untold.map(|(_, told)| told)
    }

    /// The client is told what this parameter is.
    pub(super) fn tell(&mut self, name: &str) {
        if let Some(details) = &mut self.details {
            details.untold.retain(|(untold, _)| untold != name);
        }
    }

    /// Something has come that the text alone does not tell: an error, another text.
    #[inline]
    pub(super) fn mix(&mut self) {
        self.mixed |= self.any();
    }

    /// DDL was done: what it made may have been used at once, and be gone again.
    pub(super) fn doubt(&mut self) {
        self.asks.add(Effects::PARAMETERS | Effects::ENDS);
        self.suspect = true;
        self.mixed = true;
    }

    /// A command tag has said that something was set or reset.
    pub(super) fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// A statement is executed: the second one is another text.
    #[inline]
    pub(super) fn execute(&mut self) {
        self.mixed |= self.executed;
        self.executed = self.any();
    }
}

impl Session {
    /// Notes what will have to be asked after a text with these effects. Names that cannot be known pin.
    pub(super) fn open(&mut self, effects: Effects, text: &[u8], lease: &Backend) -> Effects {
        if effects.only(Effects::NOTIFIES | Effects::OTHER) == effects {
            return effects;
        }
        let mut effects = effects;
        if effects.any(Effects::PARAMETERS | Effects::CODE) {
            let is_code = effects.any(Effects::CODE);
            if names::custom(text, is_code).is_none_or(|names| !self.open.name(names)) {
                effects.add(if is_code { PinReason::Hidden.effect() } else { PinReason::Set.effect() });
            }
            self.open.asks.add(Effects::PARAMETERS);
            self.open.resets |= effects.any(Effects::RESETS);
            self.open.resetting |= effects.any(Effects::RESETS);
        }
        if effects::contains(text, b"set_config") && !self.open.name(names::dotted(text)) {
            effects.add(PinReason::Set.effect());
        }
        if effects.any(Effects::SUSPECT) {
            self.open.asks.add(Effects::PARAMETERS | Effects::ENDS);
            self.open.suspect = true;
        }
        let alone = lease.status == Status::Idle
            && lease.params.as_ref().is_some_and(|in_force| Arc::ptr_eq(in_force, &self.params))
            && !self.pipeline.runs()
            && self.open.details.as_ref().is_none_or(|details| details.pure.is_none())
            && !self.open.mixed;
        if alone && effects.any(Effects::PARAMETERS) && !effects.any(Effects::OTHER | Effects::CODE | Effects::SUSPECT)
        {
            self.open.details().pure = Some(text.into());
        } else {
            self.open.mixed = true;
        }
        if effects.any(Effects::RESETS) && !effects.any(Effects::OTHER) && lease.status == Status::Transaction {
            let login = &self.login.settings;
            let lost = names::reset(text, login.iter().map(|(name, _)| name)).into_iter();
            let lost = lost.filter_map(|name| Some((name.to_owned(), login.get(name)?.to_owned()))).collect();
            self.open.details().reapply = lost;
        }
        let new = effects.only(Effects::ASKABLE) != Effects::NONE;
        if effects.any(Effects::CODE) || new || effects.any(Effects::ENDS) && self.pins.any(Effects::ASKABLE) {
            self.open.asks.add(Effects::ENDS);
        }
        effects
    }

    /// See [`Session::settle`]; a client that stays with its backend finds it as it left it.
    pub(super) async fn settle_and_count(&mut self, lease: &mut Lease) -> Result<(), AskError> {
        self.settle(lease).await?;
        self.share_channels(lease).await?;
        self.timing.rest();
        self.count_pins();
        if self.is_pinned() && lease.params.is_some() {
            // What a reset took away on the backend that it keeps.
            self.put_params(lease)?;
        }
        if self.is_pinned() {
            self.handle.activity.set(State::Pinned);
        }
        Ok(())
    }

    /// Finds out what the transaction has done. After an error the backend's state is unknown, and the client stays with
    /// it; or it is lost.
    ///
    /// # Errors
    /// The backend is lost, and the client's state with it.
    async fn settle(&mut self, lease: &mut Lease) -> Result<(), AskError> {
        let open = std::mem::take(&mut self.open);
        let Details { mut names, pure, untold, .. } = open.details.map(|details| *details).unwrap_or_default();
        let pure = pure.filter(|_| open.confirmed && !open.mixed);
        if let Some(text) = pure.as_ref().filter(|_| open.asks == Effects::PARAMETERS)
            && let Some(outcome) = self.pool.params.outcome(&self.login, &self.params, text)
        {
            self.adopt(outcome, &untold, lease);
            return Ok(());
        }
        // A cancel that comes now is not meant for our question.
        if self.handle.detach() && !self.handle.quiet().await {
            lease.broken = true;
        }
        if open.suspect {
            if self.pool.is_stale() {
                self.pool.certify(lease).await;
                if lease.broken {
                    return Err(AskError::Io(std::io::ErrorKind::ConnectionAborted.into()));
                }
            }
            names.extend(self.pool.hidden_names());
        }
        names.extend(self.params.settings.iter().map(|(name, _)| name.to_owned()).filter(|name| name.contains('.')));
        let names: Vec<String> = names.into_iter().collect();
        let mut carried = match lease.carried(&names, open.asks.any(Effects::ENDS)).await {
            Ok(carried) => carried,
            Err(AskError::Refused(error)) => {
                let (event, client) = ("cannot ask what the session carries", self.handle.id);
                counted!(WARN, event, self.pool.key, "", { client, }, "{error}");
                self.pins.add(PinReason::Set.effect());
                self.handle.attach(&lease.identity, lease.since(), true);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.handle.attach(&lease.identity, lease.since(), true);
        self.tell_heard(lease);
        if open.resets {
            // A custom parameter that was reset is empty, not absent.
            let is_reset = |name: &str| carried.settings.get(name) == Some("") && name.contains('.');
            let reset: Vec<&str> =
                self.login.settings.iter().map(|(name, _)| name).filter(|name| is_reset(name)).collect();
            reset.into_iter().for_each(|name| drop(carried.settings.remove(name)));
        }
        let outcome = self.outcome(&carried, lease);
        if let Some(text) = pure {
            self.pool.params.remember(&self.login, &self.params, text, outcome.clone());
        }
        self.adopt(outcome, &untold, lease);
        if let Some(pins) = carried.pins {
            self.pins.remove(Effects::ASKABLE);
            self.pins.add(pins);
            if self.sql.own {
                self.pins.add(PinReason::Prepare.effect());
            }
            self.pins.add(login_effects(&self.params));
            lease.residue.remove(Effects::ASKABLE);
            lease.residue.add(pins);
        }
        Ok(())
    }

    /// Behind a `RESET` within a transaction: what the client has by its login is in force again at once.
    pub(super) fn reapply(&mut self, lease: &mut Backend) {
        let Some(details) = &mut self.open.details else { return };
        let lost = std::mem::take(&mut details.reapply);
        if lost.is_empty() || lease.status != Status::Transaction {
            return;
        }
        self.client.join(&mut lease.socket);
        let set = lost.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if lease.put_settings(&Change { reset: false, set }).is_ok() {
            self.pipeline.push(Expect::Prefix);
        }
    }

    /// What is in force, and what the client has then: a setting of its login that was reset is its own again.
    fn outcome(&mut self, carried: &Carried, lease: &Backend) -> Outcome {
        let in_force = self.pool.params.insert(carried.settings.clone(), lease.reported.clone());
        let missing = || self.login.settings.iter().filter(|(name, _)| carried.settings.get(name).is_none());
        if missing().next().is_none() {
            return Outcome { own: in_force.clone(), in_force };
        }
        let (mut own, mut reported) = (carried.settings.clone(), lease.reported.clone());
        for (name, value) in missing() {
            own.set(name, value.to_owned());
            for (shown, value) in self.login.reported.iter().filter(|(shown, _)| shown.eq_ignore_ascii_case(name)) {
                reported.insert(shown.clone(), value.clone());
            }
        }
        Outcome { own: self.pool.params.insert(own, reported), in_force }
    }

    /// `untold`: what the client takes to be in force where the backend has reported otherwise.
    fn adopt(&mut self, outcome: Outcome, untold: &[(String, String)], lease: &mut Backend) {
        let Outcome { own, in_force } = outcome;
        // What cannot be put in force from outside, byte by byte as it was, stays where it is.
        let is_foreign = own.settings.iter().any(|(_, value)| !value.is_ascii()) && own.encoding() != "UTF8";
        // Cannot be set where temporary tables have ever been used (manual, `temp_buffers`).
        if is_foreign || own.settings.get("temp_buffers").is_some() {
            self.pins.add(PinReason::Set.effect());
        }
        if !Arc::ptr_eq(&own, &in_force) || !untold.is_empty() {
            for (name, value) in &own.reported {
                let told = untold.iter().rfind(|(untold, _)| untold == name).map(|(_, told)| told);
                if told.or_else(|| lease.reported.get(name)) != Some(value) {
                    put_parameter_status(self.client.output(), name, value);
                }
            }
        }
        lease.params = Some(in_force);
        lease.residue.remove(Effects::PARAMETERS);
        self.pins.remove(PinReason::Strings.effect());
        self.pins.add(login_effects(&own));
        if self.params.parse_key != own.parse_key {
            self.statements.leave(&self.params);
        }
        self.params = own;
        self.changes_parse = self.pins.pins();
    }
}
