//! The listener: a task with a backend of its own. It carries out what clients order, and passes on what it hears.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::inbox::Inbox;
use super::table::Table;
use super::{MARKER, Running, Subscription, quoted};
use crate::cancel::Handle;
use crate::log::counted;
use crate::pool::Lease;
use crate::wire::backend::{self as tag, ErrorFields};
use crate::wire::{HEADER, Header};

/// How long PostgreSQL may take to obey. A `LISTEN` waits for nothing but the commits of other notifications.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the others wait for a client that has no room for more, and takes none of what it has.
const READING: Duration = Duration::from_secs(1);

/// How often it is looked whether the pool still wants this listener.
const ROUND: Duration = Duration::from_secs(1);

/// Orders that are carried out together.
const BATCH: usize = 100;

/// Statements that are said in one text.
const TEXT: usize = 500;

/// What clients want.
pub(super) enum Order {
    /// To hear these channels from a moment on (see [`super::hand_over`]).
    Join { inbox: Arc<Inbox>, channels: Vec<String>, moment: u64, done: oneshot::Sender<()> },
    /// To hear these no longer.
    Leave { client: u64, channels: Vec<String> },
    /// To hear nothing any more.
    Gone { client: u64 },
    /// To know that all that was sent until now has come.
    Echo { inbox: Arc<Inbox>, number: u64 },
}

/// Makes a session's backend the listener.
pub struct Start {
    listener: Running,
    orders: UnboundedReceiver<Order>,
    table: Table,
}

/// What takes a session's state away but what it listens to (manual, `DISCARD`), and the limits that would end it; those
/// that this version of PostgreSQL has.
const SETTLE: &str = "RESET SESSION AUTHORIZATION; CLOSE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DEALLOCATE ALL; DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP; \
     SELECT pg_catalog.set_config(name, value, false) FROM (VALUES ('statement_timeout', '0'), ('lock_timeout', '0'), \
     ('transaction_timeout', '0'), ('idle_session_timeout', '0'), ('client_encoding', 'UTF8')) own (name, value) \
     WHERE EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) own.name)";

impl Start {
    pub(super) fn new(listener: Running, orders: UnboundedReceiver<Order>) -> Self {
        Self { listener, orders, table: Table::default() }
    }

    /// The subscription of the client whose backend it will be, and which listens to these channels already.
    pub fn subscribe(&mut self, client: Arc<Handle>, channels: Vec<String>) -> Subscription {
        let mut subscription = Subscription::new(self.listener.clone(), client);
        subscription.note(&channels);
        self.table.enter(&subscription.inbox(), channels, None);
        subscription
    }

    /// Takes the backend. If that fails, all that have subscribed meanwhile learn that the listener is lost.
    pub fn run(self, mut lease: Lease) {
        // What came with the answers to our last questions.
        let heard = std::mem::take(&mut lease.notifications);
        let mut task = Task { lease, table: self.table, orders: self.orders, full: Vec::new() };
        super::each(&heard, |message| task.full.extend(task.table.dispatch(message)));
        tokio::spawn(task.run());
    }
}

struct Task {
    lease: Lease,
    table: Table,
    orders: UnboundedReceiver<Order>,
    /// Inboxes without room.
    full: Vec<Arc<Inbox>>,
}

impl Task {
    async fn run(mut self) {
        let outcome = self.listen().await;
        self.lease.end_listening();
        // Who joins now gets no answer, and asks for a new listener.
        drop(self.orders);
        match outcome {
            // Nobody listens any more.
            Ok(()) => {
                self.lease.clean().await;
                self.lease.release();
            }
            Err(error) => {
                let backend = self.lease.identity.pid;
                counted!(WARN, "a listening backend was lost", "", "", { backend, }, "{error}");
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
        while !self.table.is_empty() {
            tokio::select! {
                count = self.orders.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    self.obey(std::mem::take(&mut batch)).await?;
                }
                heard = self.lease.socket.message(tag::limit) => {
                    self.hear(heard?)?;
                    self.wait_for_room().await;
                }
                _ = round.tick() => {
                    self.table.give_up(PATIENCE);
                    if !self.lease.may_listen() {
                        return Err(io::Error::other("the pool has no place for it any more"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Carries out orders, all at once.
    async fn obey(&mut self, orders: Vec<Order>) -> io::Result<()> {
        let mut texts = Texts::default();
        let (mut joined, mut echoes) = (Vec::new(), Vec::new());
        for order in orders {
            match order {
                Order::Join { inbox, channels, moment, done } => {
                    texts.put("LISTEN", &self.table.enter(&inbox, channels, Some(moment)));
                    joined.push(done);
                }
                Order::Leave { client, channels } => texts.put("UNLISTEN", &self.table.leave(client, channels)),
                Order::Gone { client } => texts.put("UNLISTEN", &self.table.remove(client)),
                Order::Echo { inbox, number } => echoes.push((inbox, number)),
            }
        }
        if !echoes.is_empty() {
            // Notifications are told in the order of their commits: behind this one all are here (`async.c`).
            texts.put("NOTIFY", std::slice::from_ref(&*MARKER));
        }
        for text in texts.done {
            self.ask(&text).await?;
        }
        for done in joined {
            // Who has left meanwhile says so by an order of its own.
            let _ = done.send(());
        }
        echoes.into_iter().for_each(|(inbox, number)| inbox.echo(number));
        Ok(())
    }

    /// Runs a text, and hears what comes meanwhile.
    async fn ask(&mut self, text: &str) -> io::Result<()> {
        let limit = Instant::now() + PATIENCE;
        postgres_protocol::message::frontend::query(text, self.lease.socket.output())?;
        tokio::time::timeout_at(limit, self.lease.socket.flush()).await??;
        loop {
            let header = tokio::time::timeout_at(limit, self.lease.socket.message(tag::limit)).await??;
            if self.hear(header)? {
                return Ok(());
            }
            self.wait_for_room().await;
        }
    }

    /// One message. `true`: ReadyForQuery.
    fn hear(&mut self, header: Header) -> io::Result<bool> {
        let message = self.lease.socket.unseen().get(..header.total).unwrap_or_default();
        match header.tag {
            tag::NOTIFICATION => self.full.extend(self.table.dispatch(message)),
            tag::PARAMETER_STATUS => self.lease.note_parameter(header),
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

    /// Nothing more is heard while a client has no room for it; one that takes none of what it has is ended.
    async fn wait_for_room(&mut self) {
        let limit = Instant::now() + READING;
        for inbox in self.full.drain(..) {
            if tokio::time::timeout_at(limit, inbox.has_room()).await.is_err() {
                inbox.overflow();
            }
        }
    }
}

/// What is to be said, in texts that are not too long.
#[derive(Default)]
struct Texts {
    done: Vec<String>,
    statements: usize,
}

impl Texts {
    fn put(&mut self, word: &str, channels: &[String]) {
        for channel in channels {
            if self.statements.is_multiple_of(TEXT) {
                self.done.push(String::new());
            }
            self.statements += 1;
            if let Some(text) = self.done.last_mut() {
                // Writing to a String cannot fail.
                let _ = write!(text, "{word} {};", quoted(channel));
            }
        }
    }
}
