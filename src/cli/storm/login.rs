//! From the startup message to the first ReadyForQuery (manual, "Start-up" and "SASL Authentication").

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::client::Client;
use super::failure::Failure;
use super::target::Target;
use crate::auth::scram::ClientExchange;

/// Sends the startup message and proves who we are, in the way that the server asks for. `binding` is the channel
/// binding data of its certificate, `None` without TLS.
pub(super) async fn log_in(client: &mut Client, target: &Target, binding: Option<&[u8]>) -> Result<(), Failure> {
    let mut message = BytesMut::with_capacity(128);
    frontend::startup_message(target.parameters(), &mut message)?;
    client.send(&message).await?;
    loop {
        match client.receive().await? {
            Message::AuthenticationCleartextPassword => send_password(client, target.password()?).await?,
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(target.user.as_bytes(), target.password()?, body.salt());
                send_password(client, hash.as_bytes()).await?;
            }
            Message::AuthenticationSasl(body) => scram(client, target, binding, &body).await?,
            Message::AuthenticationGss
            | Message::AuthenticationSspi
            | Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential => {
                return Err(Failure::protocol("the server asks for a way to log in that is not supported"));
            }
            Message::ReadyForQuery(_) => return Ok(()),
            // AuthenticationOk, ParameterStatus, BackendKeyData, notices.
            _ => {}
        }
    }
}

async fn send_password(client: &mut Client, password: &[u8]) -> Result<(), Failure> {
    let mut message = BytesMut::with_capacity(password.len() + 8);
    frontend::password_message(password, &mut message)?;
    client.send(&message).await
}

async fn scram(
    client: &mut Client,
    target: &Target,
    binding: Option<&[u8]>,
    offer: &AuthenticationSaslBody,
) -> Result<(), Failure> {
    let password = target.password()?;
    let offered: Vec<&str> = offer.mechanisms().collect()?;
    let exchange = ClientExchange::new(&offered, binding)?;
    let (mechanism, first) = exchange.initial();
    let mut message = BytesMut::with_capacity(128);
    frontend::sasl_initial_response(mechanism, &first, &mut message)?;
    client.send(&message).await?;

    let Message::AuthenticationSaslContinue(challenge) = client.receive().await? else {
        return Err(Failure::protocol("the server broke the SCRAM exchange off"));
    };
    let challenged = exchange.challenge(challenge.data())?;
    let keys = target.keys.get(password, challenged.challenge()).await?;
    let (proof, responded) = challenged.respond(&keys);
    message.clear();
    frontend::sasl_response(&proof, &mut message)?;
    client.send(&message).await?;

    let Message::AuthenticationSaslFinal(last) = client.receive().await? else {
        return Err(Failure::protocol("the server broke the SCRAM exchange off"));
    };
    Ok(responded.finish(last.data())?)
}
