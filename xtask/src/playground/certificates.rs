//! Certificates that are good for a while: those of servers called localhost, and those of clients.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};

/// One who signs.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// # Panics
/// If a key or a certificate cannot be made, which takes a broken machine or a name that is none.
impl Authority {
    /// An authority of this name.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the same name as its issuer, a certificate would pass for self-signed with OpenSSL.
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("a CA") }
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// One for `name`.
    pub fn sign(&self, name: &str) -> Signed {
        self.sign_all(&[name])
    }

    /// One for all of `names`, addresses among them.
    pub fn sign_all(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 4096)
    }

    /// The same until this year begins.
    pub fn sign_until(&self, names: &[&str], year: i32) -> Signed {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let first = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("names");
        // libpq looks for addresses among the other names only from PostgreSQL 15 on.
        params.distinguished_name.push(DnType::CommonName, first);
        params.not_after = date_time_ymd(year, 1, 1);
        self.finish(&params)
    }

    /// One that shows who a client is by its common name.
    pub fn sign_client(&self, user: &str) -> Signed {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, user);
        self.finish(&params)
    }

    /// One that shows no more than that we trust its owner.
    pub fn sign_nameless_client(&self) -> Signed {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        self.finish(&params)
    }

    fn finish(&self, params: &CertificateParams) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}
