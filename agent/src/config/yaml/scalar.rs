//! What a value means that is written without quotes, where nothing else is known of it: the rules of YAML 1.1 as
//! Patroni's parser has them, so that a document means the same here and there.

use serde_json::{Map, Number, Value};

use super::tree::{Node, Tree};

/// The value as JSON.
pub(super) fn json(tree: &Tree) -> Value {
    match &tree.node {
        Node::Null => Value::Null,
        Node::Plain(text) => plain(text),
        Node::Text(text) => Value::String(text.clone()),
        Node::List(items) => Value::Array(items.iter().map(json).collect()),
        Node::Map(entries) => Value::Object(object(entries)),
    }
}

/// The section as a JSON object.
pub(super) fn object(entries: &[(super::tree::Key, Tree)]) -> Map<String, Value> {
    entries.iter().map(|(key, value)| (key.name.clone(), json(value))).collect()
}

fn plain(text: &str) -> Value {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    whole(text).or_else(|| fraction(text))
}

/// Whole numbers: decimal, `0x` hexadecimal, `0b` binary, `0` octal, with `_` anywhere after the first digit.
fn whole(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.strip_prefix('0') {
        Some("") => (10, "0"),
        Some(rest) => match (rest.strip_prefix('x'), rest.strip_prefix('b')) {
            (Some(hex), _) => (16, hex),
            (_, Some(binary)) => (2, binary),
            (None, None) => (8, rest),
        },
        None => (10, digits.as_str()),
    };
    let value = i128::from_str_radix(digits, radix).ok()?;
    Number::from_i128(if negative { -value } else { value })
}

/// Decimal fractions: with a dot, and an exponent only where it has a sign.
fn fraction(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (before, after) = mantissa.split_once('.')?;
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit() || c == '_');
    let signed = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['-', '+'])
            .is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
    });
    let begins = before.starts_with(|c: char| c.is_ascii_digit()) || before.is_empty() && !after.is_empty();
    if !begins || !digits(before) || !digits(after) || !signed {
        return None;
    }
    text.replace('_', "").parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_values_mean_what_they_mean_to_patroni() {
        for (text, value) in [
            ("on", json!(true)),
            ("No", json!(false)),
            ("y", json!("y")),
            ("oN", json!("oN")),
            ("30", json!(30)),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("0", json!(0)),
            ("0644", json!(420)),
            ("089", json!("089")),
            ("0x1f", json!(31)),
            ("0o17", json!("0o17")),
            ("1_000", json!(1000)),
            ("1.5", json!(1.5)),
            ("1.", json!(1.0)),
            (".5", json!(0.5)),
            (".", json!(".")),
            ("1e3", json!("1e3")),
            ("1.0e3", json!("1.0e3")),
            ("1.0e+3", json!(1000.0)),
            ("16MB", json!("16MB")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("-", json!("-")),
            ("", json!("")),
            ("99999999999999999999999", json!("99999999999999999999999")),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }
}
