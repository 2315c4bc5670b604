//! A folder -> what a data plane is to serve and what a cluster would say of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_api::status::Statuses;
use isthmus_api::{ObjectRef, Objects};
use isthmus_routing::{BackendKey, GatewayKey, Snapshot, Transport, Version};
use isthmus_translate::{Address, Options, Translation, translate};

use crate::authority::Authority;
use crate::certificates::Certificates;
use crate::checks;
use crate::echo::{Echo, endpoints};
use crate::message::{Message, Severity};
use crate::ports;
use crate::source::read::{Change, Folder, OpenError};
use crate::state::addresses::Addresses;
use crate::state::service_addresses::ServiceAddresses;
use crate::state::{Origin, Reading, State};
use crate::statuses;

/// What stands in for what a folder leaves out.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What answers for Services without an EndpointSlice.
    pub echo: Echoes,
    /// Self-signed certificates stand in for missing Secrets.
    pub dev_certificates: bool,
    /// Moves listeners below 1024 up.
    pub port_offset: u16,
    /// The first address that is given to a Gateway without one.
    pub first_address: Ipv4Addr,
    /// The clients in the mesh; none: nobody calls a Service.
    pub mesh: Option<Mesh>,
}

/// Clients that call Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// Their namespace: the one whose consumer routes are theirs.
    pub namespace: String,
    /// The first address that is given to a Service.
    pub first_address: Ipv4Addr,
}

impl Default for Settings {
    /// Nothing stands in for anything; addresses from 127.0.0.1 on.
    fn default() -> Self {
        Self { echo: Echoes::Off, dev_certificates: false, port_offset: 0, first_address: Ipv4Addr::LOCALHOST, mesh: None }
    }
}

/// What answers for Services without an EndpointSlice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Echoes {
    /// Nobody.
    #[default]
    Off,
    /// Nobody, but they are named as if: for a look at the folder that opens no sockets. No status depends on it.
    Named,
    /// Echo servers.
    Running,
}

/// A folder that is served on this machine.
#[derive(Debug)]
pub struct Standalone {
    settings: Settings,
    folder: Folder,
    state: State,
    addresses: Addresses,
    /// None: nobody calls a Service.
    service_addresses: Option<ServiceAddresses>,
    certificates: Certificates,
    /// Of the echoes; none: there are none, or no key can be made.
    authority: Option<Arc<Authority>>,
    echoes: BTreeMap<BackendKey, Echo>,
    /// Echoes that are not wanted any more, since when: requests may still be on their way to them.
    retired: Vec<(Instant, Echo)>,
    /// Listeners that the data plane could not open.
    unavailable: BTreeMap<(GatewayKey, String), String>,
    view: View,
}

/// What follows from the folder at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The objects in force, with those that stand in for others.
    pub objects: Objects,
    /// Where they are written.
    pub origins: BTreeMap<ObjectRef, Origin>,
    /// What there is to say besides statuses.
    pub messages: Vec<Message>,
    /// The addresses of the Gateways.
    pub addresses: BTreeMap<GatewayKey, Vec<IpAddr>>,
    /// For the data plane, with ports moved.
    pub snapshot: Arc<Snapshot>,
    /// Of the snapshot.
    pub version: Version,
    /// What a cluster would say.
    pub statuses: Statuses,
    /// Service ports that an echo answers for.
    pub echoes: BTreeSet<BackendKey>,
    /// The namespace of the mesh's clients; none: nobody calls a Service.
    pub client_namespace: Option<String>,
    /// Listeners whose moved port belongs to somebody else.
    collisions: BTreeMap<(GatewayKey, String), String>,
}

/// How long a file may be between two writes of an editor before it is called broken.
const HALF_WRITTEN: Duration = Duration::from_millis(15);

/// How long an echo that is not wanted any more goes on answering.
const RETIREMENT: Duration = Duration::from_secs(30);

