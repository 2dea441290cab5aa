//! The client side against RFC 7677's figures, our own server side and hostile servers.

use proptest::prelude::*;

use super::super::{ServerExchange, ServerStep, Verifier};
use super::*;

const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

fn exchange(offered: &[&str], binding: Option<&[u8]>) -> ClientExchange {
    ClientExchange::with_nonce(offered, binding, NONCE.to_owned()).unwrap()
}

#[test]
fn chooses_the_best_mechanism() {
    let both = &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..];
    let plain = &["X", "SCRAM-SHA-256"][..];
    type Row<'a> = (&'a [&'a str], Option<&'a [u8]>, &'a str, &'a str);
    let table: &[Row] = &[
        (both, Some(b"d"), "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r="),
        (both, None, "SCRAM-SHA-256", "n,,n=,r="),
        (plain, Some(b"d"), "SCRAM-SHA-256", "y,,n=,r="),
        (plain, None, "SCRAM-SHA-256", "n,,n=,r="),
    ];
    for (offered, binding, mechanism, first) in table {
        let message = [first.as_bytes(), NONCE.as_bytes()].concat();
        assert_eq!(exchange(offered, *binding).initial(), (*mechanism, message));
    }
    assert_eq!(ClientExchange::new(&["SCRAM-SHA-256-PLUS"], None).unwrap_err(), ClientFailure::NoMechanism);
    assert_eq!(ClientExchange::new(&[], Some(b"d")).unwrap_err(), ClientFailure::NoMechanism);
}

/// RFC 7677's exchange names its user, ours does not; so the vector is fed in behind the first message.
#[test]
fn rfc_7677_proof_and_signature() {
    let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    let mut challenged = exchange(&["SCRAM-SHA-256"], None).challenge(server_first.as_bytes()).unwrap();
    assert_eq!(challenged.challenge().iterations, 4096);
    let without_proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    assert_eq!(challenged.without_proof, without_proof);
    challenged.transcript = format!("n=user,r={NONCE},{server_first},{without_proof}").into_bytes();
    let keys = Keys::derive(b"pencil", &challenged.challenge().salt, 4096);
    let (message, responded) = challenged.respond(&keys);
    let proof = format!("{without_proof},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert_eq!(message, proof.into_bytes());
    assert_eq!(responded.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
}

#[test]
fn challenges_that_are_refused() {
    let malformed = ClientFailure::Malformed("first message");
    let table = [
        ("", malformed.clone()),
        ("e=other-error", malformed.clone()),
        ("m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096", malformed.clone()),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA", malformed.clone()),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", malformed.clone()),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=A*,i=4096", malformed.clone()),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1", malformed.clone()),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=99999999999", malformed.clone()),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096,", malformed),
        ("r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096", ClientFailure::Nonce),
        ("r=another,s=AAAA,i=4096", ClientFailure::Nonce),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0", ClientFailure::Iterations(0)),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001", ClientFailure::Iterations(1_000_001)),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=2147483647", ClientFailure::Iterations(2_147_483_647)),
    ];
    for (input, expected) in table {
        let failure = exchange(&["SCRAM-SHA-256"], None).challenge(input.as_bytes()).unwrap_err();
        assert_eq!(failure, expected, "{input}");
    }
}

fn responded() -> Responded {
    let challenged = exchange(&["SCRAM-SHA-256"], None).challenge(b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1").unwrap();
    challenged.respond(&Keys::derive(b"pencil", b"", 1)).1
}

#[test]
fn final_messages_that_are_refused() {
    let malformed = ClientFailure::Malformed("final message");
    let wrong = format!("v={}", STANDARD.encode([0; KEY_LEN]));
    assert_eq!(responded().finish(b""), Err(malformed.clone()));
    assert_eq!(responded().finish(b"v="), Err(malformed.clone()));
    assert_eq!(responded().finish(b"x=1"), Err(malformed));
    assert_eq!(responded().finish(wrong.as_bytes()), Err(ClientFailure::Signature));
    assert_eq!(responded().finish(b"e=\x1b[1mno\xff"), Err(ClientFailure::Refused("[1mno".into())));
}

/// Runs a whole login with one iteration; whether it succeeded on both sides.
fn login(stored: &[u8], given: &[u8], binding: Option<&[u8]>) -> bool {
    let verifier = Verifier::from_password(stored, b"salt".to_vec(), 1);
    let client = ClientExchange::new(super::super::mechanisms(binding.is_some()), binding).unwrap();
    let (mechanism, first) = client.initial();
    let mut server = ServerExchange::new(mechanism.as_bytes(), verifier, true, binding).unwrap();
    let ServerStep::Continue(challenge) = server.step(&first) else { panic!("first message refused") };
    let challenged = client.challenge(&challenge).unwrap();
    let keys = Keys::derive(given, &challenged.challenge().salt, challenged.challenge().iterations);
    let challenge = challenged.challenge().clone();
    let (response, responded) = challenged.respond(&keys);
    match server.step(&response) {
        ServerStep::Success { final_message, recovered } => {
            responded.finish(&final_message).unwrap();
            assert_eq!(recovered.for_challenge(&challenge), Some(&keys));
            true
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn both_sides_agree_on_any_password(password: Vec<u8>, binding: Option<Vec<u8>>) {
        // An exotic binding must fit the size limit of a message; real ones have at most 64 bytes.
        let binding = binding.map(|mut data| { data.truncate(64); data });
        prop_assert!(login(&password, &password, binding.as_deref()));
    }

    #[test]
    fn another_password_never_logs_in(stored in "[a-z]{1,9}", given in "[A-Z0-9]{0,9}") {
        prop_assert!(!login(stored.as_bytes(), given.as_bytes(), None));
    }

    #[test]
    fn unicode_passwords_agree(password in "\\PC*") {
        prop_assert!(login(password.as_bytes(), password.as_bytes(), None));
    }

    #[test]
    fn never_panics(first: Vec<u8>, last: Vec<u8>) {
        prop_assert!(exchange(&["SCRAM-SHA-256"], None).challenge(&first).is_err());
        prop_assert!(responded().finish(&last).is_err());
    }
}
