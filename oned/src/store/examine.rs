//! Statements that an examination of the installation makes.

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::schema::{event, image, increment, job};
use super::{StoreError, Tx};

/// The one column of the pragma's answer.
#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    quick_check: String,
}

impl Tx<'_> {
    /// SQLite's own quick look at the whole file; its first complaint. Reads everything.
    ///
    /// # Errors
    /// The database's failure.
    pub fn quick_check(&mut self) -> Result<Option<String>, StoreError> {
        let lines: Vec<Line> = diesel::sql_query("PRAGMA quick_check(1)").load(self.0)?;
        Ok(lines.into_iter().map(|line| line.quick_check).find(|line| line != "ok"))
    }

    /// The newest time that was written down of anything, epoch seconds; 0 of an empty database.
    ///
    /// # Errors
    /// The database's failure.
    pub fn newest_time(&mut self) -> Result<i64, StoreError> {
        let times: [Option<i64>; 3] = [
            event::table.select(max(event::time)).first(self.0)?,
            job::table.select(max(job::changed_at)).first(self.0)?,
            increment::table.select(max(increment::date)).first(self.0)?,
        ];
        Ok(times.into_iter().flatten().max().unwrap_or(0))
    }

    /// The newest restore point in a datastore: its series and the driver's id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn newest_point(&mut self, datastore_id: i64) -> Result<Option<(String, String)>, StoreError> {
        let images = image::table.filter(image::datastore_id.eq(datastore_id)).select(image::id);
        Ok(increment::table
            .filter(increment::image_id.eq_any(images))
            .order((increment::date.desc(), increment::image_id.desc(), increment::increment_id.desc()))
            .select((increment::series, increment::point))
            .first(self.0)
            .optional()?)
    }
}
