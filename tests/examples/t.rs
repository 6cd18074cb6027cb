//! x
fn main() {
    let l = system_tests::libvirtd::Libvirtd::start("/tmp/rigv").unwrap();
    drop(l);
}
