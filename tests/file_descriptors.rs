//! What a limit on file descriptors below what `max_clients` needs leads to.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// `run` for 1,000 clients under these limits on file descriptors (of `ulimit`), with what it logs; ended when dropped.
/// Without `CAP_SYS_RESOURCE`, with which root may raise any limit (capabilities(7)).
struct Limited {
    child: Child,
    lines: Receiver<String>,
}

impl Limited {
    fn run(soft: u32, hard: u32) -> Self {
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" run");
        let mut command = Command::new("sh");
        if std::fs::metadata("/proc/self").expect("our process").uid() == 0 {
            command = Command::new("setpriv");
            command.args(["--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource", "--", "sh"]);
        }
        let mut child = command
            .args(["-c", &script, env!("CARGO_BIN_EXE_pgfunnel")])
            .env_clear()
            .envs([("PGFUNNEL_LISTEN", "127.0.0.1:0"), ("PGFUNNEL_HTTP_LISTEN", "off")])
            .env("DATABASE_URL", "postgres://app:hunter2@db.example:5433/app")
            .env("PGFUNNEL_MAX_CLIENTS", "1000")
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let (sender, lines) = channel();
        // Ends when the child does.
        thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines }
    }

    /// Everything up to the line with `text`.
    fn log_until(&self, text: &str) -> String {
        let mut log = String::new();
        while !log.contains(text) {
            let line = self.lines.recv_timeout(Duration::from_secs(30));
            log += &line.unwrap_or_else(|_| panic!("no {text:?} in:\n{log}"));
        }
        log
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn too_few_file_descriptors_are_worth_a_warning() {
    let log = Limited::run(256, 300).log_until("pgfunnel is ready");
    assert!(log.contains("file descriptor limit 300 is below the 1264 that max_clients = 1000"), "{log}");
}

#[test]
fn a_low_soft_limit_on_file_descriptors_is_raised() {
    let limited = Limited::run(256, 4000);
    let log = limited.log_until("pgfunnel is ready");
    assert!(!log.contains("file descriptor limit"), "{log}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", limited.child.id())).expect("its limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("one on files");
    assert_eq!(files.split_whitespace().collect::<Vec<_>>(), ["1264", "4000", "files"]);
}
