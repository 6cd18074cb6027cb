//! The door: XML-RPC over HTTP or HTTPS, as OpenNebula's clients speak it.
//!
//! What it is: bytes from a socket to a checked call of one row of the method table, and its result back to bytes. What
//! it is not: it knows no verb of the cloud. It sees the api only through [`Door`] (who is calling?) and the functions of
//! the table, so another door can be put beside it. One thing is no call: figures for monitoring, at `/metrics`.
//!
//! Invariants: only this module names `dxr`, `hyper` and `rustls`. Parameters and session strings reach no log line and no
//! fault text. Everything that a stranger can make grow has a limit in [`Limits`]: connections, bytes, values, calls in
//! one message, time to send, time to receive, failed logins per second. A panicking method costs its own call only.
//!
//! Where the original differs: it answers an empty string for a few calls, which crashes pyone; see [`Answer::Text`].

pub mod codec;
pub mod method;
pub mod server;

mod answer;
mod builtin;
mod exchange;
mod places;
mod scrape;
mod stall;
mod tls;

pub use method::{Answer, Args, DefaultValue, Door, Method, Param, ParamSpec};
pub use server::{Limits, Listener, ServeError, serve};
pub use tls::{Tls, TlsError};
