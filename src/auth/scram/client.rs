//! The client side: logs us into PostgreSQL. One type per state, so that no message can be taken out of order:
//! [`ClientExchange`] → [`Challenged`] → [`Responded`].

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::keys::{Keys, hmac, sha256, xor};
use super::message::{Fields, MAX_SERVER_MESSAGE, decode, is_nonce, new_nonce};
use super::{BINDING_TYPE, KEY_LEN, MAX_ITERATIONS, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

/// Why we refuse to go on with a server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientFailure {
    /// Neither mechanism was offered.
    #[error("the server offers none of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS")]
    NoMechanism,
    /// The system gave no randomness for the nonce.
    #[error("could not generate a random nonce")]
    NoRandomness,
    /// The message breaks RFC 5802.
    #[error("the server's {0} is not as RFC 5802 says")]
    Malformed(&'static str),
    /// The nonce does not begin with ours: the message belongs to another exchange.
    #[error("the server's nonce does not continue ours")]
    Nonce,
    /// More PBKDF2 rounds than [`MAX_ITERATIONS`], or none.
    #[error("the server asks for {0} SCRAM iterations; from 1 to {MAX_ITERATIONS} are accepted")]
    Iterations(u32),
    /// `e=`: the server's reason, printable ASCII only.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server does not know the verifier: somebody else answers in its name.
    #[error("the server's signature is wrong: it does not know this user's secret")]
    Signature,
}

/// What the server wants the keys derived with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Challenge {
    /// The salt, decoded.
    pub salt: Vec<u8>,
    /// PBKDF2 rounds, from 1 to [`MAX_ITERATIONS`].
    pub iterations: u32,
}

/// A login before its first message.
#[derive(Debug)]
pub struct ClientExchange {
    mechanism: &'static str,
    /// gs2 header and binding data, in base64: the value of `c=`.
    binding: String,
    header: Vec<u8>,
    nonce: String,
}

/// A login that has a challenge to answer.
#[derive(Debug)]
pub struct Challenged {
    challenge: Challenge,
    without_proof: String,
    /// `client-first-message-bare,server-first-message,client-final-message-without-proof`
    transcript: Vec<u8>,
}

/// A login that waits for the server's proof.
#[derive(Debug)]
pub struct Responded {
    signature: [u8; KEY_LEN],
}

impl ClientExchange {
    /// Chooses from the mechanisms of AuthenticationSASL. `binding` is the server certificate's
    /// tls-server-end-point data, `None` without TLS.
    ///
    /// # Errors
    /// [`ClientFailure::NoMechanism`], [`ClientFailure::NoRandomness`].
    pub fn new(offered: &[&str], binding: Option<&[u8]>) -> Result<Self, ClientFailure> {
        Self::with_nonce(offered, binding, new_nonce().ok_or(ClientFailure::NoRandomness)?)
    }

    fn with_nonce(offered: &[&str], binding: Option<&[u8]>, nonce: String) -> Result<Self, ClientFailure> {
        let (mechanism, flag, data) = match binding {
            Some(data) if offered.contains(&SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, [b"p=", BINDING_TYPE].concat(), data)
            }
            _ if !offered.contains(&SCRAM_SHA_256) => return Err(ClientFailure::NoMechanism),
            // "We could, you cannot": lets the server notice that somebody removed -PLUS from its list.
            Some(_) => (SCRAM_SHA_256, b"y".to_vec(), &[][..]),
            None => (SCRAM_SHA_256, b"n".to_vec(), &[][..]),
        };
        let header = [flag.as_slice(), b",,"].concat();
        let binding = STANDARD.encode([header.as_slice(), data].concat());
        Ok(Self { mechanism, binding, header, nonce })
    }

    /// The mechanism and the message for SASLInitialResponse.
    pub fn initial(&self) -> (&'static str, Vec<u8>) {
        (self.mechanism, [self.header.as_slice(), self.bare().as_bytes()].concat())
    }

    /// The user name stays empty: PostgreSQL takes that of the startup packet.
    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the body of AuthenticationSASLContinue.
    ///
    /// # Errors
    /// A malformed message, another exchange's nonce, too many iterations.
    pub fn challenge(self, server_first: &[u8]) -> Result<Challenged, ClientFailure> {
        const MALFORMED: ClientFailure = ClientFailure::Malformed("first message");
        if server_first.len() > MAX_SERVER_MESSAGE {
            return Err(MALFORMED);
        }
        let mut fields = Fields::new(server_first);
        let nonce = fields.expect(b'r').filter(|nonce| is_nonce(nonce)).ok_or(MALFORMED)?;
        let salt = fields.expect(b's').and_then(|salt| STANDARD.decode(salt).ok()).ok_or(MALFORMED)?;
        let iterations = fields.expect(b'i').and_then(|n| std::str::from_utf8(n).ok()).ok_or(MALFORMED)?;
        if !fields.only_extensions_left() || salt.is_empty() {
            return Err(MALFORMED);
        }
        let nonce = std::str::from_utf8(nonce).map_err(|_| MALFORMED)?;
        if nonce.strip_prefix(&self.nonce).is_none_or(str::is_empty) {
            return Err(ClientFailure::Nonce);
        }
        let iterations = iterations.parse().map_err(|_| MALFORMED)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(ClientFailure::Iterations(iterations));
        }
        let without_proof = format!("c={},r={nonce}", self.binding);
        let transcript = [self.bare().as_bytes(), b",", server_first, b",", without_proof.as_bytes()].concat();
        Ok(Challenged { challenge: Challenge { salt, iterations }, without_proof, transcript })
    }
}

impl Challenged {
    /// What the keys must be derived with.
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// The message for SASLResponse, from the keys for [`Challenged::challenge`].
    pub fn respond(self, keys: &Keys) -> (Vec<u8>, Responded) {
        let signature = hmac(&sha256(&keys.client_key), &[&self.transcript]);
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        let message = format!("{},p={proof}", self.without_proof).into_bytes();
        (message, Responded { signature: hmac(&keys.server_key, &[&self.transcript]) })
    }
}

impl Responded {
    /// Takes the body of AuthenticationSASLFinal; only after `Ok` is the server who it says it is.
    ///
    /// # Errors
    /// The server's refusal, a malformed message, a wrong signature.
    pub fn finish(self, server_final: &[u8]) -> Result<(), ClientFailure> {
        const MALFORMED: ClientFailure = ClientFailure::Malformed("final message");
        let mut fields = Fields::new(server_final.get(..MAX_SERVER_MESSAGE).unwrap_or(server_final));
        match fields.next().ok_or(MALFORMED)? {
            (b'e', reason) => Err(ClientFailure::Refused(
                reason.iter().filter(|b| (0x20..=0x7e).contains(*b)).map(|b| char::from(*b)).collect(),
            )),
            (b'v', signature) => {
                let signature: [u8; KEY_LEN] = decode(signature).ok_or(MALFORMED)?;
                verify_slices_are_equal(&signature, &self.signature).map_err(|_| ClientFailure::Signature)
            }
            _ => Err(MALFORMED),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
