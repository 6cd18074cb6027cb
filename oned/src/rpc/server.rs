//! The HTTP server: connections, requests, deadlines and the end.
//!
//! Invariants: handlers run on blocking threads, at most [`Limits::calls_at_once`] of them; a body is counted while it is
//! read and at most [`BIG_BODIES`] bodies above [`SMALL_BODY_BYTES`] are held at a time; a connection that sends or takes
//! nothing ends, and when all places are taken one that has not sent a whole request gives its own to a newcomer (see
//! [`super::places`]); after the shutdown signal no new connection is accepted, running calls may finish until the deadline.

use super::answer::AnswerBody;
use super::codec::{self, Fault};
use super::exchange::{Exchange, Outcome};
use super::method::{Door, Method, check_table};
use super::places::{Place, Places, Told};
use super::scrape::{self, PATH as METRICS};
use super::stall::StallGuard;
use super::tls::Tls;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method as Verb, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Bodies up to this size need no permit: connections × this size is memory we can spare.
const SMALL_BODY_BYTES: usize = 1 << 20;

/// Bodies above [`SMALL_BODY_BYTES`] that may be in memory at the same time. The session is inside the body, so a
/// stranger can send big ones; this times MESSAGE_SIZE is the most memory that costs.
const BIG_BODIES: usize = 4;

/// A sender must be at least this fast (bytes per second) once its first TIMEOUT seconds are over.
const SLOWEST_SENDER: usize = 64 * 1024;

/// Refused sessions that are being slowed down at the same time; with the delay this bounds the guesses per second.
const SLOWED_REFUSALS: usize = 8;

/// Bytes of an oversized body that are read and dropped so that the client sees our answer and no reset connection.
const DRAINED_BYTES: usize = 256 << 20;

/// What a stranger may make grow, and for how long we wait.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body in bytes (MESSAGE_SIZE).
    pub message_bytes: usize,
    /// Connections at a time (MAX_CONN). Further ones take the place of one that asks nothing, or wait in the kernel's
    /// queue when all have asked.
    pub connections: usize,
    /// Calls that run at the same time; further ones wait.
    pub calls_at_once: usize,
    /// How long a connection may be idle, or take for a TLS handshake or to send a request's head (KEEPALIVE_TIMEOUT).
    pub idle: Duration,
    /// Requests after which a connection is closed (KEEPALIVE_MAX_CONN).
    pub requests_per_connection: usize,
    /// How long a sender or a reader may stall (TIMEOUT).
    pub stall: Duration,
    /// How long running calls may take after the shutdown signal (SHUTDOWN_TIMEOUT).
    pub shutdown: Duration,
    /// Calls in one `system.multicall`.
    pub multicall_calls: usize,
    /// Bytes in the answers of one `system.multicall`; the calls after the answer that goes beyond are not made.
    pub multicall_bytes: usize,
    /// Answers that list whole pools, being made or sent at the same time: the only ones that grow with the cloud.
    pub whole_pools: usize,
    /// How long such a call waits for the ones before it.
    pub pool_patience: Duration,
    /// How long a connection may ask nothing before it can lose its place to another, when all places are taken.
    pub grace: Duration,
    /// How long the answer to a refused session is held back.
    pub refusal_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 << 20,
            connections: 128,
            calls_at_once: 32,
            idle: Duration::from_secs(15),
            requests_per_connection: 1000,
            stall: Duration::from_secs(15),
            shutdown: Duration::from_secs(30),
            multicall_calls: 1000,
            multicall_bytes: 64 << 20,
            whole_pools: 2,
            pool_patience: Duration::from_secs(10),
            grace: Duration::from_secs(3),
            refusal_delay: Duration::from_millis(250),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A mistake in the method table.
    #[error("The method table is wrong: {0}")]
    Table(String),
}

/// Where connections come from, and whether they speak TLS.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Tls>,
}

impl Listener {
    /// With `tls` every connection begins with a handshake; plain HTTP is sent away then.
    #[must_use]
    pub fn new(socket: TcpListener, tls: Option<Tls>) -> Self {
        Self { socket, tls }
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self::new(socket, None)
    }
}

