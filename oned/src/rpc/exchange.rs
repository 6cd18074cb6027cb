//! One request body to one response body: look up, check, authenticate, run, encode. Blocking.
//!
//! Invariants: a panic in the door or in a method ends as an INTERNAL answer of that call; nothing of a parameter is
//! logged; after the first refused session of a request no other is tried, so that a multicall is no way around the
//! brake on failed logins.

use super::answer::{AnswerBody, Gate, Place};
use super::builtin;
use super::codec::{self, Call, Fault, Value};
use super::method::{Answer, Args, Door, Method, split_params};
use super::server::Limits;
use one_core::refusal::Refusal;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// The longest page that is not taken for a whole pool, objects.
const PAGE_MAX: i64 = 1000;

/// The same limit as [`Limits::multicall_bytes`] as long as no call of it had a good session: enough for a refusal of
/// each call, and too little to fill the memory with from many connections.
const STRANGER_BYTES: usize = 512 << 10;

/// The table with its door, ready to answer.
pub(super) struct Exchange<D: 'static> {
    door: Arc<D>,
    methods: &'static [Method<D>],
    rows: HashMap<&'static str, &'static Method<D>>,
    multicall_calls: usize,
    multicall_bytes: usize,
    whole_pools: Arc<Gate>,
}

/// What goes back to the client.
pub(super) struct Outcome {
    /// The XML.
    pub body: AnswerBody,
    /// A session was refused: the server slows this answer down.
    pub session_refused: bool,
}

/// What came of asking for the figures for monitoring.
pub(super) enum Scraped {
    /// They are here.
    Shown(AnswerBody),
    /// The session is good, but they are for others.
    NotForHim,
    /// The session is not good.
    SessionRefused,
    /// They cannot be had now; a sentence.
    Failed(String),
}

impl<D: Door> Exchange<D> {
    pub(super) fn new(door: Arc<D>, methods: &'static [Method<D>], limits: &Limits) -> Self {
        let rows = methods.iter().map(|method| (method.name, method)).collect();
        let &Limits { multicall_calls, multicall_bytes, .. } = limits;
        let whole_pools = Gate::new(limits.whole_pools, limits.pool_patience);
        Self { door, methods, rows, multicall_calls, multicall_bytes, whole_pools }
    }

    /// Answers one request.
    pub(super) fn answer(&self, body: &[u8]) -> Outcome {
        let mut session_refused = false;
        let body = codec::decode(body).and_then(|call| {
            let mut place = None;
            let body = if call.name == builtin::MULTICALL {
                AnswerBody::whole(codec::encode(Ok(self.multicall(call.params, &mut session_refused, &mut place)?)))
            } else {
                match self.call(call, &mut session_refused, &mut place)? {
                    Reply::Result(_, Ok(Answer::Text(text))) => AnswerBody::text(text),
                    reply => AnswerBody::whole(codec::encode(Ok(reply.into_value()))),
                }
            };
            Ok(body.keeping(place))
        });
        let body = body.unwrap_or_else(|fault| AnswerBody::whole(codec::encode(Err(fault))));
        Outcome { body, session_refused }
    }

