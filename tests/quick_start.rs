//! The README's first command, `DATABASE_URL=… pgfunnel run`, and no other setting.

mod common;

use common::*;

#[test]
fn a_url_is_all_it_takes() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Proxy::by_environment(&[("DATABASE_URL", &cluster.target().url())])?;
    let mut wire = Wire::open(&proxy.target())?;
    wire.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
    assert_eq!(wire.read()?.body, b"\0\0\0\x0aSCRAM-SHA-256\0\0", "nothing else is offered");
    let whoami = "select current_user || '@' || current_database()";
    assert_eq!(proxy.target().connect()?.value(whoami)?, "app@app");
    assert_eq!(proxy.target().user(APP, "wrong").refusal()?.code, "28P01");
    assert_eq!(proxy.target().user("postgres", PASSWORD).refusal()?.code, "28P01", "nobody else");
    assert_eq!(proxy.target().database("postgres").refusal()?.code, "3D000", "nothing else");
    Ok(())
}

#[test]
fn it_keeps_at_most_twenty_backends() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(20)?;
    let proxy = Proxy::by_environment(&[("DATABASE_URL", &cluster.target().url())])?;
    let mut clients = (0..20).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.hold()?;
    }
    assert_eq!(cluster.backends()?, 20);
    let mut next = proxy.target().connect()?;
    next.say(&Say::new().query("select 'served'"))?;
    eventually("it waits", || Ok(proxy.waiting()? == 1.0))?;
    clients[0].value("commit")?;
    assert_eq!(next.read_ready(1)?.value(), "served");
    assert!(!cluster.refused(), "PostgreSQL had to refuse a backend");
    Ok(())
}
