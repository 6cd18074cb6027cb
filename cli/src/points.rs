//! Restore points: what the documents of backup images say of each, one element and one row per point.
//!
//! A chain has a point per increment; a backup in FULL mode is one point without increments. The elements are ours, not the
//! daemon's: RESTORE_POINT with IMAGE_ID, IMAGE, INCREMENT_ID and PARENT_ID (−1 none), VM_ID (−1 unknown), KIND (FULL or
//! INCREMENT), DATE and VERIFIED_AT (epoch seconds), SIZE (MB), READ_BYTES, STORED_BYTES and SAVED_BYTES, DURATION (seconds),
//! DATASTORE_ID, DATASTORE, SOURCE, STATE (as `oneimage list` shows it), VERIFY_DEPTH, DAMAGES, REASON, WARNING; what is not
//! known is left out.

use std::collections::HashMap;

use crate::show::or_dash;
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::units;
use crate::xml::Element;

/// The name of a point's element.
pub const POINT: &str = "RESTORE_POINT";

/// The points of one image, oldest first; none for an image that is no backup.
#[must_use]
pub fn of_image(image: &Element) -> Vec<Element> {
    if !states::is_backup(image) {
        return Vec::new();
    }
    let increments: Vec<&Element> =
        image.at("BACKUP_INCREMENTS").into_iter().flat_map(|list| list.all("INCREMENT")).collect();
    let infos: Vec<&Element> =
        image.at("TEMPLATE").into_iter().flat_map(|template| template.all("INCREMENT_INFO")).collect();
    if increments.is_empty() {
        return vec![point(image, None, infos.first().copied())];
    }
    // A chain may have thousands.
    let info_of: HashMap<Option<i64>, &Element> =
        infos.into_iter().rev().map(|info| (info.int_at("ID"), info)).collect();
    let of = |increment: &&Element| point(image, Some(increment), info_of.get(&increment.int_at("ID")).copied());
    increments.iter().map(of).collect()
}

/// The points of all backups in a pool of images for which `wanted` holds, newest first.
#[must_use]
pub fn of_pool(pool: &Element, wanted: impl Fn(&Element) -> bool) -> Vec<Element> {
    let images = pool.all("IMAGE").filter(|image| states::is_backup(image) && wanted(image));
    let mut points: Vec<Element> = images.flat_map(of_image).collect();
    let place = |point: &Element| ["DATE", "IMAGE_ID", "INCREMENT_ID"].map(|name| point.int_at(name).unwrap_or(0));
    points.sort_by_key(|point| std::cmp::Reverse(place(point)));
    points
}

/// A document of points.
#[must_use]
pub fn document(points: Vec<Element>) -> Element {
    Element { name: "RESTORE_POINTS".to_owned(), text: String::new(), children: points }
}

fn point(image: &Element, increment: Option<&Element>, info: Option<&Element>) -> Element {
    let of_increment = |name: &str| increment.map_or("", |increment| increment.text_at(name));
    let of_info = |name: &str| info.map_or("", |info| info.text_at(name));
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let vm = image.ids_at("VMS").first().map_or("-1".to_owned(), i64::to_string);
    let kind = if increment.is_some() && of_increment("TYPE") != "FULL" { "INCREMENT" } else { "FULL" };
    let parts = [
        ("IMAGE_ID", image.text_at("ID").to_owned()),
        ("IMAGE", image.text_at("NAME").to_owned()),
        ("INCREMENT_ID", or(of_increment("ID"), "-1")),
        ("PARENT_ID", or(of_increment("PARENT_ID"), "-1")),
        ("VM_ID", vm),
        ("KIND", kind.to_owned()),
        ("DATE", or(of_increment("DATE"), image.text_at("REGTIME"))),
        ("SIZE", or(of_increment("SIZE"), image.text_at("SIZE"))),
        ("READ_BYTES", of_info("READ_BYTES").to_owned()),
        ("STORED_BYTES", of_info("STORED_BYTES").to_owned()),
        ("SAVED_BYTES", of_info("SAVED_BYTES").to_owned()),
        ("DURATION", of_info("DURATION").to_owned()),
        ("DATASTORE_ID", image.text_at("DATASTORE_ID").to_owned()),
        ("DATASTORE", image.text_at("DATASTORE").to_owned()),
        ("SOURCE", or(of_increment("SOURCE"), image.text_at("SOURCE"))),
        ("STATE", states::image_short(image).to_owned()),
        ("VERIFIED_AT", of_info("VERIFIED_AT").to_owned()),
        ("VERIFY_DEPTH", of_info("VERIFY_DEPTH").to_owned()),
        ("DAMAGES", of_info("DAMAGES").to_owned()),
        ("REASON", of_info("REASON").to_owned()),
        ("WARNING", of_info("WARNING").to_owned()),
    ];
    let known = parts.into_iter().filter(|(_, text)| !text.is_empty());
    let children = known.map(|(name, text)| Element { name: name.to_owned(), text, children: Vec::new() }).collect();
    Element { name: POINT.to_owned(), text: String::new(), children }
}

