//! The settings that packaging/etcd has for members, with a playground's addresses and directories in place of a site's.

/// As it is shipped.
const SETTINGS: &str = include_str!("../../../../packaging/etcd/etcd.conf.yml");

/// Where it has the certificates.
const TLS_DIR: &str = "/etc/etcd/tls";

/// The settings with these keys changed, and certificates from `tls_dir`.
///
/// # Panics
/// If the file has none of a key that is changed and is not `new`: then it is not what it is taken for.
pub(super) fn settings(changed: &[(&str, String)], new: &[(String, String)], tls_dir: &str) -> String {
    let mut text = SETTINGS.replace(TLS_DIR, tls_dir);
    for (key, value) in changed {
        text = replaced(&text, key, value)
            .unwrap_or_else(|| panic!("packaging/etcd/etcd.conf.yml has no {key}"));
    }
    for (key, value) in new {
        text = replaced(&text, key, value).unwrap_or_else(|| format!("{text}{key}: {value}\n"));
    }
    text
}

/// The text with another value of a key at its top; `None`: it has none.
fn replaced(text: &str, key: &str, value: &str) -> Option<String> {
    let begin = format!("{key}: ");
    let found = text.lines().any(|line| line.starts_with(&begin));
    let line = |line: &str| {
        if line.starts_with(&begin) { format!("{begin}{value}\n") } else { format!("{line}\n") }
    };
    found.then(|| text.lines().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_is_shipped() {
        let new = [("quota-backend-bytes".to_owned(), "17".to_owned()), ("x".to_owned(), "y".to_owned())];
        let text = settings(&[("name", "m1".to_owned())], &new, "/tmp/t");
        assert!(text.contains("\nname: m1\n") && text.contains("\nquota-backend-bytes: 17\n"), "{text}");
        assert!(text.ends_with("\nx: y\n") && text.contains("  cert-file: /tmp/t/member.pem\n"), "{text}");
        assert!(text.contains("\nelection-timeout: 1000\n") && !text.contains(TLS_DIR), "{text}");
    }
}
