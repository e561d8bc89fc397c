//! The name of a member's slot, and what happens when two members have one.

use std::collections::BTreeMap;

use pgvane_cluster::ids::NodeName;

/// The longest slot name.
const MAX_NAME: usize = 63;

/// The slot of a member: its name in lower case, `-` and `.` as `_`, other characters as `u` and their number.
pub fn slot_name(member: &NodeName) -> String {
    let mut name = String::new();
    for c in member.as_str().to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            '-' | '.' => name.push('_'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.truncate(MAX_NAME);
    name
}

/// Members that share a slot's name: only one of them can stream from it.
pub fn collisions<'a>(members: impl Iterator<Item = &'a NodeName>) -> Vec<(String, Vec<NodeName>)> {
    let mut by_name: BTreeMap<String, Vec<NodeName>> = BTreeMap::new();
    for member in members {
        by_name.entry(slot_name(member)).or_default().push(member.clone());
    }
    by_name.into_iter().filter(|(_, members)| members.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_patroni_makes_them() {
        assert_eq!(slot_name(&"PG-1.example".into()), "pg_1_example");
        assert_eq!(slot_name(&"a b".into()), "au0032b");
        assert_eq!(slot_name(&NodeName::new("x".repeat(80))).len(), 63);
    }

    #[test]
    fn members_with_one_name_are_found() {
        let members = ["pg-1", "pg.1", "pg2"].map(NodeName::from);
        assert_eq!(
            collisions(members.iter()),
            [("pg_1".to_owned(), vec![NodeName::from("pg-1"), NodeName::from("pg.1")])]
        );
        assert_eq!(collisions(members[1..].iter()), []);
    }
}
