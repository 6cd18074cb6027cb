use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_migrations::MigrationHarness;

use super::*;

#[derive(QueryableByName, Debug)]
struct Column {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    r#type: String,
    #[diesel(sql_type = BigInt)]
    notnull: i64,
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("one.db")).unwrap();
    (directory, store)
}

#[test]
fn migrations_go_up_down_and_up_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = SqliteConnection::establish(directory.path().join("one.db").to_str().unwrap()).unwrap();
    connection.run_pending_migrations(MIGRATIONS).unwrap();
    connection.revert_all_migrations(MIGRATIONS).unwrap();
    connection.run_pending_migrations(MIGRATIONS).unwrap();
    connection.batch_execute("SELECT count(*) FROM job_event;").unwrap();
}

#[test]
fn a_database_of_the_first_version_is_carried_over_with_its_restore_points() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.db");
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    connection.run_next_migration(MIGRATIONS).unwrap();
    connection
        .batch_execute(
            "PRAGMA foreign_keys = OFF; \
             INSERT INTO increment (image_id, increment_id, parent_id, kind, date, size_mb, series, point, checkpoint, \
             read_bytes, stored_bytes, duration_s, reason, warning, disks, document, compare_age, unmarked_bytes, \
             verified_at, verify_depth, verify_result) \
             VALUES (3, 0, -1, 'FULL', 5, 1, '7', 'ab', '', 10, 4, 2, 'why', '', '0', '<VM/>', 0, 0, 0, '', '')",
        )
        .unwrap();
    drop(connection);
    let store = Store::open(&path).unwrap();
    let rows = store.read(|tx| tx.increments(3)).unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.point.as_str(), row.read_bytes, row.stored_bytes, row.reason.as_str()), ("ab", 10, 4, "why"));
    assert_eq!(row.saved_bytes, -1, "what was not counted is not known");
}

#[test]
fn the_schema_file_says_what_the_migrations_make() {
    let (_directory, store) = store();
    let written = include_str!("schema.rs");
    let mut expected = std::collections::BTreeMap::new();
    let mut table = String::new();
    for line in written.lines().map(str::trim) {
        if let Some((name, ty)) = line.split_once(" -> ") {
            expected.insert(format!("{table}.{name}"), ty.trim_end_matches(',').to_string());
        } else if let Some(name) = line.split_once(" (").map(|(name, _)| name).filter(|_| line.ends_with('{')) {
            table = name.to_string();
        }
    }
    let found = store
        .write(|tx| {
            let mut found = std::collections::BTreeMap::new();
            let tables: Vec<Column> = diesel::sql_query(
                "SELECT name, type, 0 AS \"notnull\" FROM sqlite_master WHERE type = 'table' \
                 AND name NOT LIKE '\\_\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite%'",
            )
            .load(tx.0)?;
            for table in tables {
                let columns: Vec<Column> = diesel::sql_query(format!(
                    "SELECT name, type, \"notnull\" FROM pragma_table_info('{}')",
                    table.name
                ))
                .load(tx.0)?;
                for column in columns {
                    let ty = if column.r#type == "TEXT" { "Text" } else { "BigInt" };
                    let ty = if column.notnull == 1 { ty.to_string() } else { format!("Nullable<{ty}>") };
                    found.insert(format!("{}.{}", table.name, column.name), ty);
                }
            }
            Ok::<_, StoreError>(found)
        })
        .unwrap();
    assert!(found.len() > 100);
    assert_eq!(expected, found);
}

#[test]
fn ids_start_at_zero_grow_and_are_not_reused() {
    let (_directory, store) = store();
    let ids: Vec<i64> = (0..3).map(|_| store.write(|tx| tx.next_id("vm")).unwrap()).collect();
    assert_eq!(ids, [0, 1, 2]);
    store.write(|tx| tx.reserve_ids("datastore", 100)).unwrap();
    assert_eq!(store.write(|tx| tx.next_id("datastore")).unwrap(), 100);
    store.write(|tx| tx.reserve_ids("datastore", 100)).unwrap();
    assert_eq!(store.write(|tx| tx.next_id("datastore")).unwrap(), 101);
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let (_directory, store) = store();
    let refused: Result<(), StoreError> = store.write(|tx| {
        tx.next_id("vm")?;
        Err(StoreError::Conflict { what: "VM", id: 1 })
    });
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(store.write(|tx| tx.next_id("vm")).unwrap(), 0);
}

