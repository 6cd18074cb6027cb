//! Statements about people: users, groups, their administrators, tokens, access rules, quotas, virtual data centres.

use diesel::prelude::*;

use super::rows::*;
use super::schema::{acl, group_admin, login_token, membership, quota, user, user_group, vdc_member};
use super::{StoreError, Tx};

impl Tx<'_> {
    /// The user of that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn user_by_name(&mut self, name: &str) -> Result<Option<UserRow>, StoreError> {
        Ok(user::table.filter(user::name.eq(name)).select(UserRow::as_select()).get_result(self.0).optional()?)
    }

    /// The group of that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn group_by_name(&mut self, name: &str) -> Result<Option<GroupRow>, StoreError> {
        Ok(user_group::table
            .filter(user_group::name.eq(name))
            .select(GroupRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// All groups of a user, the primary one included.
    ///
    /// # Errors
    /// The database's failure.
    pub fn user_groups(&mut self, uid: i64) -> Result<Vec<i64>, StoreError> {
        Ok(membership::table
            .filter(membership::uid.eq(uid))
            .order(membership::gid.asc())
            .select(membership::gid)
            .load(self.0)?)
    }

    /// All members of a group.
    ///
    /// # Errors
    /// The database's failure.
    pub fn group_users(&mut self, gid: i64) -> Result<Vec<i64>, StoreError> {
        Ok(membership::table
            .filter(membership::gid.eq(gid))
            .order(membership::uid.asc())
            .select(membership::uid)
            .load(self.0)?)
    }

    /// Puts a user into a group.
    ///
    /// # Errors
    /// The database's failure.
    pub fn membership_add(&mut self, uid: i64, gid: i64) -> Result<(), StoreError> {
        diesel::insert_or_ignore_into(membership::table)
            .values((membership::uid.eq(uid), membership::gid.eq(gid)))
            .execute(self.0)?;
        Ok(())
    }

    /// Takes a user out of a group, and out of its administrators.
    ///
    /// # Errors
    /// The database's failure.
    pub fn membership_remove(&mut self, uid: i64, gid: i64) -> Result<(), StoreError> {
        diesel::delete(membership::table.find((uid, gid))).execute(self.0)?;
        self.group_admin_remove(gid, uid)
    }

    /// The administrators of a group.
    ///
    /// # Errors
    /// The database's failure.
    pub fn group_admins(&mut self, gid: i64) -> Result<Vec<i64>, StoreError> {
        Ok(group_admin::table
            .filter(group_admin::gid.eq(gid))
            .order(group_admin::uid.asc())
            .select(group_admin::uid)
            .load(self.0)?)
    }

    /// Makes a user administrator of a group.
    ///
    /// # Errors
    /// The database's failure.
    pub fn group_admin_add(&mut self, gid: i64, uid: i64) -> Result<(), StoreError> {
        diesel::insert_or_ignore_into(group_admin::table)
            .values((group_admin::gid.eq(gid), group_admin::uid.eq(uid)))
            .execute(self.0)?;
        Ok(())
    }

    /// Takes the administration of a group from a user.
    ///
    /// # Errors
    /// The database's failure.
    pub fn group_admin_remove(&mut self, gid: i64, uid: i64) -> Result<(), StoreError> {
        diesel::delete(group_admin::table.find((gid, uid))).execute(self.0)?;
        Ok(())
    }

    /// The login token of a user with that digest.
    ///
    /// # Errors
    /// The database's failure.
    pub fn login_token(&mut self, uid: i64, digest: &str) -> Result<Option<LoginTokenRow>, StoreError> {
        Ok(login_token::table.find((uid, digest)).select(LoginTokenRow::as_select()).get_result(self.0).optional()?)
    }

    /// The login tokens of a user.
    ///
    /// # Errors
    /// The database's failure.
    pub fn login_tokens(&mut self, uid: i64) -> Result<Vec<LoginTokenRow>, StoreError> {
        Ok(login_token::table
            .filter(login_token::uid.eq(uid))
            .order(login_token::token_sha256.asc())
            .select(LoginTokenRow::as_select())
            .load(self.0)?)
    }

    /// Adds or renews a login token.
    ///
    /// # Errors
    /// The database's failure.
    pub fn login_token_put(&mut self, row: &LoginTokenRow) -> Result<(), StoreError> {
        diesel::replace_into(login_token::table).values(row).execute(self.0)?;
        Ok(())
    }

    /// Removes a user's login token, or with none all of them; how many.
    ///
    /// # Errors
    /// The database's failure.
    pub fn login_token_remove(&mut self, uid: i64, digest: Option<&str>) -> Result<usize, StoreError> {
        Ok(match digest {
            Some(digest) => diesel::delete(login_token::table.find((uid, digest))).execute(self.0)?,
            None => diesel::delete(login_token::table.filter(login_token::uid.eq(uid))).execute(self.0)?,
        })
    }

    /// Removes a user's login tokens that ended before `now`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn login_tokens_expire(&mut self, uid: i64, now: i64) -> Result<(), StoreError> {
        let over = login_token::expires_at.ge(0).and(login_token::expires_at.le(now));
        diesel::delete(login_token::table.filter(login_token::uid.eq(uid).and(over))).execute(self.0)?;
        Ok(())
    }

    /// The access rule that says the same, whatever its id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn acl_like(&mut self, row: &AclRow) -> Result<Option<AclRow>, StoreError> {
        let same = acl::user_hex
            .eq(&row.user_hex)
            .and(acl::resource_hex.eq(&row.resource_hex))
            .and(acl::rights_hex.eq(&row.rights_hex))
            .and(acl::zone_hex.eq(&row.zone_hex));
        Ok(acl::table.filter(same).select(AclRow::as_select()).get_result(self.0).optional()?)
    }

    /// Limits and usage of an owner (`USER` or `GROUP`; id −1: the defaults).
    ///
    /// # Errors
    /// The database's failure.
    pub fn quotas(&mut self, owner: &str, owner_id: i64) -> Result<Vec<QuotaRow>, StoreError> {
        Ok(quota::table
            .filter(quota::owner.eq(owner).and(quota::owner_id.eq(owner_id)))
            .order((quota::resource.asc(), quota::resource_id.asc(), quota::metric.asc()))
            .select(QuotaRow::as_select())
            .load(self.0)?)
    }

    /// Limits and usage of all owners of a kind (`USER` or `GROUP`), the defaults included.
    ///
    /// # Errors
    /// The database's failure.
    pub fn quotas_of_all(&mut self, owner: &str) -> Result<Vec<QuotaRow>, StoreError> {
        Ok(quota::table.filter(quota::owner.eq(owner)).select(QuotaRow::as_select()).load(self.0)?)
    }

    /// Limits and usage of every owner.
    ///
    /// # Errors
    /// The database's failure.
    pub fn quotas_all(&mut self) -> Result<Vec<QuotaRow>, StoreError> {
        Ok(quota::table.select(QuotaRow::as_select()).load(self.0)?)
    }

    /// Replaces all limits and usage of an owner by these.
    ///
    /// # Errors
    /// The database's failure.
    pub fn quotas_replace(&mut self, owner: &str, owner_id: i64, rows: &[QuotaRow]) -> Result<(), StoreError> {
        diesel::delete(quota::table.filter(quota::owner.eq(owner).and(quota::owner_id.eq(owner_id))))
            .execute(self.0)?;
        for row in rows {
            diesel::insert_into(quota::table).values(row).execute(self.0)?;
        }
        Ok(())
    }

    /// Adds `used` of the row to what is used under its key and returns the sum. A sum below 0 is stored as 0; a row that
    /// has neither a limit nor use goes.
    ///
    /// # Errors
    /// The database's failure.
    pub fn quota_add(&mut self, row: &QuotaRow) -> Result<i64, StoreError> {
        let place = (&row.owner, row.owner_id, &row.resource, &row.resource_id, &row.metric);
        let found = quota::table.find(place).select((quota::most, quota::used)).get_result(self.0).optional()?;
        let (most, used): (Option<i64>, i64) = found.unwrap_or((None, 0));
        let sum = used.saturating_add(row.used);
        if sum <= 0 && most.is_none() {
            diesel::delete(quota::table.find(place)).execute(self.0)?;
        } else {
            let row = QuotaRow { most, used: sum.max(0), ..row.clone() };
            diesel::replace_into(quota::table).values(&row).execute(self.0)?;
        }
        Ok(sum)
    }

    /// Removes all limits of an owner who goes. What is used stays as long as what uses it.
    ///
    /// # Errors
    /// The database's failure.
    pub fn quotas_remove(&mut self, owner: &str, owner_id: i64) -> Result<(), StoreError> {
        let theirs = quota::owner.eq(owner).and(quota::owner_id.eq(owner_id));
        diesel::delete(quota::table.filter(theirs.and(quota::used.eq(0)))).execute(self.0)?;
        diesel::update(quota::table.filter(theirs)).set(quota::most.eq(None::<i64>)).execute(self.0)?;
        Ok(())
    }

    /// What belongs to a virtual data centre, of one kind: (zone, object).
    ///
    /// # Errors
    /// The database's failure.
    pub fn vdc_members(&mut self, vdc_id: i64, kind: &str) -> Result<Vec<(i64, i64)>, StoreError> {
        Ok(vdc_member::table
            .filter(vdc_member::vdc_id.eq(vdc_id).and(vdc_member::kind.eq(kind)))
            .order((vdc_member::zone_id.asc(), vdc_member::object_id.asc()))
            .select((vdc_member::zone_id, vdc_member::object_id))
            .load(self.0)?)
    }

    /// Adds something to a virtual data centre.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vdc_member_add(&mut self, vdc_id: i64, kind: &str, zone_id: i64, object_id: i64) -> Result<(), StoreError> {
        diesel::insert_or_ignore_into(vdc_member::table)
            .values((
                vdc_member::vdc_id.eq(vdc_id),
                vdc_member::kind.eq(kind),
                vdc_member::zone_id.eq(zone_id),
                vdc_member::object_id.eq(object_id),
            ))
            .execute(self.0)?;
        Ok(())
    }

    /// Takes something out of a virtual data centre.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vdc_member_remove(
        &mut self,
        vdc_id: i64,
        kind: &str,
        zone_id: i64,
        object_id: i64,
    ) -> Result<(), StoreError> {
        diesel::delete(vdc_member::table.find((vdc_id, kind, zone_id, object_id))).execute(self.0)?;
        Ok(())
    }
}
