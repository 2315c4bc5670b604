//! Edits of the folder, each followed until it can be seen from outside: an edit that nothing shows proves nothing.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::suites::certificate::{Authority, Issued};
use crate::suites::client::Client;
use crate::suites::instance::Instance;
use crate::suites::stage::{Stage, endpoint_slices};
use crate::suites::zero_loss::traffic::HOST;

/// Every port that a Gateway of the folder ever listens on; the last comes and goes.
pub(super) const PORTS: [u16; 3] = [80, 443, COMING_AND_GOING];
const COMING_AND_GOING: u16 = 81;

const PATIENCE: Duration = Duration::from_secs(5);

/// Writes the folder's files.
#[derive(Debug)]
pub(super) struct Editor<'a> {
    stage: &'a Stage,
    authority: &'a Authority,
    backends: [SocketAddr; 2],
    gateway: String,
}

/// What is said of the route under traffic.
#[derive(Debug, Clone, Copy)]
struct Shop {
    /// Shown in the response header `x-edit`.
    mark: usize,
    red: u32,
    green: u32,
    /// One more filter, which changes the request.
    filtered: bool,
}

impl<'a> Editor<'a> {
    /// Writes what the folder holds before the first edit.
    pub(super) fn new(stage: &'a Stage, authority: &'a Authority, backends: [SocketAddr; 2]) -> Result<Self, Fault> {
        let gateway = std::fs::read_to_string(stage.yaml().join("gateway.yaml"));
        let gateway = gateway.map_err(|fault| Fault::said(format!("tests/suites/zero-loss/gateway.yaml: {fault}")))?;
        let editor = Self { stage, authority, backends, gateway };
        stage.write("shop.yaml", &Shop { mark: 0, red: 1, green: 1, filtered: false }.yaml())?;
        stage.write("moving.yaml", &route("moving", "moving.example", "        - name: moving\n          port: 80\n", ""))?;
        stage.write("endpoints-red.yaml", &endpoint_slices("red", &backends))?;
        stage.write("endpoints-green.yaml", &endpoint_slices("green", &backends[1..]))?;
        stage.write("endpoints-moving.yaml", &endpoint_slices("moving", &backends[..1]))?;
        editor.certificate()?;
        Ok(editor)
    }

    /// Makes one edit and waits until it is live. Ten kinds take turns; every second kind touches the route under traffic.
    pub(super) fn edit(&mut self, number: usize, gateway: &Instance) -> Result<(), String> {
        let round = number / 10;
        let shop = Shop { mark: number, red: 1, green: 1, filtered: false };
        let odd = round % 2 == 1;
        let live = match number % 10 {
            0 => self.shop(Shop { red: 9, ..shop }, gateway),
            1 => self.neighbour(number, gateway),
            2 => self.shop(Shop { red: 0, green: 1, ..shop }, gateway),
            3 => self.endpoints(self.backends[usize::from(!odd)], gateway),
            4 => self.shop(Shop { filtered: true, ..shop }, gateway),
            5 => self.listener_comes(gateway),
            6 => self.shop(Shop { red: 1_000_000, green: 1, ..shop }, gateway),
            7 => self.swap_certificate(gateway),
            8 => self.neighbour_goes(gateway),
            _ => self.listener_goes(gateway),
        };
        live.map_err(|why| format!("edit {number}: {why}"))
    }

    /// Marks the route under traffic and returns when the file is in its place.
    pub(super) fn mark(&self, mark: usize) -> Result<(), Fault> {
        self.stage.write("shop.yaml", &Shop { mark, red: 1, green: 1, filtered: false }.yaml())
    }

    fn shop(&self, shop: Shop, gateway: &Instance) -> Result<(), String> {
        self.put("shop.yaml", &shop.yaml())?;
        let wanted = shop.mark.to_string();
        seen("the edited route", || answer(gateway.at(80), HOST, |answer| answer.header("x-edit") == wanted))
    }

