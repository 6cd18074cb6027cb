//! The other direction: a VM document as it was stored with a backup, read back.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::backup::config;
use crate::schedule::{self, SCHED_INFO};
use crate::template::{Template, Value, Vector};

/// Longest document that is read, bytes.
const DOCUMENT_MAX_BYTES: usize = 16 << 20;

/// What a restore, or a catalogue made anew, needs of a VM document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmDocument {
    /// ID.
    pub id: Option<i64>,
    /// STIME: when it was made, epoch seconds; with the ID it tells VMs of different installations apart.
    pub stime: Option<i64>,
    /// UID and UNAME of the owner.
    pub user: Option<(i64, String)>,
    /// GID and GNAME.
    pub group: Option<(i64, String)>,
    /// TEMPLATE, without its scheduled actions.
    pub template: Template,
    /// USER_TEMPLATE.
    pub user_template: Template,
    /// BACKUPS/BACKUP_CONFIG, with the user's part of USER_TEMPLATE/BACKUP_INFO.
    pub backup_config: Vector,
    /// TEMPLATE/SCHED_ACTION.
    pub sched_actions: Vec<Vector>,
    /// USER_TEMPLATE/SCHED_INFO.
    pub sched_infos: Vec<Vector>,
}

impl VmDocument {
    /// Its scheduled actions for the template of a new VM that is made at `now`: see [`schedule::presets`].
    pub fn presets(&self, now: i64) -> Vec<Vector> {
        schedule::presets(&self.sched_actions, &self.sched_infos, now)
    }
}

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(String);

/// Reads a document that [`super::vm`] wrote.
///
/// # Errors
/// Text that is no VM document.
pub fn vm(document: &str) -> Result<VmDocument, ReadError> {
    if document.len() > DOCUMENT_MAX_BYTES {
        return Err(ReadError(format!("it is longer than {DOCUMENT_MAX_BYTES} bytes")));
    }
    let section = |path: &[&str]| element(document, path);
    let parse = |text: Option<&str>| match text {
        None => Ok(Template::new()),
        Some(text) => Template::parse(text).map_err(|e| ReadError(e.to_string())),
    };
    if section(&["VM"])?.is_none() {
        return Err(ReadError("it holds no VM".into()));
    }
    let mut template = parse(section(&["VM", "TEMPLATE"])?)?;
    let sched_actions = vectors(template.remove("SCHED_ACTION"));
    let mut user_template = parse(section(&["VM", "USER_TEMPLATE"])?)?;
    let backups = parse(section(&["VM", "BACKUPS"])?)?;
    let shown = backups.vector("BACKUP_CONFIG").cloned().unwrap_or_default();
    let backup_config = config::join(&shown, user_template.vector(config::BACKUP_INFO));
    let sched_infos = vectors(user_template.remove(SCHED_INFO));
    for name in config::SHOWN_ONLY {
        user_template.remove(name);
    }
    let number = |name| Ok(plain(section(&["VM", name])?).and_then(|text| text.parse::<i64>().ok()));
    let pair = |id, name| Ok(number(id)?.zip(plain(section(&["VM", name])?)));
    Ok(VmDocument {
        id: number("ID")?,
        stime: number("STIME")?,
        user: pair("UID", "UNAME")?,
        group: pair("GID", "GNAME")?,
        template,
        user_template,
        backup_config,
        sched_actions,
        sched_infos,
    })
}

fn vectors(values: Vec<Value>) -> Vec<Vector> {
    let vector = |value| match value {
        Value::Vector(vector) => Some(vector),
        Value::Scalar(_) => None,
    };
    values.into_iter().filter_map(vector).collect()
}

