//! Quota templates: an accepted limit can be shown and stored, a refused text changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use one_core::quota::{self, Limit, Limits, Resource, Usage};
use one_core::template::Template;

fuzz_target!(|text: &str| {
    let Ok(template) = Template::parse(text) else { return };
    let mut limits = Limits::new();
    if limits.update(&template).is_err() {
        assert_eq!(limits, Limits::new());
    }
    for (resource, metric, limit) in limits.iter() {
        assert_eq!(Limit::from_number(limit.number()), Some(limit));
        assert_eq!(Resource::from_key(resource.section(), &resource.key()).as_ref(), Some(resource));
        assert!(resource.section().metrics().contains(&metric));
    }
    let mut usage = Usage::new();
    let demand = quota::cost::vm(&template, Some(1)).plus(&quota::cost::running_vm(&template, None));
    let _ = usage.apply(&demand);
    let _ = quota::view(&limits, &usage);
    assert!(usage.apply(&demand.negated()).is_empty() && usage.is_empty());
});
