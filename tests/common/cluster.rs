//! A throwaway PostgreSQL server of its own for one test.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Addr, Port, Result, Target, eventually};

/// The role and the database that tests work with.
pub const APP: &str = "app";
/// Its password; [`super::Proxy`] checks that no log ever holds it.
pub const PASSWORD: &str = "correct-horse-17-battery";

const DEFAULT_BIN: &str = "/usr/lib/postgresql/15/bin";
const HBA: &str = "local all postgres trust\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// How a cluster differs from the usual one.
#[derive(Default)]
pub struct Settings {
    /// Where `postgres` and `initdb` are; by default `PGFUNNEL_TEST_PGBIN` or Debian's PostgreSQL 15.
    pub bin: Option<PathBuf>,
    /// Lines of `postgresql.conf`.
    pub conf: String,
    /// Lines of `pg_hba.conf` in front of the usual ones.
    pub hba: String,
    /// Files put into the data directory (name, content).
    pub files: Vec<(&'static str, String)>,
}

/// A running PostgreSQL server in a temporary directory, gone when this is dropped. It must not outlive the thread
/// that started it (the kernel stops it then, so that an aborted test leaves nothing behind).
pub struct Cluster {
    bin: PathBuf,
    port: Port,
    postmaster: Option<Child>,
    dir: TempDir,
}

impl Cluster {
    /// A server with the usual settings: SCRAM over TCP, 50 connections.
    pub fn start() -> Result<Self> {
        Self::with(Settings::default())
    }

    /// A server with more lines in its `postgresql.conf`.
    pub fn conf(lines: &str) -> Result<Self> {
        Self::with(Settings { conf: lines.into(), ..Settings::default() })
    }

    /// A server as `settings` say.
    pub fn with(settings: Settings) -> Result<Self> {
        let bin = settings.bin.clone().unwrap_or_else(|| {
            std::env::var_os("PGFUNNEL_TEST_PGBIN").map_or_else(|| DEFAULT_BIN.into(), PathBuf::from)
        });
        let template = template(&bin)?;
        let dir = tempfile::Builder::new().prefix("pgfunnel-test-").tempdir()?;
        let owner = fs::metadata(&template)?;
        chown(dir.path(), Some(owner.uid()), Some(owner.gid()))?;
        run(Command::new("cp").arg("-a").arg(&template).arg(dir.path().join("data")))?;
        let mut cluster = Self { bin, port: Port::reserve()?, postmaster: None, dir };
        cluster.configure(&settings)?;
        cluster.boot()?;
        Ok(cluster)
    }

