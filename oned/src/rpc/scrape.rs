//! `GET /metrics`: figures for monitoring, in the text format of Prometheus (version 0.0.4), for a session that is given by
//! HTTP's own means (Basic authentication, RFC 7617), since whoever scrapes knows no XML-RPC.
//!
//! The same limits hold as for calls: of connections and of calls at a time, of answers that grow with the cloud, and of
//! guessed passwords.

use super::answer::AnswerBody;
use super::exchange::Scraped;
use super::method::Door;
use super::places::Place;
use super::server::{Shared, plain};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method as Verb, Request, Response, StatusCode};
use std::sync::Arc;

/// Where the figures are.
pub(super) const PATH: &str = "/metrics";

/// The longest `name:password` that is looked at, bytes.
const SESSION_BYTES: usize = 4096;

/// What a request asks with; whatever body it has is not read.
pub(super) struct Asked {
    is_get: bool,
    session: Option<String>,
}

impl<B> From<&Request<B>> for Asked {
    fn from(request: &Request<B>) -> Self {
        Self { is_get: request.method() == Verb::GET, session: session(request.headers()) }
    }
}

/// Answers one request.
pub(super) async fn answer<D: Door>(shared: &Shared<D>, place: &Place, asked: Asked) -> Response<AnswerBody> {
    if !asked.is_get {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Figures for monitoring are read by GET.\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let Some(session) = asked.session else { return unauthorized() };
    place.work();
    let Ok(slot) = shared.calls.acquire().await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "The daemon ends.\n");
    };
    let exchange = Arc::clone(&shared.exchange);
    // Fails only while the runtime ends.
    let scraped = tokio::task::spawn_blocking(move || exchange.metrics(&session)).await;
    drop(slot);
    match scraped {
        Ok(Scraped::Shown(body)) => {
            let mut response = Response::new(body);
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Ok(Scraped::NotForHim) => unauthorized(),
        Ok(Scraped::SessionRefused) => {
            shared.slow_down().await;
            unauthorized()
        }
        Ok(Scraped::Failed(sentence)) => plain(StatusCode::SERVICE_UNAVAILABLE, sentence + "\n"),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "The daemon ends.\n"),
    }
}

fn unauthorized() -> Response<AnswerBody> {
    let text = "The name and password (or a login token) of an administrator are needed.\n";
    let mut response = plain(StatusCode::UNAUTHORIZED, text);
    let challenge = HeaderValue::from_static("Basic realm=\"oned\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// The session string `name:password` of a request.
fn session(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || value.len() > SESSION_BYTES.div_ceil(3) * 4 {
        return None;
    }
    let session = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    session.contains(':').then_some(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(header: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        session(&headers)
    }

    #[test]
    fn a_session_is_read_from_basic_authentication_and_nothing_else() {
        assert_eq!(given("Basic b25lYWRtaW46c2Vj").as_deref(), Some("oneadmin:sec"));
        assert_eq!(given("basic  b25lYWRtaW46c2Vj").as_deref(), Some("oneadmin:sec"));
        assert_eq!(given("Basic YTpiOmM=").as_deref(), Some("a:b:c"));
        for bad in ["Basic", "Basic ", "Bearer b25lYWRtaW46c2Vj", "Basic b25lYWRtaW4=", "Basic !!!!", "Basic /zr/"] {
            assert_eq!(given(bad), None, "{bad}");
        }
        assert_eq!(given(&format!("Basic {}", "YTph".repeat(4096))), None);
        assert_eq!(session(&HeaderMap::new()), None);
    }
}
