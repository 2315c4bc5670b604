//! A proxy's token -> which Gateway or workload it is of.
//!
//! The API server judges the token (TokenReview): it has to be for us, of a ServiceAccount, and bound to a pod, which then exists. An account
//! that we made for a Gateway is that Gateway's; any other is a workload's, where the mesh is on. Answers are kept for a short time, so that
//! proxies that all reconnect at once cost one question each at most.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use isthmus_api::core::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use isthmus_push::server::{Authenticate, Denied, Peer, Subject};
use isthmus_routing::Identity;
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::provision::Provisioned;

/// Whom a proxy's token has to be for.
pub const AUDIENCE: &str = "isthmus.dev/push";

/// How long a good answer is kept: a pod that was deleted can still connect for as long.
const KEEP: Duration = Duration::from_secs(60);
/// How long a bad one is.
const KEEP_DENIED: Duration = Duration::from_secs(5);
/// How often the log says that the API server cannot be asked; the metric counts each token.
const COMPLAINTS: Duration = Duration::from_secs(30);
/// Answers that are kept at most.
const MOST: usize = 8192;
/// Tokens are around 1 KiB; longer ones are not looked at.
const LONGEST: usize = 16 << 10;

/// Judges tokens.
#[derive(Debug)]
pub struct Authenticator {
    reviews: Api<TokenReview>,
    provisioned: watch::Receiver<Arc<Provisioned>>,
    workloads: Workloads,
    answers: Mutex<Answers>,
    /// When it was told last that the API server cannot be asked.
    complained: Mutex<Option<Instant>>,
}

/// Which workloads may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workloads {
    /// None: there is no mesh.
    Nobody,
    /// Those of all namespaces.
    Everywhere,
    /// Those of these namespaces, which are the ones that are read.
    Of(BTreeSet<String>),
}

/// Who a token is of, by the token's hash.
#[derive(Debug, Default)]
struct Answers {
    /// Denied ones as [`Denied::Unasked`].
    kept: HashMap<[u8; 32], (Instant, Result<Bearer, Denied>)>,
}

/// A pod with its ServiceAccount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bearer {
    namespace: String,
    account: String,
    pod: String,
}

impl Authenticator {
    /// Takes the ServiceAccounts of Gateways from what was provisioned.
    pub fn new(client: Client, provisioned: watch::Receiver<Arc<Provisioned>>, workloads: Workloads) -> Self {
        Self { reviews: Api::all(client), provisioned, workloads, answers: Mutex::default(), complained: Mutex::default() }
    }

    /// As the push server wants it.
    pub fn into_authenticate(self) -> Authenticate {
        let authenticator = Arc::new(self);
        Arc::new(move |token| {
            let authenticator = Arc::clone(&authenticator);
            Box::pin(async move { authenticator.authenticate(&token).await })
        })
    }

    /// Whose this token is. Dropped early, it leaves nothing behind.
    ///
    /// # Errors
    /// [`Denied::Unavailable`] if the API server could not be asked, or if it is not known yet which ServiceAccounts are ours: try again.
    pub async fn authenticate(&self, token: &str) -> Result<Peer, Denied> {
        if token.is_empty() || token.len() > LONGEST {
            return Err(Denied::Unasked("no token, or one that is too long".to_owned()));
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.answers().get(&hash, Instant::now());
        let answer = match known {
            Some(answer) => answer,
            None => {
                let answer = self.review(token).await?;
                self.answers().put(hash, Instant::now(), answer.clone());
                answer
            }
        };
        self.identify(answer?)
    }

    /// The ServiceAccount decides, and it is looked up each time: Gateways come and go while answers are kept. Before all accounts of Gateways
    /// are known, one that is not known may be of a Gateway, and is nobody's.
    fn identify(&self, bearer: Bearer) -> Result<Peer, Denied> {
        let provisioned = self.provisioned.borrow();
        let Bearer { namespace, account, pod } = bearer;
        let gateway = provisioned.accounts.get(&(namespace.clone(), account.clone())).cloned();
        let identity = Identity { namespace, account };
        if let Some(gateway) = gateway {
            return Ok(Peer { subject: Subject::Gateway { gateway, identity }, pod });
        }
        if !provisioned.synced {
            return Err(Denied::Unavailable("the controller is starting".to_owned()));
        }
        let Identity { namespace, account } = &identity;
        match &self.workloads {
            Workloads::Nobody => {
                Err(Denied::Forbidden(format!("ServiceAccount {namespace}/{account} is not one that was made for a Gateway")))
            }
            Workloads::Of(namespaces) if !namespaces.contains(namespace) => {
                Err(Denied::Forbidden(format!("namespace {namespace} is not one that the controller reads")))
            }
            Workloads::Everywhere | Workloads::Of(_) => Ok(Peer { subject: Subject::Workload { identity }, pod }),
        }
    }

    /// Asks the API server. The outer error: it gave no answer.
    async fn review(&self, token: &str) -> Result<Result<Bearer, Denied>, Denied> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        match self.reviews.create(&PostParams::default(), &review).await {
            Ok(TokenReview { status: Some(status), .. }) => Ok(bearer(&status)),
            Ok(_) => Err(Denied::Unavailable("the API server did not judge the token".to_owned())),
            Err(error) => {
                self.complain(&error);
                Err(Denied::Unavailable("the API server cannot be asked about the token now".to_owned()))
            }
        }
    }

    /// A thousand proxies may come at once, and again and again.
    fn complain(&self, error: &kube::Error) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_some_and(|last| last.elapsed() < COMPLAINTS) {
            tracing::debug!(%error, "a proxy's token cannot be judged now");
            return;
        }
        *complained = Some(Instant::now());
        tracing::warn!(%error, "tokens of proxies cannot be judged now");
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the API server says of a token.
fn bearer(status: &TokenReviewStatus) -> Result<Bearer, Denied> {
    let denied = |what: &str| Err(Denied::Unauthorized(what.to_owned()));
    if status.authenticated != Some(true) {
        return denied("the API server does not take the token");
    }
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return denied("the token is for another audience");
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let Some((namespace, account)) = account else { return denied("the token is not of a ServiceAccount") };
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    let only = |key| extra.get(key).and_then(|values| values.first()).filter(|value| !value.is_empty());
    let pod = only("authentication.kubernetes.io/pod-name").zip(only("authentication.kubernetes.io/pod-uid"));
    let Some((pod, _)) = pod else { return denied("the token is not bound to a pod") };
    Ok(Bearer { namespace: namespace.to_owned(), account: account.to_owned(), pod: pod.clone() })
}

impl Answers {
    fn get(&mut self, hash: &[u8; 32], now: Instant) -> Option<Result<Bearer, Denied>> {
        let (until, answer) = self.kept.get(hash)?;
        if *until <= now {
            self.kept.remove(hash);
            return None;
        }
        Some(answer.clone())
    }

    fn put(&mut self, hash: [u8; 32], now: Instant, answer: Result<Bearer, Denied>) {
        if self.kept.len() >= MOST {
            self.kept.retain(|_, (until, _)| *until > now);
        }
        // Whoever fills it with bad tokens only makes good ones cost a question each.
        if self.kept.len() >= MOST {
            return;
        }
        let keep = if answer.is_ok() { KEEP } else { KEEP_DENIED };
        let answer = answer.map_err(|denied| Denied::Unasked(denied.to_string()));
        self.kept.insert(hash, (now + keep, answer));
    }
}

#[cfg(test)]
mod tests;
