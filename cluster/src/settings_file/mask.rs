//! What of a settings file's line may be shown: no value of a secret, on whichever of its lines.

use super::Syntax;

/// Keys that have one of these in their name are never shown with their value.
const SECRETS: [&str; 3] = ["password", "secret", "token"];

/// The `line` that follows `before`, as it may be shown.
pub(super) fn shown(before: &str, line: &str, syntax: Syntax) -> String {
    let hidden = match syntax {
        Syntax::Toml => is_within_toml_secret(before),
        Syntax::Yaml => is_within_yaml_secret(before, line),
    };
    if hidden { "***".to_owned() } else { without_user_info(&masked(line, syntax)) }
}

/// Whether a key of this name holds a secret.
pub(super) fn is_secret(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    // `auth: user:password` is Patroni's short form.
    lower == "auth" || SECRETS.iter().any(|word| lower.contains(word))
}

/// The line without what stands behind a secret's key.
fn masked(line: &str, syntax: Syntax) -> String {
    match secret_value(line, syntax) {
        Some(at) if !line[at..].trim().is_empty() => format!("{} ***", &line[..at]),
        _ => line.to_owned(),
    }
}

/// Where the value begins on a line whose key is a secret's.
fn secret_value(line: &str, syntax: Syntax) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let assigns: &[char] = match syntax {
        Syntax::Toml => &['='],
        Syntax::Yaml => &[':', '='],
    };
    let short =
        (syntax == Syntax::Yaml && lower.trim_start().starts_with("auth:")).then(|| lower.find("auth"));
    let at = SECRETS.iter().filter_map(|word| lower.find(word)).min().or(short.flatten())?;
    Some(at + lower[at..].find(assigns)? + 1)
}

/// URLs without the user and password in them.
pub(super) fn without_user_info(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://").map(|at| at + 3) {
        let (before, url) = rest.split_at(at);
        shown.push_str(before);
        let authority = url.find(|c: char| c.is_whitespace() || "/\"',".contains(c)).unwrap_or(url.len());
        rest = match url[..authority].rfind('@') {
            Some(user_info) => {
                shown.push_str("***");
                &url[user_info..]
            }
            None => url,
        };
    }
    shown + rest
}

/// Whether the line after `before` still belongs to the value of a secret: one that goes over several lines, or that
/// somebody has forgotten to close.
fn is_within_toml_secret(before: &str) -> bool {
    let mut open: Option<(&str, bool)> = None;
    for line in before.lines() {
        match open {
            Some((end, _)) if line.contains(end) => open = None,
            Some(_) => {}
            None => {
                let value = line.split_once('=').map_or("", |(_, value)| value.trim_start());
                let ends = [("\"\"\"", "\"\"\""), ("'''", "'''"), ("[", "]"), ("{", "}")];
                let begun = ends.into_iter().find(|(begin, _)| value.starts_with(begin));
                open = begun
                    .filter(|(begin, end)| !value[begin.len()..].contains(end))
                    .map(|(_, end)| (end, secret_value(line, Syntax::Toml).is_some()));
            }
        }
    }
    open.is_some_and(|(_, is_secret)| is_secret)
}

/// The same where values end by indentation: deeper lines after a secret's key are its value, and so is whatever
/// follows an open quote or bracket until it is closed.
fn is_within_yaml_secret(before: &str, line: &str) -> bool {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut open: Option<(char, bool)> = None;
    // The indentation of the last secret's key, while what follows is deeper.
    let mut key: Option<usize> = None;
    for line in before.lines().filter(|line| !line.trim().is_empty()) {
        if let Some((end, _)) = open {
            if line.contains(end) {
                open = None;
            }
            continue;
        }
        if key.is_some_and(|key| depth(line) > key) {
            continue;
        }
        let is_secret = secret_value(line, Syntax::Yaml).is_some();
        key = is_secret.then(|| depth(line));
        let value = line.split_once(':').map_or("", |(_, value)| value.trim_start());
        let ends = [('"', '"'), ('\'', '\''), ('[', ']'), ('{', '}')];
        let begun = ends.into_iter().find(|(begin, _)| value.starts_with(*begin));
        open = begun.filter(|(_, end)| !value[1..].contains(*end)).map(|(_, end)| (end, is_secret));
    }
    open.is_some_and(|(_, is_secret)| is_secret) || key.is_some_and(|key| depth(line) > key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_yaml_secret_is_shown() {
        let hidden = [
            ("", "password: hunter2"),
            ("", "    password: \"hunter2"),
            ("", "  replication: {username: rep, password: hunter2}"),
            ("", "auth: 'admin:hunter2'"),
            ("", "PATRONI_SUPERUSER_PASSWORD=hunter2"),
            ("", "  url: http://root:hunter2@10.0.0.1:2379"),
            ("", "  hosts: 'http://root:hun@ter2@a:1,http://b:2'"),
            ("password: |\n", "  hunter2"),
            ("a:\n  password: >-\n    hunter2\n", "    hunter2: x"),
            ("password: \"\n", "hunter2: x"),
            ("password: {\n", "hunter2: x"),
            ("password:\n", "  hunter2"),
        ];
        for (before, line) in hidden {
            let shown = shown(before, line, Syntax::Yaml);
            assert!(!shown.contains("hunter2") && !shown.contains("ter2"), "{before}{line}: {shown}");
        }
        let open = [
            ("password: x\n", "listen: 0.0.0.0:8008"),
            ("a:\n  password: x\n", "  listen: b"),
            ("password: \"x\n  y\"\n", "z: 1"),
            ("", "hosts: http://10.0.0.1:2379,http://10.0.0.2:2379"),
            ("", "- host all all 0.0.0.0/0 password"),
        ];
        for (before, line) in open {
            assert_eq!(shown(before, line, Syntax::Yaml), line);
        }
    }
}