/// All columns of a table of points.
pub const COLUMNS: [Column; 18] = [
    Column::left("DATE", 19, |point, _| units::time_with_year(point.int_at("DATE").unwrap_or(0))),
    Column::left("KIND", 4, |point, _| if point.text_at("KIND") == "FULL" { "full" } else { "incr" }.to_owned()),
    Column::right("IMAGE", 5, |point, _| point.text_at("IMAGE_ID").to_owned()),
    Column::right("INC", 3, |point, _| id_or_dash(point, "INCREMENT_ID")),
    Column::right("READ", 7, |point, options| size(point, "READ_BYTES", options)),
    Column::right("STORED", 7, |point, options| size(point, "STORED_BYTES", options)),
    Column::right("SAVED", 7, |point, options| size(point, "SAVED_BYTES", options)),
    Column::left("WHERE", 10, place).fit(Fit::Share),
    Column::left("VERIFIED", 16, |point, _| verified(point)),
    Column::right("ID", 3, |point, _| point.text_at("INCREMENT_ID").replace("-1", "0")),
    Column::right("PID", 3, |point, _| point.text_at("PARENT_ID").to_owned()),
    Column::right("SIZE", 7, |point, options| match point.int_at("SIZE") {
        None => dash(),
        Some(mb) if options.csv => mb.saturating_mul(1 << 20).to_string(),
        Some(mb) => options.mib(mb),
    }),
    Column::right("TIME", 6, |point, _| point.int_at("DURATION").map_or_else(dash, units::duration))
        .about("How long it took"),
    Column::left("STAT", 4, |point, _| point.text_at("STATE").to_owned()),
    Column::right("VM", 4, |point, _| id_or_dash(point, "VM_ID")),
    Column::left("SOURCE", 8, |point, _| point.text_at("SOURCE").to_owned()),
    Column::left("NAME", 17, |point, _| point.text_at("IMAGE").to_owned()).fit(Fit::Share),
    Column::left("NOTE", 4, note).fit(Fit::Share),
];

fn dash() -> String {
    "-".to_owned()
}

fn id_or_dash(point: &Element, name: &str) -> String {
    point.int_at(name).filter(|id| *id >= 0).map_or_else(dash, |id| id.to_string())
}

/// Programs get bytes.
fn size(point: &Element, name: &str, options: &ListOptions) -> String {
    match point.int_at(name) {
        None => dash(),
        Some(bytes) if options.kilobytes => (bytes / 1024).to_string(),
        Some(bytes) if options.csv => bytes.to_string(),
        Some(bytes) => units::bytes(bytes),
    }
}

fn place(point: &Element, options: &ListOptions) -> String {
    or_dash(point.text_at(if options.numeric { "DATASTORE_ID" } else { "DATASTORE" }))
}

/// When it was last looked at, and how closely; `damaged` counts more than both.
fn verified(point: &Element) -> String {
    if point.int_at("DAMAGES").is_some_and(|damages| damages > 0) {
        return "damaged".to_owned();
    }
    match point.int_at("VERIFIED_AT").filter(|time| *time > 0) {
        Some(time) => format!("{} {}", units::day(time), point.text_at("VERIFY_DEPTH").to_lowercase()),
        None => dash(),
    }
}

