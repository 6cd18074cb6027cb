//! Calls from XML and answers to XML, over `dxr`.
//!
//! What it adds to dxr: our own fault texts (dxr's repeat the whole request, and with it the session's password), limits
//! on names and on the number of values before anything is built, refusal of characters that XML 1.0 forbids on the way
//! in and their removal on the way out, and the XML declaration.
//!
//! The answer array and the fault codes are those of OpenNebula's XML-RPC API (answer: success, value, error code,
//! object id, database index; faults: the codes of the xmlrpc-c library that the original is built on).

use super::method::Answer;
use dxr::{FaultResponse, MethodCall, MethodResponse};
use one_core::refusal::Refusal;
use std::borrow::Cow;

pub use dxr::Value;

/// Fault code: unknown method.
pub const NO_SUCH_METHOD: i32 = -506;
/// Fault code: a parameter is missing or of another type.
pub const TYPE_ERROR: i32 = -501;
/// Fault code: not XML, not UTF-8, or not XML-RPC.
pub const PARSE_ERROR: i32 = -503;
/// Fault code: a limit was exceeded.
pub const LIMIT_EXCEEDED: i32 = -509;
/// Fault code: the daemon could not do its part.
pub const INTERNAL_ERROR: i32 = -500;

/// Longest method name that is looked at.
const NAME_BYTES: usize = 128;

/// Most values (parameters, array elements, struct members) in one call. A `multicall` of a whole pool stays far below;
/// 64 MiB of `<value/>` would otherwise make a gigabyte of small objects before the session is even known.
const VALUES: usize = 200_000;

/// A call that could not be understood: what goes out as an XML-RPC `<fault>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One of the codes of this module.
    pub code: i32,
    /// A sentence of ours; never a part of the request but for a well-formed method name.
    pub text: String,
}

impl Fault {
    fn new(code: i32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn type_error(text: impl Into<String>) -> Self {
        Self::new(TYPE_ERROR, text)
    }

    pub(super) fn limit(text: impl Into<String>) -> Self {
        Self::new(LIMIT_EXCEEDED, text)
    }

    pub(super) fn internal() -> Self {
        Self::new(INTERNAL_ERROR, "The daemon could not process the call; its log says more.")
    }

    pub(super) fn no_such_method(name: &str) -> Self {
        if is_plain(name) {
            Self::new(NO_SUCH_METHOD, format!("Method '{name}' is not known; system.listMethods lists those that are."))
        } else {
            Self::new(NO_SUCH_METHOD, "The method is not known; system.listMethods lists those that are.")
        }
    }

    /// A method that is left out on purpose.
    pub(super) fn absent(name: &str, why: &str) -> Self {
        let name = if is_plain(name) { name } else { "of this name" };
        Self::new(NO_SUCH_METHOD, format!("Method {name} is not available: {why}."))
    }
}

/// May a method's name be repeated in a fault?
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}

/// A decoded call.
#[derive(Debug)]
pub struct Call {
    /// The method's name without blanks around it.
    pub name: String,
    /// All parameters, the session string included.
    pub params: Vec<Value>,
}

/// Decodes the body of a request.
///
/// # Errors
/// −503 when it is not UTF-8, not XML, not a method call or holds characters that XML 1.0 forbids; −509 when it holds
/// too many values. The texts are ours and repeat nothing of the body.
pub fn decode(body: &[u8]) -> Result<Call, Fault> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Fault::new(PARSE_ERROR, format!("The request is not UTF-8 at byte {}.", error.valid_up_to()))
    })?;
    if text.matches("<value").take(VALUES + 1).count() > VALUES {
        return Err(Fault::limit(format!("The request holds more than {VALUES} values.")));
    }
    let malformed = || Fault::new(PARSE_ERROR, "The request is not a well-formed XML-RPC method call.");
    let call = MethodCall::from_xml(text).map_err(|_| malformed())?;
    let name = call.name.trim();
    if name.len() > NAME_BYTES || !call.params.iter().all(is_clean) {
        return Err(malformed());
    }
    Ok(Call { name: name.to_owned(), params: call.params })
}

