//! UDP listeners: datagrams of clients to endpoints, and back.
//!
//! A client's first datagram begins a session: a backend and an endpoint are drawn, and a socket of its own is opened towards the
//! endpoint. Everything that the client sends from then on goes there, and whatever comes back is the client's, until nothing has gone
//! either way for a while. One task receives from all clients; each session has one that passes the replies on. Datagrams that
//! cannot be passed on at once are dropped, as every hop of the network does it.

mod flow;
mod front;
mod places;
mod refusals;
mod session;
mod table;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{Bind, Shared};
use crate::drain::{Signals, raised};
use crate::limits::Limits;
use crate::listen::accept::Face;
use front::Batch;
use session::Sessions;

pub(crate) use front::Front;
pub(crate) use places::{Places, Share};

/// Batches that are received before the other things have a turn.
const TURNS: usize = 8;
/// How long nothing is received after the system refused to.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves until told to end; from then on only sessions that are there go on, each until it is idle for
/// [`Limits::udp_unanswered`], and when none is left, or all are cut, the socket is closed. So the address is free only when this
/// returns.
pub(crate) async fn run(
    front: Front,
    bind: Bind,
    config: Shared,
    face: Arc<ArcSwap<Face>>,
    signals: Signals,
    limits: Arc<Limits>,
    share: Share,
) {
    let front = Arc::new(front);
    let mut sessions = Sessions::new(front.clone(), bind, config, face, limits.clone(), share);
    let mut batch = Batch::new();
    let (mut ending, mut cut) = (signals.ending.clone(), signals.cut.clone());
    let (mut ended, mut cut) = (pin!(raised(&mut ending)), pin!(raised(&mut cut)));
    let mut sweeps = tokio::time::interval(sweep_every(&limits));
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !(sessions.is_ending() && sessions.is_empty()) {
        tokio::select! {
            biased;
            () = cut.as_mut() => return,
            () = ended.as_mut(), if !sessions.is_ending() => sessions.end(),
            _ = sweeps.tick() => sessions.sweep(Instant::now()),
            ready = front.readable() => match ready.and_then(|()| receive(&front, &mut batch, &mut sessions)) {
                Ok(false) => {}
                // A socket that is ready is no reason for tokio to let others run: in a flood nobody else on this thread would.
                Ok(true) => tokio::task::yield_now().await,
                Err(error) => {
                    tracing::debug!(address = %bind.address, %error, "cannot receive");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Says whether more may be waiting.
fn receive(front: &Front, batch: &mut Batch, sessions: &mut Sessions) -> io::Result<bool> {
    sessions.follow();
    for _ in 0..TURNS {
        let now = Instant::now();
        match front.receive(batch, |pair, datagram| sessions.pass_on(pair, datagram, now)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        }
    }
    Ok(true)
}

/// Often enough that a session ends about when it should.
fn sweep_every(limits: &Limits) -> Duration {
    let shortest = limits.udp_idle.min(limits.udp_unanswered);
    (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
}

#[cfg(test)]
pub(crate) mod tests;
