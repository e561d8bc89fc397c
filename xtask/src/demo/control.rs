//! What the keys do: each wish is carried out beside the picture, so that the picture never stops.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::drill::{self, Drill};
use crate::playground::Playground;
use crate::playground::picture::Picture;

/// Events shown.
const SHOWN: usize = 12;

/// What the user wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// A fault, or a switchover.
    Strike(Drill),
    /// All that is dead or frozen back.
    Revive,
}

/// A key that means something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Quit,
    Do(Wish),
}

/// The keys, with what is written beside them.
pub(super) const KEYS: &[(char, &str, Key)] = &[
    ('s', "switch over", Key::Do(Wish::Strike(Drill::Switchover))),
    ('k', "kill PostgreSQL", Key::Do(Wish::Strike(Drill::KillPostgres))),
    ('x', "kill agent + PostgreSQL", Key::Do(Wish::Strike(Drill::KillAgentAndPostgres))),
    ('f', "freeze agent", Key::Do(Wish::Strike(Drill::FreezeAgent))),
    ('t', "stop agent", Key::Do(Wish::Strike(Drill::StopAgent))),
    ('p', "kill a replica", Key::Do(Wish::Strike(Drill::KillReplica))),
    ('e', "kill etcd", Key::Do(Wish::Strike(Drill::EtcdOutage))),
    ('r', "revive all", Key::Do(Wish::Revive)),
    ('q', "quit", Key::Quit),
];

/// What a terminal event means.
pub(super) fn key(event: &Event) -> Option<Key> {
    let Event::Key(pressed) = event else { return None };
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    match pressed.code {
        KeyCode::Char('c') if pressed.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char(typed) => KEYS.iter().find(|(k, ..)| *k == typed).map(|(.., key)| *key),
        _ => None,
    }
}

/// The playground in the hands of the user.
pub(super) struct Control {
    playground: Arc<Mutex<Playground>>,
    tasks: JoinSet<()>,
    say: mpsc::UnboundedSender<String>,
    said: mpsc::UnboundedReceiver<String>,
    started: Instant,
    events: VecDeque<String>,
    leader: Option<String>,
    /// The epoch of the last one who led.
    epoch: Option<i64>,
    /// The lease time of the cluster, in seconds.
    pub(super) ttl: u32,
}

impl Control {
    pub(super) fn new(playground: Playground) -> Control {
        let (say, said) = mpsc::unbounded_channel();
        Control {
            ttl: playground.ttl,
            playground: Arc::new(Mutex::new(playground)),
            tasks: JoinSet::new(),
            say,
            said,
            started: Instant::now(),
            events: VecDeque::new(),
            leader: None,
            epoch: None,
        }
    }

    /// Begins what the user wants; wishes are carried out in turn.
    pub(super) fn wish(&mut self, wish: Wish) {
        let Some(leader) = self.leader.clone().or((wish == Wish::Revive).then(String::new)) else {
            self.event("nobody leads: there is nobody to do that to");
            return;
        };
        let (playground, say) = (Arc::clone(&self.playground), self.say.clone());
        self.tasks.spawn(async move {
            let mut playground = playground.lock().await;
            let tell = |line: &str| drop(say.send(line.to_owned()));
            let done = match wish {
                Wish::Strike(drill) => drill::strike(&mut playground, drill, &leader, &tell).await,
                Wish::Revive => playground.revive().map(|done| done.iter().for_each(|line| tell(line))),
            };
            if let Err(error) = done {
                tell(&error.to_string());
            }
        });
    }

    /// Takes in what was said, and who leads.
    pub(super) fn note(&mut self, picture: &Picture) {
        while let Ok(line) = self.said.try_recv() {
            self.event(&line);
        }
        while self.tasks.try_join_next().is_some() {}
        let (leader, epoch) = (picture.leader().ok(), picture.epoch());
        if leader != self.leader {
            match (&leader, self.epoch == epoch) {
                (Some(name), false) => self.event(&format!("{name} leads, epoch {}", epoch.unwrap_or(0))),
                (Some(name), true) => self.event(&format!("{name} leads on")),
                (None, _) => self.event("nobody leads"),
            }
            if leader.is_some() {
                self.epoch = epoch;
            }
            self.leader = leader;
        }
    }

    fn event(&mut self, text: &str) {
        self.events.push_front(format!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64()));
        self.events.truncate(SHOWN);
    }

    /// What happened, newest first.
    pub(super) fn events(&self) -> impl Iterator<Item = &str> {
        self.events.iter().map(String::as_str)
    }

    /// Ends everything.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
        // The last one to hold it: dropped here, and everything with it.
        drop(self.playground);
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    fn press(code: KeyCode, modifiers: KeyModifiers) -> Option<Key> {
        key(&Event::Key(KeyEvent::new(code, modifiers)))
    }

    #[test]
    fn keys_mean_what_is_written_beside_them_and_no_two_are_the_same() {
        for (letter, _, expected) in KEYS {
            assert_eq!(press(KeyCode::Char(*letter), KeyModifiers::NONE), Some(*expected));
        }
        let mut letters: Vec<_> = KEYS.iter().map(|(k, ..)| k).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), KEYS.len());
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(press(KeyCode::Char('z'), KeyModifiers::NONE), None);
    }
}