/// The array of a finished call: `[true, x, 0]`, or `[false, "[method] sentence", code, object id, -1]`.
#[must_use]
pub fn answer_value(method: &str, result: &Result<Answer, Refusal>) -> Value {
    match result {
        Ok(answer) => {
            let value = match answer {
                Answer::Id(id) => int_value(*id),
                Answer::Text(text) if text.is_empty() => Value::String(Answer::EMPTY.to_owned()),
                Answer::Text(text) => Value::String(clean(text).into_owned()),
            };
            Value::Array(vec![Value::Boolean(true), value, Value::Integer(0)])
        }
        Err(refusal) => Value::Array(vec![
            Value::Boolean(false),
            Value::String(clean(&format!("[{method}] {refusal}")).into_owned()),
            Value::Integer(refusal.code()),
            int_value(refusal.object_id()),
            Value::Long(-1),
        ]),
    }
}

/// An element of a multicall's answer for a call that was not understood.
pub(super) fn fault_value(fault: &Fault) -> Value {
    Value::Struct(
        [
            ("faultCode".to_owned(), Value::Integer(fault.code)),
            ("faultString".to_owned(), Value::String(clean(&fault.text).into_owned())),
        ]
        .into(),
    )
}

/// The body of a response: a method response, or a fault.
#[must_use]
pub fn encode(result: Result<Value, Fault>) -> String {
    let xml = match result {
        Ok(value) => MethodResponse { value }.to_xml(),
        Err(fault) => fault_xml(&fault),
    };
    // dxr fails only on values that cannot be XML, and ours are cleaned; a fault of constant text cannot fail.
    let xml = xml.or_else(|_| fault_xml(&Fault::internal())).unwrap_or_default();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{xml}")
}

fn fault_xml(fault: &Fault) -> Result<String, dxr::Error> {
    FaultResponse { fault: dxr::Fault::new(fault.code, clean(&fault.text).into_owned()) }.to_xml()
}

fn int_value(value: i64) -> Value {
    i32::try_from(value).map_or(Value::Long(value), Value::Integer)
}

/// The name of a value's type in XML-RPC, for fault texts.
#[must_use]
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "int",
        Value::Long(_) => "i8",
        Value::Boolean(_) => "boolean",
        Value::String(_) => "string",
        Value::Double(_) => "double",
        Value::DateTime(_) => "dateTime.iso8601",
        Value::Base64(_) => "base64",
        Value::Struct(_) => "struct",
        Value::Array(_) => "array",
        Value::Nil => "nil",
        _ => "unknown",
    }
}

/// Nesting is bounded by dxr (about 40 levels), so the recursion is.
fn is_clean(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.chars().any(is_forbidden),
        Value::Array(values) => values.iter().all(is_clean),
        Value::Struct(members) => {
            members.iter().all(|(name, value)| !name.chars().any(is_forbidden) && is_clean(value))
        }
        _ => true,
    }
}

/// Characters outside the `Char` production of XML 1.0 (surrogates cannot be in a `str`).
fn is_forbidden(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether a byte of a text cannot go into a document as it is, or may begin what cannot.
pub(super) fn special(byte: u8) -> bool {
    SPECIAL[usize::from(byte)]
}

/// A table, because tens of megabytes are asked byte by byte.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = matches!(byte, 0..=8 | 0x0b..=0x1f | b'<' | b'>' | b'&' | 0xef);
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// The length of the forbidden character that begins at `at`; 0 when there is none.
pub(super) fn forbidden_length(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at..) {
        Some([0..=8 | 0x0b | 0x0c | 0x0e..=0x1f, ..]) => 1,
        Some([0xef, 0xbf, 0xbe | 0xbf, ..]) => 3,
        _ => 0,
    }
}

