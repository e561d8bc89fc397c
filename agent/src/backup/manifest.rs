//! `backup_manifest`, as PostgreSQL 13 and later write it (chapter "Backup Manifest Format"): every file with its size
//! and checksum, and the WAL that makes the copy consistent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pgvane_cluster::ids::{Lsn, Timeline};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::BackupError;

/// Its name in a backup.
pub const FILE: &str = "backup_manifest";

/// What a manifest says.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Every file of the data directory but WAL, by its path there.
    pub files: BTreeMap<PathBuf, ManifestFile>,
    /// The WAL that is needed, oldest timeline first; at least one range.
    pub wal: Vec<WalRange>,
}

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Bytes.
    pub size: u64,
    /// CRC-32C.
    pub checksum: u32,
}

/// WAL of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: Timeline,
    /// Where the need begins.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RawRange>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl Manifest {
    /// Reads the manifest of the backup in `dir`.
    pub fn load(dir: &Path) -> Result<Manifest, BackupError> {
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).map_err(BackupError::io(&path))?;
        Manifest::parse(&bytes)
    }

    /// Reads a manifest and checks its own checksum.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, BackupError> {
        let wrong = |why: String| BackupError::damaged(format!("{FILE}: {why}"));
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        if !(1..=2).contains(&raw.version) {
            return Err(wrong(format!("version {} is not known; 1 and 2 are", raw.version)));
        }
        // What is summed up ends before the last line, which says the sum.
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let body = &bytes[..body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)];
        if hex(&Sha256::digest(body)) != raw.checksum.to_lowercase() {
            return Err(wrong("its checksum is wrong".to_owned()));
        }
        let files = raw.files.into_iter().map(file).collect::<Result<_, _>>().map_err(wrong)?;
        let wal = raw.wal_ranges.iter().map(range).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        if wal.is_empty() {
            return Err(wrong("it names no WAL".to_owned()));
        }
        Ok(Manifest { files, wal })
    }

    /// The first position that is needed.
    pub fn start(&self) -> Lsn {
        self.wal.iter().map(|range| range.start).min().unwrap_or_default()
    }

    /// The range that the copy ends in.
    pub fn last(&self) -> Option<WalRange> {
        self.wal.iter().max_by_key(|range| range.timeline).copied()
    }
}

fn file(raw: RawFile) -> Result<(PathBuf, ManifestFile), String> {
    let path = match (raw.path, raw.encoded_path) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(text)) => {
            let bytes = bytes(&text).ok_or_else(|| format!("{text:?} is no encoded path"))?;
            PathBuf::from(OsString::from_vec(bytes))
        }
        (None, None) => return Err("a file without a path".to_owned()),
    };
    let shown = path.display();
    if raw.algorithm.as_deref() != Some("CRC32C") {
        let found = raw.algorithm.as_deref().unwrap_or("none");
        return Err(format!("{shown} has a checksum of kind {found}; CRC32C is what is checked here"));
    }
    let sum = raw.checksum.as_deref().and_then(bytes).and_then(|sum| <[u8; 4]>::try_from(sum).ok());
    let sum = sum.ok_or_else(|| format!("{shown} has no checksum that can be read"))?;
    // The server writes the number's bytes as they lie in its memory.
    Ok((path, ManifestFile { size: raw.size, checksum: u32::from_ne_bytes(sum) }))
}

fn range(raw: &RawRange) -> Result<WalRange, String> {
    let lsn = |text: &str| text.parse::<Lsn>().map_err(|e| e.to_string());
    Ok(WalRange { timeline: Timeline(raw.timeline), start: lsn(&raw.start)?, end: lsn(&raw.end)? })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    digits.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A manifest of these lines of files, with the right checksum.
    pub(in super::super) fn written(files: &[String]) -> Vec<u8> {
        let mut text = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
             {{ \"Timeline\": 3, \"Start-LSN\": \"0/5000028\", \"End-LSN\": \"0/50000F8\" }}\n],\n",
            files.join(",\n")
        );
        let sum = hex(&Sha256::digest(text.as_bytes()));
        text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        text.into_bytes()
    }

    /// The line of a file with this content.
    pub(in super::super) fn line(path: &str, content: &[u8]) -> String {
        let sum = hex(&crc32c::crc32c(content).to_ne_bytes());
        let (size, time) = (content.len(), "2026-01-01 00:00:00 GMT");
        format!(
            "{{ \"Path\": \"{path}\", \"Size\": {size}, \"Last-Modified\": \"{time}\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{sum}\" }}"
        )
    }

    #[test]
    fn files_and_wal_are_read() {
        let encoded = line("x", b"y").replace("\"Path\": \"x\"", "\"Encoded-Path\": \"ff2e\"");
        let manifest = Manifest::parse(&written(&[line("base/1/2", b"abc"), encoded])).expect("reads");
        let file = manifest.files[Path::new("base/1/2")];
        assert_eq!((file.size, file.checksum), (3, crc32c::crc32c(b"abc")));
        assert!(manifest.files.contains_key(&PathBuf::from(OsString::from_vec(vec![0xff, b'.']))));
        let range = WalRange { timeline: Timeline(3), start: Lsn(0x500_0028), end: Lsn(0x500_00F8) };
        assert_eq!((manifest.last(), manifest.start()), (Some(range), range.start));
    }

    #[test]
    fn a_manifest_that_was_changed_is_not_believed() {
        let good = String::from_utf8(written(&[line("a", b"abc")])).expect("text");
        let why = |text: &str| Manifest::parse(text.as_bytes()).expect_err("refused").to_string();
        assert!(why(&good.replace("\"a\"", "\"b\"")).ends_with("its checksum is wrong"));
        assert!(why(&good[..good.len() / 2]).contains("backup_manifest: "));
        let other = line("a", b"abc").replace("CRC32C", "SHA256");
        let other = String::from_utf8(written(&[other])).expect("text");
        assert!(why(&other).contains("of kind SHA256"));
    }
}
