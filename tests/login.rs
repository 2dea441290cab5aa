//! Who gets in and who does not: SCRAM, md5, cleartext, user lists, auth_query, limits of time and size.

mod common;

use std::time::{Duration, Instant};

use common::*;

/// A verifier as PostgreSQL stores it, for a role made for this.
fn stored_secret(cluster: &Cluster, role: &str, password: &str, encryption: &str) -> Result<String> {
    cluster
        .sql(&format!("set password_encryption = '{encryption}'; create role {role} login password '{password}'"))?;
    cluster.sql(&format!("select rolpassword from pg_authid where rolname = '{role}'"))
}

#[test]
fn scram_with_a_configured_password() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    assert_eq!(proxy.target().connect()?.value("select current_user")?, "app");
    Ok(())
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let (mut wrong_times, mut unknown_times) = (Vec::new(), Vec::new());
    let (mut wrong, mut unknown) = (Fields::default(), Fields::default());
    for _ in 0..9 {
        let start = Instant::now();
        wrong = proxy.target().user(APP, "wrong").refusal()?;
        wrong_times.push(start.elapsed());
        let start = Instant::now();
        unknown = proxy.target().user("nobody", "wrong").refusal()?;
        unknown_times.push(start.elapsed());
    }
    assert_eq!((wrong.severity.as_str(), wrong.code.as_str()), ("FATAL", "28P01"));
    assert_eq!(unknown.message, wrong.message.replace("\"app\"", "\"nobody\""));
    assert_eq!((unknown.code, unknown.detail, unknown.hint), (wrong.code, wrong.detail, wrong.hint));
    let (wrong, unknown) = (median(wrong_times), median(unknown_times));
    let ratio = wrong.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.2..5.0).contains(&ratio), "wrong password {wrong:?}, unknown user {unknown:?}");
    assert_eq!(cluster.backends()?, 0, "nobody reached the database");
    Ok(())
}

/// The salt and iterations that the server names for a user: what an attacker sees before any proof.
fn scram_challenge(target: &Target) -> Result<String> {
    let mut wire = Wire::open(target)?;
    wire.send(&startup(0x0003_0000, &[("user", &target.user), ("database", APP)]))?;
    wire.read()?;
    let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
    let length = u32::try_from(first.len())?.to_be_bytes();
    wire.say(&Say::new().raw(b'p', &[b"SCRAM-SHA-256\0".as_slice(), &length, first].concat()))?;
    let challenge = String::from_utf8_lossy(&wire.read()?.body[4..]).into_owned();
    let rest = challenge.split_once(",s=").ok_or("no salt")?.1;
    Ok(rest.to_owned())
}

#[test]
fn the_challenge_does_not_tell_whether_a_user_exists() -> Result {
    let cluster = Cluster::start()?;
    let verifier = stored_secret(&cluster, "stored", "p", "scram-sha-256")?;
    let proxy = Config::of(&cluster).section(&format!("[users.stored]\nsecret = \"{verifier}\"")).start()?;
    for user in ["nobody", APP, "stored"] {
        let target = proxy.target().user(user, "");
        let (one, two) = (scram_challenge(&target)?, scram_challenge(&target)?);
        assert_eq!(one, two, "{user}: the same salt every time, as for a user that exists");
        assert!(one.ends_with(",i=4096"), "{one}");
        assert_eq!(one.len(), scram_challenge(&proxy.target().user("stored", ""))?.len());
    }
    Ok(())
}

#[test]
fn scram_with_a_stored_verifier_that_is_also_the_servers() -> Result {
    let cluster = Cluster::start()?;
    let verifier = stored_secret(&cluster, "stored", "open sesame", "scram-sha-256")?;
    let users = format!("[users.stored]\nsecret = \"{verifier}\"");
    let proxy = Config::of(&cluster).section(&users).start()?;
    let target = proxy.target().user("stored", "open sesame");
    // The client's own proof lets pgfunnel log in to the server: it never knows the password.
    assert_eq!(target.connect()?.value("select current_user")?, "stored");
    crowd(8, |_| target.connect()?.value("select pg_sleep(0.05)").map(drop))?;
    assert_eq!(target.user("stored", "open barley").refusal()?.code, "28P01");
    Ok(())
}

#[test]
fn a_backend_password_of_its_own() -> Result {
    let cluster = Cluster::start()?;
    let users = "[users.door]\npassword = \"front door\"\nbackend_password = \"back door\"";
    cluster.sql("create role door login password 'back door'")?;
    let proxy = Config::of(&cluster).section(users).start()?;
    assert_eq!(proxy.target().user("door", "front door").connect()?.value("select current_user")?, "door");
    assert_eq!(proxy.target().user("door", "back door").refusal()?.code, "28P01");
    Ok(())
}

