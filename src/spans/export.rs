//! The way to the collector: a bounded queue, and a thread of its own that sends what is in it, so that neither a slow
//! collector nor the encoding takes time from clients.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};

use super::Query;
use crate::clock::Moment;
use crate::log::counted;

/// Queries that wait to be exported; a collector that is down for longer loses the rest.
const QUEUED: usize = 2048;

/// Queries of one request.
const BATCH: usize = 256;

/// How long they wait for more to come.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Less is what it takes to hand over an idle backend.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// How long it may take for the last ones, when the process ends.
const LAST: Duration = Duration::from_secs(1);

enum Message {
    Query(Box<Query>),
    /// The last one: answered when all before it are sent.
    Finish(oneshot::Sender<()>),
}

static QUEUE: OnceLock<mpsc::Sender<Message>> = OnceLock::new();

/// Queries that found the queue full, since that was told.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Whether spans are exported.
#[inline]
pub fn is_on() -> bool {
    QUEUE.get().is_some()
}

/// Exports the spans of a query, if there is time for it.
pub fn send(query: Query) {
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Message::Query(Box::new(query))).is_err()
    {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// From now on spans go to the collector at this URL.
///
/// # Errors
/// There cannot be such an exporter, or no thread for it.
pub fn start(endpoint: &str) -> Result<(), String> {
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    exporter.set_resource(&Resource::builder().with_service_name("pgfunnel").with_attribute(version).build());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::channel(QUEUED);
    std::thread::Builder::new()
        .name("otlp".to_owned())
        .spawn(move || runtime.block_on(export(receiver, exporter)))
        .map_err(|error| error.to_string())?;
    let _ = QUEUE.set(sender);
    Ok(())
}

/// Sends what is still queued, if the collector takes it in time.
pub async fn finish() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, told) = oneshot::channel();
    let last = async {
        if queue.send(Message::Finish(done)).await.is_ok() {
            let _ = told.await;
        }
    };
    let _ = tokio::time::timeout(LAST, last).await;
}

async fn export(mut queue: mpsc::Receiver<Message>, exporter: opentelemetry_otlp::SpanExporter) {
    let mut messages = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut messages, BATCH).await > 0 {
        let is_last = |messages: &[Message]| matches!(messages.last(), Some(Message::Finish(_)));
        if messages.len() < BATCH && !is_last(&messages) {
            let more = async {
                while messages.len() < BATCH && !is_last(&messages) {
                    let room = BATCH - messages.len();
                    queue.recv_many(&mut messages, room).await;
                }
            };
            let _ = tokio::time::timeout(PAUSE, more).await;
        }
        let (mut spans, mut finished) = (Vec::new(), None);
        for message in messages.drain(..) {
            match message {
                Message::Query(query) => spans.extend(spans_of(*query)),
                Message::Finish(done) => finished = Some(done),
            }
        }
        let count = spans.len();
        if count > 0
            && let Err(error) = exporter.export(spans).await
        {
            counted!(WARN, "spans could not be exported", "", "", {}, "{count} of them: {error}");
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            counted!(WARN, "spans were dropped", "", "", {}, "of {dropped} queries: the collector is too slow");
        }
        if let Some(done) = finished {
            let _ = done.send(());
        }
    }
}

/// Its wait for a backend, if there was one, and the database's time, if there was a backend.
fn spans_of(query: Query) -> impl Iterator<Item = SpanData> {
    let (now, moment) = (SystemTime::now(), Moment::now());
    let time = |at: Moment| now - moment.since(at);
    let waited = query.served.is_none_or(|served| served.since(query.asked) >= SHORTEST_WAIT);
    let until = query.served.unwrap_or(query.answered);
    let wait = waited.then(|| span(&query, "wait", time(query.asked)..time(until)));
    let backend = query.served.map(|served| span(&query, "backend", time(served)..time(query.answered)));
    wait.into_iter().chain(backend)
}

/// Attributes are named by OpenTelemetry's semantic conventions for databases; those that it has no name for are ours.
fn span(query: &Query, name: &'static str, times: Range<SystemTime>) -> SpanData {
    // What fails in the database was granted a backend.
    let failed = query.sqlstate.as_deref().filter(|_| name == "backend" || query.served.is_none());
    let mut attributes = vec![
        KeyValue::new("db.system.name", "postgresql"),
        KeyValue::new("db.namespace", query.database.clone()),
        KeyValue::new("pgfunnel.user", query.user.clone()),
        KeyValue::new("pgfunnel.pool", format!("{}/{}", query.database, query.user)),
        KeyValue::new("pgfunnel.application", query.application.clone()),
        KeyValue::new("pgfunnel.outcome", if failed.is_some() { "failed" } else { "ok" }),
    ];
    attributes.extend(query.command.first().map(|command| KeyValue::new("db.operation.name", command)));
    if let Some(sqlstate) = failed {
        attributes.push(KeyValue::new("db.response.status_code", sqlstate.to_owned()));
        attributes.push(KeyValue::new("error.type", sqlstate.to_owned()));
    }
    let trace = TraceId::from_bytes(query.parent.trace_id().to_be_bytes());
    let id = RandomIdGenerator::default().new_span_id();
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: SpanId::from_bytes(query.parent.span_id().to_be_bytes()),
        parent_span_is_remote: true,
        span_kind: if name == "backend" { SpanKind::Client } else { SpanKind::Internal },
        name: name.into(),
        start_time: times.start,
        end_time: times.end,
        attributes,
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: if failed.is_some() { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("pgfunnel").build(),
    }
}
