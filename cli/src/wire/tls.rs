//! TLS towards an `https` endpoint: whose certificates are trusted, and the handshake.
//!
//! Trusted are the roots of the system, or those of the file `SSL_CERT_FILE` instead (the variable that OpenSSL's programs
//! know), and with either those of the files in `ONE_CERT_DIR`. `ONE_DISABLE_SSL_VERIFY` trusts everybody: the session
//! then goes to whoever answers. The last two are OpenNebula's variables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Endpoint, Unreachable};

/// Where distributions keep the roots in one file: Debian and its kin, Fedora and its kin, SUSE, Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The largest certificate file we read; the system's has about 250 kB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Most files of ONE_CERT_DIR.
const FILES_MAX: usize = 10_000;

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// SSL_CERT_FILE: instead of the system's roots.
    file: Option<PathBuf>,
    /// ONE_CERT_DIR: beside them.
    directory: Option<PathBuf>,
    /// ONE_DISABLE_SSL_VERIFY.
    everybody: bool,
}

impl Trust {
    /// What the environment says.
    pub(super) fn from_environment() -> Self {
        let path = |name| std::env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        // OpenNebula's clients take any value, even "no"; whoever writes that wants to be checked.
        let said = std::env::var("ONE_DISABLE_SSL_VERIFY").unwrap_or_default().to_ascii_lowercase();
        let everybody = !matches!(said.trim(), "" | "0" | "no" | "false" | "off");
        Self { file: path("SSL_CERT_FILE"), directory: path("ONE_CERT_DIR"), everybody }
    }

    /// The handshake over a fresh connection.
    ///
    /// # Errors
    /// When the roots cannot be read, the certificate is not trusted or not for this host, or the other side speaks no
    /// TLS; [`Unreachable`] when it went away.
    pub(super) async fn secure(&self, stream: TcpStream, endpoint: &Endpoint) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(endpoint.host.clone())
            .with_context(|| format!("{} is no name that a certificate can have", endpoint.host))?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        connector.connect(name, stream).await.map_err(|error| refusal(endpoint, &error))
    }

    fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("starting TLS")?;
        let mut config = if self.everybody {
            let verifier = Arc::new(Everybody(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        } else {
            builder.with_root_certificates(self.roots()?).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
        match &self.file {
            Some(file) => {
                if add(&mut roots, file)? == 0 {
                    bail!("the file {} (SSL_CERT_FILE) holds no certificate in PEM form", file.display());
                }
            }
            None => {
                if let Some(file) = system() {
                    add(&mut roots, &file)?;
                }
            }
        }
        if let Some(directory) = &self.directory {
            let entries = std::fs::read_dir(directory)
                .with_context(|| format!("cannot read the directory {} (ONE_CERT_DIR)", directory.display()))?;
            for entry in entries.take(FILES_MAX) {
                let path = entry?.path();
                if path.is_file() {
                    add(&mut roots, &path)?;
                }
            }
        }
        if roots.is_empty() {
            bail!(
                "no certificate is trusted on this machine: install ca-certificates, or name a file with SSL_CERT_FILE or a directory with ONE_CERT_DIR"
            );
        }
        Ok(roots)
    }
}

/// Adds the certificates of a file; how many could be used. Bundles hold some that are too old or too odd to be.
fn add(roots: &mut RootCertStore, file: &Path) -> Result<usize> {
    let read = || {
        if std::fs::metadata(file)?.len() > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        std::fs::read(file)
    };
    let text = read().with_context(|| format!("cannot read the certificates in {}", file.display()))?;
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    Ok(roots.add_parsable_certificates(certificates).0)
}

fn refusal(endpoint: &Endpoint, error: &std::io::Error) -> anyhow::Error {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match reason {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            anyhow::anyhow!("the certificate of {endpoint} is not trusted: {}", distrust(reason, endpoint))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            anyhow::anyhow!("{endpoint} does not speak TLS; is it an http endpoint?")
        }
        Some(reason) => anyhow::anyhow!("no TLS connection to {endpoint}: {reason}"),
        None => Unreachable(format!("the connection to {endpoint} broke off in the TLS handshake: {error}")).into(),
    }
}

/// Why a certificate is not trusted, and what to do.
fn distrust(reason: &CertificateError, endpoint: &Endpoint) -> String {
    use CertificateError as Why;
    match reason {
        Why::UnknownIssuer | Why::BadSignature => "nobody who is trusted here signed it; name the file of its root with SSL_CERT_FILE, or a directory with it with ONE_CERT_DIR".to_owned(),
        Why::Expired | Why::ExpiredContext { .. } => {
            "it has expired; have it renewed, or set this machine's clock right".to_owned()
        }
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "it is not valid yet; set the clocks of both machines right".to_owned()
        }
        Why::NotValidForName | Why::NotValidForNameContext { .. } => format!(
            "it is not for the name {}; use a name that it is for, or have this one in its subjectAltName",
            endpoint.host
        ),
        // This reason has no name of its own.
        Why::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "it is that of a certificate authority, which must not be a server's; make the server's with basicConstraints=CA:FALSE".to_owned()
        }
        other => format!("{other}; see what openssl x509 -text says of it"),
    }
}

