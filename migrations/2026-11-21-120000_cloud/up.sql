-- The whole cloud in one file. Ids are ours (table counter): they start at 0 as clients expect and are never reused.
-- Times are epoch seconds, sizes MB unless the name says otherwise, states the wire's numbers.
-- *_template columns hold canonical template text; everything we query is a column of its own.

CREATE TABLE counter (
    name TEXT NOT NULL PRIMARY KEY,
    next_id INTEGER NOT NULL CHECK (next_id >= 0)
) STRICT;

CREATE TABLE user_group (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    template TEXT NOT NULL
) STRICT;

CREATE TABLE user (
    id INTEGER NOT NULL PRIMARY KEY,
    gid INTEGER NOT NULL REFERENCES user_group (id),
    name TEXT NOT NULL UNIQUE,
    password_sha256 TEXT NOT NULL,
    auth_driver TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    template TEXT NOT NULL
) STRICT;

CREATE TABLE membership (
    uid INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    gid INTEGER NOT NULL REFERENCES user_group (id) ON DELETE CASCADE,
    PRIMARY KEY (uid, gid)
) STRICT;

-- Administrators of a group.
CREATE TABLE group_admin (
    gid INTEGER NOT NULL REFERENCES user_group (id) ON DELETE CASCADE,
    uid INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    PRIMARY KEY (gid, uid)
) STRICT;

-- Login tokens, as their SHA-256: the text itself is shown once, to whom asked for it.
CREATE TABLE login_token (
    uid INTEGER NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    token_sha256 TEXT NOT NULL,
    -- -1 = never.
    expires_at INTEGER NOT NULL,
    -- The only group that a session with this token acts in; -1 = all of the user's.
    egid INTEGER NOT NULL,
    PRIMARY KEY (uid, token_sha256)
) STRICT;

