//! Statements about virtual networks: names, and the addresses in use.

use diesel::dsl::{count_star, max};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use one_core::network::lease::lowest_free_run;

use super::rows::*;
use super::schema::{lease, network, security_group};
use super::{StoreError, Tx};

/// Holder of an address that a VM's NIC has.
pub const HOLDER_VM: &str = "VM";
/// Holder of an address that went to a reservation.
pub const HOLDER_NET: &str = "NET";
/// Holder of an address that is kept from being given out.
pub const HOLDER_HOLD: &str = "HOLD";

impl Tx<'_> {
    /// The network that `uid` has under that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn network_by_name(&mut self, uid: i64, name: &str) -> Result<Option<NetworkRow>, StoreError> {
        Ok(network::table
            .filter(network::uid.eq(uid).and(network::name.eq(name)))
            .select(NetworkRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// The security group that `uid` has under that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn security_group_by_name(&mut self, uid: i64, name: &str) -> Result<Option<SecurityGroupRow>, StoreError> {
        Ok(security_group::table
            .filter(security_group::uid.eq(uid).and(security_group::name.eq(name)))
            .select(SecurityGroupRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// Who has an address.
    ///
    /// # Errors
    /// The database's failure.
    pub fn lease_find(&mut self, network_id: i64, range_id: i64, place: u32) -> Result<Option<LeaseRow>, StoreError> {
        Ok(lease::table
            .find((network_id, range_id, i64::from(place)))
            .select(LeaseRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// The lowest start of `length` free places in `from..end`; reads no further than needed.
    ///
    /// # Errors
    /// The database's failure.
    pub fn lease_free_run(
        &mut self,
        (network_id, range_id): (i64, i64),
        from: u32,
        end: u32,
        length: u32,
    ) -> Result<Option<u32>, StoreError> {
        let places = lease::table
            .filter(lease::network_id.eq(network_id).and(lease::range_id.eq(range_id)))
            .filter(lease::place.ge(i64::from(from)).and(lease::place.lt(i64::from(end))))
            .order(lease::place.asc())
            .select(lease::place)
            .load_iter::<i64, diesel::connection::DefaultLoadingMode>(self.0)?;
        let mut broken = None;
        let taken = places.map_while(|place| match place {
            Ok(place) => u32::try_from(place).ok(),
            Err(error) => {
                broken = Some(error);
                None
            }
        });
        let found = lowest_free_run(taken, from, end, length);
        match broken {
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }

    /// The addresses of a network in use, by range and place.
    ///
    /// # Errors
    /// The database's failure.
    pub fn leases(&mut self, network_id: i64) -> Result<Vec<LeaseRow>, StoreError> {
        Ok(lease::table
            .filter(lease::network_id.eq(network_id))
            .order((lease::range_id.asc(), lease::place.asc()))
            .select(LeaseRow::as_select())
            .load(self.0)?)
    }

    /// How many addresses of each range of a network are in use; a range without any is left out.
    ///
    /// # Errors
    /// The database's failure.
    pub fn lease_counts(&mut self, network_id: i64) -> Result<Vec<(i64, i64)>, StoreError> {
        Ok(lease::table
            .filter(lease::network_id.eq(network_id))
            .group_by(lease::range_id)
            .select((lease::range_id, count_star()))
            .load(self.0)?)
    }

    /// The highest place of a range in use.
    ///
    /// # Errors
    /// The database's failure.
    pub fn lease_last(&mut self, network_id: i64, range_id: i64) -> Result<Option<u32>, StoreError> {
        let last: Option<i64> = lease::table
            .filter(lease::network_id.eq(network_id).and(lease::range_id.eq(range_id)))
            .select(max(lease::place))
            .get_result(self.0)?;
        Ok(last.and_then(|place| u32::try_from(place).ok()))
    }

    /// The VMs that have an address of a network, ascending.
    ///
    /// # Errors
    /// The database's failure.
    pub fn network_vms(&mut self, network_id: i64) -> Result<Vec<i64>, StoreError> {
        Ok(lease::table
            .filter(lease::network_id.eq(network_id).and(lease::holder.eq(HOLDER_VM)))
            .order(lease::holder_id.asc())
            .select(lease::holder_id)
            .distinct()
            .load(self.0)?)
    }

    /// Gives an address to somebody.
    ///
    /// # Errors
    /// The database's failure, an address that somebody has included.
    pub fn lease_insert(&mut self, row: &LeaseRow) -> Result<(), StoreError> {
        diesel::insert_into(lease::table).values(row).execute(self.0)?;
        Ok(())
    }

    /// Gives `size` addresses in a row to a reservation.
    ///
    /// # Errors
    /// The database's failure, an address that somebody has included.
    pub fn lease_insert_run(
        &mut self,
        (network_id, range_id): (i64, i64),
        first: u32,
        size: u32,
        reservation_id: i64,
    ) -> Result<(), StoreError> {
        // One statement: a reservation can have a million addresses.
        diesel::sql_query(
            "INSERT INTO lease (network_id, range_id, place, holder, holder_id, nic_id)
             WITH RECURSIVE run (place) AS (SELECT ? UNION ALL SELECT place + 1 FROM run WHERE place + 1 < ?)
             SELECT ?, ?, place, ?, ?, -1 FROM run",
        )
        .bind::<BigInt, _>(i64::from(first))
        .bind::<BigInt, _>(i64::from(first) + i64::from(size))
        .bind::<BigInt, _>(network_id)
        .bind::<BigInt, _>(range_id)
        .bind::<Text, _>(HOLDER_NET)
        .bind::<BigInt, _>(reservation_id)
        .execute(self.0)?;
        Ok(())
    }

    /// Takes `size` addresses in a row back from a reservation; those that it has not stay.
    ///
    /// # Errors
    /// The database's failure.
    pub fn lease_delete_run(
        &mut self,
        (network_id, range_id): (i64, i64),
        first: u32,
        size: u32,
        reservation_id: i64,
    ) -> Result<(), StoreError> {
        let end = i64::from(first) + i64::from(size);
        diesel::delete(
            lease::table
                .filter(lease::network_id.eq(network_id).and(lease::range_id.eq(range_id)))
                .filter(lease::place.ge(i64::from(first)).and(lease::place.lt(end)))
                .filter(lease::holder.eq(HOLDER_NET).and(lease::holder_id.eq(reservation_id))),
        )
        .execute(self.0)?;
        Ok(())
    }

    /// Takes every address back from a reservation.
    ///
    /// # Errors
    /// The database's failure.
    pub fn reservation_release(&mut self, reservation_id: i64) -> Result<(), StoreError> {
        diesel::delete(lease::table.filter(lease::holder.eq(HOLDER_NET).and(lease::holder_id.eq(reservation_id))))
            .execute(self.0)?;
        Ok(())
    }

    /// Makes one address free, whoever has it.
    ///
    /// # Errors
    /// The database's failure.
    pub fn lease_delete(&mut self, network_id: i64, range_id: i64, place: u32) -> Result<(), StoreError> {
        diesel::delete(lease::table.find((network_id, range_id, i64::from(place)))).execute(self.0)?;
        Ok(())
    }

    /// Makes all addresses of a range free.
    ///
    /// # Errors
    /// The database's failure.
    pub fn leases_of_range_delete(&mut self, network_id: i64, range_id: i64) -> Result<(), StoreError> {
        diesel::delete(lease::table.filter(lease::network_id.eq(network_id).and(lease::range_id.eq(range_id))))
            .execute(self.0)?;
        Ok(())
    }

    /// Makes the addresses of a VM free, or only that of one of its NICs. Nothing to free is success.
    ///
    /// # Errors
    /// The database's failure.
    pub fn leases_release(&mut self, vm_id: i64, nic_id: Option<i64>) -> Result<(), StoreError> {
        let of_vm = lease::table.filter(lease::holder.eq(HOLDER_VM).and(lease::holder_id.eq(vm_id)));
        match nic_id {
            Some(nic_id) => diesel::delete(of_vm.filter(lease::nic_id.eq(nic_id))).execute(self.0)?,
            None => diesel::delete(of_vm).execute(self.0)?,
        };
        Ok(())
    }
}
