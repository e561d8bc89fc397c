//! Whether another member of our name lives: two of one name would take the leader key from each other (contract
//! 8.11). Asked once, when the store first tells of a record under our name; nothing else is done before.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper::Method;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::info;

use crate::decide::world::OwnLease;
use crate::event::Event;
use crate::peers::{Caller, at};

/// How long whoever stands in the record has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The question and what came of it.
#[derive(Debug)]
pub struct Namesake {
    name: NodeName,
    own_url: String,
    caller: Arc<Caller>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Unasked,
    Asking,
    Alone,
    Found(String),
}

impl Namesake {
    /// The question of a member that publishes `own_url`.
    pub fn new(name: NodeName, own_url: String, caller: Arc<Caller>) -> Namesake {
        Namesake { name, own_url, caller, stage: Stage::Unasked }
    }

    /// Why this agent must end.
    pub fn found(&self) -> Option<&str> {
        match &self.stage {
            Stage::Found(why) => Some(why),
            Stage::Unasked | Stage::Asking | Stage::Alone => None,
        }
    }

    /// Whether `view` may be acted on. Asks the member of our name where its record is not our own: one at the
    /// address that we listen on ourselves is, and one under the lease that we adopted.
    pub fn admits(
        &mut self,
        view: &ClusterView,
        lease: OwnLease,
        events: &mpsc::UnboundedSender<Event>,
    ) -> bool {
        match self.stage {
            Stage::Alone => return true,
            Stage::Asking | Stage::Found(_) => return false,
            Stage::Unasked => {}
        }
        let member = view.members.get(&self.name);
        let elsewhere = member.and_then(|m| m.record.api_url.clone()).filter(|url| *url != self.own_url);
        let ours = match lease {
            OwnLease::Held { id, .. } => member.is_some_and(|m| m.lease == Some(id)),
            OwnLease::None => false,
        };
        let Some(url) = elsewhere.filter(|_| !ours) else {
            self.stage = Stage::Alone;
            return true;
        };
        self.stage = Stage::Asking;
        info!(url, "asking whether the member of our name still lives");
        let (caller, name, events) = (Arc::clone(&self.caller), self.name.clone(), events.clone());
        tokio::spawn(async move {
            let lives = tokio::time::timeout(ANSWER_WITHIN, lives(&caller, &url, &name)).await;
            let found = lives.unwrap_or(false).then(|| {
                format!("Can't start; there is already a node named '{name}' running: it answers at {url}")
            });
            // The loop is gone only when the agent ends.
            let _ = events.send(Event::Namesake(found));
        });
        false
    }

    /// Takes in the answer.
    pub fn ended(&mut self, found: Option<String>) {
        self.stage = found.map_or(Stage::Alone, Stage::Found);
    }
}

/// What tells this process from every other one: `GET /instance` answers it.
pub fn instance() -> &'static str {
    static INSTANCE: LazyLock<String> = LazyLock::new(|| {
        // Seeded by the system's random numbers, twice.
        let random = || RandomState::new().build_hasher().finish();
        format!("{:016x}{:016x}", random(), random())
    });
    &INSTANCE
}

/// Whether a member `name` other than this process answers at `url`: the record may name an address from before
/// connect_address was changed, at which we listen now. Another member there has only taken over an address that was ours.
async fn lives(caller: &Caller, url: &str, name: &NodeName) -> bool {
    match caller.request(Method::GET, &at(url, "/instance"), None).await {
        Ok(answer) if answer.text() == instance() => return false,
        Ok(_) => {}
        Err(_) => return false,
    }
    let status = caller.request(Method::GET, &at(url, "/patroni"), None).await;
    let body: Option<Value> = status.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let other = body.as_ref().and_then(|body| body["patroni"]["name"].as_str());
    other.is_none_or(|other| other == name.as_str())
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::clock::Tick;
    use pgvane_cluster::ids::LeaseId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::api::fixture;

    fn question(own_url: &str) -> Namesake {
        Namesake::new("a".into(), own_url.to_owned(), Arc::new(Caller::plain()))
    }

    fn record_at(url: &str) -> ClusterView {
        let record = format!(r#"{{"state":"running","role":"replica","api_url":"{url}"}}"#);
        fixture::view(&[("members/a", &record)])
    }

    /// Answers every request as a member of that name.
    async fn member_named(name: &'static str) -> String {
        answering(format!(r#"{{"patroni": {{"name": "{name}"}}}}"#)).await
    }

    async fn answering(body: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/patroni", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.0 503 x\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        url
    }

    async fn asked(view: &ClusterView) -> Namesake {
        let (events, mut news) = mpsc::unbounded_channel();
        let mut question = question("http://127.0.0.1:1/patroni");
        assert!(!question.admits(view, OwnLease::None, &events), "nothing is done before the answer");
        assert!(!question.admits(view, OwnLease::None, &events));
        let Some(Event::Namesake(found)) = news.recv().await else { panic!("an answer") };
        question.ended(found);
        assert!(news.try_recv().is_err(), "asked once");
        question
    }

    #[tokio::test]
    async fn a_living_namesake_ends_us_whatever_it_says_of_its_health() {
        let url = member_named("a").await;
        let question = asked(&record_at(&url)).await;
        let expected = format!("Can't start; there is already a node named 'a' running: it answers at {url}");
        assert_eq!(question.found(), Some(expected.as_str()));
    }

    #[tokio::test]
    async fn a_dead_one_and_another_member_at_its_address_do_not() {
        let other = member_named("b").await;
        let silent =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        // The address that our record names from before, and ours is another by now.
        let ourselves = answering(instance().to_owned()).await;
        for url in [other, ourselves, format!("http://{silent}/patroni")] {
            assert_eq!(asked(&record_at(&url)).await.found(), None, "{url}");
        }
    }

    #[tokio::test]
    async fn our_own_record_is_not_asked_for() {
        let (events, mut news) = mpsc::unbounded_channel();
        let url = "http://127.0.0.1:1/patroni";
        assert!(question(url).admits(&record_at(url), OwnLease::None, &events));
        assert!(question(url).admits(&fixture::view(&[]), OwnLease::None, &events));
        // The fixture's lease is 1.
        let lease = OwnLease::Held { id: LeaseId(1), sent_at: Tick::ZERO, ttl: ANSWER_WITHIN };
        assert!(question("http://new:1/patroni").admits(&record_at(url), lease, &events));
        assert!(news.try_recv().is_err());
    }
}
