//! Each kind of value: what it takes, and what it says about what it does not.

use super::*;

fn variable<K: Kind>(text: &str) -> Result<K::Value, String> {
    K::read(&Written { data: Data::Variable(text), base: Path::new("") })
}

fn toml<K: Kind>(text: &str) -> Result<K::Value, String> {
    let value = DeValue::parse(text).expect(text);
    K::read(&Written { data: Data::Toml(value.get_ref()), base: Path::new("/etc") })
}

#[test]
fn spans_of_time() {
    for (text, milliseconds) in [
        ("1ms", 1),
        ("250ms", 250),
        ("5", 5_000),
        ("5s", 5_000),
        ("1.5 s", 1_500),
        ("2min", 120_000),
        ("1h", 3_600_000),
        ("365d", 31_536_000_000),
    ] {
        let expected = Ok(Duration::from_millis(milliseconds));
        assert_eq!(variable::<Span>(text), expected, "{text}");
        assert_eq!(toml::<Span>(&format!("{text:?}")), expected, "{text}");
    }
    assert_eq!(toml::<Span>("0.25"), Ok(Duration::from_millis(250)));
    assert_eq!(toml::<Span>("0x10"), Ok(Duration::from_secs(16)));
    for wrong in ["", "s", "5m", "5S", "-5s", "1h30min", "0", "0.4ms", "366d", "1.2.3s", "off", "\u{e9}", "5\u{e9}"] {
        assert!(variable::<Span>(wrong).is_err(), "{wrong:?}");
    }
    for off in ["\"off\"", "0", "0.0", "false", "\"0\"", "\"0s\""] {
        assert_eq!(toml::<OptionalSpan>(off), Ok(None), "{off}");
    }
    assert!(toml::<OptionalSpan>("\"no\"").is_err_and(|right| right.ends_with("or \"off\"")));
}

#[test]
fn what_cloudwatch_takes() {
    for right in ["pgfunnel", "My Service/proxy:1", "a.b-c_d#e"] {
        assert_eq!(variable::<Namespace>(right), Ok(right.to_owned()));
    }
    for wrong in ["", " ", "AWS/RDS", ":a", "a\"b", "caf\u{e9}", &"x".repeat(256)] {
        assert!(variable::<Namespace>(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(variable::<Printable>("a \"b\""), Ok("a \"b\"".to_owned()));
    assert!(variable::<Printable>("a\tb").is_err());
    assert_eq!(variable::<Interval>("1s"), Ok(Duration::from_secs(1)));
    assert!(variable::<Interval>("999ms").is_err() && variable::<Interval>("off").is_err());
}

#[test]
fn sizes() {
    assert_eq!(variable::<PoolSize>("20"), Ok(PoolSize::Count(20)));
    assert_eq!(variable::<PoolSize>("80%"), Ok(PoolSize::Share(0.8)));
    assert_eq!(toml::<PoolSize>("\"12.5 %\""), Ok(PoolSize::Share(0.125)));
    assert_eq!(toml::<PoolSize>("1_000"), Ok(PoolSize::Count(1000)));
    assert!(toml::<PoolSize>("\"20\"").is_err());
    assert_eq!(toml::<Bound<9>>("\"off\""), Ok(None));
    assert_eq!(toml::<Bound<9>>("9"), Ok(Some(9)));
    assert!(toml::<Bound<9>>("10").is_err());
}

#[test]
fn lists_are_shown_and_name_the_wrong_entry() {
    fn wrong<K: Kind>(text: &str) -> (String, String) {
        let value = DeValue::parse(text).expect(text);
        let written = Written { data: Data::Toml(value.get_ref()), base: Path::new("") };
        (written.show(), K::read(&written).expect_err(text))
    }
    assert_eq!(wrong::<Names>("['']"), ("[\"\"]".to_owned(), "a name or a list of names".to_owned()));
    let (shown, right) = wrong::<Names>("['a', 'http://u:hunter2@h', '']");
    assert_eq!(shown, "[\"a\", \"http://…@h\", \"\"]");
    assert_eq!(right, "a name or a list of names, which \"\" is not");
    assert_eq!(wrong::<Names>("['a', 1, [2], {}]").0, "[\"a\", 1, […], {…}]");
    assert!(variable::<Names>("a,,b").is_err_and(|right| right.ends_with("which \"\" is not")));
    assert_eq!(toml::<Names>("[]"), Ok(vec![]));
}

#[test]
fn strings_say_what_is_wrong_with_them() {
    for (text, right) in [("1234", "in quotes"), ("''", "not empty"), ("\"a\\u0000\"", "without NUL")] {
        assert!(toml::<Hidden>(text).is_err_and(|wrong| wrong.contains(right)), "{text}");
    }
}

#[test]
fn flags_and_paths() {
    for (text, value) in [("true", true), ("1", true), ("on", true), ("no", false), ("off", false), ("0", false)] {
        assert_eq!(variable::<Flag>(text), Ok(value), "{text}");
    }
    assert!(variable::<Flag>("maybe").is_err());
    assert_eq!(toml::<FilePath>("'a.pem'"), Ok(PathBuf::from("/etc/a.pem")));
    assert_eq!(toml::<FilePath>("'/b/a.pem'"), Ok(PathBuf::from("/b/a.pem")));
    assert_eq!(variable::<FilePath>("a.pem"), Ok(PathBuf::from("a.pem")));
    assert!(variable::<FilePath>("https://h/a.pem").is_err());
}
