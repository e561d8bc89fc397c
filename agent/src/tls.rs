//! TLS of the REST API: as its server, and as a client of other members. Certificates are read again when their files
//! change, so that renewing one needs no word to anybody.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgvane_cluster::certificate::{chain, first_end};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::trust::AnyName;
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};
use tracing::{info, warn};

use crate::config::{Ctl, Secret, ServerTls, VerifyClient};

/// How often files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Something made of files, made again when they change.
pub struct Watched<T> {
    files: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<Arc<T>, String> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked_at: Tick,
}

/// What of a file changes with its content: inode, length, time of modification in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    fn new(
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<Arc<T>, String> + Send + Sync + 'static,
    ) -> Result<Arc<Watched<T>>, String> {
        // Looked at before they are read: a change in between is seen at the next look.
        let stamps = stamps(&files);
        let state = State { value: load()?, stamps, looked_at: Tick::now() };
        Ok(Arc::new(Watched { files, load: Box::new(load), state: Mutex::new(state) }))
    }

    /// What the files make now; what they made before while they make nothing good.
    pub async fn current(self: &Arc<Self>) -> Arc<T> {
        {
            let mut state = self.lock();
            let now = Tick::now();
            if now.since(state.looked_at) < LOOK_EVERY {
                return Arc::clone(&state.value);
            }
            // Who comes meanwhile takes what there is.
            state.looked_at = now;
        }
        let this = Arc::clone(self);
        // Reading files and opening an encrypted key may take a while.
        let looked = tokio::task::spawn_blocking(move || this.look()).await;
        looked.unwrap_or_else(|_| Arc::clone(&self.lock().value))
    }

    fn look(&self) -> Arc<T> {
        let stamps = stamps(&self.files);
        if self.lock().stamps == stamps {
            return Arc::clone(&self.lock().value);
        }
        let made = (self.load)();
        let mut state = self.lock();
        state.stamps = stamps;
        match made {
            Ok(value) => {
                info!(files = ?self.files, "certificates were read again");
                state.value = value;
            }
            Err(why) => warn!(why, "changed certificates cannot be used; those from before are kept"),
        }
        Arc::clone(&state.value)
    }

    /// A panic while it was held cannot have left it half-changed.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}

/// How we answer over TLS, and until when.
#[derive(Debug)]
pub struct Shown {
    /// What connections are accepted with.
    pub config: Arc<ServerConfig>,
    /// When the first of our certificates ends, in seconds since 1970.
    pub expires: Option<i64>,
}

/// How we answer over TLS. The error names the file at fault.
pub fn server(tls: &ServerTls) -> Result<Arc<Watched<Shown>>, String> {
    let files = [&tls.certfile, &tls.keyfile].into_iter().chain(&tls.cafile).cloned().collect();
    let tls = tls.clone();
    Watched::new(files, move || server_config(&tls))
}

/// How we ask others over TLS.
pub fn client(ctl: &Ctl) -> Result<Arc<Watched<ClientConfig>>, String> {
    let own = ctl.client_cert.iter().flat_map(|(cert, key)| [cert, key]);
    let files = ctl.cafile.iter().chain(own).cloned().collect();
    let ctl = ctl.clone();
    Watched::new(files, move || client_config(&ctl))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server_config(tls: &ServerTls) -> Result<Arc<Shown>, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match tls.verify_client {
        VerifyClient::None => builder.with_no_client_auth(),
        VerifyClient::Optional | VerifyClient::Required => {
            let file = tls.cafile.as_ref().ok_or("restapi.verify_client needs restapi.cafile")?;
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities(file)?, provider());
            let verifier = match tls.verify_client {
                VerifyClient::Optional => verifier.allow_unauthenticated(),
                VerifyClient::None | VerifyClient::Required => verifier,
            };
            let verifier = verifier.build().map_err(|e| format!("{}: {e}", file.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certificates = certificates(&tls.certfile)?;
    let expires = first_end(&certificates);
    let key = private_key(&tls.keyfile, tls.keyfile_password.as_ref())?;
    let config =
        builder.with_single_cert(certificates, key).map_err(|e| unsuited(&e, &tls.certfile, &tls.keyfile))?;
    Ok(Arc::new(Shown { config: Arc::new(config), expires }))
}

fn client_config(ctl: &Ctl) -> Result<Arc<ClientConfig>, String> {
    let provider = provider();
    let by_ca = match &ctl.cafile {
        _ if ctl.insecure => None,
        None => {
            return Err("whom to trust over https is not known: set ctl.cacert, or ctl.insecure".to_owned());
        }
        Some(file) => {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(authorities(file)?, Arc::clone(&provider));
            Some(verifier.build().map_err(|e| format!("{}: {e}", file.display()))?)
        }
    };
    // Members are known by addresses that their certificates need not tell (contract section 5).
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName { by_ca, provider }));
    let config = match &ctl.client_cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let private = private_key(key, ctl.keyfile_password.as_ref())?;
            builder
                .with_client_auth_cert(certificates(cert)?, private)
                .map_err(|e| unsuited(&e, cert, key))?
        }
    };
    Ok(Arc::new(config))
}

