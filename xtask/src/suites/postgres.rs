//! PostgreSQL's server behind a TCPRoute and behind TLS that is passed on, asked by its own clients.
//!
//! On the TLS listener `psql` has to begin with TLS (`sslnegotiation=direct`, since version 17): what older ones send first is no
//! ClientHello, so there is no server name to route by.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fault::Fault;
use crate::process::{self, Running};
use crate::suites::certificate::{Authority, Issued};
use crate::suites::instance::{Instance, free_port};
use crate::suites::stage::{Stage, endpoint_slices};
use crate::suites::{Outcome, tools};

const START: Duration = Duration::from_secs(30);

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let authority = Authority::new()?;
    let roots = stage.file("authority.pem");
    stage.keep(&roots, authority.pem().as_bytes())?;
    let server = Server::start(stage, &authority.issue("unused", &["db.example"])?)?;
    stage.write("endpoints.yaml", &endpoint_slices("postgres", &[server.address]))?;
    let gateway = Instance::start(stage, &[543, 443], &[])?;
    let client = Client { bin: server.bin.clone(), roots };

    let (plain, tls) = (gateway.at(543), gateway.at(443));
    let mut outcome = Outcome::default();
    let asks = |way: &str, at, settings: &str, seen: &str| (way.to_owned(), client.asks(at, settings, seen));
    for (name, result) in [
        asks("TCPRoute, in the clear", plain, "sslmode=disable", "f"),
        asks("TCPRoute, TLS begun in the protocol", plain, "sslmode=verify-full", "t"),
        asks("TCPRoute, TLS from the start", plain, "sslmode=verify-full sslnegotiation=direct", "t"),
        asks("TLSRoute, TLS from the start", tls, "sslmode=verify-full sslnegotiation=direct", "t"),
    ] {
        outcome.count(&name, result);
    }
    outcome.count("a hundred connections with each one transaction", client.bench(plain, "sslmode=disable", true));
    outcome.count("four connections with many transactions, passed on", {
        client.bench(tls, "sslmode=verify-full sslnegotiation=direct", false)
    });
    outcome.count("20 MB out and in", client.copies(tls, "sslmode=verify-full sslnegotiation=direct"));
    outcome.count("TLSRoute, TLS begun in the protocol: refused", client.is_refused(tls, "db.example", "sslmode=verify-full"));
    let settings = "sslmode=require sslnegotiation=direct";
    outcome.count("TLSRoute, another name: refused", client.is_refused(tls, "other.example", settings));
    outcome.notes.push(process::capture(Command::new(client.program("psql")).arg("--version"))?.trim().to_owned());
    server.running.terminate(START)?;
    Ok(outcome)
}

/// A running server with a certificate of its own.
struct Server {
    bin: PathBuf,
    address: SocketAddr,
    running: Running,
}

impl Server {
    fn start(stage: &Stage, certificate: &Issued) -> Result<Self, Fault> {
        // A copy, since the server will not run as root, and whoever it runs as cannot read root's cache.
        let (installed, data) = (stage.file("postgres"), stage.file("data"));
        process::capture(Command::new("cp").arg("-r").arg(tools::postgres()?).arg(&installed))?;
        let (chain, key) = (stage.file("server.crt"), stage.file("server.key"));
        stage.keep(&chain, certificate.chain.as_bytes())?;
        stage.keep(&key, certificate.key.as_bytes())?;
        process::capture(Command::new("mkdir").arg(&data))?;
        process::capture(Command::new("chmod").arg("600").arg(&key))?;
        if is_root()? {
            process::capture(Command::new("chown").arg("nobody").args([&data, &key]))?;
        }
        let bin = installed.join("bin");
        let mut init = Command::new(bin.join("initdb"));
        init.args(["--username=postgres", "--auth=trust", "--no-sync", "--pgdata"]).arg(&data);
        process::capture(&mut unprivileged(&init)?)?;

        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = Command::new(bin.join("postgres"));
        command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-k", "", "-F"]);
        for setting in [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", chain.display()),
            format!("ssl_key_file={}", key.display()),
            "max_connections=200".to_owned(),
        ] {
            command.args(["-c", &setting]);
        }
        let mut running = Running::start("postgres", &unprivileged(&command)?, &stage.file("postgres.log"))?;
        let mut ready = Command::new(bin.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &address.port().to_string()]);
        running.wait_until(START, || ready.status().is_ok_and(|status| status.success()))?;
        Ok(Self { bin, address, running })
    }
}

