"""What the load figures stand on: a throwaway PostgreSQL, pgfunnel and Debian's PgBouncer in front of it, all on
127.0.0.1, and how to read what a process costs. Standard library only. Everything is gone when `Lab` is left."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD, DATABASE = "app", "correct-horse-17-battery", "app"
BACKENDS = 20
# 20 of each pooler, 64 of one in session mode and of each HAProxy, and what pgbench itself wants.
MAX_CONNECTIONS = 300


def say(text):
    print(text, file=sys.stderr, flush=True)


def newest_postgres():
    """The directory of the newest server's programs, as `deploy/quickstart.sh` finds it; PGBIN overrules."""
    if "PGBIN" in os.environ:
        return Path(os.environ["PGBIN"])
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        sys.exit("no PostgreSQL server found: apt-get install postgresql, or set PGBIN")
    return max(found, key=lambda path: int(path.parent.name))


def pgfunnel_binary():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = Path(os.environ.get("LAB_PGFUNNEL", target / "release/pgfunnel"))
    if not binary.exists():
        sys.exit(f"{binary} is missing: cargo build --release, or set LAB_PGFUNNEL")
    return binary


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unprivileged(*command):
    """PostgreSQL and PgBouncer refuse to run as root. setpriv execs: the child is the server itself."""
    drop = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    return ["setpriv", "--pdeathsig", "QUIT", *drop, "--", *map(str, command)]


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Server:
    """A process that listens on `port` and what it has cost so far."""

    def __init__(self, name, process, port):
        self.name, self.process, self.port = name, process, port

    @property
    def pid(self):
        return self.process.pid

    def cpu(self):
        """CPU seconds of all its threads, ended ones included: utime + stime of /proc/PID/stat, but in nanoseconds
        instead of ticks of 10 ms (the clock of clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def pss(self):
        """Proportional set size in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no Pss in smaps_rollup")

    def stop(self, signum=signal.SIGINT):
        if self.process.poll() is None:
            self.process.send_signal(signum)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Lab(contextlib.ExitStack):
    """A directory, PostgreSQL in it, and the poolers that are asked for."""

    def __init__(self, connections=MAX_CONNECTIONS):
        super().__init__()
        self.connections = connections
        raise_descriptor_limit()
        # Told to go, we still clean up.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.bin = newest_postgres()
        self.port = free_port()
        self.dir = Path(tempfile.mkdtemp(prefix="pgfunnel-load."))
        self.callback(shutil.rmtree, self.dir, ignore_errors=True)
        if os.geteuid() == 0:
            shutil.chown(self.dir, "postgres", "postgres")
        try:
            self.postgres = self._postgres()
        except BaseException:
            self.close()
            raise

    def _start(self, name, command, port, env=None):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir, env={**os.environ, **(env or {})}
        )
        log.close()
        server = Server(name, process, port)
        self.callback(server.stop, signal.SIGQUIT if name == "postgres" else signal.SIGINT)
        for _ in range(300):
            if subprocess.run([self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0:
                return server
            if process.poll() is not None:
                break
            time.sleep(0.1)
        sys.exit(f"{name} does not answer:\n" + (self.dir / f"{name}.log").read_text()[-2000:])

    def _postgres(self):
        data = self.dir / "data"
        initdb = [self.bin / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(unprivileged(*initdb), cwd=self.dir, check=True, stdout=subprocess.DEVNULL)
        hba = data / "pg_hba.conf"
        hba.write_text("local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = '{self.dir}'\n"
                f"max_connections = {self.connections}\nfsync = off\nautovacuum = off\nwal_level = minimal\n"
                "max_wal_senders = 0\nshared_buffers = 256MB\n"
            )
        server = self._start("postgres", unprivileged(self.bin / "postgres", "-D", data), self.port)
        self.sql(f"create role {USER} login password '{PASSWORD}'", f"create database {DATABASE} owner {USER}", db="postgres")
        return server

    def sql(self, *statements, db=DATABASE):
        """Runs statements as the superuser; the last one's first value."""
        command = [self.bin / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.dir, "-p", str(self.port)]
        command += ["-U", "postgres", db]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def fill(self, scale=5):
        """pgbench's tables."""
        command = [self.bin / "pgbench", "-i", "-q", "-s", str(scale), "-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        subprocess.run([*command, DATABASE], check=True, capture_output=True, env={**os.environ, "PGPASSWORD": PASSWORD})

    def url(self, server):
        return f"postgres://{USER}:{PASSWORD}@127.0.0.1:{server.port}/{DATABASE}"

    def monitor_url(self):
        return f"postgres://postgres@/postgres?host={self.dir}&port={self.port}"

    def certificate(self):
        """A self-signed certificate for the poolers, readable by PgBouncer's user."""
        cert, key = self.dir / "server.pem", self.dir / "server.key"
        if not cert.exists():
            new = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            subject = ["-days", "2", "-subj", "/CN=localhost", "-out", cert, "-keyout", key]
            subprocess.run([*new, *subject], check=True, capture_output=True)
            if os.geteuid() == 0:
                shutil.chown(key, "postgres", "postgres")
        return cert, key

    def pgfunnel(self, name="pgfunnel", tls=False, under=(), **settings):
        """pgfunnel in front of PostgreSQL, configured by environment alone; `settings` are keys without prefix. `under`:
        the command that runs it, as valgrind."""
        port = free_port()
        env = {
            "DATABASE_URL": self.url(self.postgres) + "?sslmode=disable",
            "PGFUNNEL_LISTEN": f"127.0.0.1:{port}",
            "PGFUNNEL_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
            "PGFUNNEL_POOL_SIZE": str(BACKENDS),
        }
        if tls:
            cert, key = self.certificate()
            env |= {"PGFUNNEL_CLIENT_TLS_CERT": str(cert), "PGFUNNEL_CLIENT_TLS_KEY": str(key)}
        env |= {f"PGFUNNEL_{key.upper()}": str(value) for key, value in settings.items()}
        return self._start(name, ["setpriv", "--pdeathsig", "INT", "--", *under, pgfunnel_binary(), "run"], port, env)

    def pgbouncer(self, name="pgbouncer", tls=False, mode="transaction", backends=BACKENDS):
        """Debian's PgBouncer with SCRAM on both sides and the same limits."""
        port = free_port()
        users = self.dir / "userlist.txt"
        # The verifier: with the password itself PgBouncer derives the key anew at each login, 5 ms of CPU.
        secret = self.sql(f"select rolpassword from pg_authid where rolname = '{USER}'")
        users.write_text(f'"{USER}" "{secret}"\n')
        ini = self.dir / f"{name}.ini"
        ini.write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={self.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
            f"auth_file = {users}\npool_mode = {mode}\ndefault_pool_size = {backends}\nmax_client_conn = 10000\n"
            "server_tls_sslmode = disable\nlog_connections = 0\nlog_disconnections = 0\nlisten_backlog = 4096\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        if tls:
            cert, key = self.certificate()
            with open(ini, "a") as file:
                file.write(f"client_tls_sslmode = allow\nclient_tls_cert_file = {cert}\nclient_tls_key_file = {key}\n")
        binary = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        return self._start(name, unprivileged(binary, ini), port)

    def haproxy(self, name="haproxy", threads=1):
        """Debian's HAProxy as a relay that does not look at a byte. One thread, as PgBouncer has, and
        pgfunnel by default; as many as the workers of a pgfunnel with more."""
        port = free_port()
        config = self.dir / f"{name}.cfg"
        config.write_text(
            f"global\n  nbthread {threads}\n  maxconn 5000\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n"
            f"  timeout server 1h\nlisten postgres\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{self.port}\n"
        )
        binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
        return self._start(name, unprivileged(binary, "-db", "-f", config), port)


def machine():
    """The machine and the versions, for the head of a table."""
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    version = subprocess.run([pgfunnel_binary(), "--version"], capture_output=True, text=True).stdout.strip()
    bouncer = subprocess.run(["/usr/sbin/pgbouncer", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    load = os.getloadavg()[0]
    return f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} x {cpu}, load {load:.1f}, {version}, {bouncer}"
