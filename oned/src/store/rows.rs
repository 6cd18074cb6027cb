//! The rows as Rust values. Plain data: every rule about them lives elsewhere, what a column means stands in the migration.

use diesel::prelude::*;

use super::schema::*;

macro_rules! rows {
    ($($(#[doc = $doc:literal])* $row:ident, $table:ident($($key:ident),+) { $($field:ident: $kind:ty,)* })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
            #[diesel(
                table_name = $table, primary_key($($key),+), treat_none_as_null = true,
                check_for_backend(diesel::sqlite::Sqlite)
            )]
            pub struct $row {
                $(#[doc = concat!("Column `", stringify!($field), "`.")] pub $field: $kind,)*
            }
        )*
    };
}

rows! {
    /// A group of users.
    GroupRow, user_group(id) {
        id: i64,
        name: String,
        template: String,
    }

    /// A user.
    UserRow, user(id) {
        id: i64,
        gid: i64,
        name: String,
        password_sha256: String,
        auth_driver: String,
        enabled: i64,
        template: String,
    }

    /// A login token of a user.
    LoginTokenRow, login_token(uid, token_sha256) {
        uid: i64,
        token_sha256: String,
        expires_at: i64,
        egid: i64,
    }

    /// An access rule, as hex numbers and text.
    AclRow, acl(id) {
        id: i64,
        user_hex: String,
        resource_hex: String,
        rights_hex: String,
        zone_hex: String,
        text: String,
    }

    /// A limit and what is used of it.
    QuotaRow, quota(owner, owner_id, resource, resource_id, metric) {
        owner: String,
        owner_id: i64,
        resource: String,
        resource_id: String,
        metric: String,
        most: Option<i64>,
        used: i64,
    }

    /// A virtual data centre.
    VdcRow, vdc(id) {
        id: i64,
        name: String,
        template: String,
    }

    /// A zone; there is one.
    ZoneRow, zone(id) {
        id: i64,
        name: String,
        template: String,
    }

    /// A cluster.
    ClusterRow, cluster(id) {
        id: i64,
        name: String,
        template: String,
    }

    /// A host with what it last said of itself.
    HostRow, host(id) {
        id: i64,
        cluster_id: i64,
        name: String,
        state: i64,
        prev_state: i64,
        im_mad: String,
        vm_mad: String,
        cpus: i64,
        memory_kb: i64,
        free_memory_kb: i64,
        monitored_at: i64,
        template: String,
    }

    /// A datastore; kind 0 image, 1 system, 2 files, 3 backup.
    DatastoreRow, datastore(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        ds_mad: String,
        tm_mad: String,
        base_path: String,
        kind: i64,
        disk_type: i64,
        state: i64,
        clusters: String,
        total_mb: i64,
        free_mb: i64,
        used_mb: i64,
        monitored_at: i64,
        template: String,
    }

    /// An image; kind 6 is a backup.
    ImageRow, image(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        kind: i64,
        disk_type: i64,
        persistent: i64,
        regtime: i64,
        modtime: i64,
        source: String,
        path: String,
        format: String,
        fs: String,
        size_mb: i64,
        state: i64,
        prev_state: i64,
        datastore_id: i64,
        backup_vm_id: Option<i64>,
        backup_mode: Option<String>,
        snapshots: String,
        lock: String,
        template: String,
    }

    /// A restore point of a backup image.
    IncrementRow, increment(image_id, increment_id) {
        image_id: i64,
        increment_id: i64,
        parent_id: i64,
        kind: String,
        date: i64,
        size_mb: i64,
        series: String,
        point: String,
        checkpoint: String,
        read_bytes: i64,
        stored_bytes: i64,
        duration_s: i64,
        reason: String,
        warning: String,
        disks: String,
        document: String,
        compare_age: i64,
        unmarked_bytes: i64,
        verified_at: i64,
        verify_depth: String,
        verify_result: String,
        schedule_id: Option<i64>,
        saved_bytes: i64,
    }

    /// A stored VM template.
    TemplateRow, vm_template(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        regtime: i64,
        lock: String,
        template: String,
    }

    /// A free document of a client.
    DocumentRow, document(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        kind: i64,
        regtime: i64,
        lock: String,
        template: String,
    }

    /// A security group.
    SecurityGroupRow, security_group(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        lock: String,
        template: String,
    }

    /// A virtual network.
    NetworkRow, network(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        clusters: String,
        parent_id: Option<i64>,
        vn_mad: String,
        bridge: String,
        state: i64,
        prev_state: i64,
        auto_vlan: String,
        auto_outer_vlan: String,
        ranges: String,
        lock: String,
        template: String,
    }

    /// An address in use.
    LeaseRow, lease(network_id, range_id, place) {
        network_id: i64,
        range_id: i64,
        place: i64,
        holder: String,
        holder_id: i64,
        nic_id: i64,
    }

    /// A backup job.
    BackupJobRow, backup_job(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        priority: i64,
        last_backup_time: i64,
        last_backup_duration: i64,
        lock: String,
        template: String,
    }

    /// A VM in one of the four lists of a backup job.
    BackupJobVmRow, backup_job_vm(backup_job_id, vm_id) {
        backup_job_id: i64,
        list: String,
        vm_id: i64,
        place: i64,
        failures: i64,
        not_before: i64,
        waits_since: Option<i64>,
        schedule_id: Option<i64>,
        job_id: Option<i64>,
    }

    /// A virtual machine.
    VmRow, vm(id) {
        id: i64,
        uid: i64,
        gid: i64,
        name: String,
        permissions: i64,
        last_poll: i64,
        state: i64,
        lcm_state: i64,
        prev_state: i64,
        prev_lcm_state: i64,
        stime: i64,
        etime: i64,
        deploy_id: String,
        uuid: String,
        host_id: Option<i64>,
        resched: i64,
        lock: String,
        snapshots: String,
        template: String,
        user_template: String,
        backup_config: String,
        monitoring: String,
    }

    /// What a driver said at a time.
    SampleRow, sample(kind, object_id, time) {
        kind: String,
        object_id: i64,
        time: i64,
        body: String,
    }

    /// One record of a VM's history.
    HistoryRow, history(vm_id, seq) {
        vm_id: i64,
        seq: i64,
        host_id: i64,
        hostname: String,
        cluster_id: i64,
        vm_mad: String,
        tm_mad: String,
        ds_id: i64,
        stime: i64,
        etime: i64,
        pstime: i64,
        petime: i64,
        rstime: i64,
        retime: i64,
        estime: i64,
        eetime: i64,
        action: i64,
        uid: i64,
        gid: i64,
    }

    /// A scheduled action of a VM or of a backup job.
    ScheduleRow, schedule(id) {
        id: i64,
        vm_id: Option<i64>,
        backup_job_id: Option<i64>,
        uid: i64,
        body: String,
        datastore_id: Option<i64>,
        due_at: Option<i64>,
        not_before: i64,
        refusals: i64,
        failures: i64,
        retry_at: Option<i64>,
        closes_at: Option<i64>,
        retry_until: Option<i64>,
        planned_at: Option<i64>,
    }

    /// One operation: intent, effect, result.
    JobRow, job(id) {
        id: i64,
        kind: String,
        phase: String,
        vm_id: Option<i64>,
        image_id: Option<i64>,
        datastore_id: Option<i64>,
        host_id: Option<i64>,
        uid: i64,
        plan: String,
        result: String,
        cancel: i64,
        attempts: i64,
        not_before: i64,
        error: String,
        created_at: i64,
        changed_at: i64,
    }

    /// What was done to a VM or by a backup job.
    EventRow, event(id) {
        id: i64,
        time: i64,
        vm_id: Option<i64>,
        backup_job_id: Option<i64>,
        schedule_id: Option<i64>,
        job_id: Option<i64>,
        uid: i64,
        action: String,
        result: String,
        read_bytes: i64,
        stored_bytes: i64,
        duration_s: i64,
        reason: String,
    }

    /// How the backups of a VM fare.
    VmBackupRow, vm_backup(vm_id) {
        vm_id: i64,
        last_success: i64,
        failures: i64,
    }

    /// One line of a job's story.
    JobEventRow, job_event(job_id, seq) {
        job_id: i64,
        seq: i64,
        time: i64,
        phase: String,
        text: String,
    }
}