    fn configure(&self, settings: &Settings) -> Result {
        let data = self.dir.path().join("data");
        let mut conf = String::from(
            "listen_addresses = '127.0.0.1'\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
             max_connections = 50\nshared_buffers = 16MB\nwal_level = minimal\nmax_wal_senders = 0\n\
             autovacuum = off\nlog_line_prefix = '%m [%p] %u@%d '\nlog_connections = on\n",
        );
        writeln!(conf, "port = {}", self.port.number())?;
        writeln!(conf, "unix_socket_directories = '{}'", self.dir.path().display())?;
        conf.push_str(&settings.conf);
        // Written in place, so that owner and mode stay those of the template.
        File::options().append(true).open(data.join("postgresql.conf"))?.write_all(conf.as_bytes())?;
        let hba = format!("{}{HBA}", settings.hba);
        File::options().write(true).truncate(true).open(data.join("pg_hba.conf"))?.write_all(hba.as_bytes())?;
        let owner = fs::metadata(&data)?;
        for (name, content) in &settings.files {
            let path = data.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            chown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    }

    /// Starts the server (again) and waits until it lets somebody in.
    pub fn boot(&mut self) -> Result {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = as_owner();
        command.args(["--pdeathsig", "QUIT", "--"]).arg(self.bin.join("postgres"));
        command.arg("-D").arg(self.dir.path().join("data")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut postmaster = command.spawn()?;
        let superuser = self.superuser();
        let started = eventually("PostgreSQL lets somebody in", || match postmaster.try_wait()? {
            Some(status) => Err(format!("PostgreSQL ended with {status}:\n{}", self.log()).into()),
            None => Ok(superuser.connect().is_ok()),
        });
        self.postmaster = Some(postmaster);
        started
    }

    /// Stops the server: `fast` (disconnects everybody) or `immediate` (crashes), and waits until it is gone.
    pub fn stop(&mut self, mode: &str) -> Result {
        let signal = if mode == "fast" { "INT" } else { "QUIT" };
        if let Some(mut postmaster) = self.postmaster.take() {
            run(Command::new("kill").arg(format!("-{signal}")).arg(postmaster.id().to_string()))?;
            postmaster.wait()?;
        }
        Ok(())
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The directory that holds the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The role [`APP`] over TCP.
    pub fn target(&self) -> Target {
        Target::new(Addr::Tcp(self.port.addr()), APP, PASSWORD, APP)
    }

    /// The superuser over the Unix socket, in the database [`APP`].
    pub fn superuser(&self) -> Target {
        let socket = self.dir.path().join(format!(".s.PGSQL.{}", self.port.number()));
        Target::new(Addr::Unix(socket), "postgres", "", APP)
    }

    /// Runs SQL as the superuser; fails if any statement does.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let answer = self.superuser().connect()?.query(sql)?;
        match answer.errors().first() {
            Some(error) => Err(format!("{sql}: {error:?}").into()),
            None if answer.rows().is_empty() => Ok(String::new()),
            None => Ok(answer.value()),
        }
    }

    /// Connections of role [`APP`] right now.
    pub fn backends(&self) -> Result<usize> {
        let count = self.sql("select count(*) from pg_stat_activity where usename = 'app'")?;
        Ok(count.parse()?)
    }

    /// From now on PostgreSQL itself refuses more than `limit` connections of role [`APP`];
    /// [`Cluster::refused`] tells whether it had to.
    pub fn limit_backends(&self, limit: usize) -> Result {
        self.sql(&format!("alter role app connection limit {limit}")).map(drop)
    }

    /// Whether PostgreSQL has ever refused a connection because of a limit: exact where sampling would not be.
    pub fn refused(&self) -> bool {
        self.log().contains("too many c")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.stop("immediate");
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        eprintln!("--- PostgreSQL's log (end)");
        tail.iter().rev().for_each(|line| eprintln!("{line}"));
    }
}

/// A command run as the user that may run PostgreSQL: `postgres` if we are root. Options of `setpriv`, then `--` and
/// the command, are to follow.
fn as_owner() -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A data directory made by `initdb` with the role and database [`APP`], once per version and build directory.
fn template(bin: &Path) -> Result<PathBuf> {
    let version = Command::new(bin.join("postgres")).arg("--version").output();
    let version = version.map_err(|error| format!("{}: {error}", bin.join("postgres").display()))?;
    let version: String = String::from_utf8(version.stdout)?.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let store = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(store)?;
    let template = store.join(format!("cluster-1-{version}"));
    let lock = File::create(store.join(format!("{version}.lock")))?;
    lock.lock()?;
    if template.exists() {
        return Ok(template);
    }
    // Built where its owner surely may enter, which the build directory need not be.
    let workshop = tempfile::Builder::new().prefix("pgfunnel-test-").tempdir()?;
    let data = workshop.path().join("data");
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(workshop.path()))?;
    }
    let mut initdb = as_owner();
    initdb.arg("--").arg(bin.join("initdb")).arg("-D").arg(&data).current_dir(workshop.path());
    run(initdb.args(["-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "--wal-segsize=1", "-A", "trust"]))?;
    let mut single = as_owner();
    single.arg("--").arg(bin.join("postgres")).args(["--single", "-D"]).arg(&data).arg("postgres");
    let mut single = single.current_dir(workshop.path()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let sql = format!("create role {APP} login password '{PASSWORD}'\ncreate database {APP} owner {APP}\n");
    single.stdin.take().ok_or("no stdin")?.write_all(sql.as_bytes())?;
    if !single.wait()?.success() {
        return Err("postgres --single failed".into());
    }
    let partial = template.with_extension("partial");
    run(Command::new("rm").arg("-rf").arg(&partial))?;
    run(Command::new("cp").arg("-a").arg(&data).arg(&partial))?;
    fs::rename(&partial, &template)?;
    Ok(template)
}

/// Runs a command to its end; fails with its output.
fn run(command: &mut Command) -> Result {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}
