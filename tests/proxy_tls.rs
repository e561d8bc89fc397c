//! TLS that ends in the proxy: who is let in how, what goes on in plain text, who is turned away.

mod proxy_support;

use std::net::SocketAddr;
use std::sync::Arc;

use proxy_support::client::{CANCEL_REQUEST, Client, GSSENC_REQUEST, SSL_REQUEST, Welcome, packet};
use proxy_support::server::{Seen, Server};
use proxy_support::{Cluster, Proxy, ends, served, soon};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A CA, a certificate of the proxy and one of a client, as files.
struct Certificates {
    dir: TempDir,
}

impl Certificates {
    fn new() -> Certificates {
        let certificates = Certificates { dir: tempfile::tempdir().expect("a directory") };
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
        certificates.write("ca.crt", &ca.pem());
        for name in ["localhost", "client"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("a name");
            let certificate = params.signed_by(&key, &ca).expect("signs");
            certificates.write(&format!("{name}.crt"), &certificate.pem());
            certificates.write(&format!("{name}.key"), &key.serialize_pem());
        }
        certificates
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect("write");
    }

    /// The listener's section, with `more` lines.
    fn section(&self, more: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "[listener.tls]\nmode = \"terminate\"\ncert = \"{dir}/localhost.crt\"\nkey = \"{dir}/localhost.key\"\n{}",
            more.replace('@', &format!("{dir}/"))
        )
    }

    /// What a client is told: whom to trust, whether it shows a certificate, the protocol's name.
    fn connector(&self, shows: bool, alpn: &[&[u8]]) -> TlsConnector {
        let file = |name: &str| self.dir.path().join(name);
        let certificate = |name: &str| CertificateDer::from_pem_file(file(name)).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.crt")).expect("a CA");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = if shows {
            let key = PrivateKeyDer::from_pem_file(file("client.key")).expect("a key");
            config.with_client_auth_cert(vec![certificate("client.crt")], key).expect("they belong together")
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

type Encrypted = Client<TlsStream<TcpStream>>;

async fn shake_hands(client: Client, connector: &TlsConnector) -> std::io::Result<Encrypted> {
    let name = ServerName::try_from("localhost").expect("a name");
    soon("a TLS handshake", connector.connect(name, client.0)).await.map(Client)
}

/// Asks first, as libpq does.
async fn encrypted(address: SocketAddr, connector: &TlsConnector) -> Encrypted {
    let mut client = Client::connect(address).await;
    assert_eq!(client.ask_for(SSL_REQUEST).await, b'S');
    shake_hands(client, connector).await.expect("the proxy's certificate is good")
}

/// One primary behind a proxy that ends TLS.
struct Scene {
    certificates: Certificates,
    cluster: Cluster,
    server: Server,
    proxy: Proxy,
}

impl Scene {
    async fn new(more: &str) -> Scene {
        let certificates = Certificates::new();
        let (cluster, server) = served().await;
        let proxy = Proxy::for_writes(&cluster, &certificates.section(more));
        Scene { certificates, cluster, server, proxy }
    }

    fn address(&self) -> SocketAddr {
        self.proxy.addresses[0]
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..u32::try_from(len).expect("small")).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn what_comes_encrypted_goes_on_in_plain_text_and_back() {
    let mut scene = Scene::new("").await;
    let connector = scene.certificates.connector(false, &[]);
    let mut client = encrypted(scene.address(), &connector).await;
    assert_eq!(client.be_let_in().await, "pg1");
    for size in [1, 100, 70_000, 5_000_000] {
        client.echo(&noise(size)).await;
    }
    drop(client);
    assert_eq!((scene.server.sees().await, scene.server.sees().await), (Seen::LetIn, Seen::Closed));
}

#[tokio::test]
async fn plain_text_is_let_in_beside_it_unless_tls_is_required() {
    let scene = Scene::new("").await;
    assert_eq!(Client::enter(scene.address()).await.1, "pg1");

    let scene = Scene::new("required = true").await;
    let mut client = Client::connect(scene.address()).await;
    client.say_hello().await;
    let Welcome::Error(code, text) = client.welcome().await else { panic!("let in") };
    assert_eq!((code.as_str(), text.contains("over TLS only")), ("28000", true), "{text}");
    let connector = scene.certificates.connector(false, &[]);
    assert_eq!(encrypted(scene.address(), &connector).await.be_let_in().await, "pg1");
}

#[tokio::test]
async fn a_client_that_starts_with_tls_must_name_the_protocol() {
    let scene = Scene::new("").await;
    let named = scene.certificates.connector(false, &[b"postgresql"]);
    let mut client = shake_hands(Client::connect(scene.address()).await, &named).await.expect("shakes hands");
    assert_eq!(client.be_let_in().await, "pg1");
    client.echo(&noise(100_000)).await;

    let unnamed = scene.certificates.connector(false, &[]);
    let mut client =
        shake_hands(Client::connect(scene.address()).await, &unnamed).await.expect("shakes hands");
    assert!(matches!(client.welcome().await, Welcome::Error(code, _) if code == "08P01"));
    let wrong = scene.certificates.connector(false, &[b"http/1.1"]);
    assert!(shake_hands(Client::connect(scene.address()).await, &wrong).await.is_err());
    scene.proxy.until_metric(&ends("tls_failed"), 1.0).await;
}

/// Whoever put bytes there before the handshake is not who shakes hands (CVE-2021-23222).
#[tokio::test]
async fn nothing_may_follow_the_question_for_tls() {
    let scene = Scene::new("").await;
    let mut client = Client::connect(scene.address()).await;
    client.send(&[packet(SSL_REQUEST, b""), packet(196_608, b"user\0app\0\0")].concat()).await;
    client.rest().await;
    scene.proxy.until_metric(&ends("protocol_violation"), 1.0).await;
}

#[tokio::test]
async fn no_to_gssapi_and_then_yes_to_tls_but_only_once() {
    let scene = Scene::new("").await;
    let connector = scene.certificates.connector(false, &[]);
    let mut client = Client::connect(scene.address()).await;
    assert_eq!((client.ask_for(GSSENC_REQUEST).await, client.ask_for(SSL_REQUEST).await), (b'N', b'S'));
    let mut client = shake_hands(client, &connector).await.expect("shakes hands");
    client.send(&packet(SSL_REQUEST, b"")).await;
    assert!(matches!(client.welcome().await, Welcome::Error(code, _) if code == "08P01"));
}

#[tokio::test]
async fn where_clients_are_known_by_certificate_others_are_not_let_in() {
    let scene = Scene::new("client_ca = \"@ca.crt\"").await;
    let known = scene.certificates.connector(true, &[]);
    assert_eq!(encrypted(scene.address(), &known).await.be_let_in().await, "pg1");
    let unknown = scene.certificates.connector(false, &[]);
    let mut client = Client::connect(scene.address()).await;
    assert_eq!(client.ask_for(SSL_REQUEST).await, b'S');
    // In TLS 1.3 the client has finished before the server looks at its certificate.
    if let Ok(mut client) = shake_hands(client, &unknown).await {
        assert_eq!(client.rest().await, b"");
    }
    scene.proxy.until_metric(&ends("tls_failed"), 1.0).await;
}

#[tokio::test]
async fn cancel_and_cut_work_over_tls() {
    let mut scene = Scene::new("").await;
    let connector = scene.certificates.connector(false, &[]);
    let mut client = encrypted(scene.address(), &connector).await;
    client.be_let_in().await;
    assert_eq!(scene.server.sees().await, Seen::LetIn);
    let mut cancel = encrypted(scene.address(), &connector).await;
    cancel.send(&packet(CANCEL_REQUEST, &[7; 8])).await;
    assert_eq!(cancel.rest().await, b"");
    assert_eq!(scene.server.sees().await, Seen::Cancel(vec![7; 8]));

    scene.cluster.nobody_leads().await;
    assert!(client.is_cut().await.contains("pg1 is not the primary any more"));
    assert_eq!(scene.server.sees().await, Seen::Reset);
}

/// A client that does not go on with its handshake costs a connection for the startup time and no longer.
#[tokio::test]
async fn an_unfinished_handshake_ends_in_time() {
    let certificates = Certificates::new();
    let cluster = Cluster::new().await;
    let keys = format!("startup_timeout = \"200ms\"\n{}", certificates.section(""));
    let proxy = Proxy::for_writes(&cluster, &keys);
    let mut client = Client::connect(proxy.addresses[0]).await;
    assert_eq!(client.ask_for(SSL_REQUEST).await, b'S');
    client.send(&[0x16, 3, 1]).await;
    client.rest().await;
    let mut silent = Client::connect(proxy.addresses[0]).await;
    silent.rest().await;
    proxy.until_metric(&ends("first_packet_timeout"), 2.0).await;
}