fn note(point: &Element, _: &ListOptions) -> String {
    let notes = ["REASON", "WARNING"].map(|name| point.text_at(name));
    or_dash(&notes.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(point: &Element, names: &[&str]) -> String {
        let options = ListOptions::default();
        let column = |name: &&str| COLUMNS.iter().find(|column| column.name == *name).unwrap();
        names.iter().map(|name| (column(name).cell)(point, &options)).collect::<Vec<_>>().join("|")
    }

    const POOL: &str = "<P>\
        <IMAGE><ID>1</ID><TYPE>6</TYPE><STATE>1</STATE><DATASTORE>a</DATASTORE><VMS><ID>7</ID></VMS><TEMPLATE>\
          <INCREMENT_INFO><ID>3</ID><READ_BYTES>2048</READ_BYTES><STORED_BYTES>1536</STORED_BYTES><SAVED_BYTES>512</SAVED_BYTES><VERIFIED_AT>9</VERIFIED_AT><VERIFY_DEPTH>DEEP</VERIFY_DEPTH><DAMAGES>2</DAMAGES></INCREMENT_INFO></TEMPLATE>\
          <BACKUP_INCREMENTS><INCREMENT><ID>3</ID><PARENT_ID>-1</PARENT_ID><TYPE>FULL</TYPE><DATE>100</DATE></INCREMENT>\
          <INCREMENT><ID>4</ID><PARENT_ID>3</PARENT_ID><TYPE>INCREMENT</TYPE><DATE>300</DATE></INCREMENT></BACKUP_INCREMENTS></IMAGE>\
        <IMAGE><ID>2</ID><TYPE>6</TYPE><STATE>1</STATE><REGTIME>200</REGTIME><DATASTORE>b</DATASTORE><VMS><ID>7</ID></VMS>\
          <TEMPLATE><INCREMENT_INFO><ID>0</ID><REASON>r</REASON><WARNING>w</WARNING></INCREMENT_INFO></TEMPLATE><BACKUP_INCREMENTS/></IMAGE>\
        <IMAGE><ID>3</ID><TYPE>0</TYPE><VMS><ID>7</ID></VMS></IMAGE>\
        <IMAGE><ID>4</ID><TYPE>6</TYPE><REGTIME>1</REGTIME><VMS/></IMAGE></P>";

    #[test]
    fn increments_and_full_backups_are_points_newest_first() {
        let pool = Element::parse(POOL).unwrap();
        let points = of_pool(&pool, |image| image.ids_at("VMS") == [7]);
        let rows: Vec<_> = points.iter().map(|point| cells(point, &["IMAGE", "INC", "PID", "KIND", "WHERE"])).collect();
        assert_eq!(rows, ["1|4|3|incr|a", "2|-|-1|full|b", "1|3|-1|full|a"]);
        assert_eq!(cells(&points[2], &["READ", "STORED", "SAVED", "VERIFIED"]), "2K|1.5K|512B|damaged");
        assert_eq!(cells(&points[1], &["READ", "STORED", "VERIFIED", "NOTE"]), "-|-|-|r; w");
        let cell = |name, options: &ListOptions| {
            (COLUMNS.iter().find(|column| column.name == name).unwrap().cell)(&points[2], options)
        };
        let (kilobytes, csv) = (
            ListOptions { kilobytes: true, ..ListOptions::default() },
            ListOptions { csv: true, ..ListOptions::default() },
        );
        assert_eq!((cell("READ", &kilobytes).as_str(), cell("STORED", &csv).as_str()), ("2", "1536"));
        assert_eq!(cells(&of_pool(&pool, |_| true)[3], &["VM", "VERIFIED"]), "-|-");
    }

    #[test]
    fn a_disk_has_no_points() {
        let pool = Element::parse(POOL).unwrap();
        assert!(of_image(pool.all("IMAGE").nth(2).unwrap()).is_empty());
    }
}
