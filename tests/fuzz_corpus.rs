//! The fuzz targets without a fuzzer: each runs on its corpus, and on damaged copies of it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a library to the fuzz targets")]
mod targets;

type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
const TARGETS: [(&str, Target); 6] = [
    ("agent_toml", targets::agent_toml),
    ("patroni_yml", targets::patroni_yml),
    ("pgwire", targets::pgwire),
    ("proxy_protocol", targets::proxy_protocol),
    ("proxy_toml", targets::proxy_toml),
    ("records", targets::records),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The names in a directory, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = directory().join(target);
    let read = |name: String| {
        let bytes = fs::read(directory.join(&name)).expect("reads");
        (name, bytes)
    };
    names(&directory).into_iter().map(read).collect()
}

#[test]
fn every_corpus_is_replayed() {
    assert_eq!(names(&directory()), TARGETS.map(|(name, _)| name));
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
        for (file, bytes) in corpus {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
                eprintln!("this was fuzz/corpus/{name}/{file}");
                resume_unwind(panic);
            }
        }
    }
}

/// A piece of one file of the corpus put over a place in another, and some bytes changed.
fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let files: Vec<_> = corpus(target).into_iter().map(|(_, bytes)| bytes).collect();
    let file = proptest::sample::select(files);
    let places = any::<[Index; 4]>();
    let bytes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (file.clone(), file, places, any::<bool>(), bytes).prop_map(
        |(mut base, other, places, splices, bytes)| {
            let range = |a: &Index, b: &Index, length: usize| {
                let (a, b) = (a.index(length + 1), b.index(length + 1));
                a.min(b)..a.max(b)
            };
            if splices {
                let piece = other[range(&places[0], &places[1], other.len())].to_vec();
                base.splice(range(&places[2], &places[3], base.len()), piece);
            }
            for (at, byte) in bytes.iter().filter(|_| !base.is_empty()).collect::<Vec<_>>() {
                let at = at.index(base.len());
                base[at] = *byte;
            }
            base
        },
    )
}

proptest! {
    #[test]
    fn agent_toml(bytes in damaged("agent_toml")) {
        targets::agent_toml(&bytes);
    }

    #[test]
    fn pgwire(bytes in damaged("pgwire")) {
        targets::pgwire(&bytes);
    }

    #[test]
    fn proxy_protocol(bytes in damaged("proxy_protocol")) {
        targets::proxy_protocol(&bytes);
    }

    #[test]
    fn proxy_toml(bytes in damaged("proxy_toml")) {
        targets::proxy_toml(&bytes);
    }

    #[test]
    fn records(bytes in damaged("records")) {
        targets::records(&bytes);
    }
}
