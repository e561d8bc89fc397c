//! Certificates that are good for a while: those of servers called localhost, and those of clients.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

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
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.finish(CertificateParams::new(names).expect("names"))
    }

    /// One that shows who a client is by its common name.
    pub fn sign_client(&self, user: &str) -> Signed {
        self.finish(client(user))
    }

    /// The same, and it has expired.
    pub fn sign_expired_client(&self, user: &str) -> Signed {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut params = client(user);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now.saturating_sub(Duration::from_hours(1));
        self.finish(params)
    }

    fn finish(&self, params: CertificateParams) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs").pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

fn client(user: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).expect("no names");
    params.distinguished_name.push(DnType::CommonName, user);
    params
}
