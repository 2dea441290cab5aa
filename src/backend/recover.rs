//! Getting a backend back from a client that vanished in the middle of something.

use std::pin::pin;
use std::time::Duration;

use postgres_protocol::message::frontend;

use super::{Backend, cancel};
use crate::wire::backend::{self as tag, Status};
use crate::wire::{HEADER, Header};

/// How long a backend may take to stop what it does; then it is closed instead.
const PATIENCE: Duration = Duration::from_secs(10);

/// A statement that is cancelled ends within milliseconds; after this it has not heard of it.
const AGAIN: Duration = Duration::from_millis(250);

/// Where the vanished client left the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// ReadyForQuery messages that are still to come.
    pub outstanding: usize,
    /// Extended-protocol messages were sent without a Sync behind them.
    pub open_batch: bool,
    /// The backend waits for COPY data.
    pub copy_in: bool,
    /// A message to the backend was cut off in the middle: nothing can be said to it any more.
    pub torn: bool,
    /// Bytes still to come of a message from the backend.
    pub rest: usize,
    /// What runs may finish: the client said goodbye properly.
    pub polite: bool,
}

impl Backend {
    /// Ends what runs, rolls back, and returns with the backend idle, or marked broken.
    pub async fn recover(&mut self, unfinished: Unfinished) {
        let running = unfinished.outstanding > 0 || unfinished.open_batch || unfinished.copy_in;
        if unfinished.torn {
            self.broken = true;
            if running {
                // It looks at its socket, and so notices that we close it, only when it is done.
                let _ = cancel(&self.identity).await;
            }
            return;
        }
        let recovered = async {
            if running && !unfinished.polite && cancel(&self.identity).await.is_err() {
                return false;
            }
            if unfinished.copy_in && frontend::copy_fail("the client has gone away", self.socket.output()).is_err() {
                return false;
            }
            // A Sync alone would commit what nobody asked to: fail first, with a portal that cannot be.
            if unfinished.open_batch && frontend::execute("pgfunnel: abandoned", 0, self.socket.output()).is_err() {
                return false;
            }
            let mut awaited = unfinished.outstanding;
            if unfinished.open_batch || (unfinished.copy_in && awaited == 0) {
                frontend::sync(self.socket.output());
                awaited += 1;
            }
            let cancels = running && !unfinished.polite;
            if !self.pass_over(unfinished.rest).await || !self.drain_cancelling(awaited, cancels).await {
                return false;
            }
            if cancels {
                // The signal may come late; it must not hit the next owner.
                self.barrier().await;
            }
            if self.status != Status::Idle {
                if frontend::query("ROLLBACK", self.socket.output()).is_err() {
                    return false;
                }
                let _ = self.collect().await;
            }
            !self.broken && self.status == Status::Idle
        };
        // A polite client's last statement may take as long as it takes elsewhere: the pool's own limits apply.
        let patience = if unfinished.polite { PATIENCE * 6 } else { PATIENCE };
        if !tokio::time::timeout(patience, recovered).await.unwrap_or(false) {
            self.broken = true;
        }
    }

    /// [`Backend::drain`]; if it takes long, what runs is cancelled again: PostgreSQL ignores a cancel that comes before the
    /// statement that it was meant for.
    async fn drain_cancelling(&mut self, count: usize, cancels: bool) -> bool {
        let identity = self.identity.clone();
        let mut drain = pin!(self.drain(count));
        loop {
            match tokio::time::timeout(AGAIN, &mut drain).await {
                Ok(drained) => return drained,
                // To its end: one that was broken off could still come to the next owner.
                Err(_) if cancels && cancel(&identity).await.is_err() => return false,
                Err(_) => {}
            }
        }
    }

    /// Reads and drops everything up to the `count`th ReadyForQuery.
    async fn drain(&mut self, count: usize) -> bool {
        if self.socket.flush().await.is_err() {
            return false;
        }
        for _ in 0..count {
            loop {
                let Ok(header) = self.next_header().await else { return false };
                match header.tag {
                    tag::READY => {
                        if self.socket.fill_to(header.total).await.is_err() {
                            return false;
                        }
                        let body = self.socket.unseen().get(HEADER..header.total).unwrap_or_default();
                        let Ok(status) = Status::decode(body) else { return false };
                        self.status = status;
                        self.socket.consume(header.total);
                        break;
                    }
                    // A COPY that begins only now gets no data from anybody.
                    tag::COPY_IN => {
                        if frontend::copy_fail("the client has gone away", self.socket.output()).is_err()
                            || self.socket.flush().await.is_err()
                            || !self.pass_over(header.total).await
                        {
                            return false;
                        }
                    }
                    _ => {
                        if !self.pass_over(header.total).await {
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    async fn next_header(&mut self) -> std::io::Result<Header> {
        self.socket.fill_to(HEADER).await?;
        Header::peek(self.socket.unseen(), tag::limit)
            .map_err(std::io::Error::other)?
            .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }

    /// Drops a message as it arrives, however large.
    async fn pass_over(&mut self, mut bytes: usize) -> bool {
        while bytes > 0 {
            if self.socket.fill_to(1).await.is_err() {
                return false;
            }
            let now = self.socket.unseen().len().min(bytes);
            self.socket.consume(now);
            bytes -= now;
        }
        true
    }
}
