//! A hash of the configuration in force, so that one sees whether all instances are configured alike, and whether a reload
//! has changed anything. Nothing of a secret goes into it: from a short hash a short password could be guessed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Debug, Write as _};

use aws_lc_rs::digest::{SHA256, digest};

use super::Config;

/// Hexadecimal digits that are told: enough to tell any two apart.
const DIGITS: usize = 16;

impl Config {
    /// The same for configurations that mean the same. Secrets show in no `Debug`, and so make no difference.
    pub fn fingerprint(&self) -> String {
        // Where it came from and what was warned of is no part of it; maps are put in order.
        let rest = Config {
            databases: HashMap::new(),
            users: HashMap::new(),
            source: None,
            warnings: Vec::new(),
            ..self.clone()
        };
        let text = format!("{rest:?}{}{}", in_order(&self.databases), in_order(&self.users));
        digest(&SHA256, text.as_bytes()).as_ref().iter().take(DIGITS / 2).fold(String::new(), |mut hash, byte| {
            // Writing to a String does not fail.
            let _ = write!(hash, "{byte:02x}");
            hash
        })
    }
}

fn in_order<T: Debug>(map: &HashMap<String, T>) -> String {
    format!("{:?}", map.iter().collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(variables: &[(&str, &str)]) -> String {
        let url = ("DATABASE_URL", "postgres://app:secret@127.0.0.1/app");
        let variables = [&[url], variables].concat();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(None, variables).expect("valid").fingerprint()
    }

    #[test]
    fn it_is_the_same_for_the_same_and_tells_no_secret() {
        let users = ["A", "B", "C", "D"].map(|name| format!("PGFUNNEL_USERS__{name}__PASSWORD"));
        let with = |password: &str| hash(&users.each_ref().map(|name| (name.as_str(), password)));
        let plain = hash(&[]);
        assert_eq!((plain.len(), &plain), (DIGITS, &hash(&[("PGFUNNEL_POOL_SIZE", "20")])), "the default, said aloud");
        assert_eq!(with("one"), with("another"), "secrets make no difference, nor does the order of a map");
        assert_ne!(with("one"), plain);
        for (name, value) in [("PGFUNNEL_POOL_SIZE", "21"), ("PGFUNNEL_DATABASES__APP__HOST", "::1")] {
            assert_ne!(hash(&[(name, value)]), plain, "{name}");
        }
    }
}
