//! Whether lines of pg_hba.conf let a replica in, as far as that can be told from the lines alone.

use std::net::IpAddr;

use ipnet::IpNet;

/// What lines say of a replication connection over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This line lets it in.
    Admits(String),
    /// This line turns it away.
    Rejects(String),
    /// No line is about it, so it is turned away.
    Nothing,
    /// It cannot be told: a line names hosts, or files.
    Unknown(String),
}

/// The first line that counts for `role` coming from `from`.
pub fn replication(lines: &[String], role: &str, from: IpAddr) -> Verdict {
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, databases, users, address, rest @ ..] = words.as_slice() else { continue };
        if !kind.starts_with("host") || *kind == "hostgssenc" || kind.starts_with('#') {
            continue;
        }
        // `all` does not stand for replication.
        let is_meant =
            |list: &str, names: &[&str]| list.split(',').any(|word| names.contains(&word.trim_matches('"')));
        if !is_meant(databases, &["replication"]) || !is_meant(users, &["all", role]) {
            if users.contains(['+', '@', '/']) && is_meant(databases, &["replication"]) {
                return Verdict::Unknown(line.clone());
            }
            continue;
        }
        let (covers, method) = match (*address, address.parse::<IpNet>(), address.parse::<IpAddr>()) {
            ("all", ..) => (true, rest.first()),
            (_, Ok(network), _) => (network.contains(&from), rest.first()),
            (_, _, Ok(base)) => {
                let mask = rest.first().and_then(|mask| mask.parse().ok());
                let network = mask.and_then(|mask| IpNet::with_netmask(base, mask).ok());
                (network.is_some_and(|network| network.contains(&from)), rest.get(1))
            }
            _ => return Verdict::Unknown(line.clone()),
        };
        if covers {
            let rejects = method.is_some_and(|method| *method == "reject");
            return if rejects { Verdict::Rejects(line.clone()) } else { Verdict::Admits(line.clone()) };
        }
    }
    Verdict::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str], from: &str) -> Verdict {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        replication(&lines, "replicator", from.parse().expect("an address"))
    }

    #[test]
    fn the_first_line_about_it_counts() {
        let usual = "host replication all all scram-sha-256";
        let lines = ["local all all trust", "host all all all scram-sha-256", usual];
        assert_eq!(verdict(&lines, "10.0.0.4"), Verdict::Admits(usual.to_owned()));
        let some = "hostssl replication,app \"replicator\" 10.0.0.0/24 scram-sha-256";
        assert_eq!(verdict(&[some], "10.0.0.4"), Verdict::Admits(some.to_owned()));
        assert_eq!(verdict(&[some], "10.0.1.4"), Verdict::Nothing);
        assert_eq!(verdict(&lines[..2], "10.0.0.4"), Verdict::Nothing, "all is no replication");
        let masked = "host replication replicator 10.0.0.0 255.255.255.0 md5";
        assert_eq!(verdict(&[masked], "10.0.0.4"), Verdict::Admits(masked.to_owned()));
        let reject = "host replication all 10.0.0.4/32 reject";
        assert_eq!(verdict(&[reject, usual], "10.0.0.4"), Verdict::Rejects(reject.to_owned()));
        assert_eq!(verdict(&["host replication other all trust"], "10.0.0.4"), Verdict::Nothing);
    }

    #[test]
    fn names_and_groups_cannot_be_told() {
        for line in ["host replication replicator .example.com trust", "host replication +nodes all trust"] {
            assert_eq!(verdict(&[line], "10.0.0.4"), Verdict::Unknown(line.to_owned()));
        }
    }
}
