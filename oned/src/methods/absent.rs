//! Methods that OpenNebula's clients know and that this daemon has not, with the reason. They are called like unknown ones
//! (a fault), but whoever calls them learns that it is no mistake of his.

/// Beginnings of names, and what is to be said; the first that fits counts.
const REASONS: [(&str, &str); 18] = [
    ("one.hook", "hooks are not part of this daemon"),
    ("one.market", "marketplaces are not part of this daemon"),
    ("one.vmgroup", "VM groups are not part of this daemon"),
    ("one.vm.vmgroup", "VM groups are not part of this daemon"),
    ("one.vrouter", "virtual routers are not part of this daemon"),
    ("one.vntemplate", "templates of virtual networks are not part of this daemon"),
    ("one.plan", "plans that move VMs between hosts are not part of this daemon"),
    ("one.cluster.optimize", "plans that move VMs between hosts are not part of this daemon"),
    ("one.cluster.plan", "plans that move VMs between hosts are not part of this daemon"),
    ("one.vm.exec", "commands are not run inside guests by this daemon"),
    ("one.vm.cancelexec", "commands are not run inside guests by this daemon"),
    ("one.vm.retryexec", "commands are not run inside guests by this daemon"),
    ("one.vm.savedisk", "it was replaced by one.vm.disksaveas"),
    ("one.zone.updatedb", "this daemon is its only zone and server"),
    ("one.zone.replicate", "this daemon is its only zone and server"),
    ("one.zone.fedreplicate", "this daemon is its only zone and server"),
    ("one.zone.voterequest", "this daemon is its only zone and server"),
    ("one.system.sql", "the database is not open to clients"),
];

/// Why there is no method of that name, if that is known.
#[must_use]
pub fn why_absent(name: &str) -> Option<&'static str> {
    REASONS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, reason)| *reason)
}
