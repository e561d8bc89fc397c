//! Who accepted writes when, from what servers said of themselves; no I/O.

use std::time::{Duration, Instant};

/// Gaps between answers of a server longer than this end its time as primary: it may have stopped in between.
const BLIND: Duration = Duration::from_millis(250);

/// An instant between two: when something was true that is known only by an answer to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// It was not before.
    pub from: Instant,
    /// It was not after.
    pub to: Instant,
}

impl Moment {
    /// Between question and answer, or exactly then if the server's own clock says an instant that fits.
    ///
    /// All servers run on one machine, so their clock is ours, unless a drill has set it wrong.
    pub fn of_answer(asked: Instant, answered: Instant, age: Option<Duration>) -> Moment {
        let told = age.and_then(|age| answered.checked_sub(age)).filter(|at| *at >= asked);
        Moment { from: told.unwrap_or(asked), to: told.unwrap_or(answered) }
    }
}

/// A time as primary: between its first and its last moment it accepted writes throughout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reign {
    /// Number of the server.
    pub server: usize,
    /// The first answer.
    pub first: Moment,
    /// The last one.
    pub last: Moment,
    /// Whether it has not said since that it does not.
    open: bool,
}

impl Reign {
    /// Whether it surely lasted all of that time.
    fn covers(&self, moment: Moment) -> bool {
        self.first.to <= moment.from && moment.to <= self.last.from
    }
}

/// All times as primary, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Reigns {
    reigns: Vec<Reign>,
}

impl Reigns {
    /// Notes that `server` said that it accepts writes, or that it does not. Answers of one server come in order.
    pub fn note(&mut self, server: usize, accepts_writes: bool, at: Moment) {
        let last = self.reigns.iter_mut().rev().find(|reign| reign.server == server);
        match last {
            Some(reign) if accepts_writes && reign.open && at.from <= reign.last.to + BLIND => {
                reign.last = at;
            }
            Some(reign) if !accepts_writes => reign.open = false,
            None if !accepts_writes => {}
            Some(_) | None => self.reigns.push(Reign { server, first: at, last: at, open: true }),
        }
    }

    /// The reigns that were not over at `since`, in the order in which they were first seen.
    pub fn since(&self, since: Instant) -> impl Iterator<Item = &Reign> {
        self.reigns.iter().filter(move |reign| reign.last.to >= since)
    }

    /// How long two servers surely accepted writes at the same time.
    pub fn overlap(&self) -> Duration {
        let certain = self.reigns.iter().filter(|reign| reign.first.to < reign.last.from);
        let mut edges: Vec<_> =
            certain.flat_map(|reign| [(reign.first.to, 1), (reign.last.from, -1)]).collect();
        // Ends before beginnings: one that takes over at the very instant is not a second one.
        edges.sort_unstable();
        let (mut now, mut total, mut before) = (0, Duration::ZERO, None);
        for (at, change) in edges {
            if let Some(before) = before.filter(|_| now > 1) {
                total += at - before;
            }
            now += change;
            before = Some(at);
        }
        total
    }

    /// Who else surely accepted writes when `server` did so at that moment.
    pub fn rival(&self, server: usize, moment: Moment) -> Option<usize> {
        let others = self.reigns.iter().rev().filter(|reign| reign.server != server);
        others.filter(|reign| reign.covers(moment)).map(|reign| reign.server).next()
    }

    /// Reigns that began or ended after `since` while another server surely reigned: the server, when, and the other
    /// one. Finds what is too short for [`Reigns::overlap`], such as a single answer.
    pub fn intrusions(&self, since: Option<Instant>) -> impl Iterator<Item = (usize, Moment, usize)> {
        let edges = self.reigns.iter().flat_map(|reign| {
            let last = Some(reign.last).filter(|last| *last != reign.first);
            [Some(reign.first), last].into_iter().flatten().map(|moment| (reign.server, moment))
        });
        let edges = edges.filter(move |(_, moment)| since.is_none_or(|since| moment.to > since));
        edges.filter_map(|(server, moment)| Some((server, moment, self.rival(server, moment)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn exactly(at: Instant) -> Moment {
        Moment { from: at, to: at }
    }

    #[test]
    fn two_primaries_are_seen_and_one_after_the_other_are_not() {
        let t = Instant::now();
        let mut reigns = Reigns::default();
        let mut say = |server, at_ms: u32, yes| {
            reigns.note(server, yes, exactly(t + at_ms * MS));
            (reigns.overlap(), reigns.intrusions(None).count())
        };
        for at in (0..100).step_by(5) {
            say(0, at, true);
            say(1, at, false);
        }
        assert_eq!(say(1, 100, true), (Duration::ZERO, 0));
        for at in (105..200).step_by(5) {
            say(1, at, true);
        }
        // The first accepts writes once more after 45 ms of silence: within what a busy machine explains.
        assert_eq!(say(0, 140, true), (40 * MS, 2));
    }

    #[test]
    fn a_long_silence_or_a_no_ends_a_reign() {
        let t = Instant::now();
        let mut reigns = Reigns::default();
        for (server, at_ms, yes) in [
            (0, 0, true),
            (0, 10, true),
            (1, 100, true),
            (1, 300, true),
            (0, 400, true),
            (2, 700, true),
            (2, 710, true),
            (2, 711, false),
            (3, 712, true),
            (3, 719, true),
            (2, 720, true),
        ] {
            reigns.note(server, yes, exactly(t + at_ms * MS));
        }
        assert_eq!((reigns.overlap(), reigns.intrusions(None).count()), (Duration::ZERO, 0));
        assert_eq!(reigns.since(t + 500 * MS).map(|r| r.server).collect::<Vec<_>>(), [2, 3, 2]);
    }

    #[test]
    fn one_answer_amid_the_reign_of_another_is_an_intrusion() {
        let t = Instant::now();
        let mut reigns = Reigns::default();
        for at in (0..100).step_by(10) {
            reigns.note(0, true, exactly(t + at * MS));
        }
        let within = Moment { from: t + 20 * MS, to: t + 30 * MS };
        let astride = Moment { from: t + 85 * MS, to: t + 95 * MS };
        assert_eq!(
            (reigns.rival(1, within), reigns.rival(1, astride), reigns.rival(0, within)),
            (Some(0), None, None)
        );
        reigns.note(1, true, within);
        assert_eq!(reigns.intrusions(None).collect::<Vec<_>>(), [(1, within, 0)]);
        assert_eq!(reigns.overlap(), Duration::ZERO);
    }

    #[test]
    fn the_clock_of_a_server_counts_where_it_can_be_true() {
        let t = Instant::now() + 1000 * MS;
        let answer = |age| Moment::of_answer(t, t + 20 * MS, age);
        assert_eq!(answer(Some(5 * MS)), exactly(t + 15 * MS));
        let all = Moment { from: t, to: t + 20 * MS };
        assert_eq!((answer(Some(21 * MS)), answer(None)), (all, all));
    }
}