CREATE TABLE acl (
    id INTEGER NOT NULL PRIMARY KEY,
    user_hex TEXT NOT NULL,
    resource_hex TEXT NOT NULL,
    rights_hex TEXT NOT NULL,
    zone_hex TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;

-- Limits and usage of users and groups; owner_id -1 holds the defaults. CPU counts in hundredths.
CREATE TABLE quota (
    owner TEXT NOT NULL CHECK (owner IN ('USER', 'GROUP')),
    owner_id INTEGER NOT NULL,
    -- DATASTORE, NETWORK, IMAGE with the id in resource_id; VM with '' or cluster ids.
    resource TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    metric TEXT NOT NULL,
    -- NULL = none was set.
    most INTEGER,
    used INTEGER NOT NULL,
    PRIMARY KEY (owner, owner_id, resource, resource_id, metric)
) STRICT;

CREATE TABLE vdc (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    template TEXT NOT NULL
) STRICT;

CREATE TABLE vdc_member (
    vdc_id INTEGER NOT NULL REFERENCES vdc (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('GROUP', 'CLUSTER', 'HOST', 'DATASTORE', 'NET')),
    zone_id INTEGER NOT NULL,
    -- -10 = all of them.
    object_id INTEGER NOT NULL,
    PRIMARY KEY (vdc_id, kind, zone_id, object_id)
) STRICT;

CREATE TABLE zone (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    template TEXT NOT NULL
) STRICT;

CREATE TABLE cluster (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    template TEXT NOT NULL
) STRICT;

CREATE TABLE host (
    id INTEGER NOT NULL PRIMARY KEY,
    cluster_id INTEGER NOT NULL REFERENCES cluster (id),
    name TEXT NOT NULL UNIQUE,
    state INTEGER NOT NULL,
    prev_state INTEGER NOT NULL,
    im_mad TEXT NOT NULL,
    vm_mad TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory_kb INTEGER NOT NULL,
    free_memory_kb INTEGER NOT NULL,
    monitored_at INTEGER NOT NULL,
    template TEXT NOT NULL
) STRICT;

CREATE TABLE datastore (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE,
    permissions INTEGER NOT NULL,
    ds_mad TEXT NOT NULL,
    tm_mad TEXT NOT NULL,
    base_path TEXT NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    disk_type INTEGER NOT NULL,
    state INTEGER NOT NULL,
    -- Ids with commas, ascending.
    clusters TEXT NOT NULL,
    total_mb INTEGER NOT NULL,
    free_mb INTEGER NOT NULL,
    used_mb INTEGER NOT NULL,
    monitored_at INTEGER NOT NULL,
    template TEXT NOT NULL
) STRICT;

CREATE TABLE image (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    disk_type INTEGER NOT NULL,
    persistent INTEGER NOT NULL CHECK (persistent IN (0, 1)),
    regtime INTEGER NOT NULL,
    modtime INTEGER NOT NULL,
    source TEXT NOT NULL,
    path TEXT NOT NULL,
    format TEXT NOT NULL,
    fs TEXT NOT NULL,
    size_mb INTEGER NOT NULL,
    state INTEGER NOT NULL,
    prev_state INTEGER NOT NULL,
    datastore_id INTEGER NOT NULL REFERENCES datastore (id),
    -- Backup images only: whose backup this is (the VM may be long gone), and FULL or INCREMENT.
    backup_vm_id INTEGER,
    backup_mode TEXT CHECK (backup_mode IN ('FULL', 'INCREMENT')),
    -- Snapshots of the disk, JSON, or empty.
    snapshots TEXT NOT NULL,
    -- JSON, or empty.
    lock TEXT NOT NULL,
    template TEXT NOT NULL,
    UNIQUE (uid, name)
) STRICT;
CREATE INDEX image_by_backup_vm ON image (backup_vm_id) WHERE backup_vm_id IS NOT NULL;
CREATE INDEX image_by_datastore ON image (datastore_id);
-- What pools look at before they read whole rows; the rows are a hundred times as long.
CREATE INDEX image_head ON image (id, uid, gid, permissions);

-- Which VMs use an image as a disk.
CREATE TABLE image_use (
    image_id INTEGER NOT NULL REFERENCES image (id),
    vm_id INTEGER NOT NULL,
    PRIMARY KEY (image_id, vm_id)
) STRICT;

-- Restore points. A backup image in FULL mode has exactly one (id 0); a chain has one per backup, ids only grow.
CREATE TABLE increment (
    image_id INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    increment_id INTEGER NOT NULL,
    parent_id INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('FULL', 'INCREMENT')),
    date INTEGER NOT NULL,
    size_mb INTEGER NOT NULL,
    series TEXT NOT NULL,
    point TEXT NOT NULL,
    checkpoint TEXT NOT NULL,
    read_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    duration_s INTEGER NOT NULL,
    reason TEXT NOT NULL,
    warning TEXT NOT NULL,
    disks TEXT NOT NULL,
    document TEXT NOT NULL,
    -- Runs of the chain since its disks were last read whole; 0 = by this one.
    compare_age INTEGER NOT NULL,
    -- What this run found changed that the record of changes did not list; 0 also when nobody looked.
    unmarked_bytes INTEGER NOT NULL,
    -- The last verification: when (epoch seconds, 0 never), how closely, and what it saw (JSON; empty = never).
    verified_at INTEGER NOT NULL,
    verify_depth TEXT NOT NULL CHECK (verify_depth IN ('', 'QUICK', 'DEEP')),
    verify_result TEXT NOT NULL,
    -- The scheduled action that made it; the action may be long gone.
    schedule_id INTEGER,
    PRIMARY KEY (image_id, increment_id)
) STRICT;

CREATE TABLE vm_template (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    regtime INTEGER NOT NULL,
    -- JSON, or empty.
    lock TEXT NOT NULL,
    template TEXT NOT NULL,
    UNIQUE (uid, name)
) STRICT;

-- Free documents of clients, by type.
CREATE TABLE document (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    regtime INTEGER NOT NULL,
    -- JSON, or empty.
    lock TEXT NOT NULL,
    template TEXT NOT NULL
) STRICT;
CREATE INDEX document_by_kind ON document (kind);

CREATE TABLE security_group (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    -- JSON, or empty.
    lock TEXT NOT NULL,
    template TEXT NOT NULL,
    UNIQUE (uid, name)
) STRICT;

CREATE TABLE network (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    clusters TEXT NOT NULL,
    -- The network that a reservation was taken from.
    parent_id INTEGER,
    vn_mad TEXT NOT NULL,
    bridge TEXT NOT NULL,
    state INTEGER NOT NULL,
    prev_state INTEGER NOT NULL,
    -- VLANs that were chosen here and so are not in the template; empty = none.
    auto_vlan TEXT NOT NULL,
    auto_outer_vlan TEXT NOT NULL,
    -- Address ranges, JSON.
    ranges TEXT NOT NULL,
    -- JSON, or empty.
    lock TEXT NOT NULL,
    template TEXT NOT NULL,
    UNIQUE (uid, name)
) STRICT;

