//! Where etcd is: `etcd3`, or `etcd`, which means another API to Patroni.

use pgvane_cluster::settings_file::Spanned;

use super::super::section::{Remarks, Section};
use super::super::tree::{Node, Tree};
use crate::config::Secret;
use crate::config::check::{Checked, Problem, Remark};
use crate::config::raw::RawEtcd;

/// etcd's own port for clients.
const DEFAULT_PORT: u32 = 2379;

/// Stores that Patroni knows besides.
const OTHER_STORES: &[&str] = &["consul", "zookeeper", "exhibitor", "kubernetes", "raft"];

const V2: &str = "etcd is, to Patroni, etcd's API v2; this agent speaks v3, as the section etcd3 does. Patroni \
                  members that still use this section keep the cluster in other keys: they do not see this agent, \
                  nor it them, so both would elect a primary of their own. Move all members to etcd3 first, and \
                  rename the section here";

/// The section of etcd; `None` where there is none.
pub(super) fn convert(top: &mut Section, remarks: &mut Remarks) -> Checked<Option<RawEtcd>> {
    let (v3, v2) = (top.section("etcd3")?, top.section("etcd")?);
    let mut others = Vec::new();
    for store in OTHER_STORES {
        others.extend(top.take(store).map(|section| (*store, section.at)));
    }
    let section = match (v3.is_there(), v2.is_there()) {
        (true, true) => {
            let text = "etcd is ignored: etcd3 is there too".to_owned();
            remarks.push(Remark { at: v2.at(), text });
            v3
        }
        (true, false) => v3,
        (false, true) => {
            remarks.push(Remark { at: v2.at(), text: V2.to_owned() });
            v2
        }
        (false, false) => {
            return match others.into_iter().next() {
                Some((store, at)) => {
                    let text = format!("{store}: this agent keeps the cluster in etcd (section etcd3) only");
                    Err(Problem { at: Some(at), text })
                }
                None => Ok(None),
            };
        }
    };
    for (store, at) in others {
        let text = format!("{store} is ignored: this agent keeps the cluster in etcd only");
        remarks.push(Remark { at: Some(at), text });
    }
    one(section, remarks).map(Some)
}

/// What the URLs add up to.
struct Found {
    endpoints: Vec<Spanned<String>>,
    /// User and password that stood in a URL.
    login: Option<(Spanned<String>, Spanned<Secret>)>,
}

fn one(mut section: Section, remarks: &mut Remarks) -> Checked<RawEtcd> {
    let at = section.at().unwrap_or(0..0);
    let protocol = section.text("protocol")?;
    let scheme = match &protocol {
        None => "http",
        Some(text) => match text.get_ref().to_ascii_lowercase().as_str() {
            "http" => "http",
            "https" => "https",
            _ => {
                let text =
                    format!("{}: {:?} is not one of http, https", section.name("protocol"), text.get_ref());
                return Err(Problem { at: protocol.map(|p| p.span()), text });
            }
        },
    };
    let port = section.number("port")?.map_or(DEFAULT_PORT, Spanned::into_inner);
    let (proxy, url) = (section.take("proxy"), section.take("url"));
    let (hosts, host) = (section.take("hosts"), section.take("host"));
    let srv = section.take_first(&["srv", "discovery_srv", "srv_domain"]);
    section.pass_over(&["srv_suffix"], "etcd is not looked up in DNS here", remarks);
    // Behind a proxy the members' own addresses are out of reach, maybe.
    let discover = !section.is("use_proxies")?.unwrap_or(proxy.is_some());
    let chosen = [("proxy", proxy), ("url", url), ("hosts", hosts), ("host", host)];
    let chosen = chosen.into_iter().find_map(|(key, tree)| Some((key, tree?)));
    let found = match chosen {
        Some((key, tree)) => {
            if let Some(srv) = srv {
                let text = format!(
                    "{} is ignored: etcd is not looked up in DNS here, and {} is there too",
                    section.name("srv"),
                    section.name(key)
                );
                remarks.push(Remark { at: Some(srv.at), text });
            }
            endpoints(&section, key, &tree, scheme, port)?
        }
        None => {
            let (at, text) = match srv {
                Some(srv) => (
                    srv.at,
                    format!(
                        "{}: etcd is not looked up in DNS here; list its members under {}",
                        section.name("srv"),
                        section.name("hosts")
                    ),
                ),
                None => (at, format!("{} is needed: where etcd is", section.name("hosts"))),
            };
            return Err(Problem { at: Some(at), text });
        }
    };
    let (user_of_url, password_of_url) = found.login.unzip();
    let raw = RawEtcd {
        endpoints: Spanned::new(at, found.endpoints),
        cacert: section.file("cacert")?,
        cert: section.file("cert")?,
        key: section.file("key")?,
        username: section.text("username")?.or(user_of_url),
        password: section.secret("password")?.or(password_of_url),
        discover,
    };
    section.finish(remarks);
    Ok(raw)
}

/// The addresses of a value: one, several with commas, or a list.
fn endpoints(section: &Section, key: &str, tree: &Tree, scheme: &str, port: u32) -> Checked<Found> {
    let mut texts = Vec::new();
    match &tree.node {
        Node::List(items) => {
            for item in items {
                texts.push(section.text_of(key, item)?);
            }
        }
        Node::Null | Node::Plain(_) | Node::Text(_) | Node::Map(_) => {
            let text = section.text_of(key, tree)?;
            let several = text.get_ref().split(',').map(|one| Spanned::new(text.span(), one.to_owned()));
            texts.extend(several);
        }
    }
    let mut found = Found { endpoints: vec![], login: None };
    for text in texts {
        let written = text.get_ref().trim().trim_matches(['"', '\'']);
        if written.is_empty() {
            continue;
        }
        let (scheme, rest) = written.split_once("://").unwrap_or((scheme, written));
        let authority = rest.trim_end_matches('/');
        let (user_info, address) = match authority.rsplit_once('@') {
            Some((user_info, address)) => (user_info.split_once(':'), address),
            None => (None, authority),
        };
        if let Some((user, password)) = user_info {
            let login = (
                Spanned::new(text.span(), user.to_owned()),
                Spanned::new(text.span(), Secret::new(password)),
            );
            found.login.get_or_insert(login);
        }
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
            && (!address.contains("::") || address.contains(']'));
        let address = match (has_port, address.contains("::") && !address.starts_with('[')) {
            (true, _) => address.to_owned(),
            (false, true) => format!("[{address}]:{port}"),
            (false, false) => format!("{address}:{port}"),
        };
        found.endpoints.push(Spanned::new(text.span(), format!("{scheme}://{address}")));
    }
    Ok(found)
}
