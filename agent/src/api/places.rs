//! How many connections there are, in all and from one address: who opens many and says nothing takes the API from
//! nobody else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections at once.
const IN_ALL: usize = 512;

/// Connections at once from one address.
const FROM_ONE: usize = 128;

/// The connections there are.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    from: IpAddr,
}

impl Places {
    /// One more connection; `None`: there are enough.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let from = from.to_canonical();
        let mut open = self.lock();
        if open.values().sum::<usize>() >= IN_ALL || open.get(&from).is_some_and(|n| *n >= FROM_ONE) {
            return None;
        }
        *open.entry(from).or_default() += 1;
        Some(Place { places: Arc::clone(self), from })
    }

    /// A panic while it was held cannot have left a count half-changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        if let Some(count) = open.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all() {
        let places = Arc::new(Places::default());
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut taken: Vec<_> = (0..FROM_ONE).map(|_| places.take(address(1)).expect("room")).collect();
        assert!(places.take("::ffff:10.0.0.1".parse().expect("an address")).is_none());
        for n in 2..=4 {
            taken.extend((0..FROM_ONE).map(|_| places.take(address(n)).expect("room")));
        }
        assert!(places.take(address(5)).is_none(), "and there is an end");
        drop(taken.pop());
        drop(places.take(address(5)).expect("room again"));
        drop(taken);
        assert!(places.lock().is_empty(), "nothing is remembered of who went");
    }
}
