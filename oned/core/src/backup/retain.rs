//! KEEP_LAST: which old backups go.
//!
//! What it is: a choice among the restore points of one VM. What it is not: the deleting and merging, which are jobs of
//! their own.
//!
//! Who counts what: a point that was made by a scheduled action with a KEEP_LAST of its own counts for that action alone,
//! in whatever image it is. All others count for the KEEP_LAST of BACKUP_CONFIG: as images when a new one was just made
//! (a chain is one of them), as increments of the active chain when that has just grown.
//!
//! Invariants: what was just made is never among those that go, so a chain that goes on keeps its newest point; an image
//! goes as a whole exactly when nothing of it is left.

use std::collections::{BTreeMap, BTreeSet};

/// A restore point, for the choice of those that go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id in its image.
    pub id: i64,
    /// Epoch seconds.
    pub date: i64,
    /// The scheduled action that made it.
    pub schedule: Option<i64>,
}

/// A backup image with its restore points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupImage {
    /// Its id.
    pub id: i64,
    /// When it was registered, epoch seconds; what counts for one without points.
    pub date: i64,
    /// Its restore points in any order.
    pub points: Vec<Candidate>,
}

/// How many are kept; 0 or less keeps all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Of those that no scheduled action counts: KEEP_LAST of BACKUP_CONFIG.
    pub others: i64,
    /// Of what each scheduled action made that has a KEEP_LAST, by its id.
    pub schedules: BTreeMap<i64, i64>,
}

/// The restore point that a backup has just made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its image.
    pub image: i64,
    /// Its id in it.
    pub point: i64,
    /// Whether the image is new with it.
    pub is_new_image: bool,
}

/// What of an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expired {
    /// All of it, its record too.
    Image(i64),
    /// Some of its points; the first that is left becomes the FULL one, each other's parent the one before it.
    Points {
        /// The image.
        image: i64,
        /// Ids of those that go, ascending.
        points: Vec<i64>,
    },
}

/// A point with what its place in the order follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Aged {
    date: i64,
    image: i64,
    id: i64,
    /// The scheduled action that counts it.
    counted_by: Option<i64>,
}

impl Aged {
    fn is(&self, made: Made) -> bool {
        (self.image, self.id) == (made.image, made.point)
    }
}

/// What goes so that as many are left as are to be kept, the images of the oldest data first. To be asked with the restore
/// point `made` among `images`.
///
/// Age is that of the data, not of the ids: images that were taken up from a datastore later than others were made have
/// higher ids than newer ones. In a chain the order is that of the ids, also when the clock went back meanwhile; and what was
/// just made is the newest of all.
pub fn expired(images: &[BackupImage], made: Made, keeps: &Keeps) -> Vec<Expired> {
    let points = aged(images, keeps);
    let mut gone: BTreeSet<(i64, i64)> = BTreeSet::new();
    for (schedule, keep) in &keeps.schedules {
        let own: Vec<Aged> = points.iter().filter(|point| point.counted_by == Some(*schedule)).copied().collect();
        gone.extend(oldest(&own, made, *keep));
    }
    let others: Vec<Aged> = points.iter().filter(|point| point.counted_by.is_none()).copied().collect();
    let mut empty = Vec::new();
    if made.is_new_image {
        for image in oldest_images(images, &others, made, keeps.others) {
            gone.extend(others.iter().filter(|point| point.image == image).map(|point| (point.image, point.id)));
            empty.push(image);
        }
    } else {
        let of_chain: Vec<Aged> = others.into_iter().filter(|point| point.image == made.image).collect();
        gone.extend(oldest(&of_chain, made, keeps.others));
    }
    let mut order: Vec<(i64, &BackupImage)> = images.iter().map(|image| (newest_date(image), image)).collect();
    order.sort_unstable_by_key(|(date, image)| (*date, image.id));
    order.into_iter().filter_map(|(_, image)| what_goes(image, &gone, &empty)).collect()
}

/// The points of all images, oldest first. A point is not older than those before it in its image.
fn aged(images: &[BackupImage], keeps: &Keeps) -> Vec<Aged> {
    let mut all = Vec::new();
    for image in images {
        let mut points = image.points.clone();
        points.sort_unstable_by_key(|point| point.id);
        points.dedup_by_key(|point| point.id);
        let mut date = i64::MIN;
        for point in points {
            date = date.max(point.date);
            let counted_by = point.schedule.filter(|schedule| keeps.schedules.contains_key(schedule));
            all.push(Aged { date, image: image.id, id: point.id, counted_by });
        }
    }
    all.sort_unstable();
    all
}

/// The oldest of these points, those that are too many.
fn oldest(points: &[Aged], made: Made, keep: i64) -> Vec<(i64, i64)> {
    let surplus = surplus(points.len(), keep);
    points.iter().filter(|point| !point.is(made)).map(|point| (point.image, point.id)).take(surplus).collect()
}

/// The images of these points, those with the oldest data that are too many. One without any points counts too.
fn oldest_images(images: &[BackupImage], points: &[Aged], made: Made, keep: i64) -> Vec<i64> {
    let mut dates: BTreeMap<i64, i64> =
        images.iter().filter(|image| image.points.is_empty()).map(|image| (image.id, image.date)).collect();
    // Oldest first, so the newest of each image is what stays.
    dates.extend(points.iter().map(|point| (point.image, point.date)));
    let mut dated: Vec<(i64, i64)> = dates.into_iter().map(|(image, date)| (date, image)).collect();
    dated.sort_unstable();
    let surplus = surplus(dated.len(), keep);
    dated.into_iter().map(|(_, image)| image).filter(|image| *image != made.image).take(surplus).collect()
}

fn newest_date(image: &BackupImage) -> i64 {
    image.points.iter().map(|point| point.date).max().unwrap_or(image.date)
}

fn what_goes(image: &BackupImage, gone: &BTreeSet<(i64, i64)>, empty: &[i64]) -> Option<Expired> {
    let points: Vec<i64> = gone.range((image.id, i64::MIN)..=(image.id, i64::MAX)).map(|(_, id)| *id).collect();
    let is_left = |point: &Candidate| !points.contains(&point.id);
    if image.points.is_empty() {
        return empty.contains(&image.id).then_some(Expired::Image(image.id));
    }
    if points.is_empty() {
        return None;
    }
    let is_any_left = image.points.iter().any(is_left);
    Some(if is_any_left { Expired::Points { image: image.id, points } } else { Expired::Image(image.id) })
}

/// How many of `len` are too many.
fn surplus(len: usize, keep: i64) -> usize {
    match usize::try_from(keep) {
        Ok(0) | Err(_) => 0,
        Ok(keep) => len.saturating_sub(keep),
    }
}

#[cfg(test)]
#[path = "retain_tests.rs"]
mod tests;
