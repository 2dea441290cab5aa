//! What is wrong now, in one sentence that says which setting or query to look at. Pure: facts in, a sentence out.

use std::time::Duration;

use crate::error::SqlState;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing to do.
    Well,
    /// Worth a look.
    Notice,
    /// Clients wait or fail.
    Trouble,
}

impl Severity {
    /// As the page shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Well => "well",
            Severity::Notice => "notice",
            Severity::Trouble => "trouble",
        }
    }
}

/// The sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, and where to look.
    pub sentence: String,
}

/// The process at one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Clients connected.
    pub clients: usize,
    /// `max_clients`.
    pub max_clients: usize,
    /// Told to end: takes nobody new.
    pub draining: bool,
    /// Its pools.
    pub pools: Vec<PoolFacts>,
    /// The last client that a limit refused in its login.
    pub refused: Option<Refusal>,
}

/// A client that a limit refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it was told.
    pub message: String,
    /// How long ago; a moment, or it says nothing of now.
    pub ago: Duration,
}

/// A pool at one moment.
#[derive(Debug, Clone, Default)]
pub struct PoolFacts {
    /// `database/user`.
    pub name: String,
    /// The most backends that it may have.
    pub size: usize,
    /// Backends that are lent.
    pub active: usize,
    /// Of these, those of clients that are silent in a transaction.
    pub in_transaction: Holders,
    /// Those of clients that are pinned and silent.
    pub pinned: Holders,
    /// Those that run a statement.
    pub running: Holders,
    /// Clients that wait, and how long the first of them has.
    pub waiting: Holders,
    /// Backends that would have been enough in the last ten seconds.
    pub needed: usize,
    /// Connections that the database has left; `None`: not known.
    pub free: Option<usize>,
    /// Why the last backend could not be opened, if that was a moment ago: SQLSTATE and message.
    pub unreachable: Option<(SqlState, String)>,
    /// How long the database has not answered a login that is under way; zero: none is.
    pub silent: Duration,
    /// Of all clients that hold a backend or wait for one, those of the caller with the most.
    pub greatest: (String, usize),
    /// `idle_transaction_timeout`.
    pub idle_transaction_timeout: Option<Duration>,
    /// `max_leases_per_application`.
    pub max_leases_per_application: Option<usize>,
    /// Held by an operator: nobody gets a backend.
    pub paused: bool,
    /// The last client that a limit refused a backend of it.
    pub refused: Option<Refusal>,
    /// The commonest reason of its pins.
    pub pin_reason: Option<&'static str>,
}

/// Clients in one state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// How many.
    pub count: usize,
    /// The `application_name` of most of them.
    pub caller: String,
    /// How many are that caller's.
    pub of_caller: usize,
    /// How long the one that has been longest.
    pub longest: Duration,
}

impl Holders {
    fn by_caller(&self) -> String {
        let name = caller(&self.caller);
        match self.of_caller == self.count {
            true => format!("all held by {name}, the longest for {}", time(self.longest)),
            false => format!("{} held by {name}, the longest for {}", self.of_caller, time(self.longest)),
        }
    }
}

/// A shorter wait is nobody's trouble.
const SHORT: Duration = Duration::from_millis(250);

/// A statement that runs longer is long for what a function does.
const LONG: Duration = Duration::from_secs(1);

/// A transaction that is silent for longer holds its backend for nothing.
const SILENT: Duration = Duration::from_secs(5);

/// What is worst.
pub fn diagnose(facts: &Facts) -> Diagnosis {
    if facts.draining {
        return notice(format!("pgfunnel is draining: it takes no new clients; {} are left", facts.clients));
    }
    let worst = |judge: fn(&PoolFacts) -> Option<Diagnosis>| {
        let judged = facts.pools.iter().filter_map(|pool| judge(pool).map(|judged| (pool.waiting.longest, judged)));
        judged.max_by_key(|(wait, diagnosis)| (diagnosis.severity, *wait)).map(|(_, diagnosis)| diagnosis)
    };
    [paused as fn(&PoolFacts) -> _, unreachable, saturated, starved]
        .into_iter()
        .find_map(worst)
        .or_else(|| full(facts))
        .or_else(|| worst(refused))
        .or_else(|| turned_away(facts))
        .or_else(|| crowded(facts))
        .or_else(|| worst(held))
        .unwrap_or_else(|| well(facts))
}

