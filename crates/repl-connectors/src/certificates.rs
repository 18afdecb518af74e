//! What TLS refuses, in plain words.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError, Error};

/// What went wrong, and what to do.
pub(crate) type Words = (String, &'static str);

const ISSUER: &str = "name the authority that issued it with `ca_file` in this node's `tls` table, or give the server a \
     certificate of a known one";
const SERVER: &str = "give the server a new certificate; nothing is to be done here";
const OWN: &str = "correct `cert_file` and `key_file` in this node's `tls` table: the server must trust the certificate's \
     issuer, and it must be valid now";

/// The words for an error, if it is one of TLS or stands on one.
pub(crate) fn words(error: &(dyn StdError + 'static)) -> Option<Words> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(tls(found));
        }
        // An error of the stream shows what it holds only so.
        let held = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(found) = held.and_then(|held| held.downcast_ref::<Error>()) {
            return Some(tls(found));
        }
        next = error.source();
    }
    None
}

fn tls(error: &Error) -> Words {
    match error {
        Error::InvalidCertificate(refused) => {
            let (what, advice) = certificate(refused);
            (
                format!("TLS: the server's certificate is refused: {what}"),
                advice,
            )
        }
        Error::AlertReceived(alert) => from_server(*alert),
        Error::PeerIncompatible(_) => (
            "TLS: the server offers no version or cipher that is safe".into(),
            "let the server offer TLS 1.2 or 1.3",
        ),
        Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => (
            "TLS: what answers does not speak it as it should".into(),
            "check that the address is that of the database server, and what stands between",
        ),
        Error::NoCertificatesPresented => {
            ("TLS: the server has shown no certificate".into(), SERVER)
        }
        Error::InconsistentKeys(_) => (
            "TLS: our certificate and our key do not belong together".into(),
            OWN,
        ),
        // The others are no one's to mend by a setting; their texts are sentences.
        other => (
            format!("TLS: {other}"),
            "check this node's `tls` table and the server's certificate",
        ),
    }
}

fn certificate(refused: &CertificateError) -> (String, &'static str) {
    let plain = |what: &str, advice| (what.to_owned(), advice);
    match refused {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            plain("it has expired, or the clock of this host is wrong", SERVER)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => plain(
            "it is not valid yet, or the clock of this host is wrong",
            SERVER,
        ),
        CertificateError::UnknownIssuer => {
            plain("no authority that is trusted here has issued it", ISSUER)
        }
        CertificateError::BadSignature => plain(
            "its signature is not that of the authority that is trusted here under its issuer's name",
            ISSUER,
        ),
        CertificateError::NotValidForName => plain(
            "it is for another host name",
            "name the host as the certificate does, or the name it is for with `server_name` in this node's `tls` \
             table",
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => (
            format!(
                "it is not for {}, but for {}",
                expected.to_str(),
                names(presented)
            ),
            "name the host as the certificate does, or the name it is for with `server_name` in this node's `tls` \
             table",
        ),
        CertificateError::Revoked => plain("it was revoked", SERVER),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            plain("it was not issued for servers", SERVER)
        }
        CertificateError::BadEncoding => plain("it is damaged", SERVER),
        CertificateError::UnhandledCriticalExtension => {
            plain("it demands something that is not supported", SERVER)
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            plain("it is signed by a method that is not supported", SERVER)
        }
        // The verifier has no variant of its own for it.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => plain(
            "it is that of an authority, not that of a server",
            "give the server a certificate that an authority has issued for it (basicConstraints CA:FALSE)",
        ),
        other if format!("{other:?}").contains("UnsupportedCertVersion") => {
            plain("it is of an old version (X.509 v1), without names", SERVER)
        }
        other if format!("{other:?}").contains("UnsupportedSignatureAlgorithm") => {
            plain("it is signed by a method that is not supported", SERVER)
        }
        _ => plain("it is not as a server's certificate has to be", SERVER),
    }
}

/// Names of a certificate, which are given as `DnsName("db.example")` or `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> String {
    let name = |text: &String| {
        let inner = text.split_once('(').map_or(text.as_str(), |(_, rest)| rest);
        inner.trim_end_matches(')').trim_matches('"').to_owned()
    };
    match presented {
        [] => "no name".to_owned(),
        names => names.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// What the server has said before it ended the handshake.
fn from_server(alert: AlertDescription) -> Words {
    let refused = |what: &str| {
        (
            format!("TLS: the server refuses our certificate: {what}"),
            OWN,
        )
    };
    match alert {
        AlertDescription::CertificateRequired => (
            "TLS: the server asks for a certificate of ours".into(),
            "set `cert_file` and `key_file` in this node's `tls` table",
        ),
        AlertDescription::UnknownCA => refused("it does not trust the issuer"),
        AlertDescription::CertificateExpired => refused("it has expired"),
        AlertDescription::CertificateRevoked => refused("it was revoked"),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => refused("it is not as the server wants it"),
        AlertDescription::AccessDenied => refused("it gives no access"),
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity => (
            "TLS: the server and this client have no version or cipher in common".into(),
            "let the server offer TLS 1.2 or 1.3",
        ),
        AlertDescription::UnrecognisedName => (
            "TLS: the server does not know the host name it was asked for".into(),
            "name the host as the server does",
        ),
        _ => (
            "TLS: the server has ended the handshake".into(),
            "look into the server's log for why",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// Internal texts are none that a person can use.
    fn assert_plain(text: &str) {
        for internal in ["Other", "Error", "::", "{", "(\"", "Context", "ASN"] {
            assert!(!text.contains(internal), "{text}");
        }
    }

    #[test]
    fn every_refusal_is_in_plain_words_with_advice() {
        let time = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
        let strange = Arc::new(std::io::Error::other("CaUsedAsEndEntity"));
        for refused in [
            CertificateError::BadEncoding,
            CertificateError::Expired,
            CertificateError::ExpiredContext {
                time,
                not_after: time,
            },
            CertificateError::NotValidYet,
            CertificateError::NotValidYetContext {
                time,
                not_before: time,
            },
            CertificateError::Revoked,
            CertificateError::UnhandledCriticalExtension,
            CertificateError::UnknownIssuer,
            CertificateError::UnknownRevocationStatus,
            CertificateError::ExpiredRevocationList,
            CertificateError::BadSignature,
            CertificateError::NotValidForName,
            CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("db.example").unwrap(),
                presented: vec![
                    "DnsName(\"other.example\")".into(),
                    "IpAddress(10.0.0.1)".into(),
                ],
            },
            CertificateError::InvalidPurpose,
            CertificateError::InvalidOcspResponse,
            CertificateError::ApplicationVerificationFailure,
            CertificateError::Other(OtherError(strange)),
        ] {
            let (what, advice) = words(&Error::InvalidCertificate(refused)).unwrap();
            assert!(what.contains("certificate"), "{what}");
            assert!(!advice.is_empty());
            assert_plain(&what);
        }
        for number in 0..=255 {
            let (what, advice) =
                words(&Error::AlertReceived(AlertDescription::from(number))).unwrap();
            assert_plain(&what);
            assert!(!advice.is_empty());
        }
    }

    #[test]
    fn errors_of_the_stream_are_looked_into() {
        let inner = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let outer = std::io::Error::new(std::io::ErrorKind::InvalidData, inner);
        assert!(words(&outer).unwrap().0.contains("no authority"));
        assert!(words(&std::io::Error::other("gone")).is_none());
    }
}
