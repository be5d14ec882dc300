//! TLS of the connections to NATS and Postgres: the provider of cryptography, and checks of certificate files.

use std::path::Path;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Makes aws-lc-rs the provider of cryptography of this process. Every `main` calls it first: rustls chooses by itself
/// only while a single provider is linked, and panics at the first connection otherwise.
pub fn install_crypto_provider() {
    // The first call counts; a second one changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The files of one connection, each with the name of its setting.
#[derive(Clone, Copy, Debug)]
pub struct TlsFiles<'a> {
    /// `PARTYLINE_NATS` or `PARTYLINE_DATABASE`.
    pub prefix: &'static str,
    pub ca: Option<&'a Path>,
    pub cert: Option<&'a Path>,
    pub key: Option<&'a Path>,
}

impl TlsFiles<'_> {
    /// Returns what is wrong: a file that can't be read, is not PEM, or a key that is not the certificate's.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let prefix = self.prefix;
        let mut problems = Vec::new();
        if let Some(path) = self.ca
            && let Err(error) = roots(path)
        {
            problems.push(format!("{prefix}_CA_FILE: {}: {error}", path.display()));
        }
        match (self.cert, self.key) {
            (None, None) => {}
            (Some(cert), Some(key)) => {
                if let Err(error) = client_certificate(cert, key) {
                    problems.push(format!("{prefix}_CERT_FILE and {prefix}_KEY_FILE: {error}"));
                }
            }
            (Some(_), None) => problems.push(format!("{prefix}_KEY_FILE: needed with {prefix}_CERT_FILE")),
            (None, Some(_)) => problems.push(format!("{prefix}_CERT_FILE: needed with {prefix}_KEY_FILE")),
        }
        problems
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let found =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no PEM certificate in it".into()) } else { Ok(found) }
}

fn client_certificate(cert: &Path, key: &Path) -> Result<(), String> {
    let chain = certificates(cert).map_err(|error| format!("{}: {error}", cert.display()))?;
    let pem = std::fs::read(key).map_err(|error| format!("{}: {error}", key.display()))?;
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| format!("{}: {error}", key.display()))?;
    install_crypto_provider();
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    config.with_client_auth_cert(chain, private).map(drop).map_err(|error| error.to_string())
}
