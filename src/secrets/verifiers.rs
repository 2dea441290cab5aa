//! From a user's stored secret to what a client must prove.

use std::sync::Arc;

use super::{KeyCache, ProcessSecret};
use crate::auth::md5;
use crate::auth::scram::{BadVerifier, DEFAULT_ITERATIONS, Verifier};
use crate::config::{ClientAuth, Secret};

/// What a client must prove, and against what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    Trust,
    /// By SCRAM, against this verifier.
    Scram {
        /// What is shown to the client.
        verifier: Verifier,
        /// Why no proof will be accepted; `None`: the right one will be. For the log only.
        doom: Option<Doom>,
    },
    /// By md5, against this hash.
    Md5(String),
    /// By the password itself, for [`Verifiers::check_password`].
    Password,
}

/// Why a login that goes its usual way cannot succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doom {
    /// There is no such user, or none with a password.
    #[error("no such user, or one without a password")]
    NoSecret,
    /// Only an md5 hash is known, from which SCRAM is impossible.
    #[error("only an md5 hash is stored for this user, and md5 is not allowed (auth = \"md5\" would allow it)")]
    Md5Only,
    /// The stored verifier is broken.
    #[error("{0}")]
    BadVerifier(BadVerifier),
}

/// Makes [`Proof`]s and checks passwords.
#[derive(Debug, Clone)]
pub struct Verifiers {
    keys: Arc<KeyCache>,
    secret: ProcessSecret,
}

impl Verifiers {
    /// Keys are derived by and remembered in `keys`. `secret` decides the salts of users without a verifier: where
    /// several processes share it, they also show the same ones.
    pub fn new(keys: Arc<KeyCache>, secret: ProcessSecret) -> Self {
        Self { keys, secret }
    }

    /// What `user` must prove under `method`, given the stored secret (`None`: there is no such user). For a plain
    /// password this derives a verifier the first time ([`Verifiers::warm`] does that beforehand, so that time tells
    /// nobody who exists). Cancel-safe.
    pub async fn proof(&self, method: ClientAuth, user: &str, secret: Option<&Secret>) -> Proof {
        match (method, secret) {
            (ClientAuth::Trust, _) => Proof::Trust,
            (ClientAuth::Cleartext, _) => Proof::Password,
            (ClientAuth::Md5, Some(Secret::Md5(hash))) => Proof::Md5(hash.clone()),
            (ClientAuth::Scram | ClientAuth::Md5, secret) => {
                let (verifier, doom) = self.verifier(user, secret).await;
                Proof::Scram { verifier, doom }
            }
        }
    }

    /// Whether `password` is that of the stored secret. Every wrong answer costs the same, whether the user exists or
    /// not: one derivation on a helper thread. A right one is remembered. Cancel-safe.
    pub async fn check_password(&self, user: &str, secret: Option<&Secret>, password: &[u8]) -> bool {
        let (verifier, doom) = self.verifier(user, secret).await;
        // PostgreSQL knows no empty passwords (`recv_password_packet`); a stored one would be a mistake.
        let fits_md5 = matches!(secret, Some(Secret::Md5(hash)) if md5::hash(password, user) == *hash);
        if fits_md5 && !password.is_empty() {
            return true;
        }
        let fits = self
            .keys
            .keys_if(password, &verifier.salt, verifier.iterations, |keys| doom.is_none() && verifier.matches(keys))
            .await;
        fits.is_some() && !password.is_empty()
    }

    /// Derives the verifier of this user's plain password ahead of the first login.
    pub async fn warm(&self, user: &str, secret: &Secret) {
        if matches!(secret, Secret::Plain(_)) {
            self.verifier(user, Some(secret)).await;
        }
    }

