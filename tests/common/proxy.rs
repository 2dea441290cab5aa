//! The real binary, run with a configuration of its own for one test.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{APP, Addr, Cluster, PASSWORD, Port, Result, Target, eventually, http};

/// A configuration file: top level lines, and the sections behind them.
#[derive(Clone, Default)]
pub struct Config {
    listen: Option<String>,
    top: String,
    database: String,
    user: String,
    rest: String,
    log: Option<&'static str>,
}

impl Config {
    /// The database and role [`APP`] of a cluster.
    pub fn of(cluster: &Cluster) -> Self {
        Self::port(cluster.port())
    }

    /// The same for a server on any port of 127.0.0.1.
    pub fn port(port: u16) -> Self {
        let database = format!("[databases.{APP}]\nhost = \"127.0.0.1\"\nport = {port}\n");
        let user = format!("[users.{APP}]\npassword = \"{PASSWORD}\"\n");
        Self { database, user, ..Self::default() }
    }

    /// Listens somewhere else than on the port that is reserved for it.
    #[must_use]
    pub fn listen(mut self, value: &str) -> Self {
        self.listen = Some(value.to_owned());
        self
    }

    /// More lines at the top level.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.top = format!("{}{lines}\n", self.top);
        self
    }

    /// More lines in `[databases.app]`.
    #[must_use]
    pub fn database(mut self, lines: &str) -> Self {
        self.database = format!("{}{lines}\n", self.database);
        self
    }

    /// More lines in `[users.app]`.
    #[must_use]
    pub fn user(mut self, lines: &str) -> Self {
        self.user = format!("{}{lines}\n", self.user);
        self
    }

    /// Logs as this filter says.
    #[must_use]
    pub fn log(mut self, filter: &'static str) -> Self {
        self.log = Some(filter);
        self
    }

    /// More sections.
    #[must_use]
    pub fn section(mut self, lines: &str) -> Self {
        self.rest = format!("{}{lines}\n", self.rest);
        self
    }

    /// The same without the sections of [`APP`].
    #[must_use]
    pub fn bare(mut self) -> Self {
        (self.database, self.user) = Default::default();
        self
    }

    /// Starts the proxy with it and waits until it is ready.
    pub fn start(&self) -> Result<Proxy> {
        let proxy = self.spawn()?;
        proxy.wait_ready()?;
        Ok(proxy)
    }

    /// Starts the proxy with it.
    pub fn spawn(&self) -> Result<Proxy> {
        self.spawn_into(|_| ())
    }

    /// The same with its stdout elsewhere than in the log, and waits until it is ready.
    pub fn start_into(&self, stdout: impl Into<Stdio>) -> Result<Proxy> {
        let proxy = self.spawn_into(|command| {
            command.stdout(stdout);
        })?;
        proxy.wait_ready()?;
        Ok(proxy)
    }

    /// The same with its log elsewhere.
    pub fn start_logging_into(&self, stderr: impl Into<Stdio>) -> Result<Proxy> {
        let proxy = self.spawn_into(|command| {
            command.stderr(stderr);
        })?;
        proxy.wait_ready()?;
        Ok(proxy)
    }

    fn spawn_into(&self, redirect: impl FnOnce(&mut Command)) -> Result<Proxy> {
        Proxy::launch(|command, [listen, http], file| {
            fs::write(file, self.text(listen, http))?;
            redirect(command);
            command.arg("--config").arg(file).env_remove("DATABASE_URL").env("RUST_BACKTRACE", "1");
            command.envs(self.log.map(|filter| ("PGFUNNEL_LOG", filter)));
            Ok(())
        })
    }

    fn text(&self, listen: SocketAddr, http: SocketAddr) -> String {
        let Self { top, database, user, rest, .. } = self;
        let listen = self.listen.clone().unwrap_or_else(|| format!("\"{listen}\""));
        format!("listen = {listen}\nhttp_listen = \"{http}\"\n{top}\n{database}\n{user}\n{rest}")
    }
}

/// A running pgfunnel, killed when this is dropped. Its log is printed then (and so shown when the test fails), and
/// must hold neither a panic nor a password.
pub struct Proxy {
    child: Child,
    port: Port,
    http_port: Port,
    file: PathBuf,
    log_path: PathBuf,
    _dir: TempDir,
}

