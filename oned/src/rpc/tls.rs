//! TLS at the door: the certificate, and the handshake of one connection.
//!
//! What it is not: it decides nothing about connections at large; a handshake holds the place of its connection, and
//! has the time that a plain connection has for the head of its first request.
//!
//! Invariants: certificate and key are read once, before the daemon listens; nothing of the key reaches an error. A client
//! that speaks something else is sent away and its connection closed in order.

use super::stall::StallGuard;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

/// Largest certificate or key file, in bytes; long chains have some ten thousand.
const FILE_BYTES: u64 = 1 << 20;

/// Bytes of a client that was sent away that are read and dropped, so that it sees our answer and no reset connection.
const DRAINED_BYTES: u64 = 1 << 20;

/// How long that may take.
const DRAINING: Duration = Duration::from_secs(1);

/// What a client hears that speaks plain HTTP here.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 45\r\nConnection: close\r\n\r\nThis port speaks https; call it by https://.\n";

/// Why the door cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("Cannot read {setting} {}: {source}", path.display())]
    Read {
        /// TLS_CERTIFICATE or TLS_KEY.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What stood in the way.
        source: std::io::Error,
    },
    /// A file holds nothing of the sort.
    #[error("{setting} {} holds no {wanted} in PEM form.", path.display())]
    Empty {
        /// TLS_CERTIFICATE or TLS_KEY.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// "certificate" or "private key".
        wanted: &'static str,
    },
    /// The two do not fit each other, or are of a kind that is not known.
    #[error("TLS_CERTIFICATE {} and TLS_KEY {} cannot be used together: {reason}.", certificate.display(), key.display())]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        reason: rustls::Error,
    },
}

/// What a handshake needs; cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads certificate chain and private key, both in PEM form (key as PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or the key is not the certificate's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read("TLS_CERTIFICATE", certificate)?;
        let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&chain).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| TlsError::Empty {
            setting: "TLS_CERTIFICATE",
            path: certificate.to_owned(),
            wanted: "certificate",
        })?;
        let secret = PrivateKeyDer::from_pem_slice(&read("TLS_KEY", key)?).map_err(|_| TlsError::Empty {
            setting: "TLS_KEY",
            path: key.to_owned(),
            wanted: "private key",
        })?;
        let unfit = |reason| TlsError::Unfit { certificate: certificate.to_owned(), key: key.to_owned(), reason };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
            .map_err(unfit)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake, within `deadline`; `None` when it came to nothing and the connection is closed. `stall` is for
    /// writes.
    pub(super) async fn secure(
        &self,
        stream: TcpStream,
        deadline: Duration,
        stall: Duration,
    ) -> Option<TlsStream<StallGuard>> {
        timeout(deadline, self.handshake(stream, stall)).await.unwrap_or_else(|_| {
            tracing::trace!(target: "ReM", "a TLS handshake was not finished in time");
            None
        })
    }

    async fn handshake(&self, stream: TcpStream, stall: Duration) -> Option<TlsStream<StallGuard>> {
        let mut first = [0];
        let seen = stream.peek(&mut first).await;
        let mut stream = StallGuard::new(stream, stall);
        match seen {
            Ok(0) | Err(_) => return None,
            // No TLS record begins like this (RFC 8446, 5.1), but every HTTP request does.
            Ok(_) if first.iter().all(u8::is_ascii_uppercase) => {
                // A client that is gone already misses nothing.
                let _ = stream.write_all(PLAIN_HTTP).await;
                part(stream).await;
                return None;
            }
            Ok(_) => {}
        }
        match self.0.accept(stream).into_fallible().await {
            Ok(stream) => Some(stream),
            Err((error, stream)) => {
                tracing::trace!(target: "ReM", %error, "TLS handshake failed");
                part(stream).await;
                None
            }
        }
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let read = || {
        if std::fs::metadata(path)?.len() > FILE_BYTES {
            return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES} bytes")));
        }
        std::fs::read(path)
    };
    read().map(Zeroizing::new).map_err(|source| TlsError::Read { setting, path: path.to_owned(), source })
}

/// Closes our side and lets the client close its own.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let parting = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(DRAINED_BYTES), &mut tokio::io::sink()).await
    };
    // Whatever comes of it, the connection is over.
    let _ = timeout(DRAINING, parting).await;
}
