//! Certificates that are good for a while: those of servers called localhost, and those of clients.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

/// One who signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the same name as its issuer, a certificate would pass for self-signed with OpenSSL.
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("a CA") }
    }

    /// Its own certificate, PEM.
    pub(crate) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// One for `name`.
    pub(crate) fn sign(&self, name: &str) -> Signed {
        self.sign_all(&[name])
    }

    /// One for all of `names`, addresses among them.
    pub(crate) fn sign_all(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 4096)
    }

    /// The same until this year begins.
    pub(crate) fn sign_until(&self, names: &[&str], year: i32) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}