impl Standalone {
    /// Reads everything for the first time. Echo servers run in the current tokio runtime.
    ///
    /// # Errors
    /// When there is nothing to read.
    pub async fn open(roots: &[PathBuf], settings: Settings) -> Result<Self, OpenError> {
        let folder = Folder::open(roots)?;
        let addresses = Addresses::new(settings.first_address);
        let service_addresses = settings.mesh.as_ref().map(|mesh| ServiceAddresses::new(mesh.first_address));
        let mut standalone = Self {
            settings,
            folder,
            state: State::default(),
            addresses,
            service_addresses,
            certificates: Certificates::default(),
            authority: None,
            echoes: BTreeMap::new(),
            retired: Vec::new(),
            unavailable: BTreeMap::new(),
            view: View::of(Reading::default()),
        };
        standalone.build().await;
        Ok(standalone)
    }

    /// Reads again what has changed, and says whether that makes a difference.
    pub async fn refresh(&mut self, change: &Change) -> bool {
        let broken = self.folder.broken();
        let mut changed = self.folder.refresh(change);
        if !self.folder.broken().is_subset(&broken) {
            tokio::time::sleep(HALF_WRITTEN).await;
            changed |= self.folder.refresh(change);
        }
        if changed {
            self.build().await;
        }
        changed
    }

    /// Takes over which listeners cannot be opened, with the reasons, and says whether that is new. The snapshot stays as it is, so that
    /// the data plane goes on trying.
    pub fn set_unavailable(&mut self, unavailable: BTreeMap<(GatewayKey, String), String>) -> bool {
        let changed = self.unavailable != unavailable;
        if changed {
            self.unavailable = unavailable;
            self.judge();
        }
        changed
    }

    /// What follows from the folder now.
    pub fn view(&self) -> &View {
        &self.view
    }

    async fn build(&mut self) {
        let mut view = View::of(self.state.take(self.folder.files()));
        if self.settings.dev_certificates {
            let (secrets, messages) = self.certificates.make(&view.objects);
            secrets.into_iter().for_each(|secret| drop(view.objects.apply(secret)));
            view.messages.extend(messages);
        }
        if self.settings.echo != Echoes::Off {
            self.stand_in(&mut view);
        }
        match self.settings.echo {
            Echoes::Off => {}
            Echoes::Named => view.echoes = endpoints::wanted(&view.objects),
            Echoes::Running => self.echo(&mut view).await,
        }
        let assigned = self.addresses.assign(&view.objects, is_usable);
        view.addresses = assigned.addresses;
        view.messages.extend(assigned.messages);
        view.client_namespace = self.settings.mesh.as_ref().map(|mesh| mesh.namespace.clone());
        if let Some(services) = &mut self.service_addresses {
            view.messages.extend(services.assign(&mut view.objects, is_usable));
        }
        let options = options(&view, BTreeMap::new());
        let Translation { snapshot, statuses, .. } = translate(&view.objects, &options);
        let snapshot = Arc::new(snapshot.keeping(&self.view.snapshot));
        let shifted = ports::shift(&snapshot, self.settings.port_offset);
        view.messages.extend(checks::check(&view.objects, &statuses, &view.origins, view.client_namespace.is_some()));
        let collided = |((gateway, listener), reason): (&(GatewayKey, String), &String)| {
            Message::fault(None, format!("{gateway}: listener {listener}: {reason}"))
        };
        view.messages.extend(shifted.collisions.iter().map(collided));
        view.messages.sort_by_key(|message| message.severity);
        view.version = shifted.snapshot.version();
        view.snapshot = shifted.snapshot;
        view.collisions = shifted.collisions;
        view.statuses = statuses;
        self.view = view;
        // What could not be opened before may be gone now; whatever is left is reported again.
        self.unavailable.retain(|(gateway, _), _| self.view.snapshot.gateways.contains_key(gateway));
        if !self.unavailable.is_empty() || !self.view.collisions.is_empty() {
            self.judge();
        }
    }

