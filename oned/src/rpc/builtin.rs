//! The `system.*` methods, answered from the method table: listMethods, methodHelp, methodSignature.
//!
//! They need no session, as with the xmlrpc-c library under the original. `system.multicall` is in the exchange, since
//! it runs other calls.

use super::codec::{Fault, Value};
use super::method::Method;

/// Name of the method that runs several calls in one request.
pub(super) const MULTICALL: &str = "system.multicall";

const ROWS: [(&str, &str, &[&str]); 4] = [
    ("system.listMethods", "Lists the names of all methods.", &["array"]),
    ("system.methodHelp", "Says in one sentence what a method does.", &["string", "string"]),
    ("system.methodSignature", "Lists the types of a method's result and parameters.", &["array", "string"]),
    (MULTICALL, "Runs several calls, given as structs of methodName and params.", &["array", "array"]),
];

/// Answers a `system.*` call, or `None` when the name is not one of them.
pub(super) fn call<D>(methods: &[Method<D>], name: &str, params: &[Value]) -> Option<Result<Value, Fault>> {
    match name {
        "system.listMethods" => Some(Ok(list(methods))),
        "system.methodHelp" => Some(asked_name(name, params).and_then(|asked| help(methods, asked))),
        "system.methodSignature" => Some(asked_name(name, params).and_then(|asked| signature(methods, asked))),
        _ => None,
    }
}

fn asked_name<'a>(method: &str, params: &'a [Value]) -> Result<&'a str, Fault> {
    match params.first() {
        Some(Value::String(name)) => Ok(name.trim()),
        _ => Err(Fault::type_error(format!("{method}: parameter 1 (method name) must be a string."))),
    }
}

fn list<D>(methods: &[Method<D>]) -> Value {
    let mut names: Vec<&str> = methods.iter().map(|method| method.name).chain(ROWS.map(|row| row.0)).collect();
    names.sort_unstable();
    Value::Array(names.into_iter().map(text).collect())
}

fn help<D>(methods: &[Method<D>], asked: &str) -> Result<Value, Fault> {
    let own = ROWS.iter().find(|row| row.0 == asked).map(|row| row.1);
    let help = methods.iter().find(|method| method.name == asked).map(|method| method.help);
    own.or(help).map(text).ok_or_else(|| Fault::no_such_method(asked))
}

/// One signature per number of parameters that the method accepts: result first, then the session, then the rest.
fn signature<D>(methods: &[Method<D>], asked: &str) -> Result<Value, Fault> {
    if let Some(row) = ROWS.iter().find(|row| row.0 == asked) {
        return Ok(Value::Array(vec![Value::Array(row.2.iter().copied().map(text).collect())]));
    }
    let method = methods.iter().find(|method| method.name == asked).ok_or_else(|| Fault::no_such_method(asked))?;
    let required = method.params.iter().filter(|spec| spec.default.is_none()).count();
    let one = |count: usize| {
        let kinds = method.params.iter().take(count).map(|spec| spec.kind.wire_name());
        Value::Array(["array", "string"].into_iter().chain(kinds).map(text).collect())
    };
    Ok(Value::Array((required..=method.params.len()).map(one).collect()))
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}