-- Addresses in use: index in its range, and by whom: a VM's NIC, a reserving network, or nobody (held).
CREATE TABLE lease (
    network_id INTEGER NOT NULL REFERENCES network (id),
    range_id INTEGER NOT NULL,
    place INTEGER NOT NULL,
    holder TEXT NOT NULL CHECK (holder IN ('VM', 'NET', 'HOLD')),
    holder_id INTEGER NOT NULL,
    nic_id INTEGER NOT NULL,
    PRIMARY KEY (network_id, range_id, place)
) STRICT;
CREATE INDEX lease_by_holder ON lease (holder, holder_id);

CREATE TABLE backup_job (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    last_backup_time INTEGER NOT NULL,
    last_backup_duration INTEGER NOT NULL,
    -- JSON, or empty.
    lock TEXT NOT NULL,
    template TEXT NOT NULL,
    UNIQUE (uid, name)
) STRICT;

-- What a run of a job has still to do and has done.
CREATE TABLE backup_job_vm (
    backup_job_id INTEGER NOT NULL REFERENCES backup_job (id) ON DELETE CASCADE,
    list TEXT NOT NULL CHECK (list IN ('OUTDATED', 'BACKING_UP', 'UPDATED', 'ERROR')),
    vm_id INTEGER NOT NULL,
    -- Its place in the run, from 0.
    place INTEGER NOT NULL,
    -- How often its backup failed in this run, and before when it is not tried again.
    failures INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    -- Since when its turn has come while the VM was busy with something else; NULL = not.
    waits_since INTEGER,
    -- The scheduled action that began the run; NULL = somebody's call.
    schedule_id INTEGER,
    -- The daemon's job that makes its backup: who waits for an end has one that will tell it.
    job_id INTEGER,
    PRIMARY KEY (backup_job_id, vm_id),
    CHECK ((list = 'BACKING_UP') = (job_id IS NOT NULL))
) STRICT;
CREATE INDEX backup_job_vm_by_vm ON backup_job_vm (vm_id);
CREATE INDEX backup_job_vm_outdated ON backup_job_vm (backup_job_id, place) WHERE list = 'OUTDATED';

CREATE TABLE vm (
    id INTEGER NOT NULL PRIMARY KEY,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    name TEXT NOT NULL,
    permissions INTEGER NOT NULL,
    last_poll INTEGER NOT NULL,
    state INTEGER NOT NULL,
    lcm_state INTEGER NOT NULL,
    prev_state INTEGER NOT NULL,
    prev_lcm_state INTEGER NOT NULL,
    stime INTEGER NOT NULL,
    etime INTEGER NOT NULL,
    deploy_id TEXT NOT NULL,
    uuid TEXT NOT NULL,
    host_id INTEGER,
    resched INTEGER NOT NULL CHECK (resched IN (0, 1)),
    -- JSON, or empty.
    lock TEXT NOT NULL,
    -- Snapshots of its disks, JSON, or empty.
    snapshots TEXT NOT NULL,
    template TEXT NOT NULL,
    user_template TEXT NOT NULL,
    -- One BACKUP_CONFIG vector as template text; empty when the VM never had one.
    backup_config TEXT NOT NULL
) STRICT;
CREATE INDEX vm_by_state ON vm (state);
CREATE INDEX vm_by_host ON vm (host_id) WHERE host_id IS NOT NULL;
CREATE INDEX vm_by_owner ON vm (uid);
CREATE INDEX vm_head ON vm (id, state, uid, gid, permissions);

-- What drivers last said, as template text; old samples go.
CREATE TABLE sample (
    kind TEXT NOT NULL CHECK (kind IN ('VM', 'HOST')),
    object_id INTEGER NOT NULL,
    time INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, object_id, time)
) STRICT;

CREATE TABLE history (
    vm_id INTEGER NOT NULL REFERENCES vm (id),
    seq INTEGER NOT NULL,
    host_id INTEGER NOT NULL,
    hostname TEXT NOT NULL,
    cluster_id INTEGER NOT NULL,
    vm_mad TEXT NOT NULL,
    tm_mad TEXT NOT NULL,
    ds_id INTEGER NOT NULL,
    stime INTEGER NOT NULL,
    etime INTEGER NOT NULL,
    pstime INTEGER NOT NULL,
    petime INTEGER NOT NULL,
    rstime INTEGER NOT NULL,
    retime INTEGER NOT NULL,
    estime INTEGER NOT NULL,
    eetime INTEGER NOT NULL,
    action INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    PRIMARY KEY (vm_id, seq)
) STRICT;