    /// The figures for monitoring, for a session. They grow with the cloud, as a list of a whole pool does.
    pub(super) fn metrics(&self, session: &str) -> Scraped {
        let run = || {
            let caller = self.door.authenticate(session)?;
            let place = self.whole_pools.enter().ok_or_else(too_many_pools)?;
            Ok(self.door.metrics(&caller)?.map(|text| AnswerBody::whole(text).keeping(Some(place))))
        };
        // As in a call: the figures are only read.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(Some(body))) => Scraped::Shown(body),
            Ok(Ok(None)) => Scraped::NotForHim,
            Ok(Err(Refusal::BadSession)) => Scraped::SessionRefused,
            Ok(Err(refusal)) => Scraped::Failed(refusal.to_string()),
            Err(_) => {
                tracing::error!(target: "ReM", "the figures for monitoring could not be made");
                Scraped::Failed("Internal error, the daemon's log says more.".to_owned())
            }
        }
    }

    /// Whether there are figures for monitoring.
    pub(super) fn has_metrics(&self) -> bool {
        self.door.has_metrics()
    }

    /// Runs one call. A place for listing a whole pool is taken when there is none yet.
    fn call(&self, call: Call, session_refused: &mut bool, place: &mut Option<Place>) -> Result<Reply, Fault> {
        let started = Instant::now();
        let Some(method) = self.rows.get(call.name.as_str()) else {
            let known = builtin::call(self.methods, &call.name, &call.params);
            return known
                .unwrap_or_else(|| {
                    let reason = self.door.why_absent(&call.name);
                    Err(reason.map_or_else(|| Fault::no_such_method(&call.name), |why| Fault::absent(&call.name, why)))
                })
                .map(Reply::Value);
        };
        let (session, args) = split_params(method.name, method.params, call.params).inspect_err(|fault| {
            tracing::debug!(target: "ReM", method = method.name, code = fault.code, "call of wrong shape");
        })?;
        let mut uid = -1;
        let run = || {
            if *session_refused {
                return Err(Refusal::BadSession);
            }
            let caller = self.door.authenticate(&session)?;
            uid = caller.uid;
            self.door.admit(method.name)?;
            if place.is_none() && lists_whole_pool(method.name, &args) {
                *place = Some(self.whole_pools.enter().ok_or_else(too_many_pools)?);
            }
            (method.run)(&self.door, &caller, &args)
        };
        // The door and the methods change state in transactions only, so a call that unwound left nothing half done.
        let result: Result<Answer, Refusal> = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            tracing::error!(target: "ReM", method = method.name, uid, "the method panicked");
            Err(Refusal::Internal("Internal error, the daemon's log says more.".to_owned()))
        });
        *session_refused |= matches!(result, Err(Refusal::BadSession));
        let code = result.as_ref().err().map_or(0, Refusal::code);
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(target: "ReM", method = method.name, uid, code, ms, "call");
        Ok(Reply::Result(method.name, result))
    }

    /// Runs the calls in order; each gives a one-element array of its result, or a fault struct.
    fn multicall(
        &self,
        params: Vec<Value>,
        session_refused: &mut bool,
        place: &mut Option<Place>,
    ) -> Result<Value, Fault> {
        let Some(Value::Array(calls)) = params.into_iter().next() else {
            return Err(Fault::type_error("system.multicall: parameter 1 (calls) must be an array of structs."));
        };
        if calls.len() > self.multicall_calls {
            let most = self.multicall_calls;
            return Err(Fault::limit(format!("system.multicall takes at most {most} calls at a time.")));
        }
        let mut bytes = 0_usize;
        let mut most = self.multicall_bytes.min(STRANGER_BYTES);
        let answers = calls.into_iter().map(|entry| {
            if bytes > most {
                let text = "system.multicall: the answers before this one are too long already; it was not called.";
                return codec::fault_value(&Fault::limit(text));
            }
            let result = inner_call(entry).and_then(|call| self.call(call, session_refused, place));
            if matches!(result, Ok(Reply::Result(..))) && !*session_refused {
                most = self.multicall_bytes;
            }
            let answer =
                result.map_or_else(|fault| codec::fault_value(&fault), |reply| Value::Array(vec![reply.into_value()]));
            bytes = bytes.saturating_add(weight(&answer));
            answer
        });
        Ok(Value::Array(answers.collect()))
    }
}

/// What a call came to.
enum Reply {
    /// A built-in method's value, or a multicall's.
    Value(Value),
    /// Of the method of that name.
    Result(&'static str, Result<Answer, Refusal>),
}

impl Reply {
    /// As it goes into an answer.
    fn into_value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::Result(method, result) => codec::answer_value(method, &result),
        }
    }
}

/// About how many bytes a value has in an answer. Built-in methods count too: they need no session.
fn weight(value: &Value) -> usize {
    /// The tags of a value.
    const TAGS: usize = 32;
    let inner: usize = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Struct(members) => members.iter().map(|(name, value)| TAGS + name.len() + weight(value)).sum(),
        _ => 0,
    };
    TAGS + inner
}

/// Whether a call asks for a pool, and for more than a page of it (flag, start, and an end below −1: OpenNebula, `*pool.info`).
fn lists_whole_pool(method: &str, args: &Args) -> bool {
    method.contains("pool.") && !args.third_int().is_some_and(|end| (-PAGE_MAX..-1).contains(&end))
}

fn too_many_pools() -> Refusal {
    Refusal::Internal("Too many whole pools are being listed at the same time; ask for pages, or try again.".to_owned())
}

fn inner_call(entry: Value) -> Result<Call, Fault> {
    let Value::Struct(mut members) = entry else {
        return Err(Fault::type_error("system.multicall: each call must be a struct."));
    };
    match (members.remove("methodName"), members.remove("params")) {
        (Some(Value::String(name)), Some(Value::Array(params))) => {
            let name = name.trim();
            if name == builtin::MULTICALL {
                return Err(Fault::type_error("system.multicall cannot be called inside itself."));
            }
            Ok(Call { name: name.to_owned(), params })
        }
        _ => Err(Fault::type_error("system.multicall: each call needs methodName (string) and params (array).")),
    }
}
