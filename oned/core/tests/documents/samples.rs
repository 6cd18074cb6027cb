//! One full view of each object, and of some a second one.

use one_core::access::{Bits, Permissions};
use one_core::doc::{
    AclView, BackupJobView, CheckView, ClusterView, Count, DatastoreQuotaView, DatastoreView, DiskSnapshotsView,
    DocumentView, ExaminationView, GroupView, HistoryView, HostDatastoreView, HostMonitoringView, HostShareView,
    HostView, ImageQuotaView, ImageView, IncrementView, Lock, LoginTokenView, NetworkQuotaView, Owner, QuotasView,
    ServerView, Share, ShowbackView, SnapshotView, SnapshotsView, TemplateView, UserView, VDC_ALL, VdcResource,
    VdcView, VmQuotaView, VmSampleView, VmView, ZoneView,
};
use one_core::id::ScheduleId;
use one_core::schedule::{End, Parent, Repeat, ScheduledAction};
use one_core::template::Template;

pub fn owner() -> Owner {
    Owner { uid: 2, gid: 1, uname: "ana".into(), gname: "users".into() }
}

pub fn permissions() -> Permissions {
    let bits = |use_, manage, admin| Bits { use_, manage, admin };
    Permissions { owner: bits(true, true, false), group: bits(true, false, false), other: bits(false, false, true) }
}

pub fn lock() -> Option<Lock> {
    Some(Lock { level: 1, owner: 2, time: 1_669_900_000, request_id: -1 })
}

pub fn action(parent: Parent) -> ScheduledAction {
    ScheduledAction {
        id: ScheduleId(4),
        parent_id: 0,
        parent,
        action: "backup".into(),
        args: "100,0".into(),
        time: 1_669_901_324,
        time_of_day: None,
        repeat: Some(Repeat::Weekly),
        days: vec![1, 3],
        end: End::Runs(5),
        done: Some(1_669_901_330),
        message: String::new(),
        warning: 0,
        timezone: None,
        cron: None,
        jitter: 0,
        window_end: None,
        keep_last: None,
        retry: 1,
        served: Some(1_669_296_524),
        skipped: None,
        planned_at: None,
        delay: 0,
    }
}

pub fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

pub fn vm() -> VmView {
    let history = HistoryView {
        hostname: "localhost".into(),
        stime: 1_669_900_000,
        tm_mad: "shared".into(),
        pstime: 1_669_900_000,
        petime: 1_669_900_001,
        rstime: 1_669_900_001,
        action: 50,
        ..HistoryView::default()
    };
    let snapshot = SnapshotView {
        id: 0,
        name: "clean".into(),
        parent: -1,
        children: vec![1, 2],
        date: 1_669_900_500,
        size_mb: 256,
        active: true,
    };
    VmView {
        id: 0,
        owner: owner(),
        name: "alpine-0".into(),
        permissions: permissions(),
        lock: lock(),
        last_poll: 1_669_900_100,
        state: 3,
        lcm_state: 69,
        prev_state: 3,
        prev_lcm_state: 3,
        resched: true,
        stime: 1_669_900_000,
        etime: 0,
        deploy_id: "one-0".into(),
        monitoring: template(
            "CPU=12.5\nMEMORY=131072\nNETRX=1\nDISKRDBYTES_BW_FORECAST_FAR=0.5\nTIMESTAMP=1669900100\nSTATE=a\nNETTX=NaN\n\
             CPU=13\nID=1.5\nDISK_SIZE=[ID=0,SIZE=20]\nDISK_SIZE=[ID=1,SIZE=30]\n",
        ),
        sched_actions: vec![
            action(Parent::Vm),
            ScheduledAction { id: ScheduleId(1), repeat: None, ..action(Parent::Vm) },
            ScheduledAction {
                id: ScheduleId(9),
                repeat: None,
                days: Vec::new(),
                timezone: Some("Europe/Madrid".into()),
                cron: Some("30 2 * * mon-fri".into()),
                jitter: 600,
                window_end: Some(5 * 3600 + 1800),
                keep_last: Some(14),
                retry: 0,
                ..action(Parent::Vm)
            },
        ],
        template: template(
            "VIDEO=[TYPE=virtio,ATS=YES,VRAM=16384,RESOLUTION=800x600]\nCPU=1\nMEMORY=128\nVCPU=2\nMEMORY_SLOTS=2\nMEMORY_RESIZE_MODE=BALLOONING\n\
             GRAPHICS=[TYPE=vnc,PORT=5900,LISTEN=\"0.0.0.0\",PASSWD=secret]\nHYPERV_OPTIONS=[A=b]\nIMPORTED=NO\nFEATURES=[ACPI=yes]\n\
             DISK=[TARGET=vda,DISK_ID=0,IMAGE=alpine,IMAGE_ID=0,SIZE=256,FORMAT=qcow2]\nDISK=[DISK_ID=1,TYPE=fs,SIZE=10]\n\
             NIC=[NIC_ID=0,IP=\"192.168.0.1\",MAC=\"02:00:c0:a8:00:01\",NETWORK=net,BRIDGE=br0]\nTEMPLATE_ID=0\n\
             AUTOMATIC_REQUIREMENTS=\"!(PUBLIC_CLOUD = YES)\"\nOS=[ARCH=x86_64]\nTPM=[MODEL=tpm-crb]\nMEMORY_ENCRYPTION=[TYPE=tdx]\n\
             SCHED_ACTION=[ACTION=backup]\nBACKUP_CONFIG=[MODE=FULL]\n",
        ),
        user_template: template(
            "LABELS=a\nERROR=\"Fri : <bad> & ]] > worse\"\nSCHED_REQUIREMENTS=\"ID = 0\"\nSCHED_INFO=[ID=1,CRON=forged]\nZ=1\nB=[Y=1,X=2]\n",
        ),
        history: vec![HistoryView { seq: 0, ..history.clone() }, HistoryView { seq: 1, hid: 3, ..history }],
        snapshots: vec![DiskSnapshotsView {
            disk_id: 0,
            allow_orphans: "NO".into(),
            current_base: 0,
            next_snapshot: 1,
            snapshots: vec![snapshot],
        }],
        backup_config: [
            ("MODE", "INCREMENT"),
            ("BACKUP_VOLATILE", "NO"),
            ("FS_FREEZE", "NONE"),
            ("INCREMENTAL_BACKUP_ID", "1"),
            ("INCREMENT_MODE", "CBT"),
            ("KEEP_LAST", "4"),
            ("LAST_INCREMENT_ID", "1"),
        ]
        .into_iter()
        .collect(),
        backup_ids: vec![9, 1],
    }
}

