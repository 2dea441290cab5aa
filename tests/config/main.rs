//! Configuration as an operator meets it: the real binary's `check`, its exit codes and its messages.

mod sources;
mod wrong_values;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const URL: (&str, &str) = ("DATABASE_URL", "postgres://app:hunter2@db.example:5433/app");
/// A whole, valid file; what a case adds comes after it.
const DATABASE: &str = "[databases.app]\nhost = \"127.0.0.1\"\n";
const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$QqlqAj8Es4f8D5iUgdh1OLL0sZ5y6UwHqAdLdJ/a0K4=:\
                     6jN6l1IeeJdLZl0ozuxTySBTTDvCfPpjA7ZKE3e5P+c=";

/// Runs `pgfunnel` with these variables and no others.
fn pgfunnel(arguments: &[&str], variables: &[(&str, &str)], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgfunnel"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .expect("the binary starts")
}

/// `check` on a file `pgfunnel.toml` that only its owner can read.
struct Case {
    directory: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Case {
    fn new(toml: &str) -> Self {
        let case = Self { directory: tempfile::tempdir().expect("a directory"), variables: Vec::new() };
        case.file("pgfunnel.toml", toml, 0o600);
        case
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
        path
    }

    fn var(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn check(&self) -> (i32, String, String) {
        let variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let output = pgfunnel(&["check", "--config", "pgfunnel.toml"], &variables, self.directory.path());
        read(&output)
    }

    /// Exits with 2, and says all of `parts`.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let (code, stdout, stderr) = self.check();
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "no {part:?} in:\n{stderr}");
        }
        assert!(!stderr.contains("hunter2"), "a secret in:\n{stderr}");
    }

    /// Exits with 0; the summary and the warnings.
    #[track_caller]
    fn accepted(&self) -> (String, String) {
        let (code, stdout, stderr) = self.check();
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.starts_with("config ok: "), "{stdout}");
        assert!(!stderr.contains("hunter2"), "a secret in:\n{stderr}");
        (stdout, stderr)
    }
}

fn read(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}
