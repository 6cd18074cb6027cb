//! An action as documents show it, and back from a document to a preset of a new VM.

use std::collections::HashMap;

use super::{RETRY, Repeat, ScheduledAction};
use crate::template::Vector;

/// Keys of ours, which the published SCHED_ACTION has no room for.
const OUR_KEYS: [&str; 6] = ["TIMEZONE", "CRON", "JITTER", "WINDOW_END", "KEEP_LAST", "RETRY"];

impl ScheduledAction {
    /// The vector as clients and documents show it: every key, in the order of the published schema.
    pub fn to_vector(&self) -> Vector {
        let days: Vec<String> = self.days.iter().map(u32::to_string).collect();
        let (end_type, end_value) = self.end.numbers();
        [
            ("ID", self.id.to_string()),
            ("PARENT_ID", self.parent_id.to_string()),
            ("TYPE", self.parent.name().to_owned()),
            ("ACTION", self.action.clone()),
            ("ARGS", self.args.clone()),
            ("TIME", self.time.to_string()),
            ("REPEAT", self.repeat.map_or(-1, Repeat::number).to_string()),
            ("DAYS", days.join(",")),
            ("END_TYPE", end_type.to_string()),
            ("END_VALUE", end_value.to_string()),
            ("DONE", self.done.unwrap_or(-1).to_string()),
            ("MESSAGE", self.message.clone()),
            ("WARNING", self.warning.to_string()),
        ]
        .into_iter()
        .collect()
    }

    /// The `SCHED_INFO` vector beside it: ID, and those of our attributes that are set; none when none is.
    pub fn info_vector(&self) -> Option<Vector> {
        let window_end = self.window_end.map(|end| format!("{:02}:{:02}", end / 3600, end / 60 % 60));
        let ours = [
            ("TIMEZONE", self.timezone.clone()),
            ("CRON", self.cron.clone()),
            ("JITTER", (self.jitter > 0).then(|| self.jitter.to_string())),
            ("WINDOW_END", window_end),
            ("KEEP_LAST", self.keep_last.map(|keep| keep.to_string())),
            ("RETRY", (self.retry != RETRY).then(|| self.retry.to_string())),
        ];
        let set: Vec<_> = ours.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        (!set.is_empty()).then(|| std::iter::once(("ID", self.id.to_string())).chain(set).collect())
    }
}

/// The actions of a VM's document as presets of a new VM's template: with our attributes, without ids, DONE and MESSAGE.
/// What does not run again is left out: what was to run once and was done or was planned for before `now` (a new VM has
/// missed nothing), and repetitions that had their last run.
pub fn presets<'a>(
    actions: impl IntoIterator<Item = &'a Vector>,
    infos: impl IntoIterator<Item = &'a Vector>,
    now: i64,
) -> Vec<Vector> {
    let infos: HashMap<&str, &Vector> = infos.into_iter().filter_map(|info| Some((info.get("ID")?, info))).collect();
    let runs_again = |action: &&Vector, is_cron: bool| {
        let number = |key| action.int(key).unwrap_or(-1);
        match is_cron || number("REPEAT") >= 0 {
            true => number("END_TYPE") != 1 || number("END_VALUE") > 0,
            false => number("DONE") <= 0 && number("TIME") > now,
        }
    };
    let preset = |action: &'a Vector| {
        let info = action.get("ID").and_then(|id| infos.get(id));
        let is_cron = info.is_some_and(|info| info.get("CRON").is_some_and(|cron| !cron.is_empty()));
        if !runs_again(&action, is_cron) {
            return None;
        }
        let theirs = ["ACTION", "ARGS", "TIME", "REPEAT", "DAYS", "END_TYPE", "END_VALUE", "WARNING"];
        let theirs = theirs.into_iter().filter_map(|key| Some((key, action.get(key)?)));
        let unset = |key: &str, value: &str| match key {
            "REPEAT" | "END_TYPE" | "END_VALUE" => value == "-1",
            "WARNING" => value == "0",
            _ => false,
        };
        let theirs = theirs.filter(|(key, value)| !value.is_empty() && !unset(key, value));
        let ours = OUR_KEYS.into_iter().filter_map(|key| Some((key, info?.get(key)?)));
        Some(theirs.chain(ours).collect())
    };
    actions.into_iter().filter_map(preset).collect()
}