#[test]
fn md5_on_both_sides() -> Result {
    let cluster = Cluster::with(Settings { hba: "host all old 127.0.0.1/32 md5\n".into(), ..Settings::default() })?;
    let hash = stored_secret(&cluster, "old", "ancient", "md5")?;
    assert!(hash.starts_with("md5"));
    let proxy =
        Config::of(&cluster).top("auth = \"md5\"").section(&format!("[users.old]\nsecret = \"{hash}\"")).start()?;
    let target = proxy.target().user("old", "ancient");
    assert_eq!(target.connect()?.value("select current_user")?, "old");
    assert_eq!(target.user("old", "modern").refusal()?.code, "28P01");
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1", "others still use SCRAM");
    drop(proxy);
    // Without auth = "md5" such a user is refused.
    let proxy = Config::of(&cluster).section(&format!("[users.old]\nsecret = \"{hash}\"")).start()?;
    assert!(proxy.target().user("old", "ancient").login()?.is_err());
    Ok(())
}

#[test]
fn a_cleartext_password_towards_postgresql() -> Result {
    let hba = "host all app 127.0.0.1/32 password\n".into();
    let cluster = Cluster::with(Settings { hba, ..Settings::default() })?;
    let proxy = Config::of(&cluster).start()?;
    assert_eq!(proxy.target().connect()?.value("select current_user")?, "app");
    assert!(cluster.log().contains("identity=\"app\" method=password"));
    Ok(())
}

#[test]
fn cleartext_over_tls() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("authority")?;
    let (cert, key) = authority.write(dir.path(), "server")?;
    let cluster = Cluster::start()?;
    let tls = format!("client_tls = \"allow\"\nclient_tls_cert = {cert:?}\nclient_tls_key = {key:?}");
    let proxy = Config::of(&cluster).top("auth = \"cleartext\"").top(&tls).start()?;
    let secure = proxy.target().tls(authority.client(None, false)?);
    assert_eq!(secure.connect()?.value("select 1")?, "1");
    assert_eq!(secure.user(APP, "wrong").refusal()?.code, "28P01");
    Ok(())
}

#[test]
fn trust_on_loopback() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("auth = \"trust\"").start()?;
    assert_eq!(proxy.target().user(APP, "whatever").connect()?.value("select current_user")?, "app");
    assert!(
        proxy.target().user("nobody", "").login()?.is_err()
            || proxy.target().user("nobody", "").connect()?.value("select 1").is_err()
    );
    Ok(())
}

#[test]
fn a_user_list_in_the_format_of_pgbouncer() -> Result {
    let cluster = Cluster::with(Settings { hba: "host all hashed 127.0.0.1/32 md5\n".into(), ..Settings::default() })?;
    let verifier = stored_secret(&cluster, "verified", "v", "scram-sha-256")?;
    let hash = stored_secret(&cluster, "hashed", "h", "md5")?;
    cluster.sql("create role \"odd \"\" name\" login password 'it''s \"odd\"'")?;
    let dir = tempfile::tempdir()?;
    let list = dir.path().join("userlist.txt");
    std::fs::write(
        &list,
        format!(
            "; a comment\n\"app\" \"{PASSWORD}\"\n\n\"verified\" \"{verifier}\"\n\"hashed\" \"{hash}\"\n\
             \"odd \"\" name\" \"it's \"\"odd\"\"\"\n"
        ),
    )?;
    let database = format!("[databases.app]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let top = format!("auth = \"md5\"\nuserlist = {list:?}");
    let proxy = Config::default().top(&top).section(&database).start()?;
    assert_eq!(proxy.target().connect()?.value("select current_user")?, "app");
    for (user, password) in [("verified", "v"), ("hashed", "h"), ("odd \" name", "it's \"odd\"")] {
        assert_eq!(proxy.target().user(user, password).connect()?.value("select current_user")?, user);
        assert_eq!(proxy.target().user(user, "wrong").refusal()?.code, "28P01");
    }
    Ok(())
}

/// A cluster with a function that looks secrets up, and a proxy that uses it for users it does not know.
fn with_auth_query() -> Result<(Cluster, Proxy)> {
    auth_query("select * from public.lookup($1)")
}

/// The same with another query.
fn auth_query(query: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.sql(&format!("create role lookup login password '{PASSWORD}'"))?;
    cluster.sql(
        "create function public.lookup(name text) returns table (n name, p text, u timestamptz) language sql security definer \
         set search_path = pg_catalog as 'select rolname, rolpassword, rolvaliduntil from pg_authid where rolname = $1 and rolcanlogin'",
    )?;
    let config = Config::of(&cluster)
        .database("unlisted_users = \"auth_query\"\nauth_query_user = \"lookup\"")
        .database(&format!("auth_query = \"{query}\""))
        .section(&format!("[users.lookup]\npassword = \"{PASSWORD}\""));
    let proxy = config.start()?;
    Ok((cluster, proxy))
}

#[test]
fn auth_query_finds_users() -> Result {
    let (cluster, proxy) = with_auth_query()?;
    cluster.sql("create role found login password 'found it'")?;
    let target = proxy.target().user("found", "found it");
    assert_eq!(target.connect()?.value("select current_user")?, "found");
    assert_eq!(target.user("found", "no").refusal()?.code, "28P01");
    let unknown = target.user("not found", "no").refusal()?;
    assert_eq!(unknown.code, "28P01");
    assert!(unknown.message.contains("password authentication failed"), "{unknown:?}");
    // A changed password counts soon, and a dropped role too.
    cluster.sql("alter role found password 'new'")?;
    eventually("the new password counts", || Ok(target.user("found", "new").login()?.is_ok()))?;
    eventually("the old one does not", || Ok(target.login()?.is_err()))?;
    Ok(())
}

