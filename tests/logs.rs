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
        assert_eq!(client.first_error(&Say::new().query("select 1"))?.code, "53300");
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
