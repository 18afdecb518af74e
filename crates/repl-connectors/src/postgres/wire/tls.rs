//! TLS towards a server: what is trusted, and for which name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::certificates;
use crate::postgres::error::WireError;
use crate::postgres::target::{PgHost, PgTarget, PgTls, TlsMode};

/// The name the certificate must be for.
pub(super) fn server_name(target: &PgTarget) -> Result<ServerName<'static>, WireError> {
    let name = match (&target.tls.server_name, &target.host) {
        (Some(name), _) => name.clone(),
        (None, PgHost::Tcp(host)) => host.clone(),
        (None, PgHost::Unix(_)) => String::new(),
    };
    ServerName::try_from(name.clone()).map_err(|_| {
        WireError::Config(
            format!("`{name}` is not a host name a certificate could be for"),
            "set `server_name` in this node's `tls` table".into(),
        )
    })
}

/// The session configuration for these settings.
pub(super) fn client_config(tls: &PgTls) -> Result<Arc<ClientConfig>, WireError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| WireError::Config(format!("TLS: {e}"), String::new()))?;
    let builder = match tls.mode {
        TlsMode::VerifyFull => builder.with_root_certificates(roots(tls)?),
        TlsMode::VerifyCa => {
            let chain = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(tls)?),
                Arc::clone(&provider),
            )
            .build()
            .map_err(|e| WireError::Config(format!("TLS: {e}"), String::new()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyName { chain }))
        }
        TlsMode::Require | TlsMode::Disable => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider })),
    };
    let config = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|e| {
                WireError::Config(
                    format!("client certificate {}: {e}", cert.display()),
                    "the key must belong to the certificate".into(),
                )
            })?,
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(WireError::Config(
                "only one of `cert_file` and `key_file` is set".into(),
                "set both, or neither".into(),
            ));
        }
    };
    Ok(Arc::new(config))
}

fn roots(tls: &PgTls) -> Result<RootCertStore, WireError> {
    let mut store = RootCertStore::empty();
    if let Some(file) = &tls.ca_file {
        for certificate in certificates(file)? {
            store.add(certificate).map_err(|e| unusable(file, &e))?;
        }
    } else {
        // Some of a system's certificates are often malformed; the others still count.
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
    }
    if store.is_empty() {
        return Err(WireError::Config(
            "no trusted certificate authority is known".into(),
            "set `ca_file` in this node's `tls` table, or install the system's ca-certificates"
                .into(),
        ));
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|e| unusable(file, &e))?;
    if found.is_empty() {
        return Err(unusable(file, &"it holds no certificate"));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, WireError> {
    PrivateKeyDer::from_pem_file(file).map_err(|e| unusable(file, &e))
}

fn unusable(file: &Path, why: &dyn std::fmt::Display) -> WireError {
    WireError::Config(
        format!("{} cannot be used: {why}", file.display()),
        "it must be a readable PEM file".into(),
    )
}

/// What TLS itself refuses is somebody's to mend; a connection that broke meanwhile is not.
pub(super) fn handshake_error(error: io::Error) -> WireError {
    match certificates::words(&error) {
        Some((what, advice)) => WireError::Config(what, advice.into()),
        None => WireError::Lost(format!("the TLS handshake failed: {error}")),
    }
}

/// Verifies the chain, not the name (`verify-ca`).
#[derive(Debug)]
struct AnyName {
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The chain is verified before the name, so an error about the name means a good chain.
        match self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies only that the server holds the certificate's key (`require`).
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The `tls-server-end-point` channel binding of a certificate (RFC 5929, section 4.1): its hash
/// by its signature's hash function, MD5 and SHA-1 replaced by SHA-256. None for algorithms for
/// which the RFC leaves it undefined (Ed25519, RSA-PSS).
pub(super) fn end_point_binding(certificate: &[u8]) -> Option<Vec<u8>> {
    // Content octets of the OBJECT IDENTIFIERs of X.509 signature algorithms.
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let algorithm = signature_algorithm(certificate)?;
    let (last, family) = algorithm.split_last()?;
    match (family, last) {
        // md5, sha1, sha256 | ecdsa-with-SHA256
        (RSA, 4 | 5 | 11) | (ECDSA_SHA2, 2) => Some(Sha256::digest(certificate).to_vec()),
        (RSA, 12) | (ECDSA_SHA2, 3) => Some(Sha384::digest(certificate).to_vec()),
        (RSA, 13) | (ECDSA_SHA2, 4) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The signature algorithm's identifier:
/// `SEQUENCE { tbsCertificate, SEQUENCE { OBJECT IDENTIFIER, … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (outer, _) = der_element(certificate, SEQUENCE)?;
    let (_, rest) = der_element(outer, SEQUENCE)?;
    let (algorithm, _) = der_element(rest, SEQUENCE)?;
    der_element(algorithm, OBJECT_IDENTIFIER).map(|(oid, _)| oid)
}

/// Content of the DER element of this tag at the start of `der`, and what follows it.
fn der_element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let bytes = usize::from(first & 0x7f);
        if bytes > 4 || rest.len() < bytes {
            return None;
        }
        let (digits, tail) = rest.split_at(bytes);
        length = digits.iter().fold(0, |n, &d| (n << 8) | usize::from(d));
        rest = tail;
    }
    (rest.len() >= length).then(|| rest.split_at(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_certificates_have_no_binding() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
            &[0x30, 0x84, 255, 255],
        ] {
            assert_eq!(end_point_binding(der), None);
        }
        assert_eq!(
            end_point_binding(&[0x30, 0x05, 0x30, 0x00, 0x30, 0x01, 0x06]),
            None
        );
    }
}