/// The text inside an element that holds nothing else; none = it holds no text, or something else.
fn plain(element: Option<&str>) -> Option<String> {
    let mut reader = Reader::from_str(element?);
    let mut text = String::new();
    let mut depth = 0;
    loop {
        match reader.read_event().ok()? {
            Event::Start(_) if depth == 0 => depth = 1,
            Event::Text(part) => text.push_str(&part),
            Event::CData(part) => text.push_str(&part),
            Event::End(_) | Event::Eof => break,
            _ => return None,
        }
    }
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Says where, but not what: the parser's own words repeat a piece of the document, which may hold a password.
fn broken(reader: &Reader<&[u8]>) -> ReadError {
    ReadError(format!("it is not well-formed at byte {}", reader.error_position()))
}

/// The text of the first element at `path` (names from the root), its tags included.
fn element<'a>(document: &'a str, path: &[&str]) -> Result<Option<&'a str>, ReadError> {
    let mut reader = Reader::from_str(document);
    // How many names of the path are open, and how many elements in all.
    let (mut matched, mut depth) = (0, 0);
    let mut start = None;
    loop {
        let before = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        match reader.read_event().map_err(|_| broken(&reader))? {
            Event::Start(tag) => {
                if matched == depth && path.get(depth).is_some_and(|name| *name == tag.name().as_ref()) {
                    matched += 1;
                    if matched == path.len() {
                        start = Some(before);
                    }
                }
                depth += 1;
            }
            Event::End(_) => {
                if depth == path.len()
                    && matched == depth
                    && let Some(start) = start
                {
                    let end = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
                    return Ok(document.get(start..end));
                }
                depth = depth.saturating_sub(1);
                matched = matched.min(depth);
            }
            Event::Empty(tag) => {
                let is_it = matched == depth
                    && depth + 1 == path.len()
                    && path.get(depth).is_some_and(|name| *name == tag.name().as_ref());
                if is_it {
                    let end = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
                    return Ok(document.get(before..end));
                }
            }
            Event::Eof => return Ok(None),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::doc::{self, VmView};
    use crate::id::ScheduleId;
    use crate::schedule::{Parent, Reading, ScheduledAction};

    #[test]
    fn a_document_that_was_written_is_read_back() {
        let text = "SCHED_ACTION=[ACTION=backup,ARGS=\"100\",CRON=\"0 2 * * *\",KEEP_LAST=3]";
        let wish = Template::parse(text).unwrap().vector("SCHED_ACTION").unwrap().clone();
        let reading = Reading { start: 0, now: 5, zone: chrono_tz::UTC };
        let action = ScheduledAction::parse(&wish, ScheduleId(4), Parent::Vm, 7, reading).unwrap();
        let mut view = VmView { id: 7, name: "VM]]><TEMPLATE>".into(), ..VmView::default() };
        let mut disk = Vector::new();
        disk.set("DISK_ID", "0");
        disk.set("IMAGE", "quotes \" and <tags> & ]] >");
        view.template.push_vector("DISK", disk);
        view.template.set("CPU", "1");
        view.user_template.set("LABELS", "a,b");
        view.user_template.set("TEMPLATE", "not the one");
        view.backup_config.set("MODE", "INCREMENT");
        let mut info = Vector::new();
        info.set("FS_FREEZE_FAIL", "ABORT");
        info.set("LAST_REASON", "of another time");
        view.user_template.set_vector("BACKUP_INFO", info.clone());
        view.user_template.set_vector("SCHED_INFO", info);
        view.user_template.push_vector("BACKUP_EVENT", [("ACTION", "backup")].into_iter().collect());
        view.user_template.push_vector("BACKUP_EVENT", [("ACTION", "restore")].into_iter().collect());
        view.sched_actions = vec![action.after_failure(0, chrono_tz::UTC, "no")];
        let read = vm(&doc::vm(&view)).unwrap();
        assert_eq!(read.template.scalar("CPU"), Some("1"));
        assert_eq!(read.template.vector("DISK"), view.template.vector("DISK"));
        assert_eq!(read.user_template.scalar("LABELS"), Some("a,b"));
        assert_eq!(read.user_template.scalar("TEMPLATE"), Some("not the one"));
        let config: Vec<_> = read.backup_config.iter().collect();
        assert_eq!(config, [("MODE", "INCREMENT"), ("FS_FREEZE_FAIL", "ABORT")]);
        for name in ["BACKUP_INFO", "SCHED_INFO", "BACKUP_EVENT"] {
            assert!(!read.user_template.contains(name), "{name}");
        }
        assert!(!read.template.contains("SCHED_ACTION"));
        let presets = read.presets(5);
        let pairs: Vec<_> =
            presets.iter().flat_map(Vector::iter).map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs, ["ACTION=backup", "ARGS=100", "TIME=7200", "CRON=0 2 * * *", "KEEP_LAST=3"]);
    }

    #[test]
    fn the_error_about_a_broken_document_repeats_nothing_of_it() {
        let error = vm("<VM><TEMPLATE><PASSWORD hidden></PASSWORDS>").unwrap_err().to_string();
        assert_eq!(error, "it is not well-formed at byte 31");
    }

    #[test]
    fn what_is_no_vm_document_is_refused() {
        for text in ["", "<IMAGE/>", "<VM><TEMPLATE>", "nonsense", "<A><VM></VM></A>"] {
            assert!(vm(text).is_err(), "{text}");
        }
        assert_eq!(vm("<VM></VM>"), Ok(VmDocument::default()));
    }

    #[test]
    fn whose_the_vm_was_is_read_and_not_taken_from_elsewhere() {
        let mut view = VmView { id: 7, stime: 1_795_262_400, ..VmView::default() };
        view.owner = doc::Owner { uid: 2, gid: 100, uname: "al<>&]]>ice".into(), gname: "team".into() };
        view.template.set("UID", "0");
        let read = vm(&doc::vm(&view)).unwrap();
        assert_eq!((read.id, read.stime), (Some(7), Some(1_795_262_400)));
        assert_eq!(read.group, Some((100, "team".into())));
        assert_eq!(read.user.map(|(id, _)| id), Some(2));
        let odd = vm("<VM><ID>x</ID><UID>1</UID><GID><A/></GID><GNAME>g</GNAME></VM>").unwrap();
        assert_eq!((odd.id, odd.user, odd.group), (None, None, None));
    }

    /// What XML and the grammar both keep of a text.
    fn kept(text: &str) -> String {
        let whole: String = text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
        whole.replace("]]>", "]] >")
    }

    proptest! {
        #[test]
        fn any_values_of_a_vm_are_read_back(pairs in proptest::collection::vec(("[A-Z]{1,4}", any::<String>()), 1..5)) {
            let vector: Vector = pairs.iter().map(|(key, value)| (key, kept(value))).collect();
            let mut view = VmView { name: pairs[0].1.clone(), backup_config: vector.clone(), ..VmView::default() };
            view.user_template.set_vector("V", vector.clone());
            view.user_template.push("S", kept(&pairs[0].1));
            let read = vm(&doc::vm(&view)).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let sorted: Vec<_> = vector.iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!(read.backup_config.iter().collect::<Vec<_>>(), sorted);
            prop_assert_eq!(&read.user_template, &view.user_template.sorted());
            prop_assert!(read.template.attributes().iter().all(|a| matches!(a.value, Value::Scalar(_))));
        }

        #[test]
        fn no_document_makes_reading_panic(text in r"<VM>(</?(VM|TEMPLATE|BACKUPS|A)/?>|x|&lt;|&|<!\[CDATA\[|\]\]>|<!--){0,10}(</VM>)?") {
            let _ = vm(&text);
        }
    }
}
