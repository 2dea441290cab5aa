//! Handing a client's channels over from its backend to the pool's listener, once a transaction has made them its own.

use super::Session;
use super::listening::Shared;
use crate::backend::AskError;
use crate::config::PoolMode;
use crate::listen::{self, Found, MOST_CHANNELS};
use crate::log::counted;
use crate::pool::Lease;
use crate::track::{Effects, PinReason};

impl Session {
    /// A client that is pinned by nothing but what it listens to hands that over to the pool's listener. Where that cannot
    /// be, it stays pinned.
    ///
    /// # Errors
    /// The backend is lost.
    pub(super) async fn share_channels(&mut self, lease: &mut Lease) -> Result<(), AskError> {
        let is_all = self.pins.only(Effects::PINS) == PinReason::Listen.effect() && self.mode != PoolMode::Session;
        if !is_all || self.params.encoding() != "UTF8" {
            return Ok(());
        }
        // A cancel that comes now is not meant for our question.
        if self.handle.detach() && !self.handle.quiet().await {
            lease.broken = true;
            return Err(AskError::Io(std::io::ErrorKind::ConnectionAborted.into()));
        }
        let outcome = self.move_channels(lease).await;
        self.handle.attach(&lease.identity, lease.since(), true);
        match outcome {
            Ok(true) => {
                self.pins.remove(PinReason::Listen.effect());
                lease.residue.remove(PinReason::Listen.effect());
            }
            Ok(false) => {}
            Err(AskError::Refused(error)) => {
                let (event, client) = ("cannot share what the client listens to", self.handle.id);
                counted!(WARN, event, self.pool.key, "", { client, }, "{error}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `false`: they stay where they are.
    async fn move_channels(&mut self, lease: &mut Lease) -> Result<bool, AskError> {
        const LISTENING: &str = "SELECT channel FROM pg_catalog.pg_listening_channels() channel";
        let answer = lease.ask_safely(LISTENING, &[]).await?;
        self.tell_heard(lease);
        let listening = &self.listening;
        let is_new = |channel: &String| !listening.hears(channel.as_bytes()) && !listen::is_marker(channel.as_bytes());
        let channels: Vec<String> = answer.rows.into_iter().flatten().flatten().filter(is_new).collect();
        let shared = listening.shared.as_ref().map_or(0, |shared| shared.subscription.channels().len());
        // A name that is not in UTF8 has been changed on its way here.
        if channels.len() + shared > MOST_CHANNELS || channels.iter().any(|channel| channel.contains('\u{FFFD}')) {
            return Ok(false);
        }
        if channels.is_empty() {
            return lease.run(&["UNLISTEN *"]).await.map(|()| true);
        }
        let moment = listen::moment();
        match &mut self.listening.shared {
            Some(shared) => {
                if !shared.subscription.join(&channels, moment).await {
                    return Ok(false);
                }
            }
            None => match self.listening.listeners.join(&self.pool, &self.handle, &channels, moment).await {
                Found::Joined(subscription) => self.listening.shared = Some(Shared::new(subscription)),
                Found::Wanted(mut start) if lease.become_listener() => {
                    self.listening.shared = Some(Shared::new(start.subscribe(self.handle.clone(), channels)));
                    self.listening.start = Some(start);
                    return Ok(true);
                }
                Found::Wanted(_) | Found::Silent => return Ok(false),
            },
        }
        let outcome = listen::hand_over(lease, moment).await;
        if outcome.is_err()
            && let Some(shared) = &mut self.listening.shared
        {
            shared.subscription.leave(&channels);
            self.listening.commit();
        }
        outcome?;
        self.tell_before(&channels, lease);
        Ok(true)
    }

    /// What its backend was told on these channels before they were handed over.
    fn tell_before(&mut self, channels: &[String], lease: &mut Lease) {
        let heard = std::mem::take(&mut lease.notifications);
        let out = self.client.output();
        listen::each(&heard, |message| {
            if listen::is_on(message, channels) {
                out.extend_from_slice(message);
            }
        });
    }
}
