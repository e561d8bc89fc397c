//! When to say that PostgreSQL runs and cannot be asked, by a wrong password say. Pure; time is a parameter.

use std::time::Duration;

use pgvane_cluster::clock::Tick;

use super::probe::ProbeError;

/// A server that starts or stops refuses for a moment.
const SAY_AFTER: Duration = Duration::from_secs(3);

/// Questions in a row that were not answered.
#[derive(Debug, Default)]
pub struct Unanswered {
    since: Option<Tick>,
    told: Option<ProbeError>,
}

impl Unanswered {
    /// Takes in how a question at `now` ended; answers whether to complain of it. The same reason is told once, until
    /// there was an answer. That a server does not accept connections *yet* is no reason to complain.
    pub fn note(&mut self, now: Tick, failure: Option<&ProbeError>) -> bool {
        let Some(error) = failure.filter(|error| !matches!(error, ProbeError::NotYet(_))) else {
            *self = Unanswered::default();
            return false;
        };
        let since = *self.since.get_or_insert(now);
        let is_new = now >= since + SAY_AFTER && self.told.as_ref() != Some(error);
        if is_new {
            self.told = Some(error.clone());
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_millis(100_000 + millis)
    }

    #[test]
    fn a_reason_is_told_once_when_it_lasts() {
        let mut unanswered = Unanswered::default();
        let password = ProbeError::Other("password authentication failed".to_owned());
        let refused = ProbeError::Refused("refused".to_owned());
        assert!(!unanswered.note(at(0), Some(&password)));
        assert!(!unanswered.note(at(2999), Some(&password)));
        assert!(unanswered.note(at(3000), Some(&password)));
        assert!(!unanswered.note(at(60_000), Some(&password)), "said already");
        assert!(unanswered.note(at(60_250), Some(&refused)), "another reason");
        assert!(!unanswered.note(at(60_500), None));
        assert!(!unanswered.note(at(60_750), Some(&refused)), "answered in between");
        assert!(unanswered.note(at(63_750), Some(&refused)));
    }

    #[test]
    fn a_server_that_starts_is_no_reason() {
        let mut unanswered = Unanswered::default();
        let starts = ProbeError::NotYet("the database system is starting up".to_owned());
        for millis in [0, 5000, 90_000] {
            assert!(!unanswered.note(at(millis), Some(&starts)));
        }
        assert!(!unanswered.note(at(90_250), Some(&ProbeError::TimedOut(SAY_AFTER))));
    }
}
