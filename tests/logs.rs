//! The log in a storm: lines that repeat are counted.

mod common;

use common::*;

#[test]
fn a_storm_of_refusals_is_a_few_lines_with_their_number() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"\nmax_waiting = 1").start()?;
    let mut holder = proxy.target().connect()?;
    holder.value("begin")?;
    let mut waiter = proxy.target().connect()?;
    waiter.say(&Say::new().query("select 1"))?;
    eventually("one waits", || Ok(proxy.waiting()? == 1.0))?;
    let mut client = proxy.target().connect()?;
    for _ in 0..10_000 {
        client.say(&Say::new().query("select 1"))?;
        assert_eq!(client.read_ready(1)?.error().code, "53300");
    }
    // Told although nothing more comes: the first, and all that were counted.
    let lines =
        || proxy.log().lines().filter(|line| line.contains("max_waiting")).map(str::to_owned).collect::<Vec<_>>();
    let repeated = |line: &String| {
        let rest = line.split("\"repeated\":").nth(1)?;
        rest.split([',', '}']).next()?.parse::<u64>().ok()
    };
    eventually("all are accounted for", || {
        Ok(lines().iter().map(|line| repeated(line).unwrap_or(1)).sum::<u64>() == 10_000)
    })?;
    // One line a second, on however slow a machine.
    assert!((2..=120).contains(&lines().len()), "{} lines", lines().len());
    Ok(())
}

#[test]
fn what_is_slow_is_told_with_where_the_time_went() -> Result {
    let cluster = Cluster::start()?;
    let settings = "pool_size = 1\nlog_slow_query = \"300ms\"\nlog_slow_borrow = \"300ms\"";
    let proxy = Config::of(&cluster).top(settings).start()?;
    let mut client = proxy.target().connect()?;
    client.value("select 'sesame'")?;
    assert!(!proxy.log().contains("slow"), "{}", proxy.log());
    client.value("select pg_sleep(0.5), 'sesame'")?;
    proxy.wait_log("slow query")?;
    assert!(!proxy.log().contains("slow borrow"), "{}", proxy.log());
    client.value("begin")?;
    let mut waiter = proxy.target().connect()?;
    waiter.say(&Say::new().query("select 'sesame'"))?;
    eventually("it waits", || Ok(proxy.waiting()? == 1.0))?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    client.value("commit")?;
    proxy.wait_log("slow borrow")?;
    assert!(!proxy.log().contains("sesame"), "a literal in the log");
    Ok(())
}