impl Proxy {
    /// Starts it without a file: these variables, its addresses, and no others.
    pub fn by_environment(variables: &[(&str, &str)]) -> Result<Self> {
        let proxy = Self::launch(|command, [listen, http], _| {
            command.env_clear().envs(variables.iter().copied());
            command.env("PGFUNNEL_LISTEN", listen.to_string()).env("PGFUNNEL_HTTP_LISTEN", http.to_string());
            Ok(())
        })?;
        proxy.wait_ready()?;
        Ok(proxy)
    }

    /// `run` with what `prepare` adds, given the two addresses and where a configuration file may be.
    fn launch(prepare: impl FnOnce(&mut Command, [SocketAddr; 2], &Path) -> Result) -> Result<Self> {
        let (port, http_port) = (Port::reserve()?, Port::reserve()?);
        let dir = tempfile::Builder::new().prefix("pgfunnel-test-").tempdir()?;
        let (file, log_path) = (dir.path().join("pgfunnel.toml"), dir.path().join("log"));
        let log = File::create(&log_path)?;
        // Another binary (a release build, a package) can be put to the test.
        let binary = std::env::var_os("PGFUNNEL_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_pgfunnel").into());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary).arg("run");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(dir.path());
        prepare(&mut command, [port.addr(), http_port.addr()], &file)?;
        let child = command.spawn()?;
        Ok(Self { child, port, http_port, file, log_path, _dir: dir })
    }

    /// The role [`APP`] through the proxy.
    pub fn target(&self) -> Target {
        Target::new(Addr::Tcp(self.addr()), APP, PASSWORD, APP)
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Where health and metrics are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_port.addr()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of an HTTP GET.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.http_addr(), path)
    }

    /// The sum of all series of `name` that have every label in `labels` (written as in the text format,
    /// `state="idle"`); 0 if there is none.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, text) = self.get("/metrics")?;
        let mut sum = 0.0;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            if rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)) {
                sum += rest.rsplit(' ').next().unwrap_or_default().parse::<f64>()?;
            }
        }
        Ok(sum)
    }

    /// Clients that wait for a backend right now.
    pub fn waiting(&self) -> Result<f64> {
        self.metric("pgfunnel_clients", &["state=\"waiting\""])
    }

    /// Replaces the configuration file, keeping the addresses, and sends SIGHUP.
    pub fn reload(&self, config: &Config) -> Result {
        fs::write(&self.file, config.text(self.addr(), self.http_addr()))?;
        self.signal("HUP")
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) -> Result {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status()?;
        if status.success() { Ok(()) } else { Err(format!("kill -{name}: {status}").into()) }
    }

    /// Waits until the process has ended.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        eventually("pgfunnel exits", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.ok_or_else(|| "no status".into())
    }

    /// Whether the process still runs.
    pub fn alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> Result<usize> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// Its lines so far.
    pub fn log_lines(&self) -> Result<Vec<Value>> {
        let log = self.log();
        // The last may not be there whole.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}").into()))
            .collect()
    }

    /// Waits for a line that is about this: the first whose message begins so and that has these fields.
    pub fn wait_line(&self, message: &str, fields: &[(&str, &str)]) -> Result<Value> {
        let has = |line: &Value, (name, value): &(&str, &str)| {
            line[*name].as_str().map_or_else(|| line[*name].to_string(), str::to_owned) == *value
        };
        let mut found = None;
        eventually(&format!("the log has {message:?} with {fields:?}"), || {
            found = self.log_lines()?.into_iter().find(|line| {
                line["message"].as_str().is_some_and(|text| text.starts_with(message))
                    && fields.iter().all(|field| has(line, field))
            });
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| "no such line".into())
    }

    /// Waits until the log holds `text`.
    pub fn wait_log(&self, text: &str) -> Result {
        eventually(&format!("the log says {text:?}"), || Ok(self.log().contains(text)))
    }

    fn wait_ready(&self) -> Result {
        let process = format!("/proc/{}/stat", self.pid());
        eventually("pgfunnel is ready", || {
            let stat = fs::read_to_string(&process).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return Err(format!("pgfunnel ended:\n{}", self.log()).into());
            }
            Ok(matches!(self.get("/readyz"), Ok((200, _))))
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(60).collect();
        eprintln!("--- pgfunnel's log (end)");
        tail.iter().rev().for_each(|line| eprintln!("{line}"));
        if !std::thread::panicking() {
            assert!(!log.contains("panicked at"), "pgfunnel panicked");
            assert!(!log.contains(PASSWORD), "pgfunnel logged a password");
        }
    }
}
