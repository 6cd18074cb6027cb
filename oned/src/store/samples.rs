//! Statements about samples, what drivers said of hosts and VMs, and about documents by their type.

use diesel::prelude::*;

use super::rows::*;
use super::schema::{document, sample};
use super::{StoreError, Tx};

impl Tx<'_> {
    /// The samples of a `HOST` or `VM` from `since` on, oldest first.
    ///
    /// # Errors
    /// The database's failure.
    pub fn samples(&mut self, kind: &str, object_id: i64, since: i64) -> Result<Vec<SampleRow>, StoreError> {
        Ok(sample::table
            .filter(sample::kind.eq(kind).and(sample::object_id.eq(object_id)).and(sample::time.ge(since)))
            .order(sample::time.asc())
            .select(SampleRow::as_select())
            .load(self.0)?)
    }

    /// The newest sample of a `HOST` or `VM`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn sample_last(&mut self, kind: &str, object_id: i64) -> Result<Option<SampleRow>, StoreError> {
        Ok(sample::table
            .filter(sample::kind.eq(kind).and(sample::object_id.eq(object_id)))
            .order(sample::time.desc())
            .select(SampleRow::as_select())
            .first(self.0)
            .optional()?)
    }

    /// Adds a sample; of its object the newest `keep` stay.
    ///
    /// # Errors
    /// The database's failure.
    pub fn sample_put(&mut self, row: &SampleRow, keep: i64) -> Result<(), StoreError> {
        diesel::replace_into(sample::table).values(row).execute(self.0)?;
        let of_object = sample::kind.eq(&row.kind).and(sample::object_id.eq(row.object_id));
        let oldest = sample::table
            .filter(of_object)
            .order(sample::time.desc())
            .offset((keep - 1).max(0))
            .limit(1)
            .select(sample::time)
            .first::<i64>(self.0)
            .optional()?;
        if let Some(oldest) = oldest {
            diesel::delete(sample::table.filter(of_object.and(sample::time.lt(oldest)))).execute(self.0)?;
        }
        Ok(())
    }

    /// Removes the samples of a `HOST` or `VM`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn samples_remove(&mut self, kind: &str, object_id: i64) -> Result<(), StoreError> {
        let of_object = sample::kind.eq(kind).and(sample::object_id.eq(object_id));
        diesel::delete(sample::table.filter(of_object)).execute(self.0)?;
        Ok(())
    }

    /// The documents of a type, by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn documents_of_kind(&mut self, kind: i64) -> Result<Vec<DocumentRow>, StoreError> {
        Ok(document::table
            .filter(document::kind.eq(kind))
            .order(document::id.asc())
            .select(DocumentRow::as_select())
            .load(self.0)?)
    }
}
