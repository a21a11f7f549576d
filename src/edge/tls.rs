//! TLS 1.2 and 1.3: the certificate of a listener, and whom a dialler trusts.
//!
//! A certificate is renewed while the process runs: the files are read again every few seconds, and
//! at once after SIGHUP. **Invariant:** files that don't fit together, or can't be read, leave the
//! certificate that was there before in place; so does one whose time is over or has not begun, as
//! long as that of the old one lasts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hyper_rustls::ConfigBuilderExt;
use rustls::client::{WantsClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, RootCertStore, ServerConfig,
    SupportedProtocolVersion, WantsVerifier,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::signal::unix::Signal;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

use super::Stream;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The last second of the year 9999, after which no certificate ends (RFC 5280 §4.1.2.5).
const NO_LATER: Duration = Duration::from_secs(253_402_300_799);
/// We speak nothing else, and say so (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Files that TLS can't be spoken with, in a sentence that says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificate of a process's listeners.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    current: Arc<Current>,
    seen: Mutex<Seen>,
    acceptor: TlsAcceptor,
}

/// What the files held when they were last looked at, and what was wrong with it.
struct Seen {
    digest: [u8; 32],
    error: Option<TlsError>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// The certificate that handshakes get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn get(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// What became of a look at the files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Same,
    Renewed,
    Kept(TlsError),
}