/// The text without the characters that XML 1.0 forbids; one such character would make the whole answer unreadable.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_forbidden) {
        Cow::Owned(text.chars().filter(|c| !is_forbidden(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use one_core::refusal::Refusal;
    use proptest::prelude::*;

    fn call_with(value: &str) -> String {
        format!("<methodCall><methodName>a</methodName><params><param>{value}</param></params></methodCall>")
    }

    #[test]
    fn each_spelling_of_a_value_is_read_as_meant() {
        let text = |text: &str| Value::String(text.to_owned());
        let cases = [
            ("<value><i4>5</i4></value>", Value::Integer(5)),
            ("<value><int>-5</int></value>", Value::Integer(-5)),
            ("<value><i8>9000000000</i8></value>", Value::Long(9_000_000_000)),
            ("<value><boolean>1</boolean></value>", Value::Boolean(true)),
            ("<value><string>a &amp; b</string></value>", text("a & b")),
            ("<value><string><![CDATA[<a>]]></string></value>", text("<a>")),
            ("<value>plain</value>", text("plain")),
            ("<value> kept </value>", text(" kept ")),
            ("<value/>", text("")),
            ("<value></value>", text("")),
            ("<value><string/></value>", text("")),
            ("<value><string>&#x41;&#10;</string></value>", text("A\n")),
            ("<value><nil/></value>", Value::Nil),
            ("<value><array><data/></array></value>", Value::Array(vec![])),
            (
                "<value><array><data><value>x</value><value><i4>1</i4></value></data></array></value>",
                Value::Array(vec![text("x"), Value::Integer(1)]),
            ),
        ];
        for (xml, value) in cases {
            assert_eq!(decode(call_with(xml).as_bytes()).unwrap().params, [value], "{xml}");
        }
    }

    #[test]
    fn what_is_no_value_is_malformed() {
        for xml in [
            "<value><int></int></value>",
            "<value><int>5000000000</int></value>",
            "<value><boolean>true</boolean></value>",
            "<value><int>1</int><int>2</int></value>",
            "<value><string>&unknown;</string></value>",
            "<value><string>&#7;</string></value>",
            "<value><string>\u{7}</string></value>",
            "<value><struct><member><name>\u{1}</name><value/></member></struct></value>",
        ] {
            assert_eq!(decode(call_with(xml).as_bytes()).unwrap_err().code, PARSE_ERROR, "{xml}");
        }
    }

    #[test]
    fn answers_have_three_elements_and_refusals_five() {
        let cases: [(Result<Answer, Refusal>, Vec<Value>); 4] = [
            (Ok(Answer::Id(7)), vec![Value::Boolean(true), Value::Integer(7), Value::Integer(0)]),
            (Ok(Answer::Id(1 << 33)), vec![Value::Boolean(true), Value::Long(1 << 33), Value::Integer(0)]),
            (
                Ok(Answer::Text(String::new())),
                vec![Value::Boolean(true), Value::String("-".to_owned()), Value::Integer(0)],
            ),
            (
                Err(Refusal::Action("Not now.".to_owned())),
                vec![
                    Value::Boolean(false),
                    Value::String("[one.a] Not now.".to_owned()),
                    Value::Integer(2048),
                    Value::Integer(-1),
                    Value::Long(-1),
                ],
            ),
        ];
        for (result, array) in cases {
            assert_eq!(answer_value("one.a", &result), Value::Array(array));
        }
    }

    #[test]
    fn a_fault_is_a_struct_of_code_and_text() {
        let xml = encode(Err(Fault::no_such_method("one.a")));
        assert!(xml.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<methodResponse><fault>"), "{xml}");
        assert!(xml.contains("<i4>-506</i4>") && xml.contains("one.a"), "{xml}");
        assert!(!Fault::no_such_method("a b").text.contains("a b"));
        assert!(!Fault::no_such_method(&"x".repeat(65)).text.contains("xxx"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_damaged_call_is_read_or_refused_without_repeating_it(place in 0usize..200, byte in any::<u8>()) {
            let mut body = call_with("<value><struct><member><name>n</name><value>oneadmin:hidden</value></member></struct></value>").into_bytes();
            let place = place % body.len();
            body[place] = byte;
            if let Err(fault) = decode(&body) {
                prop_assert!(!fault.text.contains("hidden"));
            }
        }

        #[test]
        fn any_text_comes_back_from_an_answer_without_forbidden_characters(text in any::<String>()) {
            let xml = encode(Ok(answer_value("a", &Ok(Answer::Text(text.clone())))));
            let cleaned = clean(&text);
            let expected = if text.is_empty() { "-" } else { &*cleaned };
            let read = MethodResponse::from_xml(&xml).unwrap();
            let Value::Array(array) = read.value else { panic!("no array") };
            prop_assert_eq!(&array[1], &Value::String(expected.to_owned()));
        }
    }
}
