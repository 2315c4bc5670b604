//! What should be held at a time: no clock and no client, only keys are made here.

use rustls_pki_types::UnixTime;

use super::content::{Content, OWN, is_own};
use crate::authority::{CA_OVERLAP, Malformed, Plan, SETTLE, SKEW, root, validity};

/// What should be held now, given what is. What a user has put there is left as it is.
///
/// # Errors
/// When a key or certificate cannot be made.
pub(super) fn plan(held: Option<&Content>, now: UnixTime) -> Result<Plan<Content>, Malformed> {
    let seconds = now.as_secs();
    let Some(held) = held else {
        return Ok(Plan { content: Content::of(root(OWN, seconds)?), change: Some("a new root") });
    };
    let mut content = held.clone();
    if !content.is_own() {
        return Ok(Plan { content, change: None });
    }
    let ends = |certificate: &str| validity("ca.crt", certificate).map_or(0, |validity| validity.to);
    let mut change = None;
    content.roots.retain(|certificate| !is_own(certificate) || ends(certificate) > seconds);
    if content.roots.len() != held.roots.len() {
        change = Some("a former root has ended");
    }
    let has_ended = ends(&content.chain[0]) <= seconds;
    if has_ended && let Some(next) = content.next.take_if(|next| ends(&next.certificate) > seconds) {
        // The controller was away. Workloads have trusted that one since it was made.
        (content.chain, content.key) = (vec![next.certificate], next.key);
        return Ok(Plan { content, change: Some("the next root signs: the one before has ended") });
    }
    if has_ended {
        let ca = root(OWN, seconds)?;
        content.roots.push(ca.certificate.clone());
        content = Content { roots: content.roots, ..Content::of(ca) };
        return Ok(Plan { content, change: Some("a new root: the one before has ended") });
    }
    match content.next.take() {
        Some(next) if validity("ca.crt", &next.certificate).is_ok_and(|validity| seconds >= validity.from + SKEW + SETTLE) => {
            (content.chain, content.key) = (vec![next.certificate], next.key);
            change = Some("the next root signs");
        }
        Some(next) => content.next = Some(next),
        None if ends(&content.chain[0]) < seconds + CA_OVERLAP => {
            let next = root(OWN, seconds)?;
            content.roots.push(next.certificate.clone());
            content.next = Some(next);
            change = Some("the next root is trusted");
        }
        None => {}
    }
    Ok(Plan { content, change })
}
