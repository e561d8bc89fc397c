//! etcd's members, where the settings may name only some, or some that have been replaced since.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::store::StoreError;
use pgvane_cluster::store::etcd::EtcdStore;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::config::{self, Etcd};
use crate::guard::protocol::StoreAccess;

/// Time between two questions. A member is replaced by hand, so that the next is not lost sooner.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// etcd with all its members, as far as it lists them now.
pub async fn whole(etcd: &Etcd) -> Etcd {
    if !etcd.discover {
        return etcd.clone();
    }
    match listed(&EtcdStore::new(etcd.options()), etcd).await {
        Ok(all) => {
            tell(&all);
            all
        }
        Err(error) => {
            warn!(%error, "etcd does not list its members; those of the settings have to do");
            etcd.clone()
        }
    }
}

/// Has `store`, and whoever asks for `access`, use the members that there are; for ever. `etcd` is as the settings say.
pub async fn follow(store: Arc<EtcdStore>, etcd: Etcd, access: watch::Sender<StoreAccess>) -> Infallible {
    if !etcd.discover {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        match listed(&store, &etcd).await {
            Ok(all) => {
                let changed = access.send_if_modified(|known| {
                    let new = all.access();
                    let changed = *known != new;
                    *known = new;
                    changed
                });
                if changed {
                    tell(&all);
                    store.use_endpoints(all.endpoints);
                }
            }
            Err(error) => debug!(%error, "etcd does not list its members"),
        }
    }
}

fn tell(etcd: &Etcd) {
    info!(endpoints = etcd.endpoints.join(" "), "etcd has these members");
}

/// The endpoints of the settings, and those of all members that `store` is told of.
async fn listed(store: &EtcdStore, etcd: &Etcd) -> Result<Etcd, StoreError> {
    Ok(with(etcd, &store.members().await?))
}

/// `etcd` with these members as well (contract section 2). Those with another scheme are not reached with the certificates
/// that there are.
fn with(etcd: &Etcd, members: &[String]) -> Etcd {
    let scheme = |url: &str| url.split_once("://").map(|(scheme, _)| scheme.to_owned());
    let known: Vec<_> = etcd.endpoints.iter().map(|url| scheme(url)).collect();
    let mut all = etcd.clone();
    for url in members.iter().filter_map(|url| config::etcd_url(url, "http")) {
        if known.contains(&scheme(&url)) && !all.endpoints.contains(&url) {
            all.endpoints.push(url);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_after_what_the_settings_name_and_go_with_the_list() {
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let etcd = Etcd {
            endpoints: urls(&["https://a:2379"]),
            cacert: None,
            client_cert: None,
            login: None,
            discover: true,
        };
        let members = urls(&["https://b:2379", "https://a:2379", "http://c:2379", "nonsense"]);
        assert_eq!(with(&etcd, &members).endpoints, ["https://a:2379", "https://b:2379"]);
        assert_eq!(with(&etcd, &urls(&["https://d:2379"])).endpoints, ["https://a:2379", "https://d:2379"]);
    }
}