pub fn image() -> ImageView {
    let increment = IncrementView {
        id: 0,
        parent_id: -1,
        date: 1_669_901_816,
        size_mb: 172,
        source: "25f4b298".into(),
        full: true,
    };
    let second = IncrementView { id: 1, parent_id: 0, size_mb: 0, source: "6968545c".into(), full: false, ..increment };
    ImageView {
        id: 1,
        owner: owner(),
        name: "0 01-Dec 13.36.56".into(),
        lock: lock(),
        permissions: permissions(),
        kind: 6,
        persistent: true,
        regtime: 1_669_901_816,
        source: "25f4b298".into(),
        format: "raw".into(),
        size_mb: 172,
        state: 1,
        prev_state: 4,
        running_vms: 1,
        datastore_id: 100,
        datastore: "RBackups".into(),
        vms: vec![0],
        template: template("BACKUP_JOB_ID=3\n"),
        increments: vec![increment, second],
        backup_disk_ids: vec![2, 0],
        ..ImageView::default()
    }
}

pub fn snapshotted_image() -> ImageView {
    let snapshot = SnapshotView { id: 2, parent: -1, children: vec![3], active: true, ..SnapshotView::default() };
    let snapshots =
        SnapshotsView { current_base: 2, next_snapshot: 3, snapshots: vec![snapshot], ..Default::default() };
    ImageView { snapshots, clones: vec![5], app_clones: vec![6], ..ImageView::default() }
}

pub fn datastore() -> DatastoreView {
    DatastoreView {
        id: 100,
        owner: owner(),
        name: "RBackups".into(),
        permissions: permissions(),
        ds_mad: "restic".into(),
        tm_mad: "-".into(),
        base_path: "/var/lib/one//datastores/100".into(),
        kind: 3,
        clusters: vec![0],
        total_mb: 1000,
        free_mb: 900,
        used_mb: 100,
        images: vec![3, 1, 3],
        template: template("TYPE=BACKUP_DS\nDS_MAD=restic\n"),
        ..DatastoreView::default()
    }
}

pub fn host() -> HostView {
    HostView {
        id: 0,
        name: "localhost".into(),
        state: 2,
        prev_state: 2,
        im_mad: "kvm".into(),
        vm_mad: "kvm".into(),
        cluster: "default".into(),
        share: HostShareView {
            mem_usage: 131_072,
            running_vms: 1,
            datastores: vec![HostDatastoreView { id: 0, free_mb: 9, total_mb: 10, used_mb: 1 }],
            ..HostShareView::default()
        },
        vms: vec![0],
        template: template("ARCH=x86_64\n"),
        monitoring: Some(HostMonitoringView {
            timestamp: 1_669_900_000,
            free_cpu: 190,
            ..HostMonitoringView::default()
        }),
        ..HostView::default()
    }
}