pub(super) struct Shared<D: 'static> {
    tls: Option<Tls>,
    pub(super) exchange: Arc<Exchange<D>>,
    limits: Limits,
    pub(super) calls: Semaphore,
    big_bodies: Arc<Semaphore>,
    slowed: Semaphore,
}

impl<D: 'static> Shared<D> {
    /// Holds the answer to a refused session back.
    pub(super) async fn slow_down(&self) {
        let _slow = self.slowed.acquire().await;
        sleep(self.limits.refusal_delay).await;
    }
}

/// Serves calls on `listener` until `shutdown` is ready, then lets running calls finish within [`Limits::shutdown`].
///
/// # Errors
/// Only before the first connection: when the table is not consistent.
pub async fn serve<D: Door>(
    listener: impl Into<Listener>,
    door: Arc<D>,
    methods: &'static [Method<D>],
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    check_table(methods).map_err(ServeError::Table)?;
    let Listener { socket, tls } = listener.into();
    let shared = Arc::new(Shared {
        tls,
        exchange: Arc::new(Exchange::new(door, methods, &limits)),
        calls: Semaphore::new(limits.calls_at_once),
        big_bodies: Arc::new(Semaphore::new(BIG_BODIES)),
        slowed: Semaphore::new(SLOWED_REFUSALS),
        limits,
    });
    let places = Places::new(shared.limits.connections, shared.limits.grace);
    let mut place = pin!(places.take());
    let mut newcomer = None;
    let (end, ending) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            stream = accept(&socket), if newcomer.is_none() => newcomer = Some(stream),
            taken = place.as_mut(), if newcomer.is_some() => {
                place.set(places.take());
                if let Some(stream) = newcomer.take() {
                    connections.spawn(connection(stream, taken, Arc::clone(&shared), ending.clone()));
                }
            }
        }
    }
    drop((socket, newcomer));
    // Fails when there is no connection to tell.
    let _ = end.send(());
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(shared.limits.shutdown, finished).await.is_err() {
        tracing::warn!(target: "ReM", "calls still ran at the end of SHUTDOWN_TIMEOUT; their clients get no answer");
    }
    connections.shutdown().await;
    Ok(())
}

/// The next connection. Cancel-safe: it is taken last.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of file descriptors, or the client left already. A pause keeps the former from spinning.
                tracing::warn!(target: "ReM", %error, "could not accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<D: Door>(stream: TcpStream, place: Place, shared: Arc<Shared<D>>, mut ending: watch::Receiver<()>) {
    // Without it small answers wait for the client's delayed acknowledgement. Failing only costs speed.
    let _ = stream.set_nodelay(true);
    let (idle, stall) = (shared.limits.idle, shared.limits.stall);
    match &shared.tls {
        None => converse(StallGuard::new(stream, stall), &place, &shared, &mut ending).await,
        Some(tls) => {
            let secured = tokio::select! {
                biased;
                secured = tls.secure(stream, idle, stall) => secured,
                () = place.closed() => None,
                _ = ending.changed() => None,
            };
            if let Some(stream) = secured {
                converse(stream, &place, &shared, &mut ending).await;
            }
        }
    }
    // Free again only now, whatever way the conversation ended.
    drop(place);
}