#[test]
fn auth_query_honours_valid_until() -> Result {
    let (cluster, proxy) = with_auth_query()?;
    cluster.sql("create role expired login password 'p' valid until '2020-01-01'")?;
    cluster.sql("create role lasting login password 'p' valid until '2999-01-01'")?;
    cluster.sql("create role endless login password 'p' valid until 'infinity'")?;
    assert_eq!(proxy.target().user("expired", "p").refusal()?.code, "28P01");
    for user in ["lasting", "endless"] {
        assert_eq!(proxy.target().user(user, "p").connect()?.value("select current_user")?, user);
    }
    Ok(())
}

#[test]
fn auth_query_cannot_be_tricked_by_objects_in_public() -> Result {
    // A function and an operator of PostgreSQL's, as one writes them.
    let (cluster, proxy) = auth_query("select n, p, u from public.lookup(lower($1)) where n = $1")?;
    // Anybody may make these; the query must not meet them, whatever the search path of its role.
    cluster.sql(
        "create role victim login password 'secret';
         create function public.mine(name, text) returns boolean language plpgsql as
           $$ begin raise exception 'this sees every name and secret'; end $$;
         create operator public.= (leftarg = name, rightarg = text, function = public.mine);
         create function public.lower(text) returns text language sql as $$ select 'postgres' $$;
         create function public.set_config(text, text, boolean) returns text language sql as 'select (1 / 0)::text';
         alter role lookup set search_path = public, pg_catalog",
    )?;
    assert_eq!(proxy.target().user("victim", "secret").connect()?.value("select current_user")?, "victim");
    assert_eq!(proxy.target().user("x' or true --", "secret").refusal()?.code, "28P01");
    // They are what an unprotected session meets.
    let mut unprotected = cluster.target().user("lookup", PASSWORD).connect()?;
    assert_eq!(unprotected.value("select lower('VICTIM')")?, "postgres");
    assert_eq!(unprotected.query("select 'a'::name = 'a'::text")?.error().code, "P0001");
    Ok(())
}

#[test]
fn any_database_by_a_star() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create database elsewhere owner app")?;
    let any = format!(
        "[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n[users.app]\npassword = \"{PASSWORD}\"",
        cluster.port()
    );
    let proxy = Config::default().section(&any).start()?;
    for name in ["app", "elsewhere"] {
        assert_eq!(proxy.target().database(name).connect()?.value("select current_database()")?, name);
    }
    // The server's own words for a name that it does not know.
    let direct = cluster.target().database("nowhere").refusal()?;
    let error = proxy.target().database("nowhere").first_error()?;
    assert_eq!((error.code, error.message), (direct.code, direct.message));
    Ok(())
}

#[test]
fn an_alias_names_another_database() -> Result {
    let cluster = Cluster::start()?;
    let alias = format!("[databases.alias]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"app\"", cluster.port());
    let proxy = Config::of(&cluster).section(&alias).start()?;
    assert_eq!(proxy.target().database("alias").connect()?.value("select current_database()")?, "app");
    Ok(())
}

#[test]
fn a_unix_socket_to_the_server() -> Result {
    let cluster = Cluster::start()?;
    let database =
        format!("[databases.socket]\nhost = {:?}\nport = {}\ndbname = \"app\"", cluster.socket_dir(), cluster.port());
    let proxy = Config::of(&cluster).section(&database).start()?;
    let mut client = proxy.target().database("socket").connect()?;
    assert_eq!(client.value("select inet_server_addr() is null")?, "t");
    Ok(())
}

#[test]
fn a_slow_login_is_ended() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("client_login_timeout = \"1s\"").start()?;
    // Nothing at all, a byte now and then, and a stop half way.
    let start = Instant::now();
    let mut silent = Wire::open(&proxy.target())?;
    let mut stopped = Wire::open(&proxy.target())?;
    stopped.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
    assert_eq!(stopped.read()?.tag, b'R');
    for mut client in [silent.read_to_close()?, stopped.read_to_close()?].map(|answer| answer.errors()) {
        if let Some(error) = client.pop() {
            assert_eq!(error.severity, "FATAL");
            assert!(format!("{error:?}").contains("client_login_timeout"), "{error:?}");
        }
    }
    let packet = startup(0x0003_0000, &[("user", APP), ("database", APP), ("application_name", "slow-loris")]);
    let mut slow = Wire::open(&proxy.target())?;
    for byte in packet.chunks(1) {
        std::thread::sleep(Duration::from_millis(100));
        if slow.send(byte).is_err() {
            break;
        }
    }
    let _ = slow.read_to_close();
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn two_hundred_logins_at_once() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    crowd(40, |_| {
        for _ in 0..5 {
            assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
        }
        Ok(())
    })
}
