use std::time::Duration;

use serde::Deserialize;

use super::*;

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    listener: Vec<Listener>,
    limits: Option<Limits>,
    role: Option<Role>,
    password: Option<Secret>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Listener {
    listen: Spanned<String>,
    port: Option<u16>,
    idle: Option<Interval>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Limits {
    buffer: Size,
    total: Option<u32>,
}

#[derive(Deserialize, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
enum Role {
    Primary,
    Replica,
}

fn shown(text: &str) -> String {
    parse::<File>("proxy.toml", text).expect_err("the text is wrong").to_string()
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    let text = "name = \"a\"\n\n[[listener]]\n  lisen = \"x\"\n";
    assert_eq!(
        shown(text),
        "proxy.toml:4:3: unknown key `lisen` in [listener]\n  |\n4 |   lisen = \"x\"\n  |   ^^^^^\n  \
         = help: did you mean `listen`? allowed: listen, port, idle"
    );
    let top = shown("nme = \"a\"\n");
    assert!(top.starts_with("proxy.toml:1:1: unknown key `nme` at the top level"), "{top}");
    let inline = shown("name = \"a\"\nlimits = { buffer = 1, totl = 3 }\n");
    assert!(inline.starts_with("proxy.toml:2:24: unknown key `totl` in [limits]"), "{inline}");
    let far = shown("name = \"a\"\nzzz = 1\n");
    assert!(far.ends_with("= help: allowed: name, listener, limits, role, password"), "{far}");
}

#[test]
fn missing_keys_name_their_section() {
    let top = shown("role = \"primary\"\n");
    assert_eq!(top, "proxy.toml: the key `name` is missing at the top level");
    let deep = shown("name = \"a\"\n[limits]\ntotal = 1\n");
    assert!(deep.starts_with("proxy.toml:2:"), "{deep}");
    assert!(deep.contains("the key `buffer` is missing in [limits]"), "{deep}");
}

#[test]
fn wrong_types_show_what_was_seen_and_what_is_allowed() {
    assert_eq!(
        shown("name = \"a\"\n[[listener]]\nlisten = \"x\"\nport = \"http\"\n"),
        "proxy.toml:4:8: `port` in [listener] cannot be string \"http\"\n  |\n4 | port = \"http\"\n  |        ^^^^^^\n  \
         = help: allowed: a whole number from 0 to 65535"
    );
    let large = shown("name = \"a\"\n[[listener]]\nlisten = \"x\"\nport = 70000\n");
    assert!(large.contains("`port` in [listener] cannot be integer 70000"), "{large}");
    let table = shown("name = \"a\"\nlimits = 4\n");
    assert!(table.contains("`limits` cannot be integer 4") && table.contains("allowed: a table"), "{table}");
    let number = shown("name = 4\n");
    assert!(number.contains("`name` cannot be integer 4") && number.contains("text in quotes"), "{number}");
}

#[test]
fn unknown_words_show_the_allowed_ones() {
    let text = shown("name = \"a\"\nrole = \"replca\"\n");
    assert!(text.starts_with("proxy.toml:2:8: unknown value `replca` for `role`\n"), "{text}");
    assert!(text.ends_with("did you mean `replica`? allowed: primary, replica"), "{text}");
}

#[test]
fn broken_toml_points_at_the_place() {
    let text = shown("name = \"a\"\nrole = = 3\n");
    assert!(text.starts_with("proxy.toml:2:8: this is not TOML: "), "{text}");
    let twice = shown("name = \"a\"\nname = \"b\"\n");
    assert!(twice.starts_with("proxy.toml:2:1: this is not TOML: duplicate key"), "{twice}");
}

#[test]
fn durations_and_sizes_have_units() {
    let text = "name=\"a\"\nrole=\"primary\"\n[[listener]]\nlisten=\"x\"\nport=5432\nidle=\"250ms\"\n[limits]\nbuffer=\"16MB\"";
    let good = parse::<File>("f", text);
    let file = good.expect("reads").value;
    assert_eq!((file.listener[0].port, file.role), (Some(5432), Some(Role::Primary)));
    assert_eq!(file.listener[0].idle, Some(Interval(Duration::from_millis(250))));
    let limits = file.limits.expect("given");
    assert_eq!((limits.buffer, limits.total), (Size(16 << 20), None));
    let seconds = parse::<File>("f", "name=\"a\"\n[[listener]]\nlisten=\"x\"\nidle=3").expect("reads").value;
    assert_eq!(seconds.listener[0].idle, Some(Interval(Duration::from_secs(3))));
    for bad in ["\"soon\"", "\"3\"", "-1", "1.5", "true", "\"3 parsecs\"", "9223372036854775807"] {
        let text = shown(&format!("name=\"a\"\n[[listener]]\nlisten=\"x\"\nidle = {bad}\n"));
        assert!(text.starts_with("proxy.toml:4:8: `idle` in [listener] cannot be "), "{bad}: {text}");
        assert!(text.contains("allowed: a duration such as"), "{bad}: {text}");
    }
    let size = shown("name=\"a\"\n[limits]\nbuffer = \"16 apples\"\n");
    assert!(
        size.contains("cannot be string \"16 apples\"") && size.contains("allowed: a size such as"),
        "{size}"
    );
}

#[test]
fn secrets_stay_secret() {
    let file = parse::<File>("f", "name=\"a\"\npassword=\"hunter2\"").expect("reads").value;
    let password = file.password.expect("given");
    assert_eq!((format!("{password:?}").as_str(), password.expose()), ("***", "hunter2"));
    for line in ["password = 4711", "password = 47.11", "password = \"4711", "passwort = 1 # password = 4711"]
    {
        let text = shown(&format!("name=\"a\"\n{line}\n"));
        assert!(!text.contains("4711"), "{text}");
    }
    let source = parse::<File>("f", "name=\"a\"\npassword=\"hunter2\"").expect("reads");
    assert!(!format!("{source:?}").contains("hunter2"));
}

#[test]
fn checks_of_meaning_point_at_their_value() {
    let text = "name = \"a\"\n[[listener]]\n\tlisten = \"ümlaut\"\n";
    let loaded = parse::<File>("dir/proxy.toml", text).expect("reads");
    let span = loaded.value.listener[0].listen.span();
    let error = loaded.error_at(span, "`ümlaut` is not an address", "allowed: host:port".to_owned());
    assert_eq!(
        error.to_string(),
        "dir/proxy.toml:3:11: `ümlaut` is not an address\n  |\n3 | \tlisten = \"ümlaut\"\n  | \t         ^^^^^^^^\n  \
         = help: allowed: host:port"
    );
    assert_eq!(error.line(), Some(3));
    let whole = loaded.error("no listener at all", "add a [[listener]]".to_owned());
    assert_eq!(whole.to_string(), "dir/proxy.toml: no listener at all\nhelp: add a [[listener]]");
    let foreign = loaded.error_at(10_000..10_003, "beyond the end", None);
    assert!(foreign.to_string().contains("beyond the end"));
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = load::<File>(&dir.path().join("none.toml")).expect_err("there is none").to_string();
    assert!(missing.ends_with("none.toml: there is no such file"), "{missing}");
    let directory = load::<File>(dir.path()).expect_err("a directory").to_string();
    assert!(directory.contains("this is a directory"), "{directory}");
    let path = dir.path().join("latin1.toml");
    std::fs::write(&path, b"name = \"a\"\n# \xe4\n").expect("writes");
    let latin = load::<File>(&path).expect_err("not UTF-8").to_string();
    assert!(latin.ends_with("latin1.toml: line 2 is not UTF-8 text (byte 0xe4)"), "{latin}");
    std::fs::write(&path, b"name = \"a\"\n").expect("writes");
    assert_eq!(load::<File>(&path).expect("reads").value.name, "a");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[a-z\\[\\]=\"{},.0-9\n\tü -]{0,80}", from in 0_usize..100, len in 0_usize..100) {
        let source = Source::new("f", text.clone(), Syntax::Toml);
        let _ = source.error_at(from..from + len, "m", None).to_string();
        let _ = parse::<File>("f", &text).map_err(|e| e.to_string());
    }
}

#[test]
fn a_secret_is_not_shown_whichever_line_of_it_is_wrong() {
    for text in [
        "name = \"a\"\npassword = \"\"\"\nhunter2",
        "name = \"a\"\npassword = \"\"\"\nx = hunter2\nhunter2",
        "name = \"a\"\npassword = '''\n[hunter2]\n",
        "password = [\n  \"hunter2\" \"hunter2\"\n]",
        "token = \"hunter2\" hunter2",
        "api_token = hunter2",
        "password = \"hunter2",
    ] {
        let error = parse::<File>("f", text).expect_err(text);
        assert!(!error.to_string().contains("hunter2"), "{text:?}\n{error}");
    }
    // What stands behind it is shown again.
    let error = parse::<File>("f", "password = \"\"\"\nhunter2\"\"\"\nname = oops").expect_err("no text");
    assert!(error.to_string().contains("name = oops"), "{error}");
}
