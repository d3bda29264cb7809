//! TLS to Postgres: libpq's `sslmode` and `sslrootcert`, by rustls.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much of the server's identity is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    /// Nothing: the connection is private, but to whom is not known.
    Nothing,
    /// The certificate comes from a trusted authority.
    Authority,
    /// And is for this host.
    Host,
}

/// What a database URL says about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    encrypt: SslMode,
    verify: Verify,
    root_file: Option<String>,
}

impl Settings {
    /// Takes the parameters that the driver does not know out of `url`; returns the rest and what they said.
    pub(super) fn taken_from(url: &str) -> Result<(String, Self), String> {
        let mut mode = None;
        let mut root_file = None;
        let mut take = |parameter: &str| {
            match parameter.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value.to_owned()),
                Some(("sslrootcert", value)) => root_file = Some(percent_decoded(value)),
                _ => return false,
            }
            true
        };
        let plain = if url.contains("://") {
            match url.split_once('?') {
                // A question mark before the last @ belongs to a password, not to the parameters.
                Some((base, query)) if !query.contains('@') => {
                    let rest: Vec<&str> = query.split('&').filter(|parameter| !take(parameter)).collect();
                    match rest.is_empty() {
                        true => base.to_owned(),
                        false => format!("{base}?{}", rest.join("&")),
                    }
                }
                _ => url.to_owned(),
            }
        } else {
            let rest: Vec<&str> = url.split(' ').filter(|parameter| !take(parameter)).collect();
            rest.join(" ")
        };
        let (encrypt, verify) = match mode.as_deref() {
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("allow" | "prefer") => (SslMode::Prefer, Verify::Nothing),
            Some("require") if root_file.is_some() => (SslMode::Require, Verify::Authority),
            Some("require") => (SslMode::Require, Verify::Nothing),
            Some("verify-ca") => (SslMode::Require, Verify::Authority),
            Some("verify-full") => (SslMode::Require, Verify::Host),
            Some(other) => {
                return Err(format!(
                    "sslmode is `{other}`, not one of disable, allow, prefer, require, verify-ca, verify-full"
                ));
            }
        };
        let settings = Self {
            encrypt,
            verify,
            root_file: root_file.filter(|file| file != "system"),
        };
        Ok((plain, settings))
    }

    pub(super) fn mode(&self) -> SslMode {
        self.encrypt
    }

    /// The connector that verifies what was asked for.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        // Named, not the process's default: two providers are linked, and a library must not choose for the process.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match self.verify {
            Verify::Host => builder.with_root_certificates(self.roots()?).with_no_client_auth(),
            Verify::Authority => {
                let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider)
                    .build()
                    .map_err(|error| error.to_string())?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(AnyHost(inner)))
                    .with_no_client_auth()
            }
            Verify::Nothing => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
                .with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut store = RootCertStore::empty();
        match &self.root_file {
            Some(file) => {
                let unreadable = |error| format!("sslrootcert `{file}` cannot be read as PEM certificates: {error}");
                for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
                    store.add(certificate.map_err(unreadable)?).map_err(|error| {
                        format!("sslrootcert `{file}` holds a certificate that is not usable: {error}")
                    })?;
                }
                if store.is_empty() {
                    return Err(format!("sslrootcert `{file}` holds no certificate"));
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    return Err(
                        "this machine has no trust store; install ca-certificates or name a file with sslrootcert"
                            .to_owned(),
                    );
                }
            }
        }
        Ok(store)
    }
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        let rest = bytes.as_slice();
        let escaped = rest.get(..2).filter(|_| byte == b'%').and_then(|pair| {
            let mut value = [0];
            hex::decode_to_slice(pair, &mut value).ok().map(|()| value[0])
        });
        match escaped {
            Some(value) => {
                decoded.push(value);
                bytes.nth(1);
            }
            None => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// `verify-ca`: the chain is checked, the name is not.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last: everything else held.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `prefer` and `require`: whoever holds the key of the certificate that it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> (String, SslMode, Verify, Option<String>) {
        let (plain, found) = Settings::taken_from(url).unwrap();
        (plain, found.encrypt, found.verify, found.root_file)
    }

    #[test]
    fn each_sslmode_means_what_libpq_means() {
        for (mode, encrypt, verify) in [
            ("disable", SslMode::Disable, Verify::Nothing),
            ("allow", SslMode::Prefer, Verify::Nothing),
            ("prefer", SslMode::Prefer, Verify::Nothing),
            ("require", SslMode::Require, Verify::Nothing),
            ("verify-ca", SslMode::Require, Verify::Authority),
            ("verify-full", SslMode::Require, Verify::Host),
        ] {
            let (plain, found, checks, _) = settings(&format!("postgres://a@db/o?sslmode={mode}&application_name=x"));
            assert_eq!(plain, "postgres://a@db/o?application_name=x");
            assert_eq!((found, checks), (encrypt, verify), "{mode}");
        }
        assert!(Settings::taken_from("postgres://a@db/o?sslmode=on").is_err());
    }

    #[test]
    fn a_root_certificate_makes_require_verify_the_authority() {
        let (plain, _, verify, file) = settings("postgres://a@db/o?sslmode=require&sslrootcert=%2Fetc%2Fmy%20ca.pem");
        assert_eq!(plain, "postgres://a@db/o");
        assert_eq!(verify, Verify::Authority);
        assert_eq!(file.as_deref(), Some("/etc/my ca.pem"));
    }

    #[test]
    fn the_keyword_form_is_read_too() {
        let (plain, encrypt, ..) = settings("host=db user=app sslmode=require dbname=o");
        assert_eq!(plain, "host=db user=app dbname=o");
        assert_eq!(encrypt, SslMode::Require);
    }

    #[test]
    fn a_missing_root_certificate_is_named() {
        let (_, found) =
            Settings::taken_from("postgres://a@db/o?sslmode=verify-full&sslrootcert=/no/such.pem").unwrap();
        let reason = found.connector().err().expect("there is no such file");
        assert!(reason.contains("/no/such.pem"), "{reason}");
    }

    #[test]
    fn without_verification_no_trust_store_is_needed() {
        let (_, found) = Settings::taken_from("postgres://a@db/o").unwrap();
        assert!(found.connector().is_ok());
    }
}
