//! Where log lines go: a thread of its own writes them to stderr, so that a pipe that nobody reads holds nobody up, and a
//! full disk ends nobody. What cannot be written is lost, and counted.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::metrics;

/// Lines that wait to be written; some seconds of a storm.
const MOST: usize = 4096;

/// How long the last lines may take to get out.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the thread is sent.
enum Item {
    Line(Vec<u8>),
    /// Everything before it is written: tell who waits for that.
    Flush(SyncSender<()>),
}

/// Takes lines, and never waits.
#[derive(Clone)]
pub struct Stderr(SyncSender<Item>);

/// Dropped, it waits until what was logged is written, if somebody reads.
#[must_use]
pub struct Flush(SyncSender<Item>);

impl Stderr {
    /// Begins to write what it is given.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn open() -> io::Result<(Self, Flush)> {
        let (items, queue) = sync_channel(MOST);
        std::thread::Builder::new().name("stderr".to_owned()).spawn(move || write_all(&queue, io::stderr()))?;
        Ok((Self(items.clone()), Flush(items)))
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Item::Line(line.to_vec())).is_err() {
            metrics().log_lines_lost.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (tell, told) = sync_channel(1);
        // Where there is no room, nobody reads.
        if self.0.try_send(Item::Flush(tell)).is_ok() {
            let _ = told.recv_timeout(PATIENCE);
        }
    }
}

fn write_all(queue: &Receiver<Item>, mut out: impl Write) {
    let mut is_torn = false;
    for item in queue {
        match item {
            Item::Line(mut line) => {
                if is_torn {
                    line.insert(0, b'\n');
                }
                is_torn = out.write_all(&line).is_err();
                if is_torn {
                    metrics().log_lines_lost.inc();
                }
            }
            // Nobody may be waiting any more.
            Item::Flush(tell) => drop(tell.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes every second write.
    #[derive(Default)]
    struct Full(Vec<u8>, bool);

    impl Write for Full {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if !self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_costs_that_line() {
        let (items, queue) = sync_channel(8);
        let mut stderr = Stderr(items);
        for line in ["one\n", "two\n", "three\n"] {
            stderr.write_all(line.as_bytes()).unwrap();
        }
        drop(stderr);
        let mut out = Full::default();
        write_all(&queue, &mut out);
        assert_eq!(String::from_utf8(out.0).unwrap(), "one\n\nthree\n");
    }

    #[test]
    fn what_nobody_reads_holds_nobody_up() {
        let (items, _queue) = sync_channel(2);
        let mut stderr = Stderr(items.clone());
        (0..10).for_each(|_| stderr.write_all(b"line\n").unwrap());
        // Nor at the end.
        drop(Flush(items));
    }
}
