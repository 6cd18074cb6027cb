//! The same five statements for every table with one id: fetch, list, insert, update, delete.

use diesel::prelude::*;

use super::rows::*;
use super::{StoreError, Tx, schema};

macro_rules! pool {
    ($table:ident, $row:ident, $what:literal, $get:ident, $find:ident, $list:ident, $insert:ident, $update:ident, $delete:ident) => {
        impl Tx<'_> {
            #[doc = concat!("The ", $what, " of that id.")]
            ///
            /// # Errors
            /// [`StoreError::NotFound`], or the database's failure.
            pub fn $get(&mut self, id: i64) -> Result<$row, StoreError> {
                self.$find(id)?.ok_or(StoreError::NotFound { what: $what, id })
            }

            #[doc = concat!("The ", $what, " of that id, if there is one.")]
            ///
            /// # Errors
            /// The database's failure.
            pub fn $find(&mut self, id: i64) -> Result<Option<$row>, StoreError> {
                // Not `first`: SQLite prepares a statement anew each time whose LIMIT is a parameter.
                Ok(schema::$table::table.find(id).select($row::as_select()).get_result(self.0).optional()?)
            }

            #[doc = concat!("Every ", $what, ", by id.")]
            ///
            /// # Errors
            /// The database's failure.
            pub fn $list(&mut self) -> Result<Vec<$row>, StoreError> {
                Ok(schema::$table::table.order(schema::$table::id.asc()).select($row::as_select()).load(self.0)?)
            }

            #[doc = concat!("Adds a ", $what, ".")]
            ///
            /// # Errors
            /// The database's failure, a broken uniqueness included.
            pub fn $insert(&mut self, row: &$row) -> Result<(), StoreError> {
                diesel::insert_into(schema::$table::table).values(row).execute(self.0)?;
                Ok(())
            }

            #[doc = concat!("Replaces the ", $what, " of the row's id.")]
            ///
            /// # Errors
            /// [`StoreError::NotFound`], or the database's failure.
            pub fn $update(&mut self, row: &$row) -> Result<(), StoreError> {
                let changed = diesel::update(schema::$table::table.find(row.id)).set(row).execute(self.0)?;
                if changed == 1 { Ok(()) } else { Err(StoreError::NotFound { what: $what, id: row.id }) }
            }

            #[doc = concat!("Removes the ", $what, " of that id; an absent one is success.")]
            ///
            /// # Errors
            /// The database's failure, a row that still refers to it included.
            pub fn $delete(&mut self, id: i64) -> Result<(), StoreError> {
                diesel::delete(schema::$table::table.find(id)).execute(self.0)?;
                Ok(())
            }
        }
    };
}

pool!(user, UserRow, "user", user, user_find, user_list, user_insert, user_update, user_delete);
pool!(user_group, GroupRow, "group", group, group_find, group_list, group_insert, group_update, group_delete);
pool!(acl, AclRow, "ACL rule", acl, acl_find, acl_list, acl_insert, acl_update, acl_delete);
pool!(zone, ZoneRow, "zone", zone, zone_find, zone_list, zone_insert, zone_update, zone_delete);
pool!(
    cluster,
    ClusterRow,
    "cluster",
    cluster,
    cluster_find,
    cluster_list,
    cluster_insert,
    cluster_update,
    cluster_delete
);
pool!(host, HostRow, "host", host, host_find, host_list, host_insert, host_update, host_delete);
pool!(
    datastore,
    DatastoreRow,
    "datastore",
    datastore,
    datastore_find,
    datastore_list,
    datastore_insert,
    datastore_update,
    datastore_delete
);
pool!(image, ImageRow, "image", image, image_find, image_list, image_insert, image_update, image_delete);
pool!(
    vm_template,
    TemplateRow,
    "VM template",
    template,
    template_find,
    template_list,
    template_insert,
    template_update,
    template_delete
);
pool!(vm, VmRow, "VM", vm, vm_find, vm_list, vm_insert, vm_update, vm_delete);
pool!(
    schedule,
    ScheduleRow,
    "scheduled action",
    schedule,
    schedule_find,
    schedule_list,
    schedule_insert,
    schedule_update,
    schedule_delete
);
pool!(job, JobRow, "job", job, job_find, job_list, job_insert, job_update, job_delete);
pool!(vdc, VdcRow, "virtual data centre", vdc, vdc_find, vdc_list, vdc_insert, vdc_update, vdc_delete);
pool!(
    document,
    DocumentRow,
    "document",
    document,
    document_find,
    document_list,
    document_insert,
    document_update,
    document_delete
);
pool!(
    security_group,
    SecurityGroupRow,
    "security group",
    security_group,
    security_group_find,
    security_group_list,
    security_group_insert,
    security_group_update,
    security_group_delete
);
pool!(
    network,
    NetworkRow,
    "virtual network",
    network,
    network_find,
    network_list,
    network_insert,
    network_update,
    network_delete
);
pool!(
    backup_job,
    BackupJobRow,
    "backup job",
    backup_job,
    backup_job_find,
    backup_job_list,
    backup_job_insert,
    backup_job_update,
    backup_job_delete
);
