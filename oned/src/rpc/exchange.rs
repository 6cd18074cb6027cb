//! One request body to one response body: look up, check, authenticate, run, encode. Blocking.
//!
//! Invariants: a panic in the door or in a method ends as an INTERNAL answer of that call; nothing of a parameter is
//! logged; after the first refused session of a request no other is tried, so that a multicall is no way around the
//! brake on failed logins.

use super::builtin;
use super::codec::{self, Call, Fault, Value};
use super::method::{Answer, Door, Method, split_params};
use one_core::refusal::Refusal;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// The table with its door, ready to answer.
pub(super) struct Exchange<D: 'static> {
    door: Arc<D>,
    methods: &'static [Method<D>],
    rows: HashMap<&'static str, &'static Method<D>>,
    multicall_calls: usize,
}

/// What goes back to the client.
pub(super) struct Outcome {
    /// The XML.
    pub body: String,
    /// A session was refused: the server slows this answer down.
    pub session_refused: bool,
}

impl<D: Door> Exchange<D> {
    pub(super) fn new(door: Arc<D>, methods: &'static [Method<D>], multicall_calls: usize) -> Self {
        let rows = methods.iter().map(|method| (method.name, method)).collect();
        Self { door, methods, rows, multicall_calls }
    }

    /// Answers one request.
    pub(super) fn answer(&self, body: &[u8]) -> Outcome {
        let mut session_refused = false;
        let result = codec::decode(body).and_then(|call| {
            if call.name == builtin::MULTICALL {
                self.multicall(call.params, &mut session_refused)
            } else {
                self.call(call, &mut session_refused)
            }
        });
        Outcome { body: codec::encode(result), session_refused }
    }

    fn call(&self, call: Call, session_refused: &mut bool) -> Result<Value, Fault> {
        let started = Instant::now();
        let Some(method) = self.rows.get(call.name.as_str()) else {
            let known = builtin::call(self.methods, &call.name, &call.params);
            return known.unwrap_or_else(|| {
                let reason = self.door.why_absent(&call.name);
                Err(reason.map_or_else(|| Fault::no_such_method(&call.name), |why| Fault::absent(&call.name, why)))
            });
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
        Ok(codec::answer_value(method.name, &result))
    }

    /// Runs the calls in order; each gives a one-element array of its result, or a fault struct.
    fn multicall(&self, params: Vec<Value>, session_refused: &mut bool) -> Result<Value, Fault> {
        let Some(Value::Array(calls)) = params.into_iter().next() else {
            return Err(Fault::type_error("system.multicall: parameter 1 (calls) must be an array of structs."));
        };
        if calls.len() > self.multicall_calls {
            let most = self.multicall_calls;
            return Err(Fault::limit(format!("system.multicall takes at most {most} calls at a time.")));
        }
        let answers = calls.into_iter().map(|entry| {
            let result = inner_call(entry).and_then(|call| self.call(call, session_refused));
            result.map_or_else(|fault| codec::fault_value(&fault), |value| Value::Array(vec![value]))
        });
        Ok(Value::Array(answers.collect()))
    }
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
