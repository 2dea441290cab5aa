//! Every metric that there is, as a scrape shows it.

use std::time::Duration;

use pgfunnel::error::Error;
use pgfunnel::metrics::metrics;

use super::Result;

/// A scrape of this process in which each metric has a sample, with all its labels.
pub fn exposition() -> Result<String> {
    let all = metrics();
    let _ = all.pool("d", "u");
    let _ = all.cancels.with_label_values(&["o"]);
    all.show_config(0.0, "h", 1);
    all.callers.show([("a", "u", [0; 5], Duration::ZERO, Duration::ZERO)].into_iter());
    all.count_pin("r");
    all.count_refusal("s");
    all.count_timeout("s");
    all.count_connect_error(&Error::protocol("m"));
    all.observe_login(Duration::ZERO, Duration::ZERO);
    all.count_error(&Error::protocol("m"));
    all.count_login("ok");
    all.show_workers(&tokio::runtime::Runtime::new()?.metrics());
    Ok(all.render())
}