/// Serves the requests of one connection until either side ends it.
async fn converse<D: Door>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: &Place,
    shared: &Arc<Shared<D>>,
    ending: &mut watch::Receiver<()>,
) {
    let io = TokioIo::new(Told { stream, place });
    let requests = AtomicUsize::new(0);
    let idle = shared.limits.idle;
    let service = service_fn(|request| {
        let last = requests.fetch_add(1, Ordering::Relaxed) + 1 >= shared.limits.requests_per_connection;
        let shared = Arc::clone(shared);
        async move {
            let mut response = respond(&shared, place, request).await.map(|body| body.telling(place.answering()));
            if last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_headers(64)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        // In this order: a request that has arrived is found before the place is given up.
        biased;
        ended = serving.as_mut() => ended,
        () = place.closed() => {
            tracing::trace!(target: "ReM", "connection closed for a newcomer");
            return;
        }
        _ = ending.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    // Errors here are clients that left, stalled, or sent no HTTP: nothing for an operator to do.
    if let Err(error) = ended {
        tracing::trace!(target: "ReM", %error, "connection ended");
    }
}

async fn respond<D: Door>(shared: &Shared<D>, place: &Place, request: Request<Incoming>) -> Response<AnswerBody> {
    if request.uri().path() == METRICS && shared.exchange.has_metrics() {
        let asked = scrape::Asked::from(&request);
        return scrape::answer(shared, place, asked).await;
    }
    if !matches!(request.uri().path(), "/RPC2" | "/") {
        return plain(StatusCode::NOT_FOUND, "XML-RPC is at /RPC2.\n");
    }
    if request.method() != Verb::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "XML-RPC calls are POST requests.\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let read = read_body(request.into_body(), &shared.limits, &shared.big_bodies).await;
    let (body, big_permit) = match read {
        Ok(read) => read,
        Err(response) => return *response,
    };
    place.work();
    // Waiting here is bounded by the calls that run; each has its own deadlines.
    let Ok(slot) = shared.calls.acquire().await else {
        return xml(AnswerBody::whole(codec::encode(Err(Fault::internal()))));
    };
    let exchange = Arc::clone(&shared.exchange);
    let work = move || {
        let outcome = exchange.answer(&body);
        drop((body, big_permit));
        outcome
    };
    // Fails only if decoding or encoding panicked, or while the runtime ends.
    let outcome = tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        tracing::error!(target: "ReM", "a request could not be processed");
        Outcome { body: AnswerBody::whole(codec::encode(Err(Fault::internal()))), session_refused: false }
    });
    drop(slot);
    if outcome.session_refused {
        shared.slow_down().await;
    }
    xml(outcome.body)
}

/// Reads the body with its limits: size, memory over all connections, and speed of the sender. The permit, if any, is to
/// be kept as long as the bytes.
async fn read_body(
    mut body: Incoming,
    limits: &Limits,
    big_bodies: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Box<Response<AnswerBody>>> {
    let started = Instant::now();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limits.message_bytes {
        return Err(too_big(body, limits, started).await);
    }
    let mut bytes = Vec::new();
    let mut permit = None;
    loop {
        let deadline = deadline(started, limits.stall, bytes.len());
        let Ok(frame) = timeout_at(deadline, body.frame()).await else {
            return Err(Box::new(closing(StatusCode::REQUEST_TIMEOUT, "The request's body did not come in time.\n")));
        };
        let Some(frame) = frame else {
            return Ok((bytes, permit));
        };
        let Ok(frame) = frame else {
            return Err(Box::new(closing(StatusCode::BAD_REQUEST, "The request's body ended too early.\n")));
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limits.message_bytes {
            drop(bytes);
            return Err(too_big(body, limits, started).await);
        }
        if permit.is_none() && bytes.len() + data.len() > SMALL_BODY_BYTES {
            match timeout(limits.stall, Arc::clone(big_bodies).acquire_owned()).await {
                Ok(Ok(granted)) => permit = Some(granted),
                _ => {
                    return Err(Box::new(closing(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "Too many big requests; try again.\n",
                    )));
                }
            }
        }
        bytes.extend_from_slice(&data);
    }
}

fn deadline(started: Instant, stall: Duration, received: usize) -> Instant {
    let seconds = u64::try_from(received / SLOWEST_SENDER).unwrap_or(u64::MAX);
    started + stall + Duration::from_secs(seconds)
}

/// Reads on without keeping anything, so that the client, still sending, is able to read why it was refused.
async fn too_big(mut body: Incoming, limits: &Limits, started: Instant) -> Box<Response<AnswerBody>> {
    let mut dropped = 0;
    while dropped < DRAINED_BYTES {
        match timeout_at(deadline(started, limits.stall, dropped), body.frame()).await {
            Ok(Some(Ok(frame))) => dropped += frame.data_ref().map_or(0, Bytes::len),
            _ => break,
        }
    }
    let text = format!("The request is larger than {} bytes (MESSAGE_SIZE in oned.conf).\n", limits.message_bytes);
    Box::new(closing(StatusCode::PAYLOAD_TOO_LARGE, text))
}

fn xml(body: AnswerBody) -> Response<AnswerBody> {
    // hyper sets Content-Length, since the body knows its size.
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    response
}

pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn closing(status: StatusCode, text: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = plain(status, text);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