pub fn quotas() -> QuotasView {
    QuotasView {
        datastores: vec![DatastoreQuotaView {
            id: 100,
            images: Count { limit: 10, used: 1 },
            size_mb: Count { limit: -2, used: 172 },
        }],
        networks: vec![NetworkQuotaView { id: 0, leases: Count::default() }],
        vms: vec![VmQuotaView {
            cluster_ids: "0,1".into(),
            cpu: Share { limit: 1.5, used: 0.25 },
            ..VmQuotaView::default()
        }],
        images: vec![ImageQuotaView { id: 1, rvms: Count::default() }],
    }
}

pub fn user() -> UserView {
    UserView {
        id: 2,
        gid: 1,
        groups: vec![1, 0],
        gname: "users".into(),
        name: "ana".into(),
        password: "hash".into(),
        auth_driver: "core".into(),
        enabled: true,
        login_tokens: vec![LoginTokenView { token: "t".into(), expiration_time: -1, egid: -1 }],
        template: template("UMASK=177\n"),
        quotas: quotas(),
        default_quotas: quotas(),
    }
}

pub fn group() -> GroupView {
    GroupView {
        id: 1,
        name: "users".into(),
        template: template("A=b\n"),
        users: vec![2],
        admins: vec![2],
        quotas: quotas(),
        default_quotas: quotas(),
    }
}

pub fn backup_job() -> BackupJobView {
    BackupJobView {
        id: 0,
        owner: owner(),
        name: "nightly".into(),
        lock: lock(),
        permissions: permissions(),
        priority: 50,
        last_backup_time: 1_669_901_816,
        last_backup_duration: 61,
        sched_actions: vec![action(Parent::BackupJob)],
        updated_vms: vec![0],
        outdated_vms: vec![2, 1],
        backing_up_vms: vec![3],
        error_vms: vec![4],
        template: template(
            "MODE=FULL\nBACKUP_VMS=\"0,1\"\nBACKUP_VOLATILE=NO\nDATASTORE_ID=100\nDISK_IDS=0\nERROR=e\nEXECUTION=SEQUENTIAL\n\
             FS_FREEZE=NONE\nKEEP_LAST=4\nRESET=NO\n",
        ),
    }
}

pub fn cluster() -> ClusterView {
    ClusterView {
        id: 0,
        name: "default".into(),
        hosts: vec![0],
        datastores: vec![100, 1, 0],
        vnets: vec![],
        template: template("A=1\n"),
    }
}

pub fn vm_template() -> TemplateView {
    TemplateView {
        id: 3,
        owner: owner(),
        name: "tmpl".into(),
        lock: lock(),
        permissions: permissions(),
        regtime: 1_669_901_816,
        template: template(
            "MEMORY=128\nDISK=[SIZE=1,IMAGE_ID=2]\nDISK=[IMAGE_ID=1]\nCPU=1\nBACKUP_CONFIG=[MODE=FULL]\n",
        ),
    }
}

pub fn zone() -> ZoneView {
    let servers = vec![ServerView { id: 0, name: "a".into(), endpoint: "http://a:2633/RPC2".into() }];
    ZoneView { id: 0, name: "OpenNebula".into(), state: 0, endpoint: "http://localhost:2633/RPC2".into(), servers }
}

pub fn acl() -> AclView {
    AclView {
        id: 0,
        user: "200000001".into(),
        resource: "2d0000400000000".into(),
        rights: "8".into(),
        zone: "400000000".into(),
        string: "@1 VM/* CREATE *".into(),
    }
}

