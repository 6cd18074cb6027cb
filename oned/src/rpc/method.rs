//! The method table: what a row is, and how the parameters of a call are checked against it.
//!
//! A row lists the parameters *after* the session string, which every `one.*` call has in front (OpenNebula, XML-RPC
//! API reference). Trailing parameters may have a default and may then be left out; superfluous ones are ignored, since
//! newer clients send more than older daemons knew.
//!
//! Invariant: a function of the table sees [`Args`] that match its row, so reading them cannot fail.

use super::codec::{Fault, Value, kind_of};
use one_core::access::Caller;
use one_core::refusal::Refusal;

/// What the door needs from the api besides the table: who is behind a session string?
pub trait Door: Send + Sync + 'static {
    /// Checks a `name:token` session string and answers the user behind it.
    ///
    /// May block. It should take the same time for an unknown user and for a wrong password.
    ///
    /// # Errors
    /// [`Refusal::BadSession`] when the session is not good, or another refusal when that cannot be found out.
    fn authenticate(&self, session: &str) -> Result<Caller, Refusal>;

    /// Whether calls of this method are taken now; asked after the session was checked.
    ///
    /// # Errors
    /// The refusal that is answered in place of the method's own answer.
    fn admit(&self, _method: &str) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether there is anything at `/metrics`.
    fn has_metrics(&self) -> bool {
        false
    }

    /// What monitoring reads at `/metrics`, as text of Prometheus; none = this caller may not see it. May block.
    ///
    /// # Errors
    /// The refusal when it cannot be found out now.
    fn metrics(&self, _caller: &Caller) -> Result<Option<String>, Refusal> {
        Ok(None)
    }

    /// Why there is no method of that name, as half a sentence, when clients may know one.
    fn why_absent(&self, _method: &str) -> Option<&'static str> {
        None
    }
}

/// The result of a successful call: the second element of the answer array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An id; goes out as `i4` when it fits, else as `i8`.
    Id(i64),
    /// A document or a text. An empty one goes out as [`Answer::EMPTY`]: pyone looks at the first character and crashes
    /// without one.
    Text(String),
}

impl Answer {
    /// What is sent in place of an empty text. Not a blank, because clients strip blanks before they look.
    pub const EMPTY: &'static str = "-";
}

/// The type of one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// `int`, `i4` or `i8`.
    Int,
    /// `boolean`.
    Bool,
    /// `string`, also untyped.
    Text,
    /// An `array` of ints.
    IntList,
}

impl Param {
    /// The name of the type in XML-RPC, as `system.methodSignature` lists it.
    #[must_use]
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Bool => "boolean",
            Self::Text => "string",
            Self::IntList => "array",
        }
    }
}

/// What a left-out trailing parameter is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// For [`Param::Int`].
    Int(i64),
    /// For [`Param::Bool`].
    Bool(bool),
    /// For [`Param::Text`].
    Text(&'static str),
    /// For [`Param::IntList`].
    IntList(&'static [i64]),
}

impl DefaultValue {
    const fn kind(self) -> Param {
        match self {
            Self::Int(_) => Param::Int,
            Self::Bool(_) => Param::Bool,
            Self::Text(_) => Param::Text,
            Self::IntList(_) => Param::IntList,
        }
    }

    fn to_arg(self) -> Arg {
        match self {
            Self::Int(value) => Arg::Int(value),
            Self::Bool(value) => Arg::Bool(value),
            Self::Text(value) => Arg::Text(value.to_owned()),
            Self::IntList(values) => Arg::Ints(values.to_vec()),
        }
    }
}

/// One parameter of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The name used in help and in type faults.
    pub name: &'static str,
    /// The type.
    pub kind: Param,
    /// Present if the parameter may be left out.
    pub default: Option<DefaultValue>,
}

impl ParamSpec {
    /// A required int.
    #[must_use]
    pub const fn int(name: &'static str) -> Self {
        Self { name, kind: Param::Int, default: None }
    }

    /// A required boolean.
    #[must_use]
    pub const fn bool(name: &'static str) -> Self {
        Self { name, kind: Param::Bool, default: None }
    }

    /// A required string.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Param::Text, default: None }
    }

    /// A required array of ints.
    #[must_use]
    pub const fn ints(name: &'static str) -> Self {
        Self { name, kind: Param::IntList, default: None }
    }

    /// The same parameter, but it may be left out. The default is of the parameter's own type; [`check_table`] sees to it.
    #[must_use]
    pub const fn or(self, default: DefaultValue) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The same parameter, taken for `value` when left out.
    #[must_use]
    pub const fn or_int(self, value: i64) -> Self {
        self.or(DefaultValue::Int(value))
    }

    /// The same parameter, taken for `value` when left out.
    #[must_use]
    pub const fn or_bool(self, value: bool) -> Self {
        self.or(DefaultValue::Bool(value))
    }

    /// The same parameter, taken for `value` when left out.
    #[must_use]
    pub const fn or_text(self, value: &'static str) -> Self {
        self.or(DefaultValue::Text(value))
    }

    /// The same parameter, taken for the empty list when left out.
    #[must_use]
    pub const fn or_no_ints(self) -> Self {
        self.or(DefaultValue::IntList(&[]))
    }
}

