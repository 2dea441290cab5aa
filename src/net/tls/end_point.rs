//! Channel binding data `tls-server-end-point` (RFC 5929, section 4.1): a hash of the server's certificate.

use aws_lc_rs::digest::{Algorithm, SHA224, SHA256, SHA384, SHA512, digest};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::RsaSsaPssParams;

/// The binding data of a certificate (DER): its hash by the hash function of its signature, SHA-256 instead of MD5 and
/// SHA-1. `None` where the RFC defines none (Ed25519 …): there SCRAM-SHA-256-PLUS must not be offered or chosen.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(digest(hash_of(&parsed)?, certificate).as_ref().to_vec())
}

fn hash_of(certificate: &X509Certificate<'_>) -> Option<&'static Algorithm> {
    let signature = &certificate.signature_algorithm;
    let is = |known: &[oid::Oid<'static>]| known.contains(&signature.algorithm);
    if signature.algorithm == oid::OID_PKCS1_RSASSAPSS {
        let params = RsaSsaPssParams::try_from(signature.parameters.as_ref()?).ok()?;
        let hash = params.hash_algorithm_oid();
        return [
            (oid::OID_HASH_SHA1, &SHA256),
            (oid::OID_NIST_HASH_SHA256, &SHA256),
            (oid::OID_NIST_HASH_SHA384, &SHA384),
            (oid::OID_NIST_HASH_SHA512, &SHA512),
        ]
        .into_iter()
        .find_map(|(known, algorithm)| (known == *hash).then_some(algorithm));
    }
    // ecdsa-with-SHA1 and dsa-with-sha256 (RFC 3279, RFC 5758) have no name in the registry.
    let ecdsa_sha1 = signature.algorithm.to_id_string() == "1.2.840.10045.4.1";
    let dsa_sha256 = signature.algorithm.to_id_string() == "2.16.840.1.101.3.4.3.2";
    let sha256 = [
        oid::OID_PKCS1_MD5WITHRSAENC,
        oid::OID_PKCS1_SHA1WITHRSA,
        oid::OID_PKCS1_SHA256WITHRSA,
        oid::OID_SIG_ECDSA_WITH_SHA256,
        oid::OID_SIG_DSA_WITH_SHA1,
    ];
    if is(&sha256) || ecdsa_sha1 || dsa_sha256 {
        Some(&SHA256)
    } else if is(&[oid::OID_PKCS1_SHA384WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA384]) {
        Some(&SHA384)
    } else if is(&[oid::OID_PKCS1_SHA512WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA512]) {
        Some(&SHA512)
    } else if is(&[oid::OID_PKCS1_SHA224WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA224]) {
        Some(&SHA224)
    } else {
        None
    }
}
