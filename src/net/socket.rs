//! A transport with what was received and not yet used, and what is to be sent. A prefix of the received bytes can be
//! marked as passed: it goes to another socket verbatim, without a copy when nothing else waits to be sent there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::Io;
use super::buffer::Buffer;
use crate::error::Error;
use crate::wire::Header;

/// A passed run up to this size is joined with what already waits, so that both go out in one write.
const JOIN: usize = 4 * 1024;

/// Room for what pgfunnel says itself, at first.
const OUTPUT: usize = 1024;

/// One connection and its bytes.
#[derive(Debug)]
pub struct Socket {
    io: Io,
    input: Buffer,
    output: BytesMut,
    /// TLS may hold bytes that were written.
    unflushed: bool,
    /// Bytes sent and received since they were counted last.
    sent: u64,
    received: u64,
}

impl Socket {
    /// A connection with nothing received and nothing to send.
    pub fn new(io: Io) -> Self {
        Self { io, input: Buffer::default(), output: BytesMut::new(), unflushed: false, sent: 0, received: 0 }
    }

    /// The transport.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// The transport again, to change it (TLS). Nothing has been received but what [`Socket::read_exactly`] has read.
    pub fn into_io(self) -> Io {
        debug_assert!(self.input.is_empty());
        self.io
    }

    /// What was received and neither passed nor skipped.
    #[inline]
    pub fn unseen(&self) -> &[u8] {
        self.input.unseen()
    }

    /// The same, to change it in place.
    pub fn unseen_mut(&mut self) -> &mut [u8] {
        self.input.unseen_mut()
    }

    /// Where to append what is to be sent.
    pub fn output(&mut self) -> &mut BytesMut {
        if self.output.capacity() == 0 {
            self.output = BytesMut::with_capacity(OUTPUT);
        }
        &mut self.output
    }

    /// Whether anything still waits to be sent.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// Bytes waiting to be sent.
    #[inline]
    pub fn backlog(&self) -> usize {
        self.output.len()
    }

    /// Bytes sent since they were counted last: a measure of progress.
    #[inline]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes received and sent since this was asked last.
    #[inline]
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.received), std::mem::take(&mut self.sent))
    }

    /// Whether passed bytes still wait to be forwarded.
    #[inline]
    pub fn has_passed(&self) -> bool {
        self.input.has_passed()
    }

    /// Marks the next `n` unseen bytes as passed.
    #[inline]
    pub fn pass(&mut self, n: usize) {
        self.input.pass(n);
    }

    /// Drops the next `n` unseen bytes. What was passed before them must go to `to` first, to keep the order.
    pub fn skip(&mut self, n: usize, to: &mut Socket) {
        self.join(to);
        self.input.advance(n);
    }

    /// Copies what was passed to the end of `to`'s output, so that more can be appended behind it.
    pub fn join(&mut self, to: &mut Socket) {
        let passed = self.input.passed();
        if !passed.is_empty() {
            to.output().extend_from_slice(passed);
            let n = passed.len();
            self.input.advance(n);
        }
    }

    /// Drops the next `n` unseen bytes of a socket that passes nothing.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(!self.has_passed());
        self.input.advance(n);
    }

    /// Reads once. `Ready(0)` is the end of the stream. While nothing arrives and nothing is kept, no buffer is held.
    #[inline]
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.input.room());
        match Pin::new(&mut self.io).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) => {
                let n = room.filled().len();
                self.input.add(n);
                self.received += n as u64;
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.input.give_back();
                Poll::Pending
            }
        }
    }

    /// Returns the buffers of a connection that goes idle.
    #[inline]
    pub fn give_back(&mut self) {
        self.input.give_back();
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.output = BytesMut::new();
        }
    }

    /// Sends what waits.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if n == self.output.len() {
                // Unlike `advance`, this leaves all of its room.
                self.output.clear();
            } else {
                self.output.advance(n);
            }
            self.sent += n as u64;
            self.unflushed = self.io.is_tls();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what waits. Not cancel-safe in what was sent, but nothing is lost or sent twice.
    ///
    /// # Errors
    /// The transport's.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Waits until `n` bytes are unseen. Cancel-safe.
    ///
    /// # Errors
    /// The transport's; `UnexpectedEof` if it ends before.
    pub async fn fill_to(&mut self, n: usize) -> io::Result<()> {
        while self.unseen().len() < n {
            if std::future::poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads exactly `n` bytes and not one more, for what comes before TLS (CVE-2021-3935).
    ///
    /// # Errors
    /// The transport's; `UnexpectedEof` if it ends before.
    pub async fn read_exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.io.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Waits for the next message to be there whole, and returns its header; the message is still unseen. For login
    /// and our own questions, never for relaying. Cancel-safe.
    ///
    /// # Errors
    /// The transport's, or `InvalidData` carrying an [`Error`] for a length that `limit` does not allow.
    pub async fn message(&mut self, limit: fn(u8) -> usize) -> io::Result<Header> {
        let invalid = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            if let Some(header) = Header::peek(self.unseen(), limit).map_err(invalid)? {
                self.fill_to(header.total).await?;
                return Ok(header);
            }
            let have = self.unseen().len();
            self.fill_to(have + 1).await?;
        }
    }

    /// Ends our direction; the peer sees the end of the stream.
    pub async fn shutdown(&mut self) {
        // The peer may be gone already; then there is nothing to end.
        let _ = self.io.shutdown().await;
    }
}

/// Sends `to`'s output and then what `from` passed, with as few writes and copies as can be. `Ready` when all of it is
/// out.
#[inline]
pub fn poll_forward(from: &mut Socket, to: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    if from.has_passed() {
        if !to.output.is_empty() && from.input.passed().len() <= JOIN {
            from.join(to);
        }
        if !to.is_flushed() {
            ready!(to.poll_flush(cx))?;
        }
        while from.has_passed() {
            let n = ready!(Pin::new(&mut to.io).poll_write(cx, from.input.passed()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            from.input.advance(n);
            to.sent += n as u64;
            to.unflushed = to.io.is_tls();
        }
    }
    if to.is_flushed() { Poll::Ready(Ok(())) } else { to.poll_flush(cx) }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
