//! What the report calls a setting: no word that may hold a password is in it.

use super::super::haproxy::Word;

/// Settings whose second word says what they are about.
const TWO_WORDS: &[&str] = &[
    "stats",
    "option",
    "http-check",
    "tcp-check",
    "balance",
    "mode",
    "maxconn",
    "tcp-request",
    "http-request",
    "use_backend",
    "default_backend",
    "acl",
    "retries",
];

/// A setting as the report calls it: no word that may hold a password.
pub(super) fn shown(words: &[Word]) -> String {
    let word = |index: usize| words.get(index).map_or("", |word| word.text.as_str());
    let many = match (word(0), word(1)) {
        ("option", "httpchk") if word(3).starts_with('/') => 4,
        ("option", "httpchk") if word(2).starts_with('/') => 3,
        ("timeout" | "no", _) => 3,
        (word, _) if TWO_WORDS.contains(&word) => 2,
        _ => 1,
    };
    let words: Vec<&str> = words.iter().take(many).map(|word| word.text.as_str()).collect();
    // Whatever was escaped into a word stays out of it.
    words.join(" ").split(['\r', '\n']).next().unwrap_or_default().to_owned()
}

/// A parameter by its name, with its value where that is none of a secret kind.
pub(super) fn named(what: &str, name: &str, value: &str) -> String {
    let is_plain = [
        "port",
        "inter",
        "fastinter",
        "downinter",
        "rise",
        "fall",
        "maxconn",
        "weight",
        "verify",
        "on-marked-down",
        "on-marked-up",
        "addr",
    ];
    if is_plain.contains(&name) { format!("{what} {name} {value}") } else { format!("{what} {name}") }
}
