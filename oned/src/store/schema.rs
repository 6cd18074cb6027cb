//! The tables as migrated. A test compares every column with the database that the migrations make.

diesel::table! {
    counter (name) {
        name -> Text,
        next_id -> BigInt,
    }
}

diesel::table! {
    user_group (id) {
        id -> BigInt,
        name -> Text,
        template -> Text,
    }
}

diesel::table! {
    user (id) {
        id -> BigInt,
        gid -> BigInt,
        name -> Text,
        password_sha256 -> Text,
        auth_driver -> Text,
        enabled -> BigInt,
        template -> Text,
    }
}

diesel::table! {
    membership (uid, gid) {
        uid -> BigInt,
        gid -> BigInt,
    }
}

diesel::table! {
    group_admin (gid, uid) {
        gid -> BigInt,
        uid -> BigInt,
    }
}

diesel::table! {
    login_token (uid, token_sha256) {
        uid -> BigInt,
        token_sha256 -> Text,
        expires_at -> BigInt,
        egid -> BigInt,
    }
}

diesel::table! {
    acl (id) {
        id -> BigInt,
        user_hex -> Text,
        resource_hex -> Text,
        rights_hex -> Text,
        zone_hex -> Text,
        text -> Text,
    }
}

diesel::table! {
    quota (owner, owner_id, resource, resource_id, metric) {
        owner -> Text,
        owner_id -> BigInt,
        resource -> Text,
        resource_id -> Text,
        metric -> Text,
        most -> Nullable<BigInt>,
        used -> BigInt,
    }
}

diesel::table! {
    vdc (id) {
        id -> BigInt,
        name -> Text,
        template -> Text,
    }
}

diesel::table! {
    vdc_member (vdc_id, kind, zone_id, object_id) {
        vdc_id -> BigInt,
        kind -> Text,
        zone_id -> BigInt,
        object_id -> BigInt,
    }
}

diesel::table! {
    zone (id) {
        id -> BigInt,
        name -> Text,
        template -> Text,
    }
}

diesel::table! {
    cluster (id) {
        id -> BigInt,
        name -> Text,
        template -> Text,
    }
}

diesel::table! {
    host (id) {
        id -> BigInt,
        cluster_id -> BigInt,
        name -> Text,
        state -> BigInt,
        prev_state -> BigInt,
        im_mad -> Text,
        vm_mad -> Text,
        cpus -> BigInt,
        memory_kb -> BigInt,
        free_memory_kb -> BigInt,
        monitored_at -> BigInt,
        template -> Text,
    }
}

diesel::table! {
    datastore (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        ds_mad -> Text,
        tm_mad -> Text,
        base_path -> Text,
        kind -> BigInt,
        disk_type -> BigInt,
        state -> BigInt,
        clusters -> Text,
        total_mb -> BigInt,
        free_mb -> BigInt,
        used_mb -> BigInt,
        monitored_at -> BigInt,
        template -> Text,
    }
}

diesel::table! {
    image (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        kind -> BigInt,
        disk_type -> BigInt,
        persistent -> BigInt,
        regtime -> BigInt,
        modtime -> BigInt,
        source -> Text,
        path -> Text,
        format -> Text,
        fs -> Text,
        size_mb -> BigInt,
        state -> BigInt,
        prev_state -> BigInt,
        datastore_id -> BigInt,
        backup_vm_id -> Nullable<BigInt>,
        backup_mode -> Nullable<Text>,
        snapshots -> Text,
        lock -> Text,
        template -> Text,
    }
}

diesel::table! {
    image_use (image_id, vm_id) {
        image_id -> BigInt,
        vm_id -> BigInt,
    }
}

diesel::table! {
    increment (image_id, increment_id) {
        image_id -> BigInt,
        increment_id -> BigInt,
        parent_id -> BigInt,
        kind -> Text,
        date -> BigInt,
        size_mb -> BigInt,
        series -> Text,
        point -> Text,
        checkpoint -> Text,
        read_bytes -> BigInt,
        stored_bytes -> BigInt,
        duration_s -> BigInt,
        reason -> Text,
        warning -> Text,
        disks -> Text,
        document -> Text,
        compare_age -> BigInt,
        unmarked_bytes -> BigInt,
        verified_at -> BigInt,
        verify_depth -> Text,
        verify_result -> Text,
        schedule_id -> Nullable<BigInt>,
        saved_bytes -> BigInt,
    }
}

diesel::table! {
    vm_template (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        regtime -> BigInt,
        lock -> Text,
        template -> Text,
    }
}

diesel::table! {
    document (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        kind -> BigInt,
        regtime -> BigInt,
        lock -> Text,
        template -> Text,
    }
}

diesel::table! {
    security_group (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        lock -> Text,
        template -> Text,
    }
}