/// A VM in the middle of a backup, with everything in TEMPLATE and BACKUP_CONFIG that the first sample lacks.
pub fn vm_in_backup() -> VmView {
    let root = SnapshotView { id: 0, parent: -1, children: vec![1], size_mb: 256, ..SnapshotView::default() };
    let leaf = SnapshotView { id: 1, parent: 0, children: vec![], active: true, ..root.clone() };
    let disk = |disk_id, snapshots| DiskSnapshotsView {
        disk_id,
        allow_orphans: "MIXED".into(),
        current_base: 1,
        next_snapshot: 2,
        snapshots,
    };
    VmView {
        lock: None,
        monitoring: Template::new(),
        sched_actions: vec![],
        template: template(
            "VMID=0\nTM_MAD_SYSTEM=qcow2\nAUTOMATIC_DS_REQUIREMENTS=a\nCONTEXT=[TARGET=hda,DISK_ID=1,NETWORK=YES]\nCPU=1\nMEMORY=128\n\
             SNAPSHOT=[SNAPSHOT_ID=1,NAME=b,HYPERVISOR_ID=snap-1,TIME=1669900000,SYSTEM_DISK_SIZE=0,ACTIVE=YES]\n\
             SNAPSHOT=[SNAPSHOT_ID=0,NAME=a,HYPERVISOR_ID=snap-0,TIME=1669900000,SYSTEM_DISK_SIZE=0]\n\
             NIC=[NIC_ID=0]\nNIC_ALIAS=[NIC_ID=1,PARENT=NIC0]\nNIC_DEFAULT=[MODEL=virtio]\nPCI=[CLASS=\"0300\"]\nRAW=[TYPE=kvm,DATA=\"<a/>\"]\n\
             SECURITY_GROUP_RULE=[RULE_TYPE=outbound,SECURITY_GROUP_ID=0]\nTOPOLOGY=[CORES=1]\nVCPU_MAX=2\nMEMORY_MAX=256\n\
             QEMU_GA_EXEC=[STATUS=DONE,COMMAND=ls]\nINPUT=[TYPE=tablet,BUS=usb]\nCPU_COST=1\n",
        ),
        snapshots: vec![disk(0, vec![root.clone(), leaf]), disk(2, vec![])],
        backup_config: [
            ("MODE", "INCREMENT"),
            ("BACKUP_JOB_ID", "3"),
            ("BACKUP_VOLATILE", "NO"),
            ("DISK_IDS", "0,2"),
            ("FS_FREEZE", "AGENT"),
            ("INCREMENTAL_BACKUP_ID", "1"),
            ("INCREMENT_MODE", "CBT"),
            ("INTERACTIVE", "NO"),
            ("KEEP_LAST", "4"),
            ("LAST_BACKUP_ID", "6968545c"),
            ("LAST_BACKUP_SIZE", "12"),
            ("LAST_BRIDGE", "localhost"),
            ("LAST_DATASTORE_ID", "100"),
            ("LAST_INCREMENT_ID", "1"),
        ]
        .into_iter()
        .collect(),
        ..vm()
    }
}

pub fn vm_sample() -> VmSampleView {
    VmSampleView {
        vm: 7,
        timestamp: 1_669_900_100,
        values: template(
            "CPU=12.5\nMEMORY=131072.9\nNETRX=1\nNETRX_BW=2\nDISKRDBYTES_BW_FORECAST_FAR=0.5\nTIMESTAMP=1\nID=1\nSTATE=a\n\
             NETTX=NaN\nDISKWRIOPS=-0.5\nCPU_FORECAST=1\nDISK_SIZE=[ID=0,SIZE=20]\nDISK_SIZE=[ID=1,SIZE=30]\nDISK_SIZE=[ID=x,SIZE=1]\n",
        ),
    }
}

pub fn vdc() -> VdcView {
    let in_zone = |zone_id, id| VdcResource { zone_id, id };
    VdcView {
        id: 0,
        name: "default".into(),
        groups: vec![1, 0],
        clusters: vec![in_zone(0, VDC_ALL)],
        hosts: vec![in_zone(1, 0), in_zone(0, 2), in_zone(0, 2)],
        datastores: vec![in_zone(0, 100)],
        vnets: vec![in_zone(0, 3)],
        template: template("A=1\n"),
    }
}

pub fn document() -> DocumentView {
    DocumentView {
        id: 4,
        owner: owner(),
        name: "service".into(),
        kind: 100,
        permissions: permissions(),
        lock: lock(),
        template: template("BODY=\"{\\\"roles\\\": [], \\\"a\\\": \\\"<b>\\\"}\"\n"),
    }
}

pub fn showback() -> ShowbackView {
    ShowbackView {
        vm: 0,
        vm_name: "alpine-0".into(),
        owner: owner(),
        year: 2022,
        month: 12,
        cpu_cost: 1.5,
        memory_cost: 0.1,
        disk_cost: 1e-7,
        total_cost: 1.600_000_1,
        hours: 744.0,
        running_hours: 0.25,
    }
}

/// Costs that are no numbers.
pub fn showback_of_nothing() -> ShowbackView {
    ShowbackView {
        cpu_cost: f64::NAN,
        memory_cost: f64::INFINITY,
        total_cost: f64::NEG_INFINITY,
        hours: f64::MAX,
        ..showback()
    }
}

pub fn examination() -> ExaminationView {
    let check = |name: &str, subject: &str, result: &str, remedy: &str| CheckView {
        name: name.into(),
        subject: subject.into(),
        result: result.into(),
        text: "answers: libvirt <9> & QEMU".into(),
        remedy: remedy.into(),
    };
    ExaminationView {
        time: 1_795_305_543,
        version: "0.1.0".into(),
        checks: vec![
            check("database", "", "ok", ""),
            check("libvirt", "host 0 (a ]]> b)", "failure", "start it"),
            check("clock", "", "warning", "see that chrony keeps it right"),
        ],
    }
}
