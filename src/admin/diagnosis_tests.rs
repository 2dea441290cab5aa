use super::*;

fn holders(count: usize, caller: &str, of_caller: usize, seconds: f64) -> Holders {
    Holders { count, caller: caller.into(), of_caller, longest: Duration::from_secs_f64(seconds) }
}

fn pool() -> PoolFacts {
    PoolFacts {
        name: "app/api".into(),
        size: 20,
        active: 20,
        waiting: holders(30, "api", 30, 1.5),
        idle_transaction_timeout: Some(Duration::from_secs(60)),
        ..PoolFacts::default()
    }
}

fn failed(code: &str, message: &str) -> Option<(SqlState, String)> {
    Some((SqlState::from_code(code), message.to_owned()))
}

fn of(pool: PoolFacts) -> (Severity, String) {
    let facts = Facts { clients: 50, max_clients: 1000, draining: false, pools: vec![pool], refused: None };
    let Diagnosis { severity, sentence } = diagnose(&facts);
    (severity, sentence)
}

#[test]
fn the_reason_is_named_with_what_to_look_at() {
    let free = Some(50);
    for (case, expected) in [
        (
            PoolFacts { in_transaction: holders(20, "report-fn", 17, 8.2), ..pool() },
            "pool app/api is saturated: 20 of 20 backends are lent; 20 are idle in transaction, 17 held by `report-fn`, \
             the longest for 8.2 s; look at what it does before COMMIT, or lower idle_transaction_timeout (60 s); \
             30 clients wait, the first for 1.5 s",
        ),
        (
            PoolFacts { pinned: holders(15, "lock-fn", 15, 300.0), pin_reason: Some("advisory_lock"), ..pool() },
            "15 are pinned (advisory_lock), all held by `lock-fn`, the longest for 5 min",
        ),
        (
            PoolFacts { running: holders(20, "slow-fn", 20, 12.0), ..pool() },
            "20 run statements, all held by `slow-fn`, the longest for 12 s",
        ),
        (
            PoolFacts { running: holders(20, "a", 4, 0.1), greatest: ("storm-fn".into(), 40), ..pool() },
            "`storm-fn` asks for 40 of 50; raise pool_size, or set max_leases_per_application",
        ),
        (PoolFacts { needed: 35, free, ..pool() }, "35 would be enough: raise pool_size"),
        (PoolFacts { needed: 35, free: Some(3), ..pool() }, "the database has only 3 connections left"),
        (PoolFacts { active: 7, free: Some(0), ..pool() }, "gets no more than 7 of 20 backends; the database has no"),
        (PoolFacts { active: 7, ..pool() }, "gets no more than 7 of 20 backends; max_backends"),
        (
            PoolFacts { active: 0, silent: Duration::from_secs(3), ..pool() },
            "no more than 0 of 20 backends; the database has not answered a login for 3.0 s: look at it",
        ),
        (
            PoolFacts { active: 0, unreachable: failed("08001", "connection refused"), ..pool() },
            "pool app/api cannot open backends (connection refused); 30 clients wait",
        ),
        (
            PoolFacts { active: 0, paused: true, ..pool() },
            "pool app/api is paused by an operator; 30 clients wait, the first for 1.5 s; RESUME",
        ),
    ] {
        let (severity, sentence) = of(case);
        assert_eq!(severity, Severity::Trouble, "{sentence}");
        assert!(sentence.contains(expected), "{sentence}\n{expected}");
    }
}

#[test]
fn what_postgresql_refuses_is_sought_where_it_is() {
    for (code, look) in [
        ("28P01", "look at this user's backend_password or password"),
        ("28000", "look at the server's pg_hba.conf"),
        ("3D000", "look at dbname"),
        ("53300", "look at the server's max_connections"),
        ("57P03", "look at the database, its host"),
    ] {
        let (_, sentence) = of(PoolFacts { active: 0, unreachable: failed(code, "no"), ..pool() });
        assert!(sentence.contains(look), "{sentence}");
    }
}

#[test]
fn a_busy_pool_without_waiters_is_well() {
    let busy = PoolFacts { waiting: holders(3, "api", 3, 0.02), ..pool() };
    assert_eq!(of(busy).0, Severity::Well);
    let held = PoolFacts { active: 3, waiting: Holders::default(), in_transaction: holders(1, "x", 1, 9.0), ..pool() };
    assert_eq!(of(held).0, Severity::Notice);
    let paused = PoolFacts { active: 0, waiting: Holders::default(), paused: true, ..pool() };
    assert_eq!(of(paused).0, Severity::Notice);
    let pinned = Holders { count: 1, ..Holders::default() };
    let (_, sentence) = of(PoolFacts { active: 2, pinned, paused: true, ..pool() });
    assert!(sentence.contains("2 backends are still lent, 1 of them to pinned clients"), "{sentence}");
}

#[test]
fn the_process_has_its_own_limits() {
    let facts = |clients, draining| Facts { clients, max_clients: 100, draining, pools: Vec::new(), refused: None };
    assert_eq!(diagnose(&facts(100, false)).severity, Severity::Trouble);
    assert_eq!(diagnose(&facts(90, false)).severity, Severity::Notice);
    assert_eq!(diagnose(&facts(3, false)).severity, Severity::Well);
    assert!(diagnose(&facts(3, true)).sentence.contains("draining"));
}

#[test]
fn who_was_refused_does_not_wait_any_more_and_is_not_forgotten() {
    let refused = || Some(Refusal { message: "no backend in time".into(), ago: Duration::from_secs(2) });
    let quiet = || PoolFacts { waiting: Holders::default(), ..pool() };
    assert_eq!(of(quiet()).0, Severity::Well);
    let (severity, sentence) =
        of(PoolFacts { refused: refused(), in_transaction: holders(20, "report-fn", 20, 8.0), ..quiet() });
    assert_eq!(severity, Severity::Trouble);
    let expected =
        "pool app/api refused a client 2.0 s ago: no backend in time; 20 of 20 backends are lent; 20 are idle in";
    assert!(sentence.starts_with(expected), "{sentence}");
    let (_, sentence) = of(PoolFacts { refused: refused(), active: 3, ..quiet() });
    assert!(sentence.ends_with("no backend in time; now 3 of 20 backends are lent"), "{sentence}");
    let facts = Facts { clients: 3, max_clients: 100, draining: false, pools: vec![quiet()], refused: refused() };
    assert!(diagnose(&facts).sentence.starts_with("a login was refused 2.0 s ago: no backend in time; raise"));
}

#[test]
fn a_nameless_caller_and_a_long_name() {
    assert_eq!(caller(""), "clients without application_name");
    assert_eq!(caller(&"x".repeat(500)).len(), 65);
}
