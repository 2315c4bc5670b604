//! Which of the replicas leads: a Lease that one of them holds.
//!
//! A Lease is only ever replaced as it was read (its `resourceVersion` is in the PUT), so of two candidates that see it free
//! one gets it. Whether the holder has lost it is judged by how long the Lease has not changed on our own clock, never by
//! comparing clocks. And the holder stops leading, by its own clock and before anybody else can begin, when it could not renew.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use isthmus_api::ObjectMeta;
use isthmus_api::core::api::coordination::v1::{Lease, LeaseSpec};
use isthmus_api::core::apimachinery::pkg::apis::meta::v1::MicroTime;
use isthmus_push::server::Role;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::watch::fault;

/// How the leader is found.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Our pod.
    pub pod: String,
    /// Where proxies reach our push server.
    pub push: SocketAddr,
    /// How long a Lease that is not renewed is respected.
    pub duration: Duration,
    /// How often the holder renews it.
    pub renew: Duration,
    /// How often the others look at it, and a failed renewal is repeated.
    pub retry: Duration,
    /// Why this replica is not ready to lead, in words; a free Lease is left to others then, for [`Options::duration`].
    pub ready: Option<watch::Receiver<Option<String>>>,
}

impl Options {
    /// The Lease `isthmus-controller`, of 15 seconds, renewed every 5.
    pub fn new(namespace: impl Into<String>, pod: impl Into<String>, push: SocketAddr) -> Self {
        Self {
            namespace: namespace.into(),
            name: "isthmus-controller".to_owned(),
            pod: pod.into(),
            push,
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            ready: None,
        }
    }

    /// Who we are: followers read from it where to send proxies.
    fn identity(&self) -> String {
        format!("{}_{}", self.pod, self.push)
    }
}

/// Takes part in the election until `shutdown`. Then the role becomes [`Role::Follower`] and, after whoever leads had a moment
/// to stop, the Lease is given back, so that another replica leads within [`Options::retry`].
pub async fn run(client: Client, options: Options, role: watch::Sender<Role>, shutdown: impl Future<Output = ()> + Send) {
    let mut election = Election {
        leases: Api::namespaced(client, &options.namespace),
        identity: options.identity(),
        options,
        observed: None,
        free: None,
        role,
        until: None,
        fault: None,
    };
    {
        let mut elect = pin!(election.elect());
        let mut shutdown = pin!(shutdown);
        tokio::select! {
            () = &mut elect => {}
            () = &mut shutdown => {}
        }
    }
    election.step_down().await;
}

/// A Lease as it was read, and since when it is so.
struct Observed {
    lease: Lease,
    since: Instant,
}

struct Election {
    leases: Api<Lease>,
    identity: String,
    options: Options,
    observed: Option<Observed>,
    /// Since when we see that nobody holds the Lease.
    free: Option<Instant>,
    role: watch::Sender<Role>,
    /// We lead until then, unless we renew.
    until: Option<Instant>,
    /// The last failure, which was logged.
    fault: Option<String>,
}

impl Election {
    async fn elect(&mut self) {
        loop {
            let started = Instant::now();
            let deadline = self.until.unwrap_or(started + self.options.duration);
            // Each request is given up in time for another one.
            let patience = (self.options.renew).min(deadline.saturating_duration_since(started));
            let round = timeout(patience, self.round(started)).await;
            let (settled, fault) = match round {
                Ok(Ok(settled)) => (settled, None),
                Ok(Err(error)) => (false, Some(describe(&error))),
                Err(_) => (false, Some("no answer in time".to_owned())),
            };
            self.tell(fault);
            let pause = if settled && self.until.is_some() { self.options.renew } else { self.options.retry };
            let next = started + pause.mul_f64(0.9 + fastrand::f64() / 5.0);
            match self.until {
                Some(until) if until <= next => {
                    sleep_until(until).await;
                    self.lose("the Lease could not be renewed in time");
                }
                Some(_) | None => sleep_until(next.max(started + Duration::from_millis(10))).await,
            }
        }
    }