fn paused(pool: &PoolFacts) -> Option<Diagnosis> {
    let waiting = waiting(pool).unwrap_or_else(|| "nobody waits yet".to_owned());
    let lent = match (pool.active, pool.pinned.count) {
        (0, _) => String::new(),
        (active, 0) => format!("{active} backends are still lent; "),
        (active, pinned) => format!("{active} backends are still lent, {pinned} of them to pinned clients; "),
    };
    let sentence =
        format!("pool {} is paused by an operator; {lent}{waiting}; RESUME on the admin console ends it", pool.name);
    pool.paused.then(|| if pool.waiting.count > 0 { trouble(sentence) } else { notice(sentence) })
}

fn unreachable(pool: &PoolFacts) -> Option<Diagnosis> {
    let (code, why) = pool.unreachable.as_ref()?;
    let waiting = waiting(pool).unwrap_or_else(|| "nobody waits yet".to_owned());
    let look = match code.code() {
        "28P01" => "this user's backend_password or password in [users], the userlist or DATABASE_URL",
        "28000" => "the server's pg_hba.conf, tls in [databases], and the role and its secret",
        "3D000" => "dbname of the database's entry in [databases]",
        "53300" => {
            "the server's max_connections (or the role's or database's CONNECTION LIMIT), and who else uses them"
        }
        _ => "the database, its host in [databases] and its log",
    };
    Some(trouble(format!("pool {} cannot open backends ({why}); {waiting}; look at {look}", pool.name)))
}

/// Every backend is lent, and clients wait.
fn saturated(pool: &PoolFacts) -> Option<Diagnosis> {
    let waiting = waiting(pool)?;
    let cause = cause(pool)?;
    Some(trouble(format!("pool {} is saturated: {cause}; {waiting}", pool.name)))
}

/// Who has the backends, if every one is lent.
fn cause(pool: &PoolFacts) -> Option<String> {
    if pool.active < pool.size {
        return None;
    }
    let is_most = |holders: &Holders| 2 * holders.count >= pool.size;
    let why = if is_most(&pool.in_transaction) {
        silent(pool)
    } else if is_most(&pool.pinned) {
        let reason = pool.pin_reason.unwrap_or("session state");
        let by = pool.pinned.by_caller();
        format!(
            "{} are pinned ({reason}), {by}; look at the pins below, and at \"What pins\" in the README",
            pool.pinned.count
        )
    } else if pool.running.longest >= LONG && is_most(&pool.running) {
        let by = pool.running.by_caller();
        format!("{} run statements, {by}; look at these statements, or set query_timeout", pool.running.count)
    } else {
        small(pool)
    };
    Some(format!("{} of {} backends are lent; {why}", pool.active, pool.size))
}

fn silent(pool: &PoolFacts) -> String {
    let limit = pool.idle_transaction_timeout.map_or("off".to_owned(), time);
    let by = pool.in_transaction.by_caller();
    let count = pool.in_transaction.count;
    format!(
        "{count} are idle in transaction, {by}; look at what it does before COMMIT, or lower idle_transaction_timeout ({limit})"
    )
}

/// More is asked for than there is.
fn small(pool: &PoolFacts) -> String {
    let (name, count) = &pool.greatest;
    let demand = pool.active + pool.waiting.count;
    if 2 * count > demand && pool.max_leases_per_application.is_none() && *count > pool.size {
        let name = caller(name);
        return format!("{name} asks for {count} of {demand}; raise pool_size, or set max_leases_per_application");
    }
    let needed = pool.needed.max(pool.size + 1);
    match pool.free {
        Some(free) if free < needed - pool.size => {
            format!(
                "{needed} would be enough, but the database has only {free} connections left: raise its max_connections"
            )
        }
        _ => format!("{needed} would be enough: raise pool_size"),
    }
}

