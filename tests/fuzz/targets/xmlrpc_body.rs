//! The body of a call: it is decoded or refused, and whatever goes back is a whole answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use one_core::refusal::Refusal;
use oned::rpc::Answer;
use oned::rpc::codec;

fuzz_target!(|body: &[u8]| {
    let answer = match codec::decode(body) {
        Ok(call) => {
            let text = format!("{:?}", call.params);
            let result = if text.len() % 2 == 0 { Ok(Answer::Text(text)) } else { Err(Refusal::Action(text)) };
            codec::encode(Ok(codec::answer_value(&call.name, &result)))
        }
        Err(fault) => codec::encode(Err(fault)),
    };
    assert!(answer.starts_with("<?xml ") && answer.trim_end().ends_with("</methodResponse>"));
    assert!(answer.chars().all(|c| c >= ' ' || matches!(c, '\n' | '\r' | '\t')));
});
