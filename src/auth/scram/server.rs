//! The server side: logs a client in against a [`Verifier`].

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::keys::{Keys, SaltedKeys, hmac, sha256, xor};
use super::message::{Fields, MAX_CLIENT_MESSAGE, decode, is_nonce, new_nonce, split};
use super::{BINDING_TYPE, KEY_LEN, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier};
use crate::auth::AuthFailure;

/// What to do after a message of the client.
#[must_use]
#[derive(Debug)]
pub enum ServerStep {
    /// Send this as AuthenticationSASLContinue, then wait for the next message.
    Continue(Vec<u8>),
    /// The client is who it says: send this as AuthenticationSASLFinal, then AuthenticationOk.
    Success {
        /// The server's signature.
        final_message: Vec<u8>,
        /// The keys that the proof revealed: they log in to any server that holds the same verifier.
        recovered: SaltedKeys,
    },
    /// Refuse the client.
    Failure(AuthFailure),
}

/// One SCRAM login of a client.
#[derive(Debug)]
pub struct ServerExchange {
    state: State,
    verifier: Verifier,
    genuine: bool,
    plus: bool,
    binding: Option<Vec<u8>>,
    nonce: String,
}

#[derive(Debug)]
enum State {
    /// Waits for client-first-message.
    First,
    /// Waits for client-final-message.
    Final(First),
    Done,
}

/// What client-first-message leaves for the end.
#[derive(Debug)]
struct First {
    /// The value that `c=` must have: base64 of gs2 header and binding data.
    binding: String,
    /// Both nonces joined.
    nonce: Vec<u8>,
    /// `client-first-message-bare,server-first-message,`
    transcript: Vec<u8>,
}

const END: AuthFailure = AuthFailure::Malformed("a message came after the end of the exchange");

impl ServerExchange {
    /// An exchange for a client that chose `mechanism`. With `genuine` false the verifier is only shown (see
    /// [`Verifier::doomed`]): all is computed as usual, and the answer is always [`AuthFailure::InvalidProof`].
    /// `binding` is our certificate's tls-server-end-point data; present exactly when
    /// [`SCRAM_SHA_256_PLUS`] was offered.
    ///
    /// # Errors
    /// A mechanism that was not offered; no randomness from the system.
    pub fn new(
        mechanism: &[u8],
        verifier: Verifier,
        genuine: bool,
        binding: Option<&[u8]>,
    ) -> Result<Self, AuthFailure> {
        let nonce = new_nonce().ok_or(AuthFailure::Unsupported("could not generate random nonce"))?;
        Self::with_nonce(mechanism, verifier, genuine, binding, nonce)
    }

