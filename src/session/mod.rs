//! The hot path: the life of one client's transactions. A request comes, a lease is borrowed, bytes are relayed, the
//! lease is released; read [`Session::run`] top-down. What single messages mean is in `requests` (from the client) and
//! `replies` (from the backend).
//!
//! One task per client polls both directions; nothing is buffered beyond one read, and an idle client holds no buffer.

mod errors;
mod expect;
mod handover;
mod lacking;
mod limits;
mod lines;
mod listening;
mod news;
mod own_replies;
mod parsed_under;
mod pipeline;
mod put_off;
mod query;
mod refusal;
mod replies;
mod requests;
mod said;
mod sequences;
mod settle;
mod shape;
mod sharing;
mod sql_names;
mod sql_own;
mod sql_state;
mod sql_statements;
mod state;
mod statements;
mod timing;

use std::io;
use std::task::{Context, Poll};

use crate::backend::Backend;
use crate::cancel::Order;
use crate::net::poll_forward;
use crate::wire::backend::{self, Severity};
use handover::NoLease;
pub(crate) use limits::told_to_leave;
use replies::Lost;
pub(crate) use requests::no_replication;
use requests::{Alone, Wish};
use state::LeaseEnd;
pub use state::{End, Session};

/// While more than this waits to be sent to one side, the other is not read.
const BACKLOG: usize = 64 * 1024;

/// Turns of relaying per wake-up, so that a busy client does not starve the others.
const TURNS: usize = 16;

impl Session {
    /// Serves the client until it leaves.
    pub async fn run(&mut self) -> End {
        let end = self.serve().await;
        if let End::Ended(Some(error)) = &end {
            self.note_error(error);
            self.log_error("session ended", error);
            // Behind half a message it would be read as the rest of that.
            if self.reply.rest() == 0 || self.reply.is_dropped {
                backend::error(self.client.output(), Severity::Fatal, error);
            }
        }
        match end {
            End::Gone => {}
            // Closing says all that there is to say.
            End::Left if self.client.is_flushed() && !self.client.io().is_tls() => {}
            _ => Box::pin(self.farewell()).await,
        }
        end
    }

    /// A client that does not read is not waited for.
    async fn farewell(&mut self) {
        let farewell = async {
            let _ = self.client.flush().await;
            self.client.shutdown().await;
        };
        let _ = tokio::time::timeout(limits::FAREWELL, farewell).await;
    }

    async fn serve(&mut self) -> End {
        loop {
            // 1. Wait, holding nothing.
            if let Err(end) = self.idle().await {
                return end;
            }
            // 2. Borrow. What is rare is boxed: an idle client's task is as large as its largest wait.
            self.timing.ask();
            let mut lease = match self.borrow_now() {
                Ok(lease) => lease,
                Err(there) => {
                    let borrowed = Box::pin(self.borrow(there)).await;
                    self.timing.rest();
                    match borrowed {
                        Ok(lease) => lease,
                        Err(NoLease::Refused(error)) => {
                            let _ = self.handle.detach();
                            self.refuse(&error);
                            continue;
                        }
                        Err(NoLease::Gone) => return End::Gone,
                    }
                }
            };
            // 3. and 4. Bring the backend to this client's state, and relay until the transaction is over; find out what
            // it has done to the session, if it may have done anything, and go on if that lives in this backend.
            let end = loop {
                match self.relay(&mut lease).await {
                    LeaseEnd::Done if self.must_settle() => match Box::pin(self.settle_and_count(&mut lease)).await {
                        Ok(()) if self.is_pinned() && self.handle.order() != Order::Drain => {}
                        Ok(()) => break LeaseEnd::Done,
                        Err(error) => break LeaseEnd::BackendLost(Lost::Confused(error.into_error())),
                    },
                    end => break end,
                }
            };
            // 5. and 6. Give it back, or get it back from a client that is gone.
            let lease = if matches!(end, LeaseEnd::Done) { self.give_back_now(lease) } else { Some(lease) };
            if let Some(lease) = lease {
                if let Some(end) = Box::pin(self.give_back(lease, end)).await {
                    return end;
                }
                self.timing.rest();
            }
        }
    }