    async fn verifier(&self, user: &str, secret: Option<&Secret>) -> (Verifier, Option<Doom>) {
        let doom = match secret {
            Some(Secret::Plain(password)) if !password.0.is_empty() => {
                // The salt that a user who does not exist would show, see `Verifier::salt_for`.
                let salt = Verifier::salt_for(user, self.secret.as_bytes());
                let keys = self.keys.keys(password.0.as_bytes(), &salt, DEFAULT_ITERATIONS).await;
                return (keys.verifier(salt, DEFAULT_ITERATIONS), None);
            }
            Some(Secret::Scram(text)) => match Verifier::parse(text) {
                Ok(verifier) => return (verifier, None),
                Err(error) => Doom::BadVerifier(error),
            },
            Some(Secret::Md5(_)) => Doom::Md5Only,
            Some(Secret::Plain(_)) | None => Doom::NoSecret,
        };
        (Verifier::doomed(user, self.secret.as_bytes()), Some(doom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::{ClientExchange, Keys, ServerExchange, ServerStep};
    use crate::config::Password;

    fn verifiers() -> Verifiers {
        let secret = ProcessSecret::random().unwrap();
        Verifiers::new(Arc::new(KeyCache::new(secret.clone())), secret)
    }

    fn plain(text: &str) -> Secret {
        Secret::Plain(Password(text.to_owned()))
    }

    /// Whether a client with `password` gets in.
    fn login(verifier: Verifier, doom: Option<Doom>, password: &str) -> bool {
        let client = ClientExchange::new(&["SCRAM-SHA-256"], None).unwrap();
        let (mechanism, first) = client.initial();
        let mut server = ServerExchange::new(mechanism.as_bytes(), verifier, doom.is_none(), None).unwrap();
        let ServerStep::Continue(challenge) = server.step(&first) else { panic!("refused at once") };
        let challenged = client.challenge(&challenge).unwrap();
        let challenge = challenged.challenge();
        let keys = Keys::derive(password.as_bytes(), &challenge.salt, challenge.iterations);
        matches!(server.step(&challenged.respond(&keys).0), ServerStep::Success { .. })
    }

    #[tokio::test]
    async fn scram_proofs() {
        let verifiers = verifiers();
        let stored = Verifier::from_password(b"secret", b"stored salt".to_vec(), 2).to_string();
        let hash = md5::hash(b"secret", "app");
        let table = [
            (Some(plain("secret")), None, true),
            (Some(Secret::Scram(stored)), None, true),
            (Some(Secret::Scram("broken".into())), Some(Doom::BadVerifier(BadVerifier::Form)), false),
            (Some(Secret::Md5(hash)), Some(Doom::Md5Only), false),
            (Some(plain("")), Some(Doom::NoSecret), false),
            (None, Some(Doom::NoSecret), false),
        ];
        for (secret, expected, welcome) in table {
            let proof = verifiers.proof(ClientAuth::Scram, "app", secret.as_ref()).await;
            let Proof::Scram { verifier, doom } = proof else { panic!("{proof:?}") };
            assert_eq!(doom, expected);
            assert_eq!(login(verifier.clone(), doom, "secret"), welcome, "{secret:?}");
            assert!(!login(verifier, doom, "wrong"));
        }
    }

    /// Neither the salt, nor its constancy, nor the iterations tell who exists.
    #[tokio::test]
    async fn a_stranger_looks_like_a_user() {
        let verifiers = verifiers();
        let mut shown = Vec::new();
        for secret in [Some(plain("secret")), None, Some(plain("changed"))] {
            let Proof::Scram { verifier, .. } = verifiers.proof(ClientAuth::Scram, "app", secret.as_ref()).await else {
                panic!("not SCRAM")
            };
            shown.push((verifier.salt, verifier.iterations));
        }
        assert!(shown.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[tokio::test]
    async fn other_methods() {
        let verifiers = verifiers();
        let hash = Secret::Md5(md5::hash(b"secret", "app"));
        let proof = async |method, secret| verifiers.proof(method, "app", secret).await;
        assert_eq!(proof(ClientAuth::Trust, None).await, Proof::Trust);
        assert_eq!(proof(ClientAuth::Cleartext, None).await, Proof::Password);
        assert_eq!(proof(ClientAuth::Md5, Some(&hash)).await, Proof::Md5(md5::hash(b"secret", "app")));
        for better in [Some(&plain("secret")), None] {
            assert!(matches!(proof(ClientAuth::Md5, better).await, Proof::Scram { .. }));
        }
    }

    #[tokio::test]
    async fn cleartext_passwords() {
        let verifiers = verifiers();
        let stored = Secret::Scram(Verifier::from_password(b"secret", b"stored salt".to_vec(), 2).to_string());
        let hash = Secret::Md5(md5::hash(b"secret", "app"));
        for secret in [&plain("secret"), &stored, &hash] {
            for _ in 0..2 {
                assert!(verifiers.check_password("app", Some(secret), b"secret").await, "{secret:?}");
                assert!(!verifiers.check_password("app", Some(secret), b"Secret").await, "{secret:?}");
            }
            assert!(!verifiers.check_password("app", Some(secret), b"").await);
        }
        assert!(!verifiers.check_password("app", None, b"secret").await);
        for empty in [plain(""), Secret::Md5(md5::hash(b"", "app"))] {
            assert!(!verifiers.check_password("app", Some(&empty), b"").await, "{empty:?}");
        }
    }

    #[tokio::test]
    async fn warm_makes_the_first_login_as_quick_as_any() {
        let verifiers = verifiers();
        let (alice, bob) = (plain("a"), plain("b"));
        verifiers.warm("alice", &alice).await;
        verifiers.warm("bob", &bob).await;
        // Known by now, so no helper thread is needed: ready at the first poll.
        let mut proof = Box::pin(verifiers.proof(ClientAuth::Scram, "bob", Some(&bob)));
        let ready = std::future::poll_fn(|cx| std::task::Poll::Ready(proof.as_mut().poll(cx).is_ready())).await;
        assert!(ready);
    }
}