impl Tls {
    /// Reads the chain (`--tls-cert`) and its key (`--tls-key`), both PEM.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let (digest, pair) = files.read();
        let current = Arc::new(Current(RwLock::new(Arc::new(pair?))));
        let versions =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
        let failed = |error: rustls::Error| TlsError(format!("TLS: {error}"));
        let mut config =
            versions.map_err(failed)?.with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Whoever comes back after a restart of the network needs no second full handshake.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let seen = Mutex::new(Seen { digest, error: None });
        Ok(Self(Arc::new(Inner { files, current, seen, acceptor })))
    }

    /// The handshake. Its time is the caller's to bound, and how many there are: nearly all of that
    /// time it waits for the client, and who waits keeps nobody else from anything.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let stream = self.0.acceptor.accept(stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// Looks at the files again and again, and at once when this signal comes.
    pub async fn follow(&self, mut asked: Signal) {
        loop {
            let by_request = tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
                _ = asked.recv() => true,
            };
            let tls = self.clone();
            let look = tokio::task::spawn_blocking(move || tls.look(by_request)).await;
            let file = self.0.files.certificate.display();
            match look {
                Ok(Look::Renewed) => tracing::info!(%file, "the certificate was renewed"),
                Ok(Look::Kept(error)) => {
                    tracing::error!(%error, "the new certificate is not good, the old one stays");
                }
                Ok(Look::Same) if by_request => {
                    tracing::info!(%file, "the certificate is the same as before");
                }
                Ok(Look::Same) | Err(_) => {}
            }
        }
    }

    /// Why the files are not those of the certificate in use, if they are not.
    pub fn trouble(&self) -> Option<String> {
        if let Some(error) = &self.seen().error {
            return Some(format!("the certificate can't be renewed: {error}"));
        }
        untimely(&self.0.current.get()).map(|why| format!("the certificate in use {why}"))
    }

    /// When the certificate in use ends, in Unix seconds; `None`: not before the year 10000.
    pub fn ends(&self) -> Option<u64> {
        match judged(&self.0.current.get(), UnixTime::since_unix_epoch(NO_LATER)) {
            Err(CertificateError::ExpiredContext { not_after, .. }) => Some(not_after.as_secs()),
            _ => None,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error is told once, and again to whoever asks.
    fn look(&self, by_request: bool) -> Look {
        let (digest, pair) = self.0.files.read();
        let pair = pair.and_then(|pair| self.timely(pair));
        let mut seen = self.seen();
        let same = std::mem::replace(&mut seen.digest, digest) == digest;
        // One that was too early may have come of age.
        if same && (seen.error.is_none() || pair.is_err()) {
            let error = seen.error.clone().filter(|_| by_request);
            return error.map_or(Look::Same, Look::Kept);
        }
        seen.error = pair.as_ref().err().cloned();
        match pair {
            Ok(pair) => {
                let mut current = self.0.current.0.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(pair);
                Look::Renewed
            }
            Err(error) => Look::Kept(error),
        }
    }

    /// A pair whose time is now, or which is no worse than the one in use.
    fn timely(&self, pair: CertifiedKey) -> Result<CertifiedKey, TlsError> {
        match untimely(&pair) {
            Some(why) if untimely(&self.0.current.get()).is_none() => {
                Err(TlsError(format!("{} {why}", self.0.files.certificate.display())))
            }
            _ => Ok(pair),
        }
    }
}

/// What is wrong with a certificate at a time. Who trusts nobody finds out of each that it is of
/// nobody's, but of its dates before that.
fn judged(pair: &CertifiedKey, at: UnixTime) -> Result<(), CertificateError> {
    let parsed = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
    let (nobody, algorithms) =
        (RootCertStore::empty(), provider().signature_verification_algorithms);
    let judged = parsed.and_then(|certificate| {
        // Of the leaf alone: a chain may carry what has ended for those who do not know better.
        verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], at, algorithms.all)
    });
    match judged {
        Err(rustls::Error::InvalidCertificate(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Why a certificate is not one of now, if it is not.
fn untimely(pair: &CertifiedKey) -> Option<String> {
    let now = UnixTime::now();
    let days = |from: u64, to: u64| to.saturating_sub(from) / (24 * 60 * 60);
    match judged(pair, now) {
        Err(CertificateError::ExpiredContext { not_after, .. }) => {
            Some(format!("ended {} days ago", days(not_after.as_secs(), now.as_secs())))
        }
        Err(CertificateError::NotValidYetContext { not_before, .. }) => {
            Some(format!("begins in {} days", days(now.as_secs(), not_before.as_secs())))
        }
        _ => None,
    }
}

impl Files {
    /// What stands there, by a digest that tells one content from another, and what it is good for.
    fn read(&self) -> ([u8; 32], Result<CertifiedKey, TlsError>) {
        let (certificate, key) = (read(&self.certificate), read(&self.key));
        let mut digest = Sha256::new();
        for file in [&certificate, &key] {
            match file {
                Ok(bytes) => {
                    digest.update((bytes.len() as u64).to_be_bytes());
                    digest.update(&bytes[..]);
                }
                Err(error) => digest.update(error.0.as_bytes()),
            }
        }
        let pair = certificate.and_then(|certificate| self.pair(&certificate, &key?));
        (digest.finalize().into(), pair)
    }

    fn pair(&self, certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
        let (at, key_at) = (self.certificate.display(), self.key.display());
        let chain = chain(certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| TlsError(format!("{key_at} holds no private key in PEM")))?;
        CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| TlsError(format!("{at} and {key_at} don't fit together: {error}")))
    }
}

/// All certificates of a PEM file.
fn chain(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let none = || TlsError(format!("{} holds no certificate in PEM", path.display()));
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(none)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |error: io::Error| TlsError(format!("{}: {error}", path.display()));
    let large = std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX;
    if large {
        return Err(TlsError(format!("{} is over 1 MiB: is it the right file?", path.display())));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(failed)
}

/// Whom a dialler trusts: a balancer (`--upstream-ca`) servers and an API that speak TLS, a client
/// (`--ca`) whom it talks to.
#[derive(Clone)]
pub struct Upstream(Arc<ClientConfig>);

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstream")
    }
}

impl Upstream {
    /// Trusts who has a certificate of an authority in this PEM file.
    pub fn trusting(path: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in chain(&read(path)?, path)? {
            let bad = |error| TlsError(format!("{}: {error}", path.display()));
            roots.add(root).map_err(bad)?;
        }
        Self::of(roots)
    }

    /// Trusts the authorities that this machine trusts.
    pub fn of_this_machine() -> Result<Self, TlsError> {
        let none = |error| TlsError(format!("the authorities of this machine: {error}"));
        Ok(Self::with(Self::versions()?.with_native_roots().map_err(none)?))
    }

    /// Trusts nobody: for a dialler that is to dial nobody who speaks TLS.
    pub fn nobody() -> Result<Self, TlsError> {
        Self::of(RootCertStore::empty())
    }

    fn of(roots: RootCertStore) -> Result<Self, TlsError> {
        Ok(Self::with(Self::versions()?.with_root_certificates(roots)))
    }

    fn versions() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider());
        let versions = builder.with_protocol_versions(VERSIONS);
        versions.map_err(|error| TlsError(format!("TLS: {error}")))
    }

    fn with(trusting: ConfigBuilder<ClientConfig, WantsClientCert>) -> Self {
        let mut config = trusting.with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self(Arc::new(config))
    }

    /// The handshake with `host`, whose certificate must say that name or address.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<Stream> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.0.clone()).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// The same for a client that does its own handshakes.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols.clear();
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    struct Pair {
        certificate: String,
        key: String,
    }

    fn pair(name: &str) -> Pair {
        of_years(name, 1975..4096)
    }

    fn of_years(name: &str, years: std::ops::Range<i32>) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let certificate = params.self_signed(&key).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What a client that trusts `root` reads.
    async fn greeting(tls: &Tls, root: &Path) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let dialled = TcpStream::connect(listener.local_addr()?).await?;
        let tls = tls.clone();
        let serving = tokio::spawn(async move {
            let mut stream = tls.accept(listener.accept().await?.0).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        });
        let mut client = Upstream::trusting(root).unwrap().secure(dialled, "chat.test").await?;
        let mut read = String::new();
        client.read_to_string(&mut read).await?;
        serving.await.unwrap().map(|()| read)
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (pair("chat.test"), pair("chat.test"));
        let certificate = write(folder.path(), "cert.pem", &old.certificate);
        let key = write(folder.path(), "key.pem", &old.key);
        let old_root = write(folder.path(), "old.pem", &old.certificate);
        let new_root = write(folder.path(), "new.pem", &new.certificate);
        let tls = Tls::load(&certificate, &key).unwrap();
        assert_eq!(greeting(&tls, &old_root).await.unwrap(), "hello");
        assert!(greeting(&tls, &new_root).await.is_err(), "another authority");
        assert_eq!(tls.look(false), Look::Same);
        write(folder.path(), "cert.pem", &new.certificate);
        assert!(matches!(tls.look(false), Look::Kept(error) if error.0.contains("don't fit")));
        assert_eq!(tls.look(false), Look::Same, "said once");
        assert!(matches!(tls.look(true), Look::Kept(error) if error.0.contains("don't fit")));
        assert!(tls.trouble().is_some_and(|trouble| trouble.contains("don't fit")));
        assert_eq!(greeting(&tls, &old_root).await.unwrap(), "hello");
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(tls.look(true), Look::Kept(error) if error.0.contains("key.pem")));
        write(folder.path(), "key.pem", &new.key);
        assert_eq!(tls.look(false), Look::Renewed);
        assert_eq!((tls.look(true), tls.trouble()), (Look::Same, None));
        assert_eq!(greeting(&tls, &new_root).await.unwrap(), "hello");
        assert!(greeting(&tls, &old_root).await.is_err());
    }

    #[test]
    fn a_certificate_out_of_its_time_takes_no_good_ones_place() {
        let folder = tempfile::tempdir().unwrap();
        let put = |pair: &Pair| {
            let certificate = write(folder.path(), "cert.pem", &pair.certificate);
            (certificate, write(folder.path(), "key.pem", &pair.key))
        };
        let good = pair("chat.test");
        let (certificate, key) = put(&good);
        let tls = Tls::load(&certificate, &key).unwrap();
        assert_eq!((tls.look(true), tls.trouble()), (Look::Same, None));
        for (years, said) in [(1990..2000, "ended "), (3000..3001, "begins in ")] {
            put(&of_years("chat.test", years));
            assert!(matches!(tls.look(false), Look::Kept(error) if error.0.contains(said)));
            assert_eq!(tls.look(false), Look::Same, "said once");
            assert!(tls.trouble().is_some_and(|trouble| trouble.contains(said)));
        }
        put(&pair("chat.test"));
        assert_eq!((tls.look(false), tls.trouble()), (Look::Renewed, None));

        // Where the one in use is no better, the newer one may be meant, and is told of.
        let (certificate, key) = put(&of_years("chat.test", 1980..1990));
        let tls = Tls::load(&certificate, &key).unwrap();
        assert!(tls.trouble().is_some_and(|trouble| trouble.contains("in use ended ")));
        put(&of_years("chat.test", 1990..2000));
        assert_eq!(tls.look(false), Look::Renewed);
        // The first second of 2000.
        assert_eq!(tls.ends(), Some(946_684_800));
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let good = pair("chat.test");
        let certificate = write(folder.path(), "cert.pem", &good.certificate);
        let key = write(folder.path(), "key.pem", &good.key);
        for (certificate, key, said) in [
            (&key, &key, "key.pem holds no certificate"),
            (&certificate, &certificate, "cert.pem holds no private key"),
            (&folder.path().join("gone.pem"), &key, "gone.pem: "),
            (
                &certificate,
                &write(folder.path(), "other.pem", &pair("a").key),
                "don't fit together",
            ),
        ] {
            let error = Tls::load(certificate, key).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("PRIVATE"), "{error}");
        }
    }

    #[tokio::test]
    async fn old_versions_are_not_spoken() {
        let folder = tempfile::tempdir().unwrap();
        let good = pair("chat.test");
        let certificate = write(folder.path(), "cert.pem", &good.certificate);
        let tls = Tls::load(&certificate, &write(folder.path(), "key.pem", &good.key)).unwrap();
        let mut roots = RootCertStore::empty();
        for root in chain(good.certificate.as_bytes(), &certificate).unwrap() {
            roots.add(root).unwrap();
        }
        let serve = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (tls, stream) = (tls.clone(), listener.accept().await.unwrap().0);
            (client, tokio::spawn(async move { tls.accept(stream).await.is_ok() }))
        };
        for version in VERSIONS {
            let config = ClientConfig::builder_with_provider(provider());
            let config = config.with_protocol_versions(&[version]).unwrap();
            let config = config.with_root_certificates(roots.clone()).with_no_client_auth();
            let (client, served) = serve().await;
            let name = ServerName::try_from("chat.test").unwrap();
            let client = TlsConnector::from(Arc::new(config)).connect(name, client).await.unwrap();
            assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));
            assert!(served.await.unwrap());
        }
        // A ClientHello of TLS 1.1: its version, 32 bytes, no session, two suites, no compression,
        // two extensions (what it signs by, and its group).
        let (mut client, served) = serve().await;
        let suites = [0, 0, 4, 0xc0, 0x2b, 0xc0, 0x09, 1, 0, 0, 18];
        let extensions = [0, 13, 0, 6, 0, 4, 4, 3, 8, 4, 0, 10, 0, 4, 0, 2, 0, 0x1d];
        let hello = [&[3, 2][..], &[7; 32], &suites, &extensions].concat();
        let length = u8::try_from(hello.len()).unwrap();
        let handshake = [&[1, 0, 0, length][..], &hello].concat();
        let record = [&[0x16, 3, 1, 0, length + 4][..], &handshake].concat();
        client.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        // An alert, fatal: protocol_version.
        assert_eq!((answer.first(), &answer[5..]), (Some(&0x15), &[2, 70][..]));
        assert!(!served.await.unwrap());
    }

    #[tokio::test]
    async fn the_name_must_be_the_one_that_was_dialled() {
        let folder = tempfile::tempdir().unwrap();
        let other = pair("other.test");
        let certificate = write(folder.path(), "cert.pem", &other.certificate);
        let key = write(folder.path(), "key.pem", &other.key);
        let tls = Tls::load(&certificate, &key).unwrap();
        assert!(greeting(&tls, &certificate).await.is_err());
    }
}
