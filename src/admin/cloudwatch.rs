//! Metrics for CloudWatch: lines on stdout, which whoever runs the process takes to CloudWatch Logs. A thread of its own
//! writes them, so that a pipe that nobody reads stops nobody.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{Watched, look};
use crate::config::CloudWatch;
use crate::metrics::counterparts::{self, Interval};
use crate::metrics::reading::Reading;
use crate::metrics::{emf, metrics};

/// How long the last lines may take at the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// A task that reports until it is ended.
pub struct Reporter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Reporter {
    /// Begins to report.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(watched: Arc<Watched>, settings: CloudWatch) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let report = Report { watched, settings, before: read(), since: Instant::now(), stdout: Stdout::open()? };
        Ok(Self { stop, task: tokio::spawn(report.run(stopped)) })
    }

    /// Reports what is left of the last interval.
    pub async fn end(self) {
        // If the task is gone there is nothing to end.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// What has been reported, and where to.
struct Report {
    watched: Arc<Watched>,
    settings: CloudWatch,
    before: Reading,
    since: Instant,
    stdout: Stdout,
}

impl Report {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = interval_at(self.since + self.settings.interval, self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.say(),
                _ = &mut stopped => break,
            }
        }
        self.say();
        if !self.stdout.close().await {
            tracing::warn!("the last metrics for CloudWatch are lost: nobody reads stdout");
        }
    }

    /// Says what has been since the last time that it could be said: what nobody reads is told with the next interval.
    fn say(&mut self) {
        look(&self.watched);
        let (now, at) = (read(), Instant::now());
        let gained = now.since(&self.before);
        let interval = Interval { now: &now, gained: &gained, seconds: (at - self.since).as_secs_f64() };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let config = self.watched.registry.config();
        let named = |database: &str| config.databases.contains_key(database);
        let text = emf::lines(&self.settings, &interval, u64::try_from(time).unwrap_or(u64::MAX), named);
        if self.stdout.put(text) {
            (self.before, self.since) = (now, at);
        }
    }
}

fn read() -> Reading {
    metrics().read(&counterparts::needed())
}

/// The process's standard output.
struct Stdout {
    lines: Option<SyncSender<String>>,
    done: oneshot::Receiver<()>,
}

impl Stdout {
    fn open() -> io::Result<Self> {
        // One text waits while another is being written; more would only be older.
        let (lines, queue) = sync_channel::<String>(1);
        let (tell, done) = oneshot::channel();
        std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            for text in queue {
                let mut out = io::stdout().lock();
                if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                    tracing::warn!("no more metrics for CloudWatch: stdout cannot be written to: {error}");
                    return;
                }
            }
            // Nobody may be waiting for it.
            let _ = tell.send(());
        })?;
        Ok(Self { lines: Some(lines), done })
    }

    /// `false`: it is full.
    fn put(&mut self, text: String) -> bool {
        match self.lines.as_ref().map(|lines| lines.try_send(text)) {
            Some(Err(TrySendError::Full(_))) => false,
            // Closed: it has been said that there will be no more.
            _ => true,
        }
    }

    /// Waits until everything is written. `false`: it was not.
    async fn close(mut self) -> bool {
        self.lines = None;
        timeout(PATIENCE, &mut self.done).await.is_ok_and(|done| done.is_ok())
    }
}
