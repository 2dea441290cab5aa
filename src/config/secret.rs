//! A user's secret, as it is configured and stored. Never printed.

use std::borrow::Cow;
use std::fmt;

use crate::auth::md5;
use crate::auth::scram::{BadVerifier, SCRAM_SHA_256, Verifier};

/// A secret as PostgreSQL's `pg_authid.rolpassword` or a `userlist.txt` stores it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Secret {
    /// The password itself.
    Plain(Password),
    /// `md5` and 32 hexadecimal digits.
    Md5(String),
    /// `SCRAM-SHA-256$…`, parsed by `auth::scram::Verifier` at validation.
    Scram(String),
}

impl Secret {
    /// The kind of a stored secret, told by its form as PostgreSQL does (`get_password_type`).
    ///
    /// # Errors
    /// It begins like a SCRAM verifier and is none: surely not meant as a password.
    pub fn classify(text: &str) -> Result<Self, BadVerifier> {
        if md5::is_hash(text) {
            return Ok(Secret::Md5(text.to_owned()));
        }
        if text.strip_prefix(SCRAM_SHA_256).is_some_and(|rest| rest.starts_with('$')) {
            Verifier::parse(text)?;
            return Ok(Secret::Scram(text.to_owned()));
        }
        Ok(Secret::Plain(Password(text.to_owned())))
    }
}

/// A password; never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Plain(_) => "Plain(…)",
            Secret::Md5(_) => "Md5(…)",
            Secret::Scram(_) => "Scram(…)",
        })
    }
}

/// A text as messages may show it: without the login that stands in a URL, written there by mistake or not. Of what is not
/// encoded right rather too much goes than too little.
pub(crate) fn without_login(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    if let Some((scheme, rest)) = text.split_once("//")
        && let Some((_, place)) = rest.rsplit_once('@')
    {
        shown = Cow::Owned(format!("{scheme}//…@{place}"));
    }
    match shown.find("password=") {
        Some(at) => Cow::Owned(format!("{}password=…", &shown[..at])),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_not_shown() {
        for (text, shown) in [
            ("postgres://u:hunter2@h/db", "postgres://…@h/db"),
            ("http://u:hunter2@x:1", "http://…@x:1"),
            ("//hunter2@", "//…@"),
            ("postgres://u:hunter2@hunter2/@h/db", "postgres://…@h/db"),
            ("postgres://h/db?user=u&password=hunter2", "postgres://h/db?user=u&password=…"),
            ("host=h password='hunter2' port=1", "host=h password=…"),
            ("http://h/", "http://h/"),
            ("u@h", "u@h"),
        ] {
            assert_eq!(without_login(text), shown);
        }
    }

    #[test]
    fn kinds_of_secrets() {
        let hash = md5::hash(b"p", "u");
        let verifier = Verifier::from_password(b"p", b"salt".to_vec(), 1).to_string();
        assert!(matches!(Secret::classify(&hash), Ok(Secret::Md5(text)) if text == hash));
        assert!(matches!(Secret::classify(&verifier), Ok(Secret::Scram(text)) if text == verifier));
        assert!(Secret::classify("SCRAM-SHA-256$broken").is_err());
        for plain in ["p", "md5", "SCRAM-SHA-256", "md5 is old"] {
            assert!(matches!(Secret::classify(plain), Ok(Secret::Plain(Password(text))) if text == plain));
        }
    }
}