#[test]
fn a_job_advances_only_from_the_phase_it_is_in() {
    let (_directory, store) = store();
    let row = rows::JobRow {
        id: 0,
        kind: "BACKUP".into(),
        phase: "planned".into(),
        vm_id: Some(1),
        image_id: None,
        datastore_id: None,
        host_id: None,
        uid: 0,
        plan: "{}".into(),
        result: String::new(),
        cancel: 0,
        attempts: 0,
        not_before: 0,
        error: String::new(),
        created_at: 1,
        changed_at: 1,
    };
    store.write(|tx| tx.job_insert(&row)).unwrap();
    store.write(|tx| tx.job_advance(0, "planned", "prepared", 2, "begun")).unwrap();
    let again = store.write(|tx| tx.job_advance(0, "planned", "prepared", 3, "begun"));
    assert!(matches!(again, Err(StoreError::Conflict { id: 0, .. })));
    assert_eq!(store.read(|tx| tx.jobs_open(JobFilter::Vm(1))).unwrap().len(), 1);
    store.write(|tx| tx.job_advance(0, "prepared", "done", 4, "")).unwrap();
    assert!(store.read(|tx| tx.jobs_open(JobFilter::All)).unwrap().is_empty());
}

#[test]
fn writers_in_many_threads_never_find_the_database_locked() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    store.write(|tx| tx.next_id("vm")).unwrap();
                    store.read(|tx| tx.vm_list()).unwrap();
                }
            });
        }
    });
    assert_eq!(store.write(|tx| tx.next_id("vm")).unwrap(), 200);
}

#[test]
fn nobody_else_can_read_the_database_or_the_files_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, store) = store();
    store.write(|tx| tx.next_id("vm")).unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}

#[test]
fn an_attempt_that_fails_takes_back_only_what_it_did() {
    let (_directory, store) = store();
    let failed = StoreError::NotFound { what: "thing", id: 7 };
    let outcome: Result<(), StoreError> = store.write(|tx| {
        tx.reserve_ids("before", 1)?;
        let inner: Result<(), StoreError> = tx.attempt(|tx| {
            tx.reserve_ids("inside", 1)?;
            // One in another: what it did goes with the outer one.
            tx.attempt(|tx| tx.reserve_ids("within", 1))?;
            Err(failed)
        });
        assert!(matches!(inner, Err(StoreError::NotFound { id: 7, .. })));
        let lost: Result<i64, StoreError> = tx.attempt(|tx| {
            tx.reserve_ids("lost", 1)?;
            // The database's own refusal.
            tx.increment_delete(1, 1)?;
            tx.job_note(99, 0, "planned", "of no job")?;
            Ok(1)
        });
        assert!(lost.is_err());
        tx.attempt(|tx| tx.reserve_ids("after", 1))
    });
    outcome.unwrap();
    let next = |pool: &str| store.write(|tx| tx.next_ids(pool, 0)).unwrap();
    assert_eq!(["before", "inside", "within", "lost", "after"].map(next), [1, 0, 0, 0, 1]);
}

#[test]
fn an_attempt_does_not_outlive_its_transaction() {
    let (_directory, store) = store();
    let outcome: Result<(), StoreError> = store.write(|tx| {
        tx.attempt(|tx| tx.reserve_ids("pool", 1))?;
        Err(StoreError::NotFound { what: "thing", id: 7 })
    });
    assert!(outcome.is_err());
    assert_eq!(store.write(|tx| tx.next_ids("pool", 0)).unwrap(), 0);
}
