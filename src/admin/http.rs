//! The HTTP port: `/healthz` and `/readyz` for everybody, the live page and the metrics for those who may see them.
//! Bounded in connections, and in the time that one may take to say what it wants; a connection carries one request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

use super::access::{Denied, Visitor, admit};
use super::live::Live;
use super::room::{Room, Unheard};
use super::{Watched, scrape};
use crate::log::counted;

/// From connecting to the end of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What nobody acknowledges for so long goes to nobody.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Nothing from elsewhere, nothing by others, nothing kept.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, watched: Arc<Watched>) {
    let router = router(&watched);
    let room = Room::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                counted!(WARN, "the HTTP port cannot accept", "", "", {}, "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // One too many is closed: it must not keep those out that are being answered.
        let Some(place) = room.enter(peer.ip()).await else { continue };
        let router = router.clone().layer(Extension(peer));
        room.spawn(place, |unheard| async move {
            // What breaks is the visitor's connection, and its own affair.
            let _ = converse(stream, router, unheard).await;
        });
    }
}

async fn converse(stream: TcpStream, router: Router, unheard: Unheard) -> io::Result<()> {
    let socket = SockRef::from(&stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED))?;
    stream.set_nodelay(true)?;
    let router = TowerToHyperService::new(router);
    let answer = service_fn(|request| {
        unheard.heard();
        router.call(request)
    });
    let mut http = http1::Builder::new();
    // One request each: whoever is between two would be neither silent nor being answered.
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), answer).await.map_err(io::Error::other)
}

fn router(watched: &Arc<Watched>) -> Router {
    let file =
        |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    let live = Live::start(watched.clone());
    let guarded = Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/events", get(move || async move { live.watch() }))
        .route(
            "/history",
            get(|State(watched): State<Arc<Watched>>| async move { Json(super::live::history(&watched)) }),
        )
        .route("/metrics", get(|State(watched): State<Arc<Watched>>| async move { scrape(&watched).await }))
        .route_layer(from_fn_with_state(watched.clone(), guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(watched): State<Arc<Watched>>| async move { ready(&watched) }))
        .merge(guarded)
        .with_state(watched.clone())
}

fn ready(watched: &Watched) -> impl IntoResponse + use<> {
    if watched.readiness.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// Lets those in who may see it, and adds what keeps the page to itself.
async fn guard(
    State(watched): State<Arc<Watched>>,
    Extension(peer): Extension<SocketAddr>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let visitor = Visitor { peer: peer.ip(), authorization: text(header::AUTHORIZATION), host: text(header::HOST) };
    if let Err(denied) = admit(&watched.registry.config().http, visitor) {
        return refuse(denied);
    }
    let mut response = next.run(request).await;
    response.headers_mut().extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

fn refuse(denied: Denied) -> Response {
    match denied {
        Denied::Network | Denied::Host => (StatusCode::FORBIDDEN, denied.hint()).into_response(),
        Denied::Token => {
            let wanted = [(header::WWW_AUTHENTICATE, "Basic realm=\"pgfunnel\", charset=\"UTF-8\"")];
            (StatusCode::UNAUTHORIZED, wanted, denied.hint()).into_response()
        }
    }
}
