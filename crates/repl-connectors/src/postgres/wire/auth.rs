//! Logging in: SCRAM-SHA-256 (with channel binding over TLS), MD5, clear text where it is safe.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::conn::Conn;
use super::tls;
use fallible_iterator::FallibleIterator;

use crate::postgres::error::{ServerError, WireError};
use crate::postgres::target::PgTarget;

/// Answers the server until it says AuthenticationOk.
pub(super) async fn authenticate(conn: &mut Conn, target: &PgTarget) -> Result<(), WireError> {
    loop {
        match conn.next_message().await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                if !conn.stream().is_confidential() {
                    return Err(WireError::Config(
                        "the server asks for the password in clear text over an unencrypted \
                         connection"
                            .into(),
                        "use TLS, or `scram-sha-256` in the server's pg_hba.conf".into(),
                    ));
                }
                let password = password(target)?.as_bytes().to_vec();
                frontend::password_message(&password, conn.out())?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(
                    target.user.as_bytes(),
                    password(target)?.as_bytes(),
                    body.salt(),
                );
                frontend::password_message(hash.as_bytes(), conn.out())?;
            }
            Message::AuthenticationSasl(body) => scram(conn, target, &body).await?,
            Message::ErrorResponse(body) => {
                return Err(WireError::Server(Box::new(ServerError::from_fields(
                    body.fields(),
                ))));
            }
            Message::AuthenticationGss
            | Message::AuthenticationSspi
            | Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential => {
                return Err(WireError::Config(
                    "the server asks for an authentication method that is not supported (GSSAPI, \
                     SSPI or Kerberos)"
                        .into(),
                    "use `scram-sha-256` in the server's pg_hba.conf for this role".into(),
                ));
            }
            _ => {
                return Err(WireError::Protocol(
                    "unexpected message during login".into(),
                ));
            }
        }
        conn.flush().await?;
    }
}

fn password(target: &PgTarget) -> Result<&str, WireError> {
    target.password.as_deref().ok_or_else(|| {
        WireError::Config(
            format!("the server asks for a password of role \"{}\"", target.user),
            "set `password_file` or `password_env` of this node".into(),
        )
    })
}

/// Up to the server's final message; AuthenticationOk follows it.
async fn scram(
    conn: &mut Conn,
    target: &PgTarget,
    body: &AuthenticationSaslBody,
) -> Result<(), WireError> {
    let password = password(target)?.to_owned();
    let mut offered = (false, false);
    let mut mechanisms = body.mechanisms();
    while let Some(mechanism) = mechanisms.next()? {
        offered.0 |= mechanism == sasl::SCRAM_SHA_256;
        offered.1 |= mechanism == sasl::SCRAM_SHA_256_PLUS;
    }
    let binding = conn
        .stream()
        .peer_certificate()
        .and_then(tls::end_point_binding);
    let (mechanism, binding) = match (offered, binding) {
        ((_, true), Some(hash)) => (
            sasl::SCRAM_SHA_256_PLUS,
            ChannelBinding::tls_server_end_point(hash),
        ),
        // "We could, you did not offer": lets the server notice if someone removed the offer.
        ((true, false), Some(_)) => (sasl::SCRAM_SHA_256, ChannelBinding::unrequested()),
        ((true, _), None) => (sasl::SCRAM_SHA_256, ChannelBinding::unsupported()),
        _ => {
            return Err(WireError::Config(
                "the server offers no SASL mechanism that is supported".into(),
                "use `scram-sha-256` in the server's pg_hba.conf for this role".into(),
            ));
        }
    };
    let mut exchange = ScramSha256::new(password.as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, exchange.message(), conn.out())?;
    conn.flush().await?;
    match conn.next_message().await? {
        Message::AuthenticationSaslContinue(body) => exchange.update(body.data())?,
        other => return Err(refused(other)),
    }
    frontend::sasl_response(exchange.message(), conn.out())?;
    conn.flush().await?;
    match conn.next_message().await? {
        // The server proves here that it knows the password too.
        Message::AuthenticationSaslFinal(body) => exchange.finish(body.data())?,
        other => return Err(refused(other)),
    }
    Ok(())
}

fn refused(message: Message) -> WireError {
    match message {
        Message::ErrorResponse(body) => {
            WireError::Server(Box::new(ServerError::from_fields(body.fields())))
        }
        _ => WireError::Protocol("unexpected message during SCRAM".into()),
    }
}
