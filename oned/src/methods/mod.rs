//! Every method of the XML-RPC door: name, parameters, and the api function behind it. The only list there is: help,
//! listing and checks come from it. Names, orders and defaults are OpenNebula's (its XML-RPC API reference). One file per
//! family of objects.

mod absent;
mod backup_job;
mod datastore;
mod document;
mod image;
mod infrastructure;
mod network;
mod people;
mod quota;
mod security_group;
mod system;
mod template;
mod vm;
mod vm_devices;
mod vm_records;

use std::sync::LazyLock;

pub use absent::why_absent;

use crate::api::Cloud;
use crate::rpc::{Method, ParamSpec};

const ID: ParamSpec = ParamSpec::int("id");
const DECRYPT: ParamSpec = ParamSpec::bool("decrypt").or_bool(false);
const TEXT: ParamSpec = ParamSpec::text("template");
const TYPE: ParamSpec = ParamSpec::int("type").or_int(0);
const NAME: ParamSpec = ParamSpec::text("name");
/// Whose objects, and which of them.
const FLAG: ParamSpec = ParamSpec::int("filter").or_int(-2);
const START: ParamSpec = ParamSpec::int("start").or_int(-1);
const END: ParamSpec = ParamSpec::int("end").or_int(-1);
/// One of the nine bits of chmod.
const BIT: ParamSpec = ParamSpec::int("bit");

macro_rules! rows {
    ($($name:expr, [$($param:expr),*], $help:expr, $answer:ident, |$cloud:ident, $caller:ident, $args:ident| $body:expr;)*) => {
        vec![$(crate::rpc::Method {
            name: $name,
            params: const { &[$($param),*] },
            help: $help,
            run: |$cloud, $caller, $args| { let _ = $args; $body.map(crate::rpc::Answer::$answer) },
        }),*]
    };
}
use rows;

/// The verbs that all objects with an owner have: rename, chmod, chown; with `lock` also lock and unlock. `moved` is told of
/// a new owner.
macro_rules! owned_rows {
    ($prefix:literal, $what:literal, $row:ty, $moved:expr) => {
        rows! {
            concat!($prefix, ".rename"), [ID, NAME], concat!("Renames a ", $what, "."), Id,
                |c, u, a| crate::api::owned::rename::<$row>(c, u, a.int(0), a.text(1));
            concat!($prefix, ".chmod"), [ID, BIT, BIT, BIT, BIT, BIT, BIT, BIT, BIT, BIT],
                concat!("Changes who may do what with a ", $what, ": nine bits, -1 keeps."), Id,
                |c, u, a| crate::api::owned::chmod::<$row>(c, u, a.int(0), &super::nine(a, 1));
            concat!($prefix, ".chown"), [ID, ParamSpec::int("user"), ParamSpec::int("group").or_int(-1)],
                concat!("Gives a ", $what, " to another user or group; -1 keeps."), Id,
                |c, u, a| crate::api::owned::chown::<$row>(c, u, a.int(0), (a.int(1), a.int(2)), $moved);
        }
    };
    ($prefix:literal, $what:literal, $row:ty, $moved:expr, lock) => {{
        let mut all = owned_rows!($prefix, $what, $row, $moved);
        all.extend(rows! {
            concat!($prefix, ".lock"), [ID, ParamSpec::int("level"), ParamSpec::bool("test").or_bool(false)],
                concat!("Locks a ", $what, ": 1 USE, 2 MANAGE, 3 ADMIN, 4 all."), Id,
                |c, u, a| crate::api::owned::lock::<$row>(c, u, a.int(0), a.int(1), a.bool(2));
            concat!($prefix, ".unlock"), [ID], concat!("Unlocks a ", $what, "."), Id,
                |c, u, a| crate::api::owned::unlock::<$row>(c, u, a.int(0));
        });
        all
    }};
}
use owned_rows;

/// Nine ints from position `first` on.
fn nine(args: &crate::rpc::Args, first: usize) -> [i64; 9] {
    std::array::from_fn(|index| args.int(first + index))
}

/// The table, by name.
pub static METHODS: LazyLock<Vec<Method<Cloud>>> = LazyLock::new(|| {
    let families = [
        backup_job::rows(),
        datastore::rows(),
        document::rows(),
        image::rows(),
        infrastructure::rows(),
        network::rows(),
        people::rows(),
        quota::rows(),
        security_group::rows(),
        system::rows(),
        template::rows(),
        vm::rows(),
        vm_records::rows(),
        vm_devices::rows(),
    ];
    let mut all: Vec<_> = families.into_iter().flatten().collect();
    all.sort_by_key(|method| method.name);
    all
});

/// Whether a method is answered by a disabled zone too: those that only look, and the one that enables it.
#[must_use]
pub fn is_open_when_disabled(name: &str) -> bool {
    const LOOKS: [&str; 11] = [
        "accounting",
        "config",
        "events",
        "examine",
        "info",
        "infoextended",
        "infoset",
        "monitoring",
        "raftstatus",
        "showback",
        "version",
    ];
    name == "one.zone.enable" || name.rsplit('.').next().is_some_and(|verb| LOOKS.contains(&verb))
}
