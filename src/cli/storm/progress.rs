//! The progress bar, on stderr and only if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::Tally;

const TICK: Duration = Duration::from_millis(200);

/// Counts environments that have ended.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(environments: u32) -> Self {
        // indicatif draws to stderr, and nothing at all unless that is a terminal.
        let bar = ProgressBar::new(u64::from(environments)).with_message("0 alive");
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} ended, {msg}, {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        if !bar.is_hidden() {
            // The clock goes on while everybody is frozen.
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    pub(super) fn show(&mut self, started: u32, tally: &Tally) {
        if self.0.is_hidden() {
            return;
        }
        let living = u64::from(started).saturating_sub(tally.ended());
        self.0.set_position(tally.ended());
        self.0.set_message(format!("{living} alive, {} failed", tally.failed()));
    }

    pub(super) fn finish(self) {
        self.0.finish_and_clear();
    }
}