/// One row of the method table.
pub struct Method<D: 'static> {
    /// The full name, as in `one.vm.info`.
    pub name: &'static str,
    /// The parameters after the session string.
    pub params: &'static [ParamSpec],
    /// One sentence for `system.methodHelp`.
    pub help: &'static str,
    /// Does the work. May block; runs on a thread of its own.
    pub run: fn(&D, &Caller, &Args) -> Result<Answer, Refusal>,
}

enum Arg {
    Int(i64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
}

/// The parameters of one call after the session string, checked against the row and filled up with its defaults.
///
/// It has no `Debug` on purpose: parameters hold passwords.
pub struct Args(Vec<Arg>);

impl Args {
    /// The int at position `index`. Asking for another type than the row lists is a mistake in the table; it is caught in
    /// debug builds and gives −1 otherwise.
    #[must_use]
    pub fn int(&self, index: usize) -> i64 {
        match self.0.get(index) {
            Some(Arg::Int(value)) => *value,
            _ => {
                debug_assert!(false, "parameter {index} is no int in the method's row");
                -1
            }
        }
    }

    /// The third parameter, if the row lists an int there.
    pub(super) fn third_int(&self) -> Option<i64> {
        match self.0.get(2) {
            Some(Arg::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// The boolean at position `index`; see [`Args::int`] for mistakes, which give false.
    #[must_use]
    pub fn bool(&self, index: usize) -> bool {
        match self.0.get(index) {
            Some(Arg::Bool(value)) => *value,
            _ => {
                debug_assert!(false, "parameter {index} is no boolean in the method's row");
                false
            }
        }
    }

    /// The string at position `index`; see [`Args::int`] for mistakes, which give an empty one.
    #[must_use]
    pub fn text(&self, index: usize) -> &str {
        match self.0.get(index) {
            Some(Arg::Text(value)) => value,
            _ => {
                debug_assert!(false, "parameter {index} is no string in the method's row");
                ""
            }
        }
    }

    /// The ints of the array at position `index`; see [`Args::int`] for mistakes, which give none.
    #[must_use]
    pub fn ints(&self, index: usize) -> &[i64] {
        match self.0.get(index) {
            Some(Arg::Ints(values)) => values,
            _ => {
                debug_assert!(false, "parameter {index} is no int list in the method's row");
                &[]
            }
        }
    }
}

/// Takes the parameters of a call apart: the session string and the checked rest.
///
/// # Errors
/// A fault −501 that names the first parameter that is missing or of another type; never its value.
pub(super) fn split_params(method: &str, specs: &[ParamSpec], params: Vec<Value>) -> Result<(String, Args), Fault> {
    let mut given = params.into_iter();
    let session = match given.next() {
        Some(Value::String(session)) => session,
        Some(other) => return Err(wrong_type(method, 1, "session", Param::Text, &other)),
        None => return Err(missing(method, 1, "session")),
    };
    let mut args = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        // Position 1 is the session.
        let position = index + 2;
        let arg = match (given.next(), spec.default) {
            (Some(value), _) => {
                to_arg(spec.kind, value).map_err(|value| wrong_type(method, position, spec.name, spec.kind, &value))?
            }
            (None, Some(default)) => default.to_arg(),
            (None, None) => return Err(missing(method, position, spec.name)),
        };
        args.push(arg);
    }
    Ok((session, Args(args)))
}

fn to_arg(kind: Param, value: Value) -> Result<Arg, Value> {
    match (kind, value) {
        (Param::Int, Value::Integer(value)) => Ok(Arg::Int(i64::from(value))),
        (Param::Int, Value::Long(value)) => Ok(Arg::Int(value)),
        (Param::Bool, Value::Boolean(value)) => Ok(Arg::Bool(value)),
        (Param::Text, Value::String(value)) => Ok(Arg::Text(value)),
        (Param::IntList, Value::Array(values)) => values
            .iter()
            .map(|value| match value {
                Value::Integer(value) => Some(i64::from(*value)),
                Value::Long(value) => Some(*value),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(Arg::Ints)
            .ok_or(Value::Array(values)),
        (_, value) => Err(value),
    }
}

fn missing(method: &str, position: usize, name: &str) -> Fault {
    Fault::type_error(format!("{method}: parameter {position} ({name}) is missing."))
}

fn wrong_type(method: &str, position: usize, name: &str, wanted: Param, given: &Value) -> Fault {
    let wanted = match wanted {
        Param::IntList => "array of int",
        other => other.wire_name(),
    };
    let given = kind_of(given);
    Fault::type_error(format!("{method}: parameter {position} ({name}) must be of type {wanted}, not {given}."))
}

/// Checks what the compiler cannot: unique names, defaults only at the end and of the parameter's own type.
///
/// # Errors
/// A sentence that names the first bad row.
pub fn check_table<D>(methods: &[Method<D>]) -> Result<(), String> {
    let mut names = std::collections::BTreeSet::new();
    for method in methods {
        let name = method.name;
        if !names.insert(name) || name.starts_with("system.") {
            return Err(format!("method {name} is in the table twice, or takes a built-in name"));
        }
        if method.help.is_empty() {
            return Err(format!("method {name} has no help text"));
        }
        let mut optional = false;
        for spec in method.params {
            match spec.default {
                None if optional => {
                    return Err(format!("method {name}: {} follows an optional parameter but is required", spec.name));
                }
                Some(default) if default.kind() != spec.kind => {
                    return Err(format!("method {name}: the default of {} is of another type", spec.name));
                }
                default => optional = default.is_some(),
            }
        }
    }
    Ok(())
}