/// Clients wait, although not every backend is lent: there are no more.
fn starved(pool: &PoolFacts) -> Option<Diagnosis> {
    let waiting = waiting(pool)?;
    let silent;
    let why = match pool.free {
        _ if pool.silent >= SHORT => {
            silent = format!(
                "the database has not answered a login for {}: look at it, and at its host in [databases]",
                time(pool.silent)
            );
            &silent
        }
        Some(0) => "the database has no connection left: raise its max_connections, or look at who else uses it",
        _ => "max_backends of the process or the database, max_leases, or slow logins keep it from more",
    };
    let (active, size) = (pool.active, pool.size);
    Some(trouble(format!("pool {} gets no more than {active} of {size} backends; {why}; {waiting}", pool.name)))
}

/// Nobody waits any more, since who did was refused.
fn refused(pool: &PoolFacts) -> Option<Diagnosis> {
    let Refusal { message, ago } = pool.refused.as_ref()?;
    let now = cause(pool).unwrap_or_else(|| format!("now {} of {} backends are lent", pool.active, pool.size));
    Some(trouble(format!("pool {} refused a client {} ago: {message}; {now}", pool.name, time(*ago))))
}

fn turned_away(facts: &Facts) -> Option<Diagnosis> {
    let Refusal { message, ago } = facts.refused.as_ref()?;
    Some(trouble(format!(
        "a login was refused {} ago: {message}; raise that limit, or look at who takes it up",
        time(*ago)
    )))
}

fn full(facts: &Facts) -> Option<Diagnosis> {
    let most = facts.max_clients;
    let sentence = format!("max_clients is reached ({most}): more clients are refused; raise max_clients");
    (facts.clients >= most).then(|| trouble(sentence))
}

fn crowded(facts: &Facts) -> Option<Diagnosis> {
    let (clients, most) = (facts.clients, facts.max_clients);
    (clients * 10 >= most * 9).then(|| notice(format!("{clients} of {most} clients are connected; raise max_clients")))
}

/// Nobody waits yet.
fn held(pool: &PoolFacts) -> Option<Diagnosis> {
    let idle = &pool.in_transaction;
    let is_long = idle.count > 0 && (2 * idle.count >= pool.size || idle.longest >= SILENT);
    is_long.then(|| notice(format!("pool {}: of {} backends {}", pool.name, pool.size, silent(pool))))
}

fn well(facts: &Facts) -> Diagnosis {
    let (active, size): (usize, usize) =
        facts.pools.iter().fold((0, 0), |(active, size), pool| (active + pool.active, size + pool.size));
    let clients = facts.clients;
    let sentence = match facts.pools.len() {
        0 => format!("all is well: {clients} clients, no pool has been used yet"),
        _ => format!("all is well: {clients} clients, {active} of {size} backends are lent, nobody waits long"),
    };
    Diagnosis { severity: Severity::Well, sentence }
}

fn waiting(pool: &PoolFacts) -> Option<String> {
    let Holders { count, longest, .. } = pool.waiting;
    (count > 0 && longest >= SHORT).then(|| format!("{count} clients wait, the first for {}", time(longest)))
}

fn caller(name: &str) -> String {
    // What a client calls itself is shown, but not at any length.
    let short: String = name.chars().take(63).collect();
    if short.is_empty() { "clients without application_name".to_owned() } else { format!("`{short}`") }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.0} min", seconds / 60.0),
    }
}

fn trouble(sentence: String) -> Diagnosis {
    Diagnosis { severity: Severity::Trouble, sentence }
}

fn notice(sentence: String) -> Diagnosis {
    Diagnosis { severity: Severity::Notice, sentence }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
