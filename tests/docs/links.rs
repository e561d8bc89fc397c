//! Links between files, and to headings in them.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{Page, pages, root};

/// The targets of `[text](target)` and `![text](target)`.
fn targets(page: &Page) -> impl Iterator<Item = &str> {
    page.prose().flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next()))
}

/// A heading's anchor, as GitHub makes it: lower case, hyphens for spaces, and no other punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || "-_".contains(c) => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

fn anchors(page: &Page) -> BTreeSet<String> {
    page.prose()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

/// `path` without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut links = 0;
    for page in &pages {
        for target in targets(page).filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').map_or((target, None), |(f, h)| (f, Some(h)));
            let here = page.file.parent().unwrap_or(Path::new(""));
            let file = if file.is_empty() { page.file.clone() } else { plain(&here.join(file)) };
            let from = page.file.display();
            assert!(root().join(&file).exists(), "{from} links to {target}, which there is not");
            if let Some(heading) = heading {
                let to = pages.iter().find(|other| other.file == file);
                let to = to.unwrap_or_else(|| panic!("{from} links to {target}, which is no page"));
                assert!(anchors(to).contains(heading), "{from} links to {target}: there is no such heading");
            }
            links += 1;
        }
    }
    assert!(links > 60, "{links} links");
}

#[test]
fn every_page_can_be_reached_from_the_index() {
    let pages = pages();
    let index = pages.iter().find(|page| page.file == Path::new("docs/README.md")).expect("the index");
    let linked: BTreeSet<PathBuf> =
        targets(index).map(|target| plain(&Path::new("docs").join(target))).collect();
    for page in pages.iter().filter(|page| page.file.starts_with("docs") && page.file != index.file) {
        assert!(linked.contains(&page.file), "docs/README.md does not link to {}", page.file.display());
    }
}

#[test]
fn anchors_are_githubs() {
    assert_eq!(anchor(" What a failover costs"), "what-a-failover-costs");
    assert_eq!(anchor(" `[cluster.NAME.etcd]`"), "clusternameetcd");
    assert_eq!(anchor(" Does it run on Kubernetes?"), "does-it-run-on-kubernetes");
}