    fn neighbour(&self, number: usize, gateway: &Instance) -> Result<(), String> {
        let mark = format!(
            "      filters:\n        - type: ResponseHeaderModifier\n          responseHeaderModifier:\n            set:\n              - name: x-edit\n                value: \"{number}\"\n"
        );
        self.put(
            "neighbour.yaml",
            &route("neighbour", "neighbour.example", "        - name: green\n          port: 80\n", &mark),
        )?;
        seen("the added route", || {
            answer(gateway.at(80), "neighbour.example", |answer| answer.header("x-edit") == number.to_string())
        })
    }

    fn neighbour_goes(&self, gateway: &Instance) -> Result<(), String> {
        self.stage.remove("neighbour.yaml").map_err(|fault| fault.to_string())?;
        seen("the removed route", || answer(gateway.at(80), "neighbour.example", |answer| answer.status == 404))
    }

    /// Also turns the order of the endpoints under the traffic.
    fn endpoints(&self, to: SocketAddr, gateway: &Instance) -> Result<(), String> {
        let name = if to == self.backends[0] { "first" } else { "second" };
        self.put("endpoints-moving.yaml", &endpoint_slices("moving", &[to]))?;
        self.put("endpoints-green.yaml", &endpoint_slices("green", &[to]))?;
        seen("the moved endpoint", || answer(gateway.at(80), "moving.example", |answer| answer.header("x-backend") == name))
    }

    fn listener_comes(&self, gateway: &Instance) -> Result<(), String> {
        let listener = format!("    - name: more\n      protocol: HTTP\n      port: {COMING_AND_GOING}\n");
        self.put("gateway.yaml", &format!("{}{listener}", self.gateway))?;
        seen("the added listener", || answer(gateway.at(COMING_AND_GOING), HOST, |answer| answer.status == 200))
    }

    fn listener_goes(&self, gateway: &Instance) -> Result<(), String> {
        self.put("gateway.yaml", &self.gateway)?;
        seen("the removed listener", || TcpStream::connect(gateway.at(COMING_AND_GOING)).is_err())
    }

    fn swap_certificate(&self, gateway: &Instance) -> Result<(), String> {
        let issued = self.certificate().map_err(|fault| fault.to_string())?;
        let config = self.authority.client().map_err(|fault| fault.to_string())?;
        seen("the swapped certificate", || {
            let mut client = Client::tls(gateway.at(443), config.clone());
            client.get(HOST, "/").is_ok() && client.certificate().as_ref() == Some(&issued.der)
        })
    }

    fn certificate(&self) -> Result<Issued, Fault> {
        let issued = self.authority.issue("edge", &[HOST, "moving.example", "neighbour.example"])?;
        self.stage.write("certificate.yaml", &issued.secret)?;
        Ok(issued)
    }

    fn put(&self, name: &str, text: &str) -> Result<(), String> {
        self.stage.write(name, text).map_err(|fault| fault.to_string())
    }
}

impl Shop {
    fn yaml(self) -> String {
        let Self { mark, red, green, filtered } = self;
        let backends = format!(
            "        - name: red\n          port: 80\n          weight: {red}\n        - name: green\n          port: 80\n          weight: {green}\n"
        );
        let mut filters = format!(
            "      filters:\n        - type: ResponseHeaderModifier\n          responseHeaderModifier:\n            set:\n              - name: x-edit\n                value: \"{mark}\"\n"
        );
        if filtered {
            filters += "        - type: RequestHeaderModifier\n          requestHeaderModifier:\n            add:\n              - name: x-filtered\n                value: \"yes\"\n";
        }
        route("shop", HOST, &backends, &filters)
    }
}

fn route(name: &str, host: &str, backends: &str, filters: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\nspec:\n  parentRefs:\n    - name: edge\n  \
         hostnames:\n    - {host}\n  rules:\n    - backendRefs:\n{backends}{filters}"
    )
}

/// Whether a request on a connection of its own gets such an answer.
fn answer(address: SocketAddr, host: &str, wanted: impl Fn(&crate::suites::client::Answer) -> bool) -> bool {
    Client::plain(address).get(host, "/").is_ok_and(|answer| wanted(&answer))
}

pub(super) fn seen(what: &str, mut live: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !live() {
        if start.elapsed() > PATIENCE {
            return Err(format!("{what} was not live after {} s", PATIENCE.as_secs()));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
