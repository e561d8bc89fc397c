//! Who may connect at all: networks, and how many sessions each address may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

/// Which networks a listener takes clients from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks {
    /// Where clients may come from; from anywhere when there is none.
    pub allow: Vec<IpNet>,
    /// Where they may not come from in spite of that.
    pub deny: Vec<IpNet>,
}

impl Networks {
    /// Whether a client from `source` is taken.
    pub fn admit(&self, source: IpAddr) -> bool {
        (self.allow.is_empty() || within(&self.allow, source)) && !within(&self.deny, source)
    }
}

/// Whether one of `networks` has `source`, which may be an IPv4 address in IPv6 form.
pub(crate) fn within(networks: &[IpNet], source: IpAddr) -> bool {
    let source = source.to_canonical();
    networks.iter().any(|network| network.contains(&source))
}

/// Open sessions by source address, where they are limited.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// Counts one session of a source until it is dropped.
#[derive(Debug)]
pub(crate) struct FromSource {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// One more session from `source`; `None` when it has `limit` already.
    pub(crate) fn enter(self: &Arc<Sources>, source: IpAddr, limit: usize) -> Option<FromSource> {
        let source = source.to_canonical();
        let mut open = self.lock();
        let count = open.entry(source).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(FromSource { sources: Arc::clone(self), source })
    }

    /// A panic while it was held cannot have left a count half-changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FromSource {
    fn drop(&mut self) {
        let mut open = self.sources.lock();
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(allow: &[&str], deny: &[&str]) -> Networks {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
        Networks { allow: parse(allow), deny: parse(deny) }
    }

    #[test]
    fn what_is_denied_is_denied_though_it_is_allowed() {
        let cases = [
            (networks(&[], &[]), "192.0.2.1", true),
            (networks(&["10.0.0.0/8"], &[]), "10.200.0.1", true),
            (networks(&["10.0.0.0/8"], &[]), "192.0.2.1", false),
            (networks(&["10.0.0.0/8"], &["10.0.9.0/24"]), "10.0.9.7", false),
            (networks(&[], &["2001:db8::/32"]), "2001:db8::1", false),
            (networks(&[], &["2001:db8::/32"]), "2001:db9::1", true),
            (networks(&["10.0.0.0/8"], &[]), "::ffff:10.0.0.1", true),
        ];
        for (networks, source, admitted) in cases {
            assert_eq!(
                networks.admit(source.parse().expect("an address")),
                admitted,
                "{networks:?} {source}"
            );
        }
    }

    #[test]
    fn each_source_has_its_own_limit_and_leaves_no_trace() {
        let sources = Arc::new(Sources::default());
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = sources.enter(one, 2).expect("room");
        let _second = sources.enter("::ffff:10.0.0.1".parse().expect("an address"), 2).expect("room");
        assert!(sources.enter(one, 2).is_none());
        assert!(sources.enter(other, 2).is_some());
        drop(first);
        drop(sources.enter(one, 2).expect("room again"));
        assert_eq!(sources.lock().len(), 1, "only who has sessions is remembered");
    }
}