    /// Waits for a message that needs a backend.
    fn idle(&mut self) -> impl Future<Output = Result<(), End>> {
        std::future::poll_fn(move |cx| {
            loop {
                match self.handle.order() {
                    Order::None => {}
                    order => return Poll::Ready(Err(End::Ended(Some(told_to_leave(order))))),
                }
                if self.may_tell_news()
                    && let Err(error) = self.tell_news()
                {
                    return Poll::Ready(Err(End::Ended(Some(error))));
                }
                match self.answer_alone() {
                    Ok(Alone::NeedsBackend) => return Poll::Ready(Ok(())),
                    Ok(Alone::Leaves) => return Poll::Ready(Err(End::Left)),
                    Ok(Alone::NeedsBytes) => {}
                    Err(error) => return Poll::Ready(Err(End::Ended(Some(error)))),
                }
                if !self.client.is_flushed() {
                    match self.client.poll_flush(cx) {
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                        Poll::Pending if self.is_called(cx) => continue,
                        // While it does not read, nothing more is read from it.
                        Poll::Pending => {
                            self.timing.rest();
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(())) => {}
                    }
                }
                if self.may_tell_news() {
                    continue;
                }
                match self.client.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(End::Gone)),
                    Poll::Pending if self.is_called(cx) => {}
                    Poll::Pending => {
                        self.client.give_back();
                        self.heed_settings();
                        let limit = self.settings.load().client_idle_timeout;
                        let idle = self.limits.poll(cx, limit, &mut self.timing);
                        self.timing.rest();
                        return idle.map(|()| Err(End::Ended(Some(limits::client_idle(limit)))));
                    }
                }
            }
        })
    }

    /// Listens for orders and news; whether there are some already that can be dealt with.
    #[inline]
    fn is_called(&self, cx: &mut Context<'_>) -> bool {
        self.handle.listen(cx.waker());
        self.handle.order() != Order::None || self.may_tell_news() && self.client.backlog() < BACKLOG
    }

    /// Relays both directions until the transaction is over, or something ends it.
    fn relay(&mut self, lease: &mut Backend) -> impl Future<Output = LeaseEnd> {
        std::future::poll_fn(move |cx| {
            for _ in 0..TURNS {
                match self.turn(lease, cx) {
                    Ok(true) => {}
                    Ok(false) => {
                        let limits = self.poll_limits(lease, cx);
                        self.timing.rest();
                        return limits.map(LeaseEnd::Ended);
                    }
                    Err(end) => return Poll::Ready(end),
                }
            }
            self.timing.rest();
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Handles what is there, sends what can be sent, reads what can be read. `false`: nothing moves before the next
    /// wake-up.
    #[inline]
    fn turn(&mut self, lease: &mut Backend, cx: &mut Context<'_>) -> Result<bool, LeaseEnd> {
        let order = self.handle.order();
        if order >= Order::Stop {
            return Err(LeaseEnd::Ended(told_to_leave(order)));
        }
        let mut leaving = false;
        let mut held_back = self.holds_back(lease);
        if !held_back {
            self.undecided = false;
            match self.take_requests(lease) {
                Ok(Wish::More) => {}
                // What it asked before is answered first.
                Ok(Wish::Leave) if self.pipeline.outstanding() > 0 => leaving = true,
                Ok(Wish::Leave) => return Err(LeaseEnd::ClientGone(true)),
                Err(error) => return Err(LeaseEnd::Ended(error)),
            }
            held_back = self.holds_back(lease);
            self.say_what_is_due(lease);
        }
        if self.has_news(lease) {
            lease.socket.join(&mut self.client);
            self.tell_news().map_err(LeaseEnd::Ended)?;
        }
        let sent = poll_forward(&mut self.client, &mut lease.socket, cx);
        if let Poll::Ready(Err(error)) = sent {
            // What it said before it went (FATAL) may still be there to read.
            return Err(self.last_words(lease, cx, error));
        }
        let mut moved = false;
        let reads = self.reads_backend(lease);
        if reads {
            match lease.socket.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    return Err(LeaseEnd::BackendLost(Lost::Broke(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Err(LeaseEnd::BackendLost(Lost::Broke(error))),
                Poll::Pending => {}
            }
        }
        let lost = match lease.socket.has_passed() {
            true => Ok(()),
            false => self.take_replies(lease),
        };
        match poll_forward(&mut lease.socket, &mut self.client, cx) {
            Poll::Ready(Err(_)) => return Err(LeaseEnd::ClientGone(leaving)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        lost.map_err(LeaseEnd::BackendLost)?;
        if self.is_over(lease) {
            return Err(LeaseEnd::Done);
        }
        if leaving && (self.pipeline.outstanding() == 0 || self.copy_in) {
            return Err(LeaseEnd::ClientGone(true));
        }
        moved |= !reads && self.reads_backend(lease) || held_back && !self.holds_back(lease);
        // Who waits for answers is listened to all the same: it may leave.
        let listens = !self.holds_back(lease) || self.waits_for_answers() && self.client.unseen().len() < BACKLOG;
        if !leaving && !self.client.has_passed() && listens {
            match self.client.poll_fill(cx) {
                // It has said all that it wanted, and is served to its end.
                Poll::Ready(Ok(0)) if self.says_goodbye() => {}
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(LeaseEnd::ClientGone(false)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    /// The backend takes nothing more: what it said last (FATAL) may still be there to read.
    #[cold]
    fn last_words(&mut self, lease: &mut Backend, cx: &mut Context<'_>, error: io::Error) -> LeaseEnd {
        loop {
            if let Err(lost) = self.take_replies(lease) {
                return LeaseEnd::BackendLost(lost);
            }
            match lease.socket.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                _ => return LeaseEnd::BackendLost(Lost::Broke(error)),
            }
        }
    }
}
