//! What the daemon tells of what it did: the log of events, and the figures for monitoring.

use super::backups::KIB_64;
use super::*;

const STORE_FAILS: &str =
    "{\"rules\":[{\"operation\":\"store\",\"fail\":{\"kind\":\"permanent\",\"reason\":\"the shelf is full\"}}]}";

impl Cloud {
    /// ACTION and RESULT of a VM's events, newest first.
    fn events(&self, vm: i64) -> Vec<(String, String)> {
        let document = self.call("one.vm.events", &[Int(vm), Int(-1)]);
        document.split("<EVENT>").skip(1).map(|event| (text(event, "ACTION"), text(event, "RESULT"))).collect()
    }

    /// The figures for monitoring.
    fn figures(&self) -> String {
        let session = std::fs::read_to_string(self.folder.path().join(".one/one_auth")).unwrap();
        let output = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "60", "-u", session.trim()])
            .arg(format!("http://{}/metrics", self.address))
            .output()
            .expect("curl does not start; install it: apt-get install curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The value of a VM's figure.
    fn figure(&self, name: &str, vm: i64) -> i64 {
        let begin = format!("{name}{{vm_id=\"{vm}\",");
        let figures = self.figures();
        let line = figures.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{figures}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

#[test]
fn what_was_done_to_a_vm_is_told_by_its_log_its_document_and_the_figures_for_monitoring() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 1, 0, KIB_64);
    let image = cloud.backup(vm, datastore);
    let success = text(&cloud.vm(vm), "LAST_SUCCESS");
    cloud.script(STORE_FAILS);
    cloud.backup_anyhow(vm, datastore);
    cloud.script("{}");
    cloud.power_off(vm);
    cloud.call("one.vm.restore", &[Int(vm), Int(image), Int(-1), Int(-1)]);
    cloud.off(vm);
    let expected = [("restore", "DONE"), ("backup", "FAILED"), ("backup", "DONE")]
        .map(|(action, result)| (action.to_owned(), result.to_owned()));
    let told = |cloud: &Cloud| {
        assert_eq!(cloud.events(vm), expected);
        let document = cloud.vm(vm);
        assert_eq!(text(&document, "LAST_SUCCESS"), success);
        let shown: Vec<&str> = document.split("<BACKUP_EVENT>").skip(1).collect();
        assert_eq!(shown.len(), 3);
        assert!(text(shown[1], "REASON").contains("the shelf is full"), "{document}");
        assert!(text(shown[2], "READ_BYTES").parse::<u64>().unwrap() > 0, "{document}");
        assert_eq!(cloud.figure("keeplast_vm_backup_failures_since_success", vm), 1);
        let stamp = cloud.figure("keeplast_vm_last_backup_success_timestamp_seconds", vm);
        assert_eq!(stamp.to_string(), success);
        assert!(
            cloud
                .figures()
                .contains("keeplast_datastore_total_bytes{datastore_id=\"100\",name=\"backups\",type=\"backup\"}")
        );
    };
    told(&cloud);
    cloud.restart(None);
    told(&cloud);
}

#[test]
fn what_a_look_at_a_guest_measures_is_in_its_document_in_lists_and_among_its_samples() {
    let cloud = Cloud::start();
    let (vm, _) = cloud.vm_with_disk("one");
    let measured = wait("the guest to be measured", || {
        let document = cloud.vm(vm);
        let (_, rest) = document.split_once("<MONITORING>")?;
        Some(rest.split_once("</MONITORING>").unwrap().0.to_owned())
    });
    assert_eq!((text(&measured, "CPU"), text(&measured, "MEMORY")), ("5.00".into(), "65536".into()));
    // A second look may have come since; only the time of it differs.
    let without_time = |text: &str| text.split("<TIMESTAMP>").next().unwrap().to_owned();
    let list = cloud.call("one.vmpool.info", &[Int(-2), Int(-1), Int(-1), Int(-1)]);
    let listed = list.split_once("<MONITORING>").unwrap().1;
    assert!(listed.starts_with(&without_time(&measured)), "{list}");
    let samples = cloud.call("one.vm.monitoring", &[Int(vm)]);
    assert!(samples.contains("<CPU>5.00</CPU>") && samples.contains(&format!("<ID>{vm}</ID>")), "{samples}");
}