-- Scheduled actions of VMs and of backup jobs; due work is one indexed query.
CREATE TABLE schedule (
    id INTEGER NOT NULL PRIMARY KEY,
    vm_id INTEGER REFERENCES vm (id),
    backup_job_id INTEGER REFERENCES backup_job (id),
    -- The user whose rights the action runs with.
    uid INTEGER NOT NULL,
    -- The action as the core writes it, JSON.
    body TEXT NOT NULL,
    -- The backup datastore that a VM's backup goes to, -1 = that of its chain; NULL = no backup of a VM.
    datastore_id INTEGER,
    -- When it is to be looked at next: its TIME with its share of JITTER, or retry_at; NULL = never again.
    due_at INTEGER,
    -- A refused action is not tried before this time.
    not_before INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    -- Failures in a row of backups that it started, and when the last is tried once more; NULL = not.
    failures INTEGER NOT NULL,
    retry_at INTEGER,
    -- When the window of what is due at due_at closes, and that of the run before, within which a retry must begin; NULL = no
    -- window.
    closes_at INTEGER,
    retry_until INTEGER,
    -- What the clock showed when its TIME was planned; one that is still to come shows that the clock was put back.
    planned_at INTEGER,
    CHECK ((vm_id IS NULL) <> (backup_job_id IS NULL))
) STRICT;
CREATE INDEX schedule_due ON schedule (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX schedule_closing ON schedule (closes_at) WHERE closes_at IS NOT NULL;
-- After a first refusal it is tried again soon anyway.
CREATE INDEX schedule_refused ON schedule (vm_id) WHERE refusals > 1;
CREATE INDEX schedule_planned ON schedule (planned_at) WHERE planned_at IS NOT NULL;
CREATE INDEX schedule_retried ON schedule (retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX schedule_by_vm ON schedule (vm_id) WHERE vm_id IS NOT NULL;
CREATE INDEX schedule_by_backup_job ON schedule (backup_job_id) WHERE backup_job_id IS NOT NULL;

-- One row per operation: intent, effect, result. The plan is JSON, written once.
CREATE TABLE job (
    id INTEGER NOT NULL PRIMARY KEY,
    -- The kinds are the daemon's (job.rs).
    kind TEXT NOT NULL CHECK (kind <> ''),
    phase TEXT NOT NULL CHECK (phase IN ('planned', 'prepared', 'copied', 'sealed', 'recorded', 'cleaned', 'done',
                                         'undoing', 'failed', 'cancelled')),
    vm_id INTEGER,
    image_id INTEGER,
    datastore_id INTEGER,
    host_id INTEGER,
    uid INTEGER NOT NULL,
    plan TEXT NOT NULL,
    result TEXT NOT NULL,
    cancel INTEGER NOT NULL CHECK (cancel IN (0, 1)),
    attempts INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    error TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX job_open ON job (id) WHERE phase NOT IN ('done', 'failed', 'cancelled');
CREATE INDEX job_by_vm ON job (vm_id) WHERE vm_id IS NOT NULL;
CREATE INDEX job_by_image ON job (image_id) WHERE image_id IS NOT NULL;

CREATE TABLE job_event (
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    time INTEGER NOT NULL,
    phase TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job_id, seq)
) STRICT;

-- What was done to VMs and by backup jobs, for who looks at it later; old ones go. A VM's backup in a job names both.
CREATE TABLE event (
    id INTEGER NOT NULL PRIMARY KEY,
    time INTEGER NOT NULL,
    vm_id INTEGER,
    backup_job_id INTEGER,
    -- The scheduled action and the daemon's job that it was, if any.
    schedule_id INTEGER,
    job_id INTEGER,
    -- Who asked, -1 = the daemon itself.
    uid INTEGER NOT NULL,
    action TEXT NOT NULL,
    result TEXT NOT NULL CHECK (result IN ('STARTED', 'DONE', 'FAILED', 'CANCELLED', 'REFUSED', 'SKIPPED')),
    read_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    duration_s INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX event_by_vm ON event (vm_id, id) WHERE vm_id IS NOT NULL;
CREATE INDEX event_by_backup_job ON event (backup_job_id, id) WHERE backup_job_id IS NOT NULL;
-- Of its runs: a job of a thousand VMs has a thousand times as many of their backups.
CREATE INDEX event_by_run ON event (backup_job_id, id) WHERE backup_job_id IS NOT NULL AND vm_id IS NULL;
CREATE INDEX event_by_time ON event (time);

-- How the backups of each VM fare, for monitoring. No row: none has ended yet.
CREATE TABLE vm_backup (
    vm_id INTEGER NOT NULL PRIMARY KEY REFERENCES vm (id) ON DELETE CASCADE,
    -- The end of the last one that gave a restore point, epoch seconds; 0 = there was none.
    last_success INTEGER NOT NULL,
    -- How many have failed since.
    failures INTEGER NOT NULL
) STRICT;
