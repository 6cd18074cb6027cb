use proptest::prelude::*;

use super::*;
use crate::doc::writer::Writer;

fn parse(text: &str) -> Template {
    Template::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn error(text: &str) -> String {
    match Template::parse(text) {
        Ok(template) => panic!("{text:?} was read as {template:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_template_as_users_write_them_is_read() {
    let template = parse(
        r#"# a comment
        name = web   # and another
        CPU=0.5
        MEMORY = "1024"
        EMPTY =
        DISK = [ image = "debian 12", SIZE=2048 ] DISK=[IMAGE_ID=7]
        BACKUP_CONFIG = [
          # inside
          MODE = "INCREMENT",   KEEP_LAST = "4",
          fs_freeze = NONE
        ]
        NOTHING = []
        "#,
    );
    assert_eq!(template.scalar("NAME"), Some("web"));
    assert_eq!(template.scalar("cpu"), Some("0.5"));
    assert_eq!(template.int("MEMORY"), Some(1024));
    assert_eq!(template.scalar("EMPTY"), Some(""));
    let images: Vec<_> = template.vectors("DISK").map(|disk| (disk.get("IMAGE"), disk.int("IMAGE_ID"))).collect();
    assert_eq!(images, [(Some("debian 12"), None), (None, Some(7))]);
    let config = template.vector("BACKUP_CONFIG").unwrap();
    assert_eq!(config.iter().collect::<Vec<_>>(), [("MODE", "INCREMENT"), ("KEEP_LAST", "4"), ("FS_FREEZE", "NONE")]);
    assert!(template.vector("NOTHING").unwrap().is_empty());
    assert_eq!(template.scalar("NOTHING"), None);
}

#[test]
fn quotes_around_a_key_are_skipped_as_stock_clients_send_them() {
    let template = parse(r#"BACKUP_CONFIG=["MODE"="INCREMENT"]"#);
    assert_eq!(template.vector("BACKUP_CONFIG").unwrap().get("MODE"), Some("INCREMENT"));
}

#[test]
fn dots_dashes_and_letters_beyond_ascii_do_not_belong_to_a_key() {
    for text in ["A.B = 1", "A-B = 1", "A é B = 1", "V = [ A-B = 1 ]"] {
        assert!(error(text).contains("unexpected VARIABLE, expecting EQUAL"), "{text}");
    }
    assert!(error("é = 1").contains("unexpected EQUAL, expecting VARIABLE"));
}

#[test]
fn a_bare_value_ends_where_the_grammar_says() {
    for (text, value) in [("A=x#c\n", "x"), ("A=x B=y", "x"), ("A=x\tB=y", "x"), ("A=x\nB=y", "x"), ("A=a\"b", "a\"b")]
    {
        assert_eq!(parse(text).scalar("A"), Some(value), "{text}");
    }
    for text in ["A=x,", "A=x=", "A=x[", "A=x]"] {
        assert!(error(text).contains("expecting VARIABLE"), "{text}: {}", error(text));
    }
    let lines = parse("V = [ A =\n, B = \"x\ny\" # c\n ]");
    assert_eq!(lines.vector("V").unwrap().iter().collect::<Vec<_>>(), [("A", ""), ("B", "x\ny")]);
}

#[test]
fn the_only_escape_is_the_one_for_a_quote() {
    assert_eq!(parse(r#"A = "say \"hi\"""#).scalar("A"), Some(r#"say "hi""#));
    assert_eq!(parse(r#"A = "C:\dir\n""#).scalar("A"), Some(r"C:\dir\n"));
    assert_eq!(parse(r#"A = "two\\"x""#).scalar("A"), Some(r#"two\"x"#));
    assert_eq!(parse(r"A = C:\dir\").scalar("A"), Some(r"C:\dir\"));
    assert_eq!(parse("A = \"line 1\nline 2\"").scalar("A"), Some("line 1\nline 2"));
}

#[test]
fn of_equal_keys_in_a_vector_the_first_wins() {
    let vector: Vector = [("a", "1"), ("B", "2"), ("A", "3")].into_iter().collect();
    assert_eq!(parse("V=[a=1,B=2,A=3]").vector("V"), Some(&vector));
    assert_eq!(vector.get("a"), Some("1"));
}

#[test]
fn values_lose_the_blanks_at_their_ends_and_windows_line_ends_do_no_harm() {
    let template = parse("A = \"  x y \t\"\r\nB = z\r\nC =\r\nV = [ K = v ]\r\n");
    assert_eq!((template.scalar("A"), template.scalar("B"), template.scalar("C")), (Some("x y"), Some("z"), Some("")));
    assert_eq!(template.vector("V").unwrap().get("K"), Some("v"));
}

#[test]
fn errors_say_where_and_what_but_never_quote_values() {
    assert_eq!(
        error("NAME = ok\nCPU 12345"),
        "Parse error: syntax error, unexpected VARIABLE, expecting EQUAL, at line 2, columns 5:9"
    );
    assert_eq!(
        error("A = [ B = 1, ]"),
        "Parse error: syntax error, unexpected CBRACKET, expecting VARIABLE, at line 1, columns 14:14"
    );
    assert_eq!(
        error("A = [ B = 1 C = 2 ]"),
        "Parse error: syntax error, unexpected VARIABLE, expecting COMMA or CBRACKET, at line 1, columns 13:13"
    );
    assert_eq!(
        error("A = [ B = [ C = 2 ] ]"),
        "Parse error: syntax error, unexpected OBRACKET, expecting STRING, at line 1, columns 11:11"
    );
    assert_eq!(error("= 1"), "Parse error: syntax error, unexpected EQUAL, expecting VARIABLE, at line 1, columns 1:1");
    assert_eq!(
        error("é KEY"),
        "Parse error: syntax error, unexpected end of file, expecting EQUAL, at line 1, columns 6:6"
    );
    assert!(error("A = \"open\nend").contains("closing quote"));
    assert!(error("A = \"open\nend").ends_with("at line 1, columns 5:5"));
    assert!(error("A = 1 # no newline").contains("comment"));
    assert!(error("A = [ B = 1").contains("end of file"));
    for text in ["PASSWORD = my secret", "PASSWORD = \"my secret", "P = [ K = secret secret ]", "P = \"secret ]]> \""] {
        assert!(!error(text).contains("secret"), "{}", error(text));
    }
}

#[test]
fn a_value_that_would_end_a_cdata_section_is_refused_and_defused() {
    assert!(error("A = \"x ]]> y\"").contains("]]>"));
    assert!(error("<T><A>x ]]&gt; y</A></T>").contains("]]>"));
    let mut template = Template::new();
    template.set("ERROR", "driver said <![CDATA[x]]]]>");
    assert_eq!(template.scalar("ERROR"), Some("driver said <![CDATA[x]]]] >"));
    assert_eq!(parse(&template.to_text()), template);
}

#[test]
fn xml_is_read_with_any_root() {
    let template = parse(
        "  <?xml version=\"1.0\"?><!-- c --><VM_TEMPLATE>\n<NAME><![CDATA[a <b>]]></NAME><cpu>1 &amp; &#50;</cpu><EMPTY/>
         <DISK><IMAGE>x</IMAGE>\n<SIZE><![CDATA[10]]></SIZE></DISK><DISK><ID>2</ID></DISK></VM_TEMPLATE>\n",
    );
    assert_eq!(template.scalar("NAME"), Some("a <b>"));
    assert_eq!(template.scalar("CPU"), Some("1 & 2"));
    assert_eq!(template.scalar("EMPTY"), Some(""));
    let disks: Vec<_> = template.vectors("DISK").map(|disk| disk.iter().collect::<Vec<_>>()).collect();
    assert_eq!(disks, [vec![("IMAGE", "x"), ("SIZE", "10")], vec![("ID", "2")]]);
}

#[test]
fn a_backup_config_sent_as_the_root_is_taken_for_the_vector() {
    let config = |text: &str| parse(text).vector("BACKUP_CONFIG").cloned();
    let expected: Vector = [("MODE", "FULL"), ("KEEP_LAST", "4")].into_iter().collect();
    let bare = "<BACKUP_CONFIG><MODE>FULL</MODE><keep_last>4</keep_last><MODE>INCREMENT</MODE></BACKUP_CONFIG>";
    assert_eq!(config(bare), Some(expected.clone()));
    assert_eq!(parse(bare).attributes().len(), 1);
    assert_eq!(config(&format!("<TEMPLATE>{bare}</TEMPLATE>")), Some(expected.clone()));
    assert_eq!(config(&format!("<BACKUP_CONFIG>{bare}</BACKUP_CONFIG>")), Some(expected));
    assert_eq!(config("<backup_config/>"), Some(Vector::new()));
    assert!(parse("<BACKUP_CONFIGS><MODE>FULL</MODE></BACKUP_CONFIGS>").scalar("MODE").is_some());
}

#[test]
fn a_byte_order_mark_is_ignored_and_broken_xml_refused_with_a_position() {
    assert_eq!(parse("\u{feff}<T><A>1</A></T>"), parse("\u{feff}A=1"));
    for text in [
        "<T><A>1</A>",
        "<T><A>1</B></T>",
        "<T><A><B><C>1</C></B></A></T>",
        "<T><A>text<B>1</B></A></T>",
        "<T>text<A>1</A></T>",
        "<T><A-B>1</A-B></T>",
        "<T><A>&unknown;</A></T>",
        "<!DOCTYPE T [<!ENTITY a \"b\">]><T><A>1</A></T>",
        "<T/><T/>",
        "<T/>text",
        "<",
        "<T>\n<A>1</A>\n<",
    ] {
        assert!(error(text).contains("at line"), "{text}");
    }
    assert!(error("<T>\n<A>&nix;</A></T>").ends_with("at line 2, columns 4:8"), "{}", error("<T>\n<A>&nix;</A></T>"));
}

#[test]
fn setting_replaces_and_pushing_adds() {
    let mut template = parse("A=1\nB=2\nA=3\nC=4\n");
    template.set("a", " 9 ");
    assert_eq!(template.to_text(), "A=\"9\"\nB=\"2\"\nC=\"4\"\n");
    assert_eq!(template.attributes()[0].value, Value::Scalar("9".into()));
    template.push("A", "10");
    template.push_vector("A", [("K", "v")].into_iter().collect());
    assert_eq!(template.remove("A").len(), 3);
    assert!(!template.contains("A"));
    template.set_vector("B", Vector::new());
    assert_eq!(template.to_text(), "B=[ ]\nC=\"4\"\n");
    for vector in template.vectors_mut("B") {
        vector.set("k", "v");
        vector.set("K", "w");
    }
    assert_eq!(template.vector("B").unwrap().iter().collect::<Vec<_>>(), [("K", "w")]);
}

#[test]
fn appending_replaces_whole_names_and_drops_what_is_empty() {
    let mut template = parse("A=1\nDISK=[ID=0]\nDISK=[ID=1]\nB=2\nC=3\nV=[K=v]\n");
    template.append(&parse("A=9\nDISK=[SIZE=5]\nB=\"\"\nV=[]\nD=4\nD=5\n"));
    assert_eq!(template.to_text(), "A=\"9\"\nC=\"3\"\nD=\"4\"\nD=\"5\"\nDISK=[\n  SIZE=\"5\" ]\n");
}

#[test]
fn the_canonical_text_is_what_clients_show() {
    let text = parse("b=2\na=[ y=\"q\\\"\", x=1 ]\n").to_text();
    assert_eq!(text, "A=[\n  X=\"1\",\n  Y=\"q\\\"\" ]\nB=\"2\"\n");
}

#[test]
fn yes_and_no_are_read_in_any_case_and_nothing_else() {
    let template = parse("A=YES\nB=no\nC=true\nV=[K=Yes]\n");
    assert_eq!((template.yes("A"), template.yes("B"), template.yes("C")), (Some(true), Some(false), None));
    assert_eq!(template.vector("V").unwrap().yes("K"), Some(true));
}

#[test]
fn limits_are_errors() {
    let long = format!("A=\"{}\"", "x".repeat(MAX_TEXT_BYTES));
    assert!(error(&long).contains("bytes long"));
    assert!(error(&"A=1\n".repeat(MAX_ATTRIBUTES + 1)).contains("more than 100000"));
    assert!(error(&format!("V=[{}]", "A=1,".repeat(MAX_ATTRIBUTES + 1))).contains("more than 100000"));
    assert!(error(&format!("<T>{}</T>", "<A/>".repeat(MAX_ATTRIBUTES + 1))).contains("more than 100000"));
    assert!(error(&format!("{}=1", "A".repeat(MAX_NAME_BYTES + 1))).contains("longer than"));
    assert_eq!(parse(&"A=1\n".repeat(MAX_ATTRIBUTES)).attributes().len(), MAX_ATTRIBUTES);
}

/// As long as a request may reasonably be. Were any step of the parser to look at the whole text again for each piece of
/// it, these would take hours.
const HOSTILE_BYTES: usize = 1 << 20;

#[test]
fn a_megabyte_of_hostile_text_is_answered() {
    let pieces = [
        "[",
        "]",
        "=",
        ",",
        "\"",
        "\\",
        "\\\"",
        "#",
        "#\n",
        "\n",
        " ",
        "é",
        "A",
        "A=",
        "A=1\n",
        "A=1 ",
        "A=\"\"",
        "A=[",
        "A=[]",
        "A=[B=",
        "A=\"\\\"\" ",
        "<",
        "<A",
        "<A>",
        "<A/>",
        "</A>",
        "&",
        "&lt;",
        "&#62;",
        "<!--",
        "<!-- -->",
        "<![CDATA[",
        "<![CDATA[]]>",
        "]]>",
        "<?x?>",
        "<!DOCTYPE",
        "\0",
        "\u{feff}",
        "\r\n",
    ];
    let frames = [
        ("", ""),
        ("A=", "\n"),
        ("A=\"", "\"\n"),
        ("A=[", "]"),
        ("A=[B=1,", "C=2]"),
        ("A=[B=\"", "\"]"),
        ("#", "\n"),
        ("<T>", "</T>"),
        ("<T><A>", "</A></T>"),
        ("<T><A><B>", "</B></A></T>"),
        ("<T a=\"", "\"/>"),
        ("<T><A><![CDATA[", "]]></A></T>"),
    ];
    for (before, after) in frames {
        // The frames share out the time; alone each piece gets the whole length.
        let length = if before.is_empty() { HOSTILE_BYTES } else { HOSTILE_BYTES / 8 };
        for piece in pieces {
            let text = format!("{before}{}{after}", piece.repeat(length / piece.len()));
            match Template::parse(&text) {
                Ok(template) => assert!(template.to_text().len() <= 8 * text.len() + 8),
                Err(error) => assert!(error.to_string().len() < 200, "{error}"),
            }
        }
    }
    let vector: String = (0..HOSTILE_BYTES / 10).map(|n| format!("K{n}=1,")).take(MAX_ATTRIBUTES - 2).collect();
    assert!(parse(&format!("V=[{vector}LAST=1]")).vector("V").unwrap().contains("LAST"));
}

#[test]
fn safe_names_are_names_in_both_forms() {
    for good in ["A", "_a1", "SCHED_ACTION", &"x".repeat(MAX_NAME_BYTES)] {
        assert!(is_safe_attribute_name(good), "{good}");
    }
    for bad in ["", "1A", "A-B", "A.B", "A B", "é", "A:B", &"x".repeat(MAX_NAME_BYTES + 1)] {
        assert!(!is_safe_attribute_name(bad), "{bad}");
    }
}

#[test]
fn serialised_templates_come_back() {
    let template = parse("A=[K=\"v\"]\nB=\"x\\\"y\"\n");
    assert_eq!(Template::try_from(String::from(template.clone())), Ok(template));
}

/// Values that strain the grammar: quotes, backslashes, brackets, line ends and what ends a CDATA section.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![r#"["\\\]\[>=#, \n\ta-cé]{0,12}"#, r#"[a-z ]{0,6}[\\"]{0,4}"#, any::<String>(),]
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_]{1,5}"
}

fn template() -> impl Strategy<Value = Template> {
    let vector =
        proptest::collection::vec((name(), value()), 0..4).prop_map(|pairs| pairs.into_iter().collect::<Vector>());
    let attribute = (name(), prop_oneof![value().prop_map(Ok), vector.prop_map(Err)]);
    proptest::collection::vec(attribute, 0..8).prop_map(|attributes| {
        let mut template = Template::new();
        for (name, value) in attributes {
            match value {
                Ok(scalar) => template.push(&name, scalar),
                Err(vector) => template.push_vector(&name, vector),
            }
        }
        template
    })
}

/// Whether XML 1.0 has the character.
fn in_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// What the XML form of a template keeps: safe names, characters of XML, no empty vector.
fn kept_in_xml(template: &Template) -> Template {
    let kept = |text: &str| text.chars().filter(|c| in_xml(*c)).collect::<String>();
    let mut out = Template::new();
    for Attribute { name, value } in template.attributes().iter().filter(|a| is_safe_attribute_name(&a.name)) {
        match value {
            Value::Scalar(text) => out.push(name, kept(text)),
            Value::Vector(vector) => {
                let pairs = vector.iter().filter(|(key, _)| is_safe_attribute_name(key));
                let vector: Vector = pairs.map(|(key, text)| (key, kept(text))).collect();
                if vector.is_empty() {
                    out.push(name, "");
                } else {
                    out.push_vector(name, vector);
                }
            }
        }
    }
    out
}

/// Fails unless an error's place is one of the text.
fn points_into(text: &str, error: &ParseError) -> Result<(), TestCaseError> {
    let lengths: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    prop_assert!((1..=lengths.len()).contains(&error.line), "{:?}: {}", text, error);
    let longest = lengths.iter().max().copied().unwrap_or_default();
    prop_assert!((1..=lengths[error.line - 1] + 1).contains(&error.column), "{:?}: {}", text, error);
    prop_assert!((1..=longest + 1).contains(&error.end_column), "{:?}: {}", text, error);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_xml_form_reads_back_as_the_sorted_template(template in template()) {
        let template = kept_in_xml(&template);
        let mut writer = Writer::new();
        writer.template("TEMPLATE", &template);
        let text = writer.finish();
        let back = Template::parse(&text).map_err(|error| TestCaseError::fail(format!("{text:?}: {error}")))?;
        prop_assert_eq!(back, template.sorted());
    }

    #[test]
    fn no_bytes_make_the_parser_panic_and_errors_point_into_the_text(
        start in proptest::sample::select(vec!["", "<T>", "<T><A>", "A=", "A=\"", "A=[\n", "# \n"]),
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            proptest::collection::vec(proptest::sample::select(b"<>&;/![]=#\",\\ \n-ab\xc3\xa9".to_vec()), 0..64),
        ],
    ) {
        let text = format!("{start}{}", String::from_utf8_lossy(&bytes));
        if let Err(error) = Template::parse(&text) {
            points_into(&text, &error)?;
        }
    }

    #[test]
    fn the_canonical_text_reads_back_as_the_sorted_template(template in template()) {
        let text = template.to_text();
        let back = Template::parse(&text).map_err(|error| TestCaseError::fail(format!("{text:?}: {error}")))?;
        prop_assert_eq!(&back, &template.sorted());
        prop_assert_eq!(back.to_text(), text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = Template::parse(&text);
    }

    #[test]
    fn no_text_out_of_the_grammar_s_characters_makes_the_parser_panic_or_lose_its_own_output(
        text in r#"[<>&;/!?\[\]=#",\\ \nabé-]{0,40}"#
    ) {
        if let Ok(template) = Template::parse(&text) {
            prop_assert_eq!(Template::parse(&template.to_text()), Ok(template.sorted()));
        }
    }

    #[test]
    fn no_document_makes_the_parser_panic(text in r"<T>(<[ab/]{1,3}>|x|&lt;|<!\[CDATA\[|\]\]>){0,8}</T>") {
        let _ = Template::parse(&text);
    }

    #[test]
    fn appending_leaves_other_names_alone_and_gives_the_named_ones_their_new_values(a in template(), b in template()) {
        let mut merged = a.clone();
        merged.append(&b);
        for attribute in a.attributes() {
            let kept = merged.named(&attribute.name).any(|value| *value == attribute.value);
            prop_assert!(kept || b.contains(&attribute.name));
        }
        for attribute in b.attributes() {
            let empty = matches!(&attribute.value, Value::Scalar(s) if s.is_empty())
                || matches!(&attribute.value, Value::Vector(v) if v.is_empty());
            prop_assert!(empty || merged.named(&attribute.name).any(|value| *value == attribute.value));
        }
    }
}