    fn with_nonce(
        mechanism: &[u8],
        verifier: Verifier,
        genuine: bool,
        binding: Option<&[u8]>,
        nonce: String,
    ) -> Result<Self, AuthFailure> {
        let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes() && binding.is_some();
        if !plus && mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(AuthFailure::Malformed("client selected an invalid SASL authentication mechanism"));
        }
        let binding = binding.map(<[u8]>::to_vec);
        Ok(Self { state: State::First, verifier, genuine, plus, binding, nonce })
    }

    /// Takes the next message: first the initial response of SASLInitialResponse, then that of SASLResponse.
    pub fn step(&mut self, input: &[u8]) -> ServerStep {
        let step = match std::mem::replace(&mut self.state, State::Done) {
            _ if input.len() > MAX_CLIENT_MESSAGE => Err(AuthFailure::Malformed("the message is too long")),
            State::First => self.first(input).map(|(first, challenge)| {
                self.state = State::Final(first);
                ServerStep::Continue(challenge)
            }),
            State::Final(first) => self.last(&first, input),
            State::Done => Err(END),
        };
        step.unwrap_or_else(ServerStep::Failure)
    }

    /// client-first-message -> server-first-message.
    fn first(&self, input: &[u8]) -> Result<(First, Vec<u8>), AuthFailure> {
        const MALFORMED: AuthFailure = AuthFailure::Malformed("client-first-message is not as RFC 5802 says");
        let (flag, rest) = split(input);
        self.check_flag(flag)?;
        let (authzid, bare) = split(rest.ok_or(MALFORMED)?);
        if !authzid.is_empty() {
            return Err(AuthFailure::Unsupported("client uses authorization identity, but it is not supported"));
        }
        let bare = bare.ok_or(MALFORMED)?;
        if bare.starts_with(b"m=") {
            return Err(AuthFailure::Unsupported("client requires an unsupported SCRAM extension"));
        }
        let mut fields = Fields::new(bare);
        fields.expect(b'n').ok_or(MALFORMED)?;
        let client_nonce = fields.expect(b'r').filter(|nonce| is_nonce(nonce)).ok_or(MALFORMED)?;
        if !fields.only_extensions_left() {
            return Err(MALFORMED);
        }

        let nonce = [client_nonce, self.nonce.as_bytes()].concat();
        let cost = format!(",s={},i={}", STANDARD.encode(&self.verifier.salt), self.verifier.iterations);
        let challenge = [b"r=", nonce.as_slice(), cost.as_bytes()].concat();
        let transcript = [bare, b",", &challenge, b","].concat();
        Ok((First { binding: self.expected_binding(flag), nonce, transcript }, challenge))
    }

    /// The channel binding flag of the gs2 header against what was offered and chosen.
    fn check_flag(&self, flag: &[u8]) -> Result<(), AuthFailure> {
        match flag {
            b"n" | b"y" if self.plus => Err(AuthFailure::Malformed(
                "the client selected SCRAM-SHA-256-PLUS, but the message has no channel binding data",
            )),
            b"n" => Ok(()),
            // It could, and believes that we cannot: somebody removed -PLUS from our list on the way.
            b"y" if self.binding.is_some() => Err(AuthFailure::ChannelBinding(
                "the client supports SCRAM channel binding but thinks the server does not; this server does",
            )),
            b"y" => Ok(()),
            [b'p', b'=', _kind @ ..] if !self.plus => Err(AuthFailure::Malformed(
                "the client selected SCRAM-SHA-256 without channel binding, but the message has channel binding data",
            )),
            [b'p', b'=', kind @ ..] if kind == BINDING_TYPE => Ok(()),
            [b'p', b'=', ..] => Err(AuthFailure::Malformed("unsupported SCRAM channel-binding type")),
            _ => Err(AuthFailure::Malformed("unexpected channel-binding flag")),
        }
    }

    fn expected_binding(&self, flag: &[u8]) -> String {
        let data = self.binding.as_deref().filter(|_| self.plus).unwrap_or_default();
        STANDARD.encode([flag, b",,", data].concat())
    }

    /// client-final-message -> server-final-message.
    fn last(&self, first: &First, input: &[u8]) -> Result<ServerStep, AuthFailure> {
        const MALFORMED: AuthFailure = AuthFailure::Malformed("client-final-message is not as RFC 5802 says");
        let comma = input.iter().rposition(|b| *b == b',').ok_or(MALFORMED)?;
        let (without_proof, proof) = input.split_at_checked(comma).ok_or(MALFORMED)?;
        let proof: [u8; KEY_LEN] = proof.strip_prefix(b",p=").and_then(decode).ok_or(MALFORMED)?;
        let mut fields = Fields::new(without_proof);
        let binding = fields.expect(b'c').ok_or(MALFORMED)?;
        let nonce = fields.expect(b'r').ok_or(MALFORMED)?;
        if !fields.only_extensions_left() {
            return Err(MALFORMED);
        }
        if verify_slices_are_equal(binding, first.binding.as_bytes()).is_err() {
            return Err(AuthFailure::ChannelBinding("the data is not that of this connection"));
        }
        if nonce != first.nonce {
            return Err(AuthFailure::Malformed("the nonce does not match"));
        }

        let transcript: &[&[u8]] = &[&first.transcript, without_proof];
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, transcript));
        let fits = verify_slices_are_equal(&sha256(&client_key), &self.verifier.stored_key).is_ok();
        // Computed before the answer is known, so that a user who does not exist costs the same.
        let signature = STANDARD.encode(hmac(&self.verifier.server_key, transcript));
        if !(fits & self.genuine) {
            return Err(AuthFailure::InvalidProof);
        }
        let keys = Keys { client_key, server_key: self.verifier.server_key };
        let recovered = SaltedKeys::new(keys, self.verifier.salt.clone(), self.verifier.iterations);
        Ok(ServerStep::Success { final_message: [b"v=", signature.as_bytes()].concat(), recovered })
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
