//! Which right each operation on a VM asks for: VM_USE_OPERATIONS, VM_MANAGE_OPERATIONS and VM_ADMIN_OPERATIONS.
//!
//! The three attributes stand in the configuration, and may stand in the templates of users and groups, which are asked
//! first. What it is not: it checks no right.

use one_core::refusal::Right;
use one_core::template::Template;
use std::collections::BTreeMap;

/// The attributes, the strictest first: a word in two lists asks for the stricter right.
pub(super) const ATTRIBUTES: [(&str, Right); 3] =
    [("VM_ADMIN_OPERATIONS", Right::Admin), ("VM_MANAGE_OPERATIONS", Right::Manage), ("VM_USE_OPERATIONS", Right::Use)];

/// All operations with the right that OpenNebula asks for by default, in the order of its documentation.
pub(super) const OPERATIONS: [(&str, Right); 32] = [
    ("migrate", Right::Admin),
    ("delete", Right::Admin),
    ("recover", Right::Admin),
    ("retry", Right::Admin),
    ("deploy", Right::Admin),
    ("resched", Right::Admin),
    ("backup", Right::Admin),
    ("restore", Right::Admin),
    ("undeploy", Right::Manage),
    ("hold", Right::Manage),
    ("release", Right::Manage),
    ("stop", Right::Manage),
    ("suspend", Right::Manage),
    ("resume", Right::Manage),
    ("reboot", Right::Manage),
    ("poweroff", Right::Manage),
    ("disk-attach", Right::Manage),
    ("nic-attach", Right::Manage),
    ("disk-snapshot", Right::Manage),
    ("terminate", Right::Manage),
    ("disk-resize", Right::Manage),
    ("snapshot", Right::Manage),
    ("updateconf", Right::Manage),
    ("rename", Right::Manage),
    ("resize", Right::Manage),
    ("update", Right::Manage),
    ("disk-saveas", Right::Manage),
    ("sched-action", Right::Manage),
    ("sg-attach", Right::Manage),
    ("pci-attach", Right::Manage),
    ("exec", Right::Manage),
    ("vmgroup", Right::Manage),
];

/// Rights by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmOperations(BTreeMap<&'static str, Right>);

impl VmOperations {
    /// OpenNebula's rights.
    #[must_use]
    pub fn standard() -> Self {
        Self(OPERATIONS.into_iter().collect())
    }

    /// What the template of a user or a group says; operations that it does not name have no right here. Words that are
    /// no operation are left out.
    #[must_use]
    pub fn of_template(template: &Template) -> Self {
        let mut operations = Self::default();
        // The strictest last, so that it stays.
        for (attribute, right) in ATTRIBUTES.into_iter().rev() {
            let known = template.scalar(attribute).into_iter().flat_map(words).filter_map(|word| known(&word));
            known.for_each(|operation| operations.set(operation, right));
        }
        operations
    }

    /// The right that an operation (`backup`, `disk-attach`) asks for; `None` when it is not named. In the configuration
    /// every operation is.
    #[must_use]
    pub fn right(&self, operation: &str) -> Option<Right> {
        self.0.get(operation).copied()
    }

    pub(super) fn set(&mut self, operation: &'static str, right: Right) {
        self.0.insert(operation, right);
    }

    /// The words of one attribute, in the documentation's order.
    pub(super) fn list(&self, right: Right) -> String {
        let words = OPERATIONS.iter().map(|(word, _)| *word).filter(|word| self.right(word) == Some(right));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// The words of a list separated by commas, in lower case.
pub(super) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty())
}

/// The operation of that name.
pub(super) fn known(word: &str) -> Option<&'static str> {
    OPERATIONS.iter().map(|(operation, _)| *operation).find(|operation| *operation == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_template_names_some_operations_and_the_stricter_right_wins() {
        let template = Template::parse(
            "VM_USE_OPERATIONS=\"Backup, resume,fly\"\nVM_ADMIN_OPERATIONS=\"resume\"\nVM_MANAGE_OPERATIONS=[A=b]\n",
        );
        let operations = VmOperations::of_template(&template.unwrap());
        assert_eq!(operations.right("backup"), Some(Right::Use));
        assert_eq!(operations.right("resume"), Some(Right::Admin));
        assert_eq!((operations.right("fly"), operations.right("stop")), (None, None));
        assert_eq!(VmOperations::standard().right("backup"), Some(Right::Admin));
    }
}
