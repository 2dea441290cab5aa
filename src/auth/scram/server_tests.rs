//! The server side against the vectors of RFC 7677, PostgreSQL's rules and hostile input.

use proptest::prelude::*;

use super::super::{ClientExchange, SALT_LEN};
use super::*;

const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc(genuine: bool) -> ServerExchange {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::from_password(b"pencil", salt, 4096);
    let nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
    ServerExchange::with_nonce(b"SCRAM-SHA-256", verifier, genuine, None, nonce).unwrap()
}

fn failure(step: ServerStep) -> AuthFailure {
    match step {
        ServerStep::Failure(failure) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn proceed(step: ServerStep) -> Vec<u8> {
    match step {
        ServerStep::Continue(message) => message,
        other => panic!("expected to continue, got {other:?}"),
    }
}

#[test]
fn rfc_7677_vector() {
    let mut exchange = rfc(true);
    assert_eq!(proceed(exchange.step(CLIENT_FIRST.as_bytes())), SERVER_FIRST.as_bytes());
    let ServerStep::Success { final_message, recovered } = exchange.step(CLIENT_FINAL.as_bytes()) else {
        panic!("refused")
    };
    assert_eq!(final_message, SERVER_FINAL.as_bytes());
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = Keys::derive(b"pencil", &salt, 4096);
    assert_eq!(recovered, SaltedKeys::new(keys, salt, 4096), "the proof reveals the client's keys");
    assert_eq!(failure(exchange.step(CLIENT_FINAL.as_bytes())), END);
}

#[test]
fn the_right_proof_does_not_help_the_doomed() {
    let mut exchange = rfc(false);
    assert_eq!(proceed(exchange.step(CLIENT_FIRST.as_bytes())), SERVER_FIRST.as_bytes());
    assert_eq!(failure(exchange.step(CLIENT_FINAL.as_bytes())), AuthFailure::InvalidProof);
}

#[test]
fn first_messages_that_are_refused() {
    let table: &[(&str, &str)] = &[
        ("", "unexpected channel-binding flag"),
        ("n", "client-first-message"),
        ("n,", "client-first-message"),
        ("n,,", "client-first-message"),
        ("x,,n=,r=abc", "unexpected channel-binding flag"),
        ("n,a=admin,n=,r=abc", "authorization identity"),
        ("n,,m=ext,n=,r=abc", "unsupported SCRAM extension"),
        ("n,,n=", "client-first-message"),
        ("n,,n=,r=", "client-first-message"),
        ("n,,r=abc,n=", "client-first-message"),
        ("n,,n=,r=a b", "client-first-message"),
        ("n,,n=,r=abc,", "client-first-message"),
        ("n,,n=,r=abc\0", "client-first-message"),
        ("p=tls-server-end-point,,n=,r=abc", "without channel binding, but"),
    ];
    for (input, expected) in table {
        let failure = failure(rfc(true).step(input.as_bytes())).to_string();
        assert!(failure.contains(expected), "{input}: {failure}");
    }
    let long = format!("n,,n=,r={}", "a".repeat(2000));
    assert!(failure(rfc(true).step(long.as_bytes())).to_string().contains("too long"));
    // Optional extensions are ignored.
    proceed(rfc(true).step(b"n,,n=,r=abc,x=1"));
}

#[test]
fn final_messages_that_are_refused() {
    let nonce = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let other = "p=AAAbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let table = [
        (String::new(), "client-final-message"),
        (format!("c=biws,{nonce}"), "client-final-message"),
        (format!("{nonce},c=biws,{proof}"), "client-final-message"),
        (format!("c=biws,{nonce},p=AAAA"), "client-final-message"),
        (format!("c=biws,{nonce},{proof},x=1"), "client-final-message"),
        (format!("c=biws,{nonce},x,{proof}"), "client-final-message"),
        (format!("c=eSws,{nonce},{proof}"), "channel binding"),
        (format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,{proof}"), "nonce does not match"),
        (format!("c=biws,{nonce}X,{proof}"), "nonce does not match"),
        (format!("c=biws,{nonce},{other}"), "proof is wrong"),
        (format!("c=biws,{nonce},x=1,{proof}"), "proof is wrong"),
    ];
    for (input, expected) in table {
        let mut exchange = rfc(true);
        proceed(exchange.step(CLIENT_FIRST.as_bytes()));
        let failure = failure(exchange.step(input.as_bytes())).to_string();
        assert!(failure.contains(expected), "{input}: {failure}");
    }
}

fn over_tls(mechanism: &str) -> Result<ServerExchange, AuthFailure> {
    let verifier = Verifier::from_password(b"pencil", vec![1; SALT_LEN], 1);
    ServerExchange::new(mechanism.as_bytes(), verifier, true, Some(b"certificate"))
}

#[test]
fn channel_binding_rules() {
    let downgrade = failure(over_tls("SCRAM-SHA-256").unwrap().step(b"y,,n=,r=abc"));
    assert!(matches!(downgrade, AuthFailure::ChannelBinding(_)), "{downgrade}");
    assert_eq!(downgrade.to_error("u").code.code(), "28000");
    proceed(over_tls("SCRAM-SHA-256").unwrap().step(b"n,,n=,r=abc"));
    for flag in ["n", "y", "p=tls-unique", "p="] {
        let input = format!("{flag},,n=,r=abc");
        let failure = failure(over_tls("SCRAM-SHA-256-PLUS").unwrap().step(input.as_bytes()));
        assert!(matches!(failure, AuthFailure::Malformed(_)), "{flag}: {failure}");
    }
    let verifier = Verifier::doomed("u", b"s");
    assert!(ServerExchange::new(b"SCRAM-SHA-256-PLUS", verifier.clone(), true, None).is_err(), "no TLS");
    assert!(ServerExchange::new(b"SCRAM-SHA-1", verifier, true, None).is_err());
}

#[test]
fn somebody_in_the_middle_is_noticed() {
    let client = ClientExchange::new(&["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"], Some(b"the attacker's")).unwrap();
    let (mechanism, first) = client.initial();
    let mut server = over_tls(mechanism).unwrap();
    let challenged = client.challenge(&proceed(server.step(&first))).unwrap();
    let (last, _) = challenged.respond(&Keys::derive(b"pencil", &[1; SALT_LEN], 1));
    assert!(matches!(failure(server.step(&last)), AuthFailure::ChannelBinding(_)));
}

proptest! {
    #[test]
    fn never_panics(first: Vec<u8>, last: Vec<u8>) {
        let mut exchange = over_tls("SCRAM-SHA-256").unwrap();
        let succeeded = matches!(exchange.step(&first), ServerStep::Success { .. });
        prop_assert!(!succeeded);
        let mut exchange = over_tls("SCRAM-SHA-256").unwrap();
        proceed(exchange.step(b"n,,n=,r=abc"));
        prop_assert!(matches!(exchange.step(&last), ServerStep::Failure(_)));
    }

    /// One changed byte in the proof message never logs anybody in.
    #[test]
    fn tampering_never_succeeds(at in 0..CLIENT_FINAL.len(), flip in 1u8..) {
        let mut exchange = rfc(true);
        proceed(exchange.step(CLIENT_FIRST.as_bytes()));
        let mut message = CLIENT_FINAL.as_bytes().to_vec();
        message[at] ^= flip;
        prop_assert!(matches!(exchange.step(&message), ServerStep::Failure(_)));
    }
}
