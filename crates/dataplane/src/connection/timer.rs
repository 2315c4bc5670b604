//! One timer for a connection's many deadlines.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// Waits until `due`. Between two requests a deadline mostly moves back, and the timer is left to fire early then and set again: so a
/// request on a busy connection costs no visit to the runtime's timer wheel.
pub(crate) fn poll_until(mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
    if due < sleep.deadline() {
        sleep.as_mut().reset(due);
    }
    loop {
        ready!(sleep.as_mut().poll(cx));
        if sleep.deadline() >= due {
            return Poll::Ready(());
        }
        sleep.as_mut().reset(due);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_may_move_either_way() {
        let start = Instant::now();
        let sleep = tokio::time::sleep(Duration::from_secs(10));
        tokio::pin!(sleep);
        for seconds in [20, 21, 90] {
            let due = start + Duration::from_secs(seconds);
            poll_fn(|cx| poll_until(sleep.as_mut(), cx, due)).await;
            assert_eq!(Instant::now(), due);
        }
        let later = start + Duration::from_secs(500);
        assert!(poll_fn(|cx| Poll::Ready(poll_until(sleep.as_mut(), cx, later))).await.is_pending());
        let sooner = start + Duration::from_secs(100);
        poll_fn(|cx| poll_until(sleep.as_mut(), cx, sooner)).await;
        assert_eq!(Instant::now(), sooner);
    }
}
