//! The listener: a task with a backend of its own. It carries out what clients order, and passes on what it hears.

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::inbox::Inbox;
use super::{MARKER, Running, Subscription, quoted};
use crate::cancel::Handle;
use crate::pool::Lease;
use crate::wire::backend::{self as tag, ErrorFields};
use crate::wire::{HEADER, Header};

/// How long PostgreSQL may take to obey. A `LISTEN` waits for nothing but the commit of other notifications.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether the pool still wants this listener.
const ROUND: Duration = Duration::from_secs(1);

/// Orders that are carried out together.
const BATCH: usize = 1_000;

/// What clients want.
pub(super) enum Order {
    /// To hear these channels from a moment on (see [`super::hand_over`]).
    Join { inbox: Arc<Inbox>, channels: Vec<String>, moment: u64, done: oneshot::Sender<()> },
    /// To hear these no longer.
    Leave { client: u64, channels: Vec<String> },
    /// To hear nothing any more.
    Gone { client: u64 },
    /// To know that all that was sent until now has come.
    Barrier { inbox: Arc<Inbox>, number: u64 },
}

/// Makes a session's backend the listener.
pub struct Start {
    listener: Running,
    orders: UnboundedReceiver<Order>,
    channels: Vec<String>,
    inbox: Option<Arc<Inbox>>,
}

/// What takes a session's state away but what it listens to (manual, `DISCARD`), and the limits that would end an idle
/// session; those that this version of PostgreSQL has.
const SETTLE: &str = "RESET SESSION AUTHORIZATION; CLOSE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DEALLOCATE ALL; DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP; \
     SELECT pg_catalog.set_config(name, value, false) FROM \
     (VALUES ('statement_timeout', '0'), ('idle_session_timeout', '0'), ('client_encoding', 'UTF8')) own (name, value) \
     WHERE EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) own.name)";

impl Start {
    pub(super) fn new(listener: Running, orders: UnboundedReceiver<Order>) -> Self {
        Self { listener, orders, channels: Vec::new(), inbox: None }
    }

    /// The subscription of the client whose backend it will be.
    pub fn subscribe(&mut self, client: Arc<Handle>, channels: Vec<String>) -> Subscription {
        let mut subscription = Subscription::new(self.listener.clone(), client);
        subscription.note(&channels);
        self.channels = channels;
        self.inbox = Some(subscription.inbox());
        subscription
    }

    /// Takes the backend, which listens to the channels of that subscription. If that fails, all that have subscribed
    /// meanwhile learn that the listener is lost.
    pub fn run(self, mut lease: Lease) {
        lease.become_listener();
        let mut table = Table::default();
        if let Some(inbox) = self.inbox {
            for channel in self.channels {
                table.members.entry(channel).or_default().push(Member { inbox: inbox.clone(), from: None });
            }
        }
        tokio::spawn(Task { lease, table, orders: self.orders }.run());
    }
}

/// Where a moment's mark ends among these messages.
pub(super) fn position(messages: &[u8], moment: u64) -> Option<usize> {
    let mut at = 0;
    while let Ok(Some(header)) = Header::peek(messages.get(at..)?, tag::limit) {
        let body = messages.get(at + HEADER..at + header.total)?;
        if mark(body) == Some(moment) {
            return Some(at);
        }
        at += header.total;
    }
    None
}

/// The moment that a NotificationResponse marks.
fn mark(body: &[u8]) -> Option<u64> {
    let payload = body.get(4..)?.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"\0")?.strip_suffix(b"\0")?;
    std::str::from_utf8(payload).ok()?.parse().ok()
}

/// Who listens to what.
#[derive(Default)]
struct Table {
    members: HashMap<String, Vec<Member>>,
}

struct Member {
    inbox: Arc<Inbox>,
    /// It hears from this moment on.
    from: Option<u64>,
}

impl Table {
    /// Removes a client's entries where `is_meant`; the channels that nobody wants any more.
    fn remove(&mut self, client: u64, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let mut unwanted = Vec::new();
        self.members.retain(|channel, members| {
            if is_meant(channel) {
                members.retain(|member| member.inbox.client() != client);
            }
            if members.is_empty() {
                unwanted.push(channel.clone());
            }
            !members.is_empty()
        });
        unwanted
    }