/// Takes every certificate, if only the other side has its key.
#[derive(Debug)]
struct Everybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Client, Session};
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};

    /// A server with a certificate for 127.0.0.1 that answers every call with the id 7.
    struct Server {
        address: SocketAddr,
        folder: tempfile::TempDir,
    }

    impl Server {
        fn start() -> Self {
            Self::of(&rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap())
        }

        fn of(parameters: &rcgen::CertificateParams) -> Self {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("0a1b2c3d.0"), certificate.pem()).unwrap();
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes());
            let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key.unwrap())
                .unwrap();
            let config = Arc::new(config);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            // The thread ends with the test process.
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    // Clients that do not trust the certificate break off.
                    let _ = answer(&config, stream.unwrap());
                }
            });
            Self { address, folder }
        }

        fn certificate(&self) -> PathBuf {
            self.folder.path().join("0a1b2c3d.0")
        }

        fn call(&self, host: &str, trust: Trust) -> Result<Answer> {
            let endpoint = Endpoint::parse(&format!("https://{host}:{}/RPC2", self.address.port())).unwrap();
            let auth = self.folder.path().join("password");
            std::fs::write(&auth, "secret\n").unwrap();
            let session = Session::choose(Some("oneadmin"), Some(&auth), None).unwrap();
            std::fs::remove_file(&auth).unwrap();
            let mut client = Client::new(endpoint, session).unwrap();
            client.trust = trust;
            client.call("one.vm.info", [])
        }
    }

    fn answer(config: &Arc<rustls::ServerConfig>, stream: std::net::TcpStream) -> std::io::Result<()> {
        let connection = rustls::ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let mut seen = Vec::new();
        while !seen.ends_with(b"</methodCall>") {
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                count => seen.extend_from_slice(&bytes[..count]),
            }
        }
        assert!(String::from_utf8_lossy(&seen).contains("oneadmin:secret"));
        let body = "<methodResponse><params><param><value><array><data><value><boolean>1</boolean></value><value><i4>7</i4></value><value><i4>0</i4></value></data></array></value></param></params></methodResponse>";
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        stream.flush()
    }

    #[test]
    fn a_call_over_https_works_with_the_root_from_a_file_or_a_directory() {
        let server = Server::start();
        let by_file = Trust { file: Some(server.certificate()), ..Trust::default() };
        assert_eq!(server.call("127.0.0.1", by_file).unwrap(), Answer::Id(7));
        let by_directory = Trust { directory: Some(server.folder.path().to_owned()), ..Trust::default() };
        assert_eq!(server.call("127.0.0.1", by_directory).unwrap(), Answer::Id(7));
    }

    #[test]
    fn a_certificate_that_is_not_trusted_or_of_another_host_gets_no_session() {
        let (server, other) = (Server::start(), Server::start());
        let wrong = Trust { file: Some(other.certificate()), ..Trust::default() };
        let error = format!("{:#}", server.call("127.0.0.1", wrong.clone()).unwrap_err());
        assert!(error.contains("not trusted") && error.contains("SSL_CERT_FILE"), "{error}");
        assert_eq!(server.call("127.0.0.1", Trust { everybody: true, ..wrong }).unwrap(), Answer::Id(7));
        let right = Trust { file: Some(server.certificate()), ..Trust::default() };
        let error = format!("{:#}", server.call("localhost", right).unwrap_err());
        assert!(error.contains("not trusted: it is not for the name localhost"), "{error}");
    }

    #[test]
    fn the_certificate_of_an_authority_is_told_as_such() {
        let mut parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let server = Server::of(&parameters);
        let trust = Trust { file: Some(server.certificate()), ..Trust::default() };
        let error = format!("{:#}", server.call("127.0.0.1", trust).unwrap_err());
        assert!(error.contains("is that of a certificate authority") && error.contains("CA:FALSE"), "{error}");
        assert!(!error.contains("Other("), "{error}");
    }

    #[test]
    fn roots_that_cannot_be_read_and_plain_http_are_told() {
        let server = Server::start();
        let file = server.folder.path().join("empty");
        std::fs::write(&file, "nothing").unwrap();
        let trust = |file: &Path| Trust { file: Some(file.to_owned()), ..Trust::default() };
        let error = format!("{:#}", server.call("127.0.0.1", trust(&file)).unwrap_err());
        assert!(error.contains("holds no certificate"), "{error}");
        let error = format!("{:#}", server.call("127.0.0.1", trust(Path::new("/nonexistent"))).unwrap_err());
        assert!(error.contains("cannot read the certificates in /nonexistent"), "{error}");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
            // Waits for the client to leave, so that it reads the answer and sees no reset connection.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let plain = Server { address, folder: tempfile::tempdir().unwrap() };
        let error = format!("{:#}", plain.call("127.0.0.1", trust(&server.certificate())).unwrap_err());
        assert!(error.contains("does not speak TLS"), "{error}");
    }
}
