//! What is counted of logins, limits and failures.

mod common;

use common::*;

#[test]
fn logins_are_told_by_phase_and_by_tls() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("authority")?;
    let (cert, key) = authority.write(dir.path(), "server")?;
    let proxy = Config::of(&cluster).top(&format!("client_tls_cert = {cert:?}\nclient_tls_key = {key:?}")).start()?;
    let plain = proxy.target().connect()?;
    let encrypted = proxy.target().tls(authority.client(None, false)?).connect()?;
    assert_eq!(proxy.metric("pgfunnel_clients_tls", &[])?, 1.0);
    for phase in ["startup", "auth"] {
        let count = proxy.metric("pgfunnel_login_seconds_count", &[&format!("phase=\"{phase}\"")])?;
        assert_eq!(count, 2.0, "{phase}");
    }
    drop((plain, encrypted));
    eventually("they are gone", || Ok(proxy.metric("pgfunnel_clients_tls", &[])? == 0.0))?;
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(proxy.metric("pgfunnel_build_info", &[&version])?, 1.0);
    assert!(proxy.metric("process_open_fds", &[])? > 3.0 && proxy.metric("process_resident_memory_bytes", &[])? > 1e6);
    assert!(proxy.metric("pgfunnel_config_read_timestamp_seconds", &[])? > 1.7e9);
    Ok(())
}

#[test]
fn limits_in_time_are_counted_by_their_setting() -> Result {
    let cluster = Cluster::start()?;
    let top = "idle_transaction_timeout = \"300ms\"\nclient_idle_timeout = \"1s\"\nquery_timeout = \"300ms\"";
    let proxy = Config::of(&cluster).top(top).start()?;
    let count = |setting: &str| proxy.metric("pgfunnel_timeouts_total", &[&format!("setting=\"{setting}\"")]);
    assert_eq!(proxy.target().connect()?.query("select pg_sleep(20)")?.error().code, "57014");
    assert_eq!(count("query_timeout")?, 1.0);
    let mut silent = proxy.target().connect()?;
    silent.value("begin")?;
    assert_eq!(silent.read_to_close()?.error().code, "25P03");
    assert_eq!(count("idle_transaction_timeout")?, 1.0);
    assert_eq!(proxy.target().connect()?.read_to_close()?.error().code, "57P05");
    eventually("it is counted", || Ok(count("client_idle_timeout")? >= 1.0))?;
    let told = proxy.metric("pgfunnel_errors_total", &["side=\"proxy\"", "sqlstate=\"25P03\""])?;
    assert_eq!(told, 1.0);
    Ok(())
}

#[test]
fn backends_that_cannot_be_opened_are_counted_by_sqlstate() -> Result {
    let mut cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("borrow_timeout = \"1s\"").start()?;
    let mut client = proxy.target().connect()?;
    client.value("select 1")?;
    cluster.stop("immediate")?;
    assert!(!client.query("select 1").is_ok_and(|answer| answer.errors().is_empty()));
    let failed = |code: &str| proxy.metric("pgfunnel_backend_connect_errors_total", &[&format!("sqlstate=\"{code}\"")]);
    eventually("it is counted", || Ok(failed("08001")? >= 1.0))?;
    let (_, history) = proxy.get("/history")?;
    assert!(history.contains("\"app/app\":["), "{history}");
    Ok(())
}