fn unsuited(error: &Error, cert: &Path, key: &Path) -> String {
    match error {
        Error::InconsistentKeys(_) => format!("{}: this is not the key of {}", key.display(), cert.display()),
        other => format!("{}: {other}", cert.display()),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    chain(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// Whether the key in `key` is that of the first certificate in `cert`. The error says why not, and names the file.
pub fn belong_together(cert: &Path, key: &Path, password: Option<&Secret>) -> Result<(), String> {
    let pair = CertifiedKey::from_der(certificates(cert)?, private_key(key, password)?, &provider());
    pair.map(drop).map_err(|e| unsuited(&e, cert, key))
}

/// Those whose signatures count, from a PEM file. The error names the file.
pub(crate) fn authorities(file: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(Arc::new(roots))
}

/// The first private key in a PEM file; opened with `password` where it is encrypted (PKCS #8, RFC 5958).
fn private_key(file: &Path, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let wrong = |why: String| format!("{}: {why}", file.display());
    let (begin, end) = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----");
    if let Some((_, rest)) = text.split_once(begin)
        && let Some((inner, _)) = rest.split_once(end)
    {
        let password =
            password.ok_or_else(|| wrong("the key is encrypted; set keyfile_password".to_owned()))?;
        let block = format!("{begin}{}{end}\n", inner.replace('\r', ""));
        let (_, sealed) = SecretDocument::from_pem(&block).map_err(|e| wrong(e.to_string()))?;
        let key =
            EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        // What the library says does not tell a wrong password from a cipher it lacks.
        let key = key
            .decrypt(password.expose())
            .map_err(|e| wrong(format!("the key cannot be decrypted ({e}); is keyfile_password right?")))?;
        return Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec())));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        let hint =
            "the key is encrypted in OpenSSL's old way; `openssl pkcs8 -topk8` makes one that can be read";
        return Err(wrong(hint.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| wrong("there is no private key in it (PEM)".to_owned()))
}

#[cfg(test)]
mod tests {
    use pkcs8::pkcs5::pbes2;
    use pkcs8::{EncryptedPrivateKeyInfoRef as Sealed, LineEnding, PrivateKeyInfoRef};
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).expect("writes");
        path
    }

    fn pair() -> (String, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        (params.self_signed(&key).expect("signs").pem(), key)
    }

    fn sealed(key: &KeyPair, password: &str) -> String {
        let der = key.serialize_der();
        let info = PrivateKeyInfoRef::try_from(der.as_slice()).expect("PKCS #8");
        // Few rounds: the test is about the format.
        let params = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(1000, &[1; 16], [2; 16]);
        let document = info.encrypt_with_params(params.expect("parameters"), password).expect("encrypts");
        Sealed::try_from(document.as_bytes()).expect("reads");
        document.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).expect("PEM").to_string()
    }

    fn tls(cert: PathBuf, key: PathBuf, password: Option<&str>) -> ServerTls {
        ServerTls {
            certfile: cert,
            keyfile: key,
            keyfile_password: password.map(Secret::new),
            cafile: None,
            verify_client: VerifyClient::None,
        }
    }

    #[test]
    fn keys_may_be_encrypted_and_lie_beside_their_certificate() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key) = pair();
        let both = write(dir.path(), "both.pem", &format!("{cert}{}", sealed(&key, "open")));
        server(&tls(both.clone(), both.clone(), Some("open"))).expect("reads");
        let why = |password| server(&tls(both.clone(), both.clone(), password)).expect_err("refused");
        assert!(why(None).ends_with("both.pem: the key is encrypted; set keyfile_password"), "{}", why(None));
        let wrong = why(Some("guess"));
        assert!(wrong.contains("is keyfile_password right?") && !wrong.contains("guess"), "{wrong}");
    }

    #[test]
    fn what_is_wrong_with_files_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, _) = pair();
        let (_, other) = pair();
        let cert = write(dir.path(), "cert.pem", &cert);
        let key = write(dir.path(), "key.pem", &other.serialize_pem());
        let old = write(dir.path(), "old.pem", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n");
        for (tls, expected) in [
            (tls(cert.clone(), key.clone(), None), "this is not the key of"),
            (tls(cert.clone(), cert.clone(), None), "there is no private key in it"),
            (tls(key.clone(), key.clone(), None), "there is no certificate in it"),
            (tls(cert.clone(), dir.path().join("none"), None), "No such file"),
            (tls(cert.clone(), old, None), "openssl pkcs8 -topk8"),
            (
                ServerTls { verify_client: VerifyClient::Required, ..tls(cert, key, None) },
                "needs restapi.cafile",
            ),
        ] {
            let why = server(&tls).expect_err("refused");
            assert!(why.contains(expected), "{why}");
        }
        let why = client(&Ctl::default()).expect_err("refused");
        assert!(why.contains("set ctl.cacert, or ctl.insecure"), "{why}");
        client(&Ctl { insecure: true, ..Ctl::default() }).expect("trusts everybody");
    }

    #[tokio::test]
    async fn changed_files_are_read_again_and_bad_ones_are_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = write(dir.path(), "file", "one");
        let path = file.clone();
        let load = move || {
            let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
            if text == "bad" { Err(text) } else { Ok(Arc::new(text)) }
        };
        let watched = Watched::new(vec![file.clone()], load).expect("loads");
        let look = || {
            watched.lock().looked_at = Tick::ZERO;
            watched.current()
        };
        for (text, made) in [("two", "two"), ("bad", "two"), ("three", "three")] {
            fs::write(&file, text).expect("writes");
            // A file system may not tell two writes within a moment apart by their times.
            let later = std::time::SystemTime::now() + Duration::from_secs(text.len() as u64);
            fs::File::options().append(true).open(&file).expect("opens").set_modified(later).expect("sets");
            assert_eq!(*look().await, made);
        }
        fs::write(&file, "four").expect("writes");
        assert_eq!(*watched.current().await, "three", "not looked at again within a moment");
    }
}
