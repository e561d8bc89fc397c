//! What a certificate says of its time (X.509, RFC 5280 section 4.1.2.5), and what an operator is told of it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// From this time before its end on, a certificate is worth a warning.
pub const RENEW_WITHIN: Duration = Duration::from_hours(30 * 24);

/// For whom a certificate is, and when it counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Whom it is about: its subject, as `CN=db.example.com`; may be empty where it has other names.
    pub subject: String,
    /// The first second in which it counts, since 1970 (UTC).
    pub not_before: i64,
    /// The last such second.
    pub not_after: i64,
}

/// Why the time of a certificate is a concern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Concern {
    /// It does not count yet.
    NotYet,
    /// It ends soon.
    EndsSoon,
    /// It counts no more.
    Expired,
}

impl Certificate {
    /// Reads one (DER). The error says what it is not.
    pub fn of(der: &CertificateDer<'_>) -> Result<Certificate, String> {
        let (_, read) =
            X509Certificate::from_der(der).map_err(|e| format!("not an X.509 certificate: {e}"))?;
        let validity = read.validity();
        Ok(Certificate {
            subject: read.subject().to_string(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// What is the matter with its time at `now`, or will be within `soon`; `None`: nothing.
    pub fn concern(&self, now: UnixTime, soon: Duration) -> Option<Concern> {
        let now = seconds(now);
        if now < self.not_before {
            return Some(Concern::NotYet);
        }
        let left = self.not_after.saturating_sub(now);
        let soon = i64::try_from(soon.as_secs()).unwrap_or(i64::MAX);
        match left {
            ..0 => Some(Concern::Expired),
            _ if left < soon => Some(Concern::EndsSoon),
            _ => None,
        }
    }

    /// How its time stands at `now`, in words: `expires in 12 days, on 2027-01-05`.
    pub fn told(&self, now: UnixTime) -> Told<'_> {
        Told { certificate: self, now: seconds(now) }
    }
}

/// The words of [`Certificate::told`].
#[derive(Debug)]
pub struct Told<'a> {
    certificate: &'a Certificate,
    now: i64,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Certificate { not_before, not_after, .. } = *self.certificate;
        let now = self.now;
        if now < not_before {
            write!(f, "not valid before {}", Instant(not_before))
        } else if now > not_after {
            write!(f, "expired {} ago, on {}", Span(now - not_after), Day(not_after))
        } else {
            write!(f, "expires in {}, on {}", Span(not_after - now), Day(not_after))
        }
    }
}

/// Seconds as days, or as hours where they are few.
struct Span(i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0 / 3600 {
            hours @ ..48 => (hours, "hour"),
            hours => (hours / 24, "day"),
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

/// The day of a second since 1970, UTC.
struct Day(i64);

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => write!(f, "{}", time.to_datetime().date()),
            Err(_) => write!(f, "second {} since 1970", self.0),
        }
    }
}

/// Day and time of a second since 1970, UTC.
struct Instant(i64);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => {
                let time = time.to_datetime();
                let (hour, minute, second) = time.time().as_hms();
                write!(f, "{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
            }
            Err(_) => write!(f, "second {} since 1970", self.0),
        }
    }
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// All certificates of a PEM file, one at least. The error does not name the file.
pub fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|e| e.to_string())?.collect();
    let all = all.map_err(|e| e.to_string())?;
    if all.is_empty() { Err("there is no certificate in it (PEM)".to_owned()) } else { Ok(all) }
}

/// When the first of a chain ends, in seconds since 1970; `None`: none of them can be read.
pub fn first_end(chain: &[CertificateDer<'_>]) -> Option<i64> {
    chain.iter().filter_map(|der| Certificate::of(der).ok()).map(|certificate| certificate.not_after).min()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    /// 2026-03-01 00:00:00 UTC.
    const BEGIN: u64 = 1_772_323_200;
    /// 2026-05-30 00:00:00 UTC, 90 days later.
    const END: u64 = 1_780_099_200;

    fn der() -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["db.example.com".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, "db");
        params.not_before = date_time_ymd(2026, 3, 1);
        params.not_after = date_time_ymd(2026, 5, 30);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signs").der().clone()
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_certificate_tells_its_time() {
        let read = Certificate::of(&der()).expect("reads");
        assert_eq!((read.not_before, read.not_after), (BEGIN.cast_signed(), END.cast_signed()));
        assert!(read.subject.contains("CN=db"), "{}", read.subject);
        let day = 24 * 3600;
        for (now, concern, told) in [
            (BEGIN - 1, Some(Concern::NotYet), "not valid before 2026-03-01 00:00:00 UTC"),
            (BEGIN, None, "expires in 90 days, on 2026-05-30"),
            (END - 30 * day, None, "expires in 30 days, on 2026-05-30"),
            (END - 30 * day + 1, Some(Concern::EndsSoon), "expires in 29 days, on 2026-05-30"),
            (END - 3600, Some(Concern::EndsSoon), "expires in 1 hour, on 2026-05-30"),
            (END, Some(Concern::EndsSoon), "expires in 0 hours, on 2026-05-30"),
            (END + 1, Some(Concern::Expired), "expired 0 hours ago, on 2026-05-30"),
            (END + 3 * day, Some(Concern::Expired), "expired 3 days ago, on 2026-05-30"),
        ] {
            assert_eq!(read.concern(at(now), RENEW_WITHIN), concern, "{now}");
            assert_eq!(read.told(at(now)).to_string(), told);
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let garbage = CertificateDer::from(b"0\x82\xff\xff".to_vec());
        let why = Certificate::of(&garbage).expect_err("no certificate");
        assert!(why.starts_with("not an X.509 certificate: "), "{why}");
        assert_eq!(first_end(&[garbage, der()]), Some(END.cast_signed()));
        assert_eq!(first_end(&[]), None);
        assert!(chain(Path::new("/nowhere")).expect_err("no file").contains("No such file"));
    }
}
