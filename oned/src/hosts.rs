//! From a host's record to the hypervisor's address.

use crate::ledger::stored;
use crate::store::rows::HostRow;

/// The libvirt URI of a host: its attribute LIBVIRT_URI, else this machine's system daemon for `localhost`, else that of
/// the machine of that name over ssh.
#[must_use]
pub fn uri(host: &HostRow) -> String {
    if let Some(uri) = stored(&host.template).scalar("LIBVIRT_URI").filter(|uri| !uri.is_empty()) {
        return uri.to_string();
    }
    match host.name.as_str() {
        "localhost" | "127.0.0.1" | "::1" => "qemu:///system".into(),
        name => format!("qemu+ssh://{name}/system"),
    }
}

/// VM_MAD of hosts that run nothing real.
pub const DUMMY: &str = "dummy";

/// Whether the host's VMs are only pretended.
#[must_use]
pub fn is_dummy(host: &HostRow) -> bool {
    host.vm_mad == DUMMY
}

/// Whether a URI leads to a libvirtd of this machine: no transport, or a Unix socket, and no host part.
#[must_use]
pub fn is_local(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let local_transport = !scheme.contains('+') || scheme.ends_with("+unix");
    local_transport && rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_sockets_without_a_host_are_local() {
        for local in ["qemu:///system", "qemu+unix:///system?socket=/run/x", "qemu:///session"] {
            assert!(is_local(local), "{local}");
        }
        for remote in ["qemu+ssh://node1/system", "qemu://node1/system", "qemu+tcp:///system", "qemu+ssh:///system", ""]
        {
            assert!(!is_local(remote), "{remote}");
        }
    }
}