fn is_root() -> Result<bool, Fault> {
    Ok(process::capture(Command::new("id").arg("-u"))?.trim() == "0")
}

/// The same command, for root as `nobody`.
fn unprivileged(command: &Command) -> Result<Command, Fault> {
    let mut other = Command::new("env");
    if is_root()? {
        other = Command::new("setpriv");
        other.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]);
    }
    other.arg(command.get_program()).args(command.get_args());
    Ok(other)
}

struct Client {
    bin: PathBuf,
    roots: PathBuf,
}

impl Client {
    fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    fn at(&self, at: SocketAddr, host: &str, settings: &str) -> String {
        format!(
            "host={host} hostaddr={} port={} user=postgres dbname=postgres connect_timeout=10 sslrootcert={} {settings}",
            at.ip(),
            at.port(),
            Path::new(&self.roots).display()
        )
    }

    fn psql(&self, at: SocketAddr, host: &str, settings: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(self.program("psql"));
        command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--command", sql]);
        let said = process::capture(command.arg(self.at(at, host, settings)));
        said.map(|said| said.trim().to_owned()).map_err(|fault| fault.to_string())
    }

    /// A question whose answer says whether the server itself has ended TLS.
    fn asks(&self, at: SocketAddr, settings: &str, seen: &str) -> Result<(), String> {
        let said = self.psql(at, "db.example", settings, "SELECT 6 * 7, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
        if said == format!("42|{seen}") { Ok(()) } else { Err(format!("expected 42|{seen}, found {said}")) }
    }

    fn is_refused(&self, at: SocketAddr, host: &str, settings: &str) -> Result<(), String> {
        self.psql(at, host, settings, "SELECT 1").map_or(Ok(()), |said| Err(format!("was served: {said}")))
    }

    /// `pgbench`, with a new connection for each transaction or with four for all.
    fn bench(&self, at: SocketAddr, settings: &str, anew: bool) -> Result<(), String> {
        let whole = self.at(at, "db.example", settings);
        let run = |flags: &[&str]| {
            let mut command = Command::new(self.program("pgbench"));
            process::capture(command.args(flags).arg(&whole)).map_err(|fault| fault.to_string())
        };
        run(&["--initialize", "--quiet", "--scale=1"])?;
        let wanted = if anew { "100/100" } else { "1000/1000" };
        let said = if anew {
            run(&["--connect", "--client=4", "--transactions=25", "--no-vacuum"])?
        } else {
            run(&["--client=4", "--transactions=250", "--no-vacuum"])?
        };
        if said.contains(wanted) { Ok(()) } else { Err(format!("expected {wanted} transactions, it said:\n{said}")) }
    }

    /// Many rows to the client and back into the server, compared there.
    fn copies(&self, at: SocketAddr, settings: &str) -> Result<(), String> {
        let file = self.roots.with_file_name("rows");
        let sql = |sql: &str| self.psql(at, "db.example", settings, sql);
        sql("CREATE TABLE rows AS SELECT n, repeat(md5(n::text), 10) AS text FROM generate_series(1, 60000) AS n")?;
        sql(&format!("\\copy rows TO '{}'", file.display()))?;
        sql("CREATE TABLE again (LIKE rows)")?;
        sql(&format!("\\copy again FROM '{}'", file.display()))?;
        let size = std::fs::metadata(&file).map_err(|error| error.to_string())?.len();
        let differ = sql("SELECT count(*) FROM (TABLE rows EXCEPT TABLE again) AS lost")?;
        let count = sql("SELECT count(*) FROM again")?;
        let whole = size > 19_000_000 && differ == "0" && count == "60000";
        if whole { Ok(()) } else { Err(format!("{size} bytes, {count} rows, {differ} of them lost")) }
    }
}