    /// The statuses with what the data plane has to say.
    fn judge(&mut self) {
        let unavailable =
            self.unavailable.iter().chain(&self.view.collisions).map(|(key, reason)| (key.clone(), reason.clone())).collect();
        let options = options(&self.view, unavailable);
        self.view.statuses = translate(&self.view.objects, &options).statuses;
    }

    /// The authority of the echoes stands in for those that policies name and nobody wrote.
    fn stand_in(&mut self, view: &mut View) {
        if self.authority.is_none() {
            match Authority::new() {
                Ok(authority) => self.authority = Some(Arc::new(authority)),
                Err(error) => view.messages.push(Message::warning(None, format!("echo servers have no certificates: {error}"))),
            }
        }
        if let Some(authority) = &self.authority {
            let (config_maps, messages) = authority.stand_in(&view.objects);
            config_maps.into_iter().for_each(|object| drop(view.objects.apply(object)));
            view.messages.extend(messages);
        }
    }

    /// Starts the echoes that are wanted, stops the others, and leads the Services to them.
    async fn echo(&mut self, view: &mut View) {
        let wanted = endpoints::wanted(&view.objects);
        self.retired.retain(|(since, _)| since.elapsed() < RETIREMENT);
        let unwanted: Vec<_> = self.echoes.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        self.retired.extend(unwanted.iter().filter_map(|key| Some((Instant::now(), self.echoes.remove(key)?))));
        for key in wanted {
            if self.echoes.contains_key(&key) {
                continue;
            }
            let identity = endpoints::identity(&key);
            let started = match (key.transport, &self.authority) {
                (Transport::Tcp, Some(authority)) => Echo::start_signed(identity, Arc::clone(authority)).await,
                (Transport::Tcp, None) => Echo::start(identity).await,
                (Transport::Udp, _) => Echo::start_udp(identity).await,
            };
            match started {
                Ok(echo) => drop(self.echoes.insert(key, echo)),
                Err(error) => view.messages.push(Message::fault(None, format!("{key}: its echo server has no socket: {error}"))),
            }
        }
        let running: BTreeMap<BackendKey, SocketAddr> =
            self.echoes.iter().map(|(key, echo)| (key.clone(), echo.address())).collect();
        let slices = endpoints::slices(&view.objects, &running);
        slices.into_iter().for_each(|slice| drop(view.objects.apply(slice)));
        view.echoes = running.into_keys().collect();
    }
}

impl View {
    fn of(reading: Reading) -> Self {
        let snapshot = Arc::<Snapshot>::default();
        Self {
            objects: reading.objects,
            origins: reading.origins,
            messages: reading.messages,
            addresses: BTreeMap::new(),
            version: snapshot.version(),
            snapshot,
            statuses: Statuses::default(),
            echoes: BTreeSet::new(),
            client_namespace: None,
            collisions: BTreeMap::new(),
        }
    }

    /// Whether nothing is written, not even something that is wrong.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
            && self.messages.iter().all(|message| message.place.is_none() && message.severity != Severity::Fault)
    }

    /// Whether everything that is written is in force.
    pub fn is_good(&self) -> bool {
        self.messages.iter().all(|message| message.severity != Severity::Fault) && statuses::problems(&self.statuses).is_empty()
    }
}

fn options(view: &View, unavailable: BTreeMap<(GatewayKey, String), String>) -> Options {
    let addresses = view.addresses.iter().map(|(key, ips)| (key.clone(), ips.iter().copied().map(Address::Ip).collect()));
    Options { addresses: addresses.collect(), unavailable, mesh: view.client_namespace.is_some(), ..Options::default() }
}

/// Whether this machine has the address: a socket can be had on it.
fn is_usable(address: IpAddr) -> bool {
    !address.is_unspecified() && TcpListener::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests;