diesel::table! {
    network (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        clusters -> Text,
        parent_id -> Nullable<BigInt>,
        vn_mad -> Text,
        bridge -> Text,
        state -> BigInt,
        prev_state -> BigInt,
        auto_vlan -> Text,
        auto_outer_vlan -> Text,
        ranges -> Text,
        lock -> Text,
        template -> Text,
    }
}

diesel::table! {
    lease (network_id, range_id, place) {
        network_id -> BigInt,
        range_id -> BigInt,
        place -> BigInt,
        holder -> Text,
        holder_id -> BigInt,
        nic_id -> BigInt,
    }
}

diesel::table! {
    backup_job (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        priority -> BigInt,
        last_backup_time -> BigInt,
        last_backup_duration -> BigInt,
        lock -> Text,
        template -> Text,
    }
}

diesel::table! {
    backup_job_vm (backup_job_id, vm_id) {
        backup_job_id -> BigInt,
        list -> Text,
        vm_id -> BigInt,
        place -> BigInt,
        failures -> BigInt,
        not_before -> BigInt,
        waits_since -> Nullable<BigInt>,
        schedule_id -> Nullable<BigInt>,
        job_id -> Nullable<BigInt>,
    }
}

diesel::table! {
    vm (id) {
        id -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
        name -> Text,
        permissions -> BigInt,
        last_poll -> BigInt,
        state -> BigInt,
        lcm_state -> BigInt,
        prev_state -> BigInt,
        prev_lcm_state -> BigInt,
        stime -> BigInt,
        etime -> BigInt,
        deploy_id -> Text,
        uuid -> Text,
        host_id -> Nullable<BigInt>,
        resched -> BigInt,
        lock -> Text,
        snapshots -> Text,
        template -> Text,
        user_template -> Text,
        backup_config -> Text,
        monitoring -> Text,
    }
}

diesel::table! {
    sample (kind, object_id, time) {
        kind -> Text,
        object_id -> BigInt,
        time -> BigInt,
        body -> Text,
    }
}

diesel::table! {
    history (vm_id, seq) {
        vm_id -> BigInt,
        seq -> BigInt,
        host_id -> BigInt,
        hostname -> Text,
        cluster_id -> BigInt,
        vm_mad -> Text,
        tm_mad -> Text,
        ds_id -> BigInt,
        stime -> BigInt,
        etime -> BigInt,
        pstime -> BigInt,
        petime -> BigInt,
        rstime -> BigInt,
        retime -> BigInt,
        estime -> BigInt,
        eetime -> BigInt,
        action -> BigInt,
        uid -> BigInt,
        gid -> BigInt,
    }
}

diesel::table! {
    schedule (id) {
        id -> BigInt,
        vm_id -> Nullable<BigInt>,
        backup_job_id -> Nullable<BigInt>,
        uid -> BigInt,
        body -> Text,
        datastore_id -> Nullable<BigInt>,
        due_at -> Nullable<BigInt>,
        not_before -> BigInt,
        refusals -> BigInt,
        failures -> BigInt,
        retry_at -> Nullable<BigInt>,
        closes_at -> Nullable<BigInt>,
        retry_until -> Nullable<BigInt>,
        planned_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    job (id) {
        id -> BigInt,
        kind -> Text,
        phase -> Text,
        vm_id -> Nullable<BigInt>,
        image_id -> Nullable<BigInt>,
        datastore_id -> Nullable<BigInt>,
        host_id -> Nullable<BigInt>,
        uid -> BigInt,
        plan -> Text,
        result -> Text,
        cancel -> BigInt,
        attempts -> BigInt,
        not_before -> BigInt,
        error -> Text,
        created_at -> BigInt,
        changed_at -> BigInt,
    }
}

diesel::table! {
    job_event (job_id, seq) {
        job_id -> BigInt,
        seq -> BigInt,
        time -> BigInt,
        phase -> Text,
        text -> Text,
    }
}

diesel::table! {
    event (id) {
        id -> BigInt,
        time -> BigInt,
        vm_id -> Nullable<BigInt>,
        backup_job_id -> Nullable<BigInt>,
        schedule_id -> Nullable<BigInt>,
        job_id -> Nullable<BigInt>,
        uid -> BigInt,
        action -> Text,
        result -> Text,
        read_bytes -> BigInt,
        stored_bytes -> BigInt,
        duration_s -> BigInt,
        reason -> Text,
    }
}

diesel::table! {
    vm_backup (vm_id) {
        vm_id -> BigInt,
        last_success -> BigInt,
        failures -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    acl,
    backup_job,
    backup_job_vm,
    cluster,
    counter,
    datastore,
    document,
    event,
    group_admin,
    history,
    host,
    image,
    image_use,
    increment,
    job,
    job_event,
    lease,
    login_token,
    membership,
    network,
    quota,
    sample,
    schedule,
    security_group,
    user,
    user_group,
    vdc,
    vdc_member,
    vm,
    vm_backup,
    vm_template,
    zone,
);