    /// Reads the Lease, and creates, renews or takes it where that is right. False: somebody else wrote it meanwhile.
    async fn round(&mut self, started: Instant) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(&self.options.name).await? else {
            let lease =
                Lease { metadata: ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() }, spec: None };
            let claimed = self.claimed(lease);
            let created = self.write(&claimed).await;
            return self.claim_ended(created, started);
        };
        let holder = holder(&lease).to_owned();
        self.observe(lease.clone());
        if holder != self.identity && !holder.is_empty() && !self.is_expired(started) {
            (self.until, self.free) = (None, None);
            self.follow(&holder);
            return Ok(true);
        }
        if holder != self.identity && self.leaves_it_to_others(started) {
            self.lose("the Lease was taken away, and we are not ready");
            return Ok(true);
        }
        let claimed = self.claimed(lease);
        let replaced = self.write(&claimed).await;
        self.claim_ended(replaced, started)
    }

    /// Creates or replaces the Lease. What failed is tried again as it was, which is safe because it names the version that it
    /// replaces: an API server that fails every second call must not fail every write.
    async fn write(&self, lease: &Lease) -> kube::Result<Lease> {
        let params = PostParams::default();
        let mut tries = 0;
        loop {
            tries += 1;
            let written = match lease.metadata.resource_version {
                Some(_) => self.leases.replace(&self.options.name, &params, lease).await,
                None => self.leases.create(&params, lease).await,
            };
            match written {
                Err(error) if fault::code(&error) != Some(409) && tries < 2 => {}
                written => return written,
            }
        }
    }

    fn claim_ended(&mut self, result: kube::Result<Lease>, started: Instant) -> kube::Result<bool> {
        match result {
            Ok(lease) => {
                self.observe(lease);
                self.lead(started);
                Ok(true)
            }
            Err(error) if fault::code(&error) == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The Lease as it is when we hold it from now on.
    fn claimed(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let before = lease.spec.take().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(self.identity.as_str());
        let transitions = before.lease_transitions.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.options.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if ours { before.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if ours || before.holder_identity.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..before
        });
        lease
    }

    fn observe(&mut self, lease: Lease) {
        let is_same = |seen: &Observed| seen.lease.metadata.resource_version == lease.metadata.resource_version;
        if !self.observed.as_ref().is_some_and(is_same) {
            self.observed = Some(Observed { lease, since: Instant::now() });
        }
    }

    /// Whether the Lease has not changed for as long as its holder promised to renew it.
    fn is_expired(&self, now: Instant) -> bool {
        let Some(Observed { lease, since }) = &self.observed else { return false };
        let promised =
            lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let duration = promised.map_or(self.options.duration, Duration::from_secs);
        now.saturating_duration_since(*since) >= duration
    }

    /// Whether another replica may take the free Lease first: a new release that never gets ready must not lead while an old one could. But
    /// if nobody does for long, even we are better than nobody.
    fn leaves_it_to_others(&mut self, now: Instant) -> bool {
        let free = *self.free.get_or_insert(now);
        let is_ready = self.options.ready.as_ref().is_none_or(|ready| ready.borrow().is_none());
        !is_ready && now.saturating_duration_since(free) < self.options.duration
    }

    /// We hold the Lease since a request that began at `started`. Others count its duration from when they see it, which is
    /// later; a fifth of it is left for clocks that run at different speeds and for what is under way when we stop.
    fn lead(&mut self, started: Instant) {
        self.until = Some(started + self.options.duration.mul_f64(0.8));
        self.free = None;
        if self.role.send_if_modified(|role| std::mem::replace(role, Role::Leader) != Role::Leader) {
            tracing::info!(identity = %self.identity, "we lead");
        }
    }

    fn follow(&self, holder: &str) {
        let new = Role::Follower { leader: address(holder) };
        let changed = self.role.send_if_modified(|role| std::mem::replace(role, new) != new);
        if changed {
            tracing::info!(%holder, "another replica leads");
        }
    }

    fn lose(&mut self, why: &str) {
        self.until = None;
        let follower = Role::Follower { leader: None };
        if self.role.send_if_modified(|role| std::mem::replace(role, follower) == Role::Leader) {
            tracing::warn!(%why, "we no longer lead");
        }
    }

    fn tell(&mut self, fault: Option<String>) {
        if fault != self.fault {
            match &fault {
                Some(fault) => {
                    tracing::warn!(%fault, lease = %self.options.name, "the Lease cannot be read or written; trying again");
                }
                None => tracing::info!(lease = %self.options.name, "the Lease can be read and written again"),
            }
            self.fault = fault;
        }
    }

    async fn step_down(&mut self) {
        let led = self.until.take().is_some();
        self.role.send_replace(Role::Follower { leader: None });
        let Some(Observed { lease, .. }) = self.observed.take().filter(|seen| led && holder(&seen.lease) == self.identity) else {
            return;
        };
        sleep(Duration::from_millis(50)).await;
        let mut lease = lease;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        let params = PostParams::default();
        let released = self.leases.replace(&self.options.name, &params, &lease);
        match timeout(Duration::from_secs(2), released).await {
            Ok(Ok(_)) => tracing::info!("the Lease was given back"),
            Ok(Err(error)) => tracing::warn!(fault = %describe(&error), "the Lease could not be given back; it expires"),
            Err(_) => tracing::warn!("the Lease could not be given back in time; it expires"),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// Where the holder's push server is.
fn address(identity: &str) -> Option<SocketAddr> {
    identity.rsplit_once('_')?.1.parse().ok()
}

fn describe(error: &kube::Error) -> String {
    match fault::code(error) {
        Some(403) => format!(
            "forbidden: the controller's Role lacks a verb of get, create and update for `leases.coordination.k8s.io`: {error}"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
