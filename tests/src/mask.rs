//! What changes from one run of a session to the next, replaced by letters of the same width, so that columns stay where
//! they are.
//!
//! There are few masks, each with a name. What else differs between two runs is a fault of the session, or of the
//! command. Years from 2100 on are never masked: a session that gives a time of its own takes one of those.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// A mask: its name, what it looks for and what it makes of that.
struct Mask {
    name: &'static str,
    pattern: LazyLock<Regex>,
    cover: fn(&str) -> String,
}

/// In the order in which they are laid on.
static MASKS: [Mask; 16] = [
    // Whether, and when, a host was looked at since a VM began there. Gone, not covered.
    Mask {
        name: "measured",
        pattern: LazyLock::new(|| regex(r"(?m)^.*VIRTUAL MACHINE MONITORING.*\n([A-Z]+ +: .*\n)*\n")),
        cover: |_| String::new(),
    },
    Mask { name: "port", pattern: LazyLock::new(|| regex(r"127\.0\.0\.1:\d{4,5}\b")), cover: port },
    // uuids, digests, tokens, keys.
    Mask {
        name: "hex",
        pattern: LazyLock::new(|| regex(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{32,}\b")),
        cover: |text| letters(text, |c| c.is_ascii_hexdigit(), 'x'),
    },
    // Where the text of an editor was kept.
    Mask {
        name: "kept text",
        pattern: LazyLock::new(|| regex(r"\bone-template-\d+-\d+\.txt\b")),
        cover: |_| "one-template-N-N.txt".into(),
    },
    // Sat Nov 21 22:52:45 2026
    Mask {
        name: "long date",
        pattern: LazyLock::new(|| regex(r"\b[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d 20\d\d\b")),
        cover: |_| "Www Mon DD hh:mm:ss YYYY".into(),
    },
    // The id of a restore point, which may happen to be all digits.
    Mask {
        name: "point",
        pattern: LazyLock::new(|| regex(r"\b[0-9a-f]{8}\b")),
        cover: |text| letters(text, |_| true, 'x'),
    },
    // What is shown of a login token's digest, and the name of its file.
    Mask {
        name: "token",
        pattern: LazyLock::new(|| {
            regex(r"(?m)\b[0-9a-f]{16}\.token\b|\b[Tt]oken [0-9a-f]{7}\b|^[0-9a-f]{7} (\*|\d+) ")
        }),
        cover: token,
    },
    // 2026-11-21 06:46:47, 2026-11-21T06:46, 2026-11-21
    Mask {
        name: "moment",
        pattern: LazyLock::new(|| regex(r"\b20\d\d-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?\b")),
        cover: |text| shape(text, "YYYY-MM-DD hh:mm:ss"),
    },
    // 11/21/26 06:46, 11/21/26
    Mask {
        name: "american date",
        pattern: LazyLock::new(|| regex(r"\b\d\d/\d\d/[2-9]\d( \d\d:\d\d(:\d\d)?)?\b")),
        cover: |text| shape(text, "MM/DD/YY hh:mm:ss"),
    },
    // 11/21 06:46:47, 11/21 06:46
    Mask {
        name: "day and time",
        pattern: LazyLock::new(|| regex(r"\b\d\d/\d\d \d\d:\d\d(:\d\d)?\b")),
        cover: |text| shape(text, "MM/DD hh:mm:ss"),
    },
    // The name of a backup image, also cut: 21-Nov 06.46.47
    Mask {
        name: "backup's name",
        pattern: LazyLock::new(|| regex(r"\b\d\d-[A-Z][a-z]{2} \d\d(\.\d\d(\.\d{1,2})?)?\b")),
        cover: |text| shape(text, "DD-Mon hh.mm.ss"),
    },
    // Seconds since 1970, from 2023 to 2033.
    Mask {
        name: "epoch",
        pattern: LazyLock::new(|| regex(r"\b1[789]\d{8}\b")),
        cover: |text| letters(text, |_| true, 'E'),
    },
    // "  0d 00h01m01s", "0d 00h00", "0h00m01s", "in 1m05s", "    2s", "in 12s"
    Mask {
        name: "duration",
        pattern: LazyLock::new(|| regex(r" *\b(\d+d \d\dh\d\d(m(\d\ds)?)?|\d+h\d\dm\d\ds|\d+m\d\ds|\d{1,4}s)\b")),
        cover: duration,
    },
    // "LAST_BACKUP_DURATION": "1", DURATION="1", <DURATION>1</DURATION>
    Mask {
        name: "seconds",
        pattern: LazyLock::new(|| regex(r#"DURATION(": "|="|: "|>)\d+"#)),
        cover: |text| format!("{}N", text.trim_end_matches(|c: char| c.is_ascii_digit())),
    },
    // "Next in 19.2 hours"
    Mask {
        name: "wait",
        pattern: LazyLock::new(|| regex(r"\bin \d+(\.\d)? (seconds|minutes|hours|days)\b")),
        cover: |_| "in N days".into(),
    },
    // How wide the column of such texts is follows from the longest, so what stands behind them moves with the day.
    Mask {
        name: "width of waits",
        pattern: LazyLock::new(|| regex(r"\b(STATUS|Next in N days|Done on MM/DD hh:mm|Overdue!) +(OPTIONS|[^\s\\])")),
        cover: |text| {
            let behind = text.rfind(' ').map_or(0, |at| at + 1);
            format!("{}  {}", text[..behind].trim_end(), &text[behind..])
        },
    },
];

#[expect(clippy::unwrap_used, reason = "the patterns are above, and a test compiles each")]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

/// Text with all masks laid on. `places` are texts of this run (temporary directories) and what stands for them.
#[must_use]
pub fn apply(text: &str, places: &[(String, String)]) -> String {
    let text = places.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    MASKS.iter().fold(text, |text, mask| {
        mask.pattern.replace_all(&text, |found: &Captures<'_>| (mask.cover)(&found[0])).into_owned()
    })
}

/// The names of all masks.
pub fn names() -> impl Iterator<Item = &'static str> {
    MASKS.iter().map(|mask| mask.name)
}

/// A letter for every character that `which` picks.
fn letters(text: &str, which: fn(char) -> bool, letter: char) -> String {
    text.chars().map(|c| if which(c) { letter } else { c }).collect()
}

/// The letters of `shape`, as far as the text goes; separators as the text has them.
fn shape(text: &str, shape: &str) -> String {
    text.chars()
        .zip(shape.chars())
        .map(|(c, letter)| if c.is_ascii_alphanumeric() && c != 'T' { letter } else { c })
        .collect()
}

/// The digits of a token's digest, which are the longest word of digits there.
fn token(text: &str) -> String {
    let is_digit = |c: char| c.is_ascii_hexdigit();
    let longest = text.split(|c| !is_digit(c)).max_by_key(|word| word.len()).unwrap_or_default();
    text.replace(longest, &"x".repeat(longest.len()))
}

fn port(text: &str) -> String {
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    format!("{host}:{}", letters(port, |_| true, 'P'))
}

/// Digits become N. Seconds alone may have one digit or two: in a column the blanks before them give way, in a sentence
/// nothing stands below.
fn duration(text: &str) -> String {
    let blanks = text.len() - text.trim_start().len();
    let digits = text.trim_start().trim_end_matches('s');
    if digits.contains(|c: char| !c.is_ascii_digit()) {
        return letters(text, |c| c.is_ascii_digit(), 'N');
    }
    if blanks > 1 { format!("{:>width$}", "Ns", width = text.len()) } else { format!("{}Ns", &text[..blanks]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mask_covers_its_text_and_keeps_the_width() {
        let cases = [
            ("http://127.0.0.1:34567/RPC2", "http://127.0.0.1:PPPPP/RPC2"),
            ("c28a9e07-7a1c-4df6-9d8a-0123456789ab", "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"),
            ("Token bb5cd87 is good", "Token xxxxxxx is good"),
            (".one/bb5cd877fdaeca3a.token;", ".one/xxxxxxxxxxxxxxxx.token;"),
            ("abababa 100   forever", "xxxxxxx 100   forever"),
            ("at 2026-11-21 06:46:47 +0000.", "at YYYY-MM-DD hh:mm:ss +0000."),
            ("2026-11-21T06:46", "YYYY-MM-DDThh:mm"),
            ("11/21/26 06:46 11/21/26", "MM/DD/YY hh:mm MM/DD/YY"),
            ("11/21 06:46:47 11/21 06:46", "MM/DD hh:mm:ss MM/DD hh:mm"),
            ("0 21-Nov 06.46.47 backups", "0 DD-Mon hh.mm.ss backups"),
            ("0 21-Nov 06.46.4 backups", "0 DD-Mon hh.mm.s backups"),
            ("Sat Nov 21 22:52:45 2026 : why", "Www Mon DD hh:mm:ss YYYY : why"),
            ("dc3d7827      0B", "xxxxxxxx      0B"),
            ("<STIME>1795267607</STIME>", "<STIME>EEEEEEEEEE</STIME>"),
            ("  0d 00h01m01s", "  Nd NNhNNmNNs"),
            ("  0d 00h00", "  Nd NNhNN"),
            ("41.2K     1s", "41.2K     Ns"),
            ("41.2K    12s", "41.2K     Ns"),
            ("read 1K in 1m05s", "read 1K in NmNNs"),
        ];
        for (text, masked) in cases {
            assert_eq!(apply(text, &[]), masked);
            assert_eq!(text.len(), masked.len());
        }
        assert_eq!(apply("in 0s", &[]), apply("in 12s", &[]));
        let page = "ID : 0\n\n\\e[1mVIRTUAL MACHINE MONITORING   \\e[0m\nCPU                 : 5.00\nNETRX               : 0B\n\nPERMISSIONS\n";
        assert_eq!(apply(page, &[]), "ID : 0\n\nPERMISSIONS\n");
        assert_eq!(apply("Next in 19.2 hours", &[]), "Next in N days");
        assert_eq!(apply("STATUS               OPTIONS", &[]), "STATUS  OPTIONS");
        assert_eq!(apply("Next in 26703.2 days    Europe", &[]), apply("Next in 3 hours  Europe", &[]));
        assert_eq!(apply("STATUS            \\e[0m", &[]), "STATUS            \\e[0m");
        assert_eq!(apply("in /tmp/one1234.", &[("/tmp/one1234".into(), "/var/lib/one".into())]), "in /var/lib/one.");
        assert_eq!(apply("/tmp/one-template-1-17.txt", &[]), "/tmp/one-template-N-N.txt");
        assert_eq!(apply("<DURATION>12</DURATION>", &[]), "<DURATION>N</DURATION>");
        assert_eq!(apply("\"LAST_BACKUP_DURATION\": \"0\",", &[]), "\"LAST_BACKUP_DURATION\": \"N\",");
        assert_eq!(names().count(), MASKS.len());
    }

    #[test]
    fn what_a_session_says_itself_stays() {
        for text in [
            "2100-01-04 02:30:00 +0100",
            "4102444800",
            "10.0.0.1:80",
            "60 s",
            "1024M",
            "+2592000s",
            "dead beef",
            "12.5K",
        ] {
            assert_eq!(apply(text, &[]), text);
        }
    }
}
