//! The page of a host: what it is, what of it is used, the VMs on it.

use anyhow::Result;

use super::{CPU_USAGE, MAX_CPU, MAX_MEM, MEM_USAGE, RUNNING_VMS, USED_CPU, USED_MEMORY, number};
use crate::commands::onevm;
use crate::commands::verbs::Show;
use crate::objects::{HOST, VM};
use crate::show::{Page, or_dash};
use crate::states;
use crate::table::ListOptions;
use crate::terminal;
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

/// Labels of this page in OpenNebula's tool.
const LABELS: usize = 22;

pub fn show(client: &Client, options: &Show) -> Result<()> {
    let Show { id, options } = options;
    let host = HOST.info(client, HOST.id(client, id)?, options.decrypt)?;
    if let Some(raw) = options.raw(&host) {
        return terminal::put(&raw);
    }
    let mut page = Page::new(LABELS);
    fill(&mut page, &host);
    let vms = host.ids_at("VMS");
    if vms.is_empty() {
        return terminal::put(page.finish());
    }
    let mut pool = VM.pool(client, -2, "info")?;
    pool.children.retain(|vm| vm.int_at("ID").is_some_and(|id| vms.contains(&id)));
    page.header("VIRTUAL MACHINES");
    terminal::put(page.finish())?;
    onevm::FACE.table(&pool, &ListOptions { no_pager: true, ..ListOptions::default() })
}

fn fill(page: &mut Page, host: &Element) {
    let text = |name| host.text_at(name);
    page.header(&format!("HOST {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("CLUSTER", or_dash(text("CLUSTER")))
        .line("STATE", states::host_state(host))
        .line("IM_MAD", text("IM_MAD"))
        .line("VM_MAD", text("VM_MAD"))
        .line("LAST MONITORING TIME", units::time(number(host, "MONITORING/TIMESTAMP")))
        .header("HOST SHARES")
        .line("RUNNING VMS", number(host, RUNNING_VMS).to_string())
        .raw("MEMORY")
        .line("  TOTAL", units::kib(number(host, "HOST_SHARE/TOTAL_MEM")))
        .line("  TOTAL +/- RESERVED", units::kib(number(host, MAX_MEM)))
        .line("  USED (REAL)", units::kib(number(host, USED_MEMORY)))
        .line("  USED (ALLOCATED)", units::kib(number(host, MEM_USAGE)))
        .raw("CPU")
        .line("  TOTAL", number(host, "HOST_SHARE/TOTAL_CPU").to_string())
        .line("  TOTAL +/- RESERVED", number(host, MAX_CPU).to_string())
        .line("  USED (REAL)", number(host, USED_CPU).to_string())
        .line("  USED (ALLOCATED)", number(host, CPU_USAGE).to_string());
    for datastore in host.at("HOST_SHARE/DATASTORES").into_iter().flat_map(|list| list.all("DS")) {
        let size = |name| units::mib(number(datastore, name));
        page.header(&format!("LOCAL SYSTEM DATASTORE #{} CAPACITY", datastore.text_at("ID")))
            .line("TOTAL:", size("TOTAL_MB"))
            .line("USED:", size("USED_MB"))
            .line("FREE:", size("FREE_MB"));
    }
    page.template("MONITORING INFORMATION", host.at("TEMPLATE"), &[]);
}