    /// Passes a NotificationResponse on.
    fn dispatch(&mut self, message: &[u8]) {
        let body = message.get(HEADER..).unwrap_or_default();
        if let Some(moment) = mark(body) {
            for member in self.members.values_mut().flatten() {
                member.from.take_if(|from| *from == moment);
            }
            return;
        }
        let channel = tag::notification(body).and_then(|(_, channel)| std::str::from_utf8(channel).ok());
        if let Some(members) = channel.and_then(|channel| self.members.get(channel)) {
            let message: Arc<[u8]> = message.into();
            members.iter().filter(|member| member.from.is_none()).for_each(|member| member.inbox.push(&message));
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.members.values().flatten().for_each(|member| member.inbox.lose());
    }
}

struct Task {
    lease: Lease,
    table: Table,
    orders: UnboundedReceiver<Order>,
}

impl Task {
    async fn run(mut self) {
        match self.listen().await {
            Ok(()) => {
                // Nobody listens any more.
                self.lease.clean().await;
                self.lease.release();
            }
            Err(error) => {
                tracing::warn!(backend = self.lease.identity.pid, "the listener was lost: {error}");
                self.lease.broken = true;
            }
        }
    }

    async fn listen(&mut self) -> io::Result<()> {
        // In a text of its own: the last owner's time limit still bears on it, and not on the next.
        self.ask("RESET ALL").await?;
        self.ask(&format!("{SETTLE}; LISTEN {}", quoted(&MARKER))).await?;
        self.lease.forget_own_statements();
        let mut round = tokio::time::interval(ROUND);
        let mut batch = Vec::new();
        while !self.table.members.is_empty() {
            tokio::select! {
                count = self.orders.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    self.obey(std::mem::take(&mut batch)).await?;
                }
                heard = self.lease.socket.message(tag::limit) => {
                    let header = heard?;
                    self.hear(header)?;
                }
                _ = round.tick() => {
                    if !self.lease.may_listen() {
                        return Err(io::Error::other("the pool has no place for it any more"));
                    }
                }
            }
        }
        // Who joins now gets no answer, and asks for a new listener.
        self.orders.close();
        Ok(())
    }

    /// Carries out orders, all at once.
    async fn obey(&mut self, orders: Vec<Order>) -> io::Result<()> {
        let mut text = String::new();
        let mut put = |word: &str, channel: &str| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{word} {};", quoted(channel));
        };
        let (mut joined, mut barriers) = (Vec::new(), Vec::new());
        for order in orders {
            match order {
                Order::Join { inbox, channels, moment, done } => {
                    for channel in channels {
                        let members = self.table.members.entry(channel.clone()).or_default();
                        if members.is_empty() {
                            put("LISTEN", &channel);
                        }
                        if members.iter().all(|member| member.inbox.client() != inbox.client()) {
                            members.push(Member { inbox: inbox.clone(), from: Some(moment) });
                        }
                    }
                    joined.push(done);
                }
                Order::Leave { client, channels } => {
                    let unwanted = self.table.remove(client, |channel| channels.iter().any(|left| left == channel));
                    unwanted.iter().for_each(|channel| put("UNLISTEN", channel));
                }
                Order::Gone { client } => {
                    self.table.remove(client, |_| true).iter().for_each(|channel| put("UNLISTEN", channel));
                }
                Order::Barrier { inbox, number } => barriers.push((inbox, number)),
            }
        }
        if !barriers.is_empty() {
            // Notifications are told in the order of their commits: behind this one all are here (`async.c`).
            put("NOTIFY", &MARKER);
        }
        if !text.is_empty() {
            self.ask(&text).await?;
        }
        for done in joined {
            // Who has left meanwhile says so by an order of its own.
            let _ = done.send(());
        }
        barriers.into_iter().for_each(|(inbox, number)| inbox.pass(number));
        Ok(())
    }

    /// Runs a text, and hears what comes meanwhile.
    async fn ask(&mut self, text: &str) -> io::Result<()> {
        postgres_protocol::message::frontend::query(text, self.lease.socket.output())?;
        tokio::time::timeout(PATIENCE, async {
            self.lease.socket.flush().await?;
            loop {
                let header = self.lease.socket.message(tag::limit).await?;
                if self.hear(header)? {
                    return Ok(());
                }
            }
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// One message. `true`: ReadyForQuery.
    fn hear(&mut self, header: Header) -> io::Result<bool> {
        let message = self.lease.socket.unseen().get(..header.total).unwrap_or_default();
        match header.tag {
            tag::NOTIFICATION => self.table.dispatch(message),
            tag::ERROR => {
                return Err(io::Error::other(
                    ErrorFields::decode(message.get(HEADER..).unwrap_or_default()).into_error(),
                ));
            }
            _ => {}
        }
        self.lease.socket.consume(header.total);
        self.lease.socket.give_back();
        Ok(header.tag == tag::READY)
    }
}
