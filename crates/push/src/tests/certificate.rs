//! Certificates of workloads: asked for, given, renewed, refused.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicUsize;

use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::heard::Heard;
use super::hostile::{open_as, text};
use super::mesh::mesh;
use super::*;
use crate::server::Sign;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an authority does with its n-th request.
type Act = dyn Fn(usize, &CertificateSigningRequestParams) -> Result<String, Denied> + Send + Sync;

/// Who has asked, in order.
type Asked = Arc<Mutex<Vec<Identity>>>;

fn authority(act: Arc<Act>) -> (Sign, Asked) {
    let asked = Asked::default();
    let log = asked.clone();
    let sign: Sign = Arc::new(move |identity, csr| {
        let (act, log) = (act.clone(), log.clone());
        Box::pin(async move {
            let request = CertificateSigningRequestParams::from_pem(&csr)
                .map_err(|error| Denied::Forbidden(format!("that is no request: {error}")))?;
            let number = {
                let mut log = log.lock().unwrap();
                log.push(identity);
                log.len()
            };
            act(number, &request)
        })
    });
    (sign, asked)
}

/// Gives certificates that live for this long.
fn lives(life: Duration) -> Arc<Act> {
    Arc::new(move |_, request| Ok(issued(&request.public_key, life)))
}

async fn bed(act: Arc<Act>) -> (Bed, Asked) {
    let limits = ServerLimits { sign_every: Duration::from_millis(10), ..ServerLimits::default() };
    let (sign, asked) = authority(act);
    let bed = Bed::signing(limits, Models::default(), Arc::new(Authority::new()), sign).await;
    bed.mesh(&mesh(&[("a", 1)]));
    (bed, asked)
}

type Shown = watch::Receiver<Option<Arc<Certificate>>>;

/// A sidecar that wants a certificate.
fn wanting(bed: &Bed) -> (ProxyBed, Shown) {
    let mut files = bed.sidecar("shop/one", &["a"]).files;
    let (certificate, shown) = watch::channel(None);
    files.options.certificate = Some(certificate);
    (files, shown)
}

async fn until(shown: &mut Shown, what: impl Fn(Option<&Certificate>) -> bool) -> Option<Arc<Certificate>> {
    let found = shown.wait_for(|shown| what(shown.as_deref()));
    tokio::time::timeout(SOON, found).await.expect("it comes soon").unwrap().clone()
}

async fn given(shown: &mut Shown) -> Arc<Certificate> {
    until(shown, |shown| shown.is_some()).await.unwrap()
}

/// Whether a chain is for a key.
fn fits(certificate: &Arc<Certificate>) -> bool {
    let leaf = CertificateDer::from_pem_slice(certificate.chain.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    leaf.public_key().raw == rcgen::KeyPair::from_pem(&certificate.key).unwrap().subject_public_key_info()
}

#[tokio::test]
async fn a_certificate_is_given_once_and_outlives_a_restart() {
    let (bed, asked) = bed(lives(DAY)).await;
    let (files, mut shown) = wanting(&bed);
    let running = files.run();
    let first = given(&mut shown).await;
    assert!(fits(&first));
    assert_eq!(*asked.lock().unwrap(), ["ServiceAccount/shop/app".parse().unwrap()]);
    let path = files.folder.path().join("certificate");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // Another stream of the same process, and then another process.
    let streams = bed.count(|counts| &counts.streams);
    bed.role.send_replace(Role::Follower { leader: None });
    let comes_back = async {
        while bed.count(|counts| &counts.streams) == streams {
            if bed.count(|counts| &counts.connected) == 0 {
                bed.role.send_replace(Role::Leader);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, comes_back).await.expect("it comes back");
    drop(running);
    let mut again = ProxyBed { folder: files.folder.clone(), options: files.options.clone() };
    let (certificate, mut shown) = watch::channel(None);
    again.options.certificate = Some(certificate);
    let running = again.run();
    assert_eq!(given(&mut shown).await, first, "the key as well");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((asked.lock().unwrap().len(), bed.count(|counts| &counts.certificates)), (1, 1));
    drop(running);

    // What is broken is asked for anew, with another key.
    files.write("certificate", "isthmus-config 1 00\n{}");
    let (certificate, mut shown) = watch::channel(None);
    again.options.certificate = Some(certificate);
    let _running = again.run();
    let second = given(&mut shown).await;
    assert!(fits(&second) && second.key != first.key);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_gateway_has_an_identity_too_and_nobody_asks_without_a_mesh() {
    let (bed, asked) = bed(lives(DAY)).await;
    let version = bed.publish(&snapshot(1));
    let mut files = bed.proxy("a");
    let (certificate, mut shown) = watch::channel(None);
    files.options.certificate = Some(certificate);
    let _running = files.run();
    bed.acked("a", version).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(asked.lock().unwrap().is_empty() && shown.borrow().is_none());
    bed.publish(&Snapshot { mesh: mesh(&[]).mesh, ..snapshot(1) });
    assert!(fits(&given(&mut shown).await));
    assert_eq!(*asked.lock().unwrap(), ["ServiceAccount/infra/edge".parse().unwrap()]);
}

#[tokio::test]
async fn it_is_renewed_at_half_of_its_life_before_it_ends() {
    let (bed, asked) = bed(lives(Duration::from_secs(6))).await;
    let (files, mut shown) = wanting(&bed);
    let _running = files.run();
    let mut before = given(&mut shown).await;
    for _ in 0..2 {
        let start = tokio::time::Instant::now();
        tokio::time::timeout(SOON, shown.changed()).await.unwrap().unwrap();
        let now = shown.borrow_and_update().clone().expect("there is always one");
        // Ends are whole seconds, so a life is one of 5 to 6 s, and the machine may be busy.
        let after = start.elapsed().as_secs_f32();
        assert!((2.4..4.9).contains(&after), "after {after} s");
        assert!(fits(&now) && now.key != before.key, "each has a key of its own");
        before = now;
    }
    assert_eq!(asked.lock().unwrap().len(), 3);
    let stored = std::fs::read_to_string(files.folder.path().join("certificate")).unwrap();
    assert!(stored.contains(&before.key.replace('\n', "\\n")), "the newest is stored");
}

#[tokio::test]
async fn whatever_the_authority_answers_it_is_asked_again() {
    let stranger = rcgen::KeyPair::generate().unwrap();
    let act = move |number: usize, request: &CertificateSigningRequestParams| match number {
        1 => Err(Denied::Unavailable("the authority is not there".to_owned())),
        2 => Ok("no PEM".to_owned()),
        3 => Ok("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()),
        4 => Ok(issued(&stranger, DAY)),
        5 => Ok(issued(&request.public_key, Duration::ZERO)),
        6 => Err(Denied::Forbidden("not for you".to_owned())),
        7 => Ok(issued_to("spiffe://other.domain/ns/shop/sa/app", &request.public_key, DAY, &Authority::new())),
        _ => Ok(issued(&request.public_key, DAY)),
    };
    let (bed, asked) = bed(Arc::new(act)).await;
    let (files, mut shown) = wanting(&bed);
    let running = files.run();
    assert!(fits(&given(&mut shown).await));
    assert_eq!(asked.lock().unwrap().len(), 8);
    assert_eq!((bed.count(|counts| &counts.certificates_denied), bed.count(|counts| &counts.streams)), (2, 1));
    assert!(!running.served().is_empty(), "and it was served meanwhile");
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_told_once_in_a_while() {
    let heard = Heard::listen();
    let (bed, asked) = bed(Arc::new(|_, _| Err(Denied::Unavailable("the authority is not there".to_owned())))).await;
    let (files, _shown) = wanting(&bed);
    let _running = files.run();
    let five = async {
        while bed.count(|counts| &counts.certificates_denied) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, five).await.expect("it is asked again and again");
    assert!(asked.lock().unwrap().len() >= 5);
    let told = heard.lines().iter().filter(|line| line.contains("a proxy gets no certificate")).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn an_answer_that_is_late_is_one_all_the_same() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    // The first is never answered, and the second when the proxy has given it up.
    let sign: Sign = Arc::new(move |_, csr| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let wait = if number == 0 { Duration::from_secs(3600) } else { Duration::from_millis(150) };
            tokio::time::sleep(wait).await;
            Ok(issued(&CertificateSigningRequestParams::from_pem(&csr).unwrap().public_key, DAY))
        })
    });
    let limits =
        ServerLimits { sign: Duration::from_millis(200), sign_every: Duration::from_millis(10), ..ServerLimits::default() };
    let bed = Bed::signing(limits, Models::default(), Arc::new(Authority::new()), sign).await;
    bed.mesh(&mesh(&[("a", 1)]));
    let (mut files, mut shown) = wanting(&bed);
    files.options.limits.answer = Duration::from_millis(50);
    let _running = files.run();
    assert!(fits(&given(&mut shown).await));
    assert_eq!(bed.count(|counts| &counts.certificates_denied), 1, "the server does not wait for ever");
}

#[tokio::test]
async fn one_that_is_not_renewed_ends_and_then_there_is_none() {
    let heard = Heard::listen();
    let refuses = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let refused = refuses.clone();
    let act = move |_: usize, request: &CertificateSigningRequestParams| {
        if refused.load(Ordering::Relaxed) {
            return Err(Denied::Unavailable("the authority is gone".to_owned()));
        }
        Ok(issued(&request.public_key, Duration::from_secs(3)))
    };
    let (bed, _) = bed(Arc::new(act)).await;
    let (files, mut shown) = wanting(&bed);
    let running = files.run();
    let first = given(&mut shown).await;
    refuses.store(true, Ordering::Relaxed);
    let start = tokio::time::Instant::now();
    until(&mut shown, |shown| shown.is_none()).await;
    assert!(start.elapsed() > Duration::from_millis(1500), "it was used until its end");
    let said = |words: &str| {
        let lines = heard.lines();
        let place = lines.iter().position(|line| line.contains(words) && line.contains("the authority is gone"));
        place.unwrap_or_else(|| panic!("nobody said `{words}`, and why:\n{}", lines.join("\n")))
    };
    assert!(said("s and was not renewed; then calls of the mesh fail") < said("has expired and calls of the mesh fail until"));
    drop(running);

    // Nor does a restart bring it back.
    let mut again = ProxyBed { folder: files.folder.clone(), options: files.options.clone() };
    let (certificate, mut shown) = watch::channel(None);
    again.options.certificate = Some(certificate);
    let _running = again.run();
    let before = bed.count(|counts| &counts.certificates_denied);
    let asks = async {
        while bed.count(|counts| &counts.certificates_denied) == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asks).await.expect("it asks");
    assert!(shown.borrow_and_update().is_none());
    refuses.store(false, Ordering::Relaxed);
    assert!(given(&mut shown).await.key != first.key);
}

#[tokio::test]
async fn a_flood_of_requests_costs_one_at_a_time_and_not_too_many() {
    let limits = ServerLimits { sign_every: Duration::from_millis(200), ..ServerLimits::default() };
    let (sign, asked) = authority(lives(DAY));
    let bed = Bed::signing(limits, Models::default(), Arc::new(Authority::new()), sign).await;
    bed.mesh(&mesh(&[("a", 1)]));
    let (_files, mut stream) = open_as(&bed, "workload shop/flood", BTreeSet::new()).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let json = |csr: &str| text(&format!(r#"{{"csr":{{"csr":{}}}}}"#, serde_json::to_string(csr).unwrap()));
    let mut answers = Vec::new();
    let chunks = stream.chunks.clone();
    let floods = async {
        for _ in 0..1000 {
            chunks.send(json(&csr)).await.unwrap();
        }
        chunks.send(json(&"x".repeat(17 << 10))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        chunks.send(json("x")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let reads = async {
        while let Ok(Some(frame)) = stream.reader.next().await {
            let frame = String::from_utf8(frame.to_vec()).unwrap();
            answers.extend(["certificate", "denied"].into_iter().filter(|name| frame.starts_with(&format!("{{\"{name}\""))));
        }
    };
    tokio::select! {
        () = reads => panic!("its stream ends"),
        () = floods => {}
    }
    let made = asked.lock().unwrap().len();
    assert!((1..=10).contains(&made), "{made}");
    assert_eq!(answers.iter().filter(|answer| **answer == "certificate").count(), made);
    assert_eq!(answers.iter().filter(|answer| **answer == "denied").count(), 2, "too long, and no request");
    let good = bed.sidecar("shop/good", &["a"]);
    let _running = good.files.run();
    bed.knows(&("shop".to_owned(), "good".to_owned()), |seen| seen.acked.is_some()).await;
}

/// Two authorities, of which one signs, and a mesh that trusts some.
struct Rotation {
    bed: Bed,
    asked: Asked,
    pems: [String; 2],
    signs: Arc<AtomicUsize>,
}

impl Rotation {
    async fn start() -> Self {
        let authorities = Arc::new([Authority::new(), Authority::new()]);
        let (pems, signs) = (authorities.each_ref().map(|authority| authority.pem.clone()), Arc::new(AtomicUsize::new(0)));
        let signer = signs.clone();
        let act = move |_: usize, request: &CertificateSigningRequestParams| {
            Ok(authorities[signer.load(Ordering::Relaxed)].workload(&request.public_key, DAY))
        };
        let (bed, asked) = bed(Arc::new(act)).await;
        let rotation = Self { bed, asked, pems, signs };
        rotation.trusts(&[0]);
        rotation
    }

    /// The first is the one under which certificates are said to be given.
    fn trusts(&self, which: &[usize]) {
        let mut all = mesh(&[("a", 1)]);
        let authorities = which.iter().map(|which| self.pems[*which].as_str()).collect();
        all.mesh = Some(Arc::new(isthmus_routing::Mesh { authorities, ..all.mesh.as_deref().unwrap().clone() }));
        self.bed.mesh(&all);
    }

    fn sidecar(&self, spread: Duration) -> (Running, Shown) {
        let (mut files, shown) = wanting(&self.bed);
        files.options.limits.spread = spread;
        (files.run(), shown)
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[tokio::test]
async fn where_another_authority_signs_it_is_renewed_soon() {
    let rotation = Rotation::start().await;
    let (_running, mut shown) = rotation.sidecar(Duration::from_secs(1));
    let first = given(&mut shown).await;
    rotation.trusts(&[0, 1]);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(rotation.asked(), 1, "one more is trusted, and does not sign");
    rotation.signs.store(1, Ordering::Relaxed);
    rotation.trusts(&[1, 0]);
    let second = until(&mut shown, |shown| shown.is_some_and(|shown| shown.key != first.key)).await.unwrap();
    assert!(fits(&second));
    rotation.trusts(&[1]);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(rotation.asked(), 2, "it is of the one that is left");
}

#[tokio::test]
async fn its_moment_is_drawn_so_that_not_all_ask_at_once() {
    let rotation = Rotation::start().await;
    let (_running, mut shown) = rotation.sidecar(Duration::from_secs(3600));
    let first = given(&mut shown).await;
    rotation.signs.store(1, Ordering::Relaxed);
    rotation.trusts(&[1, 0]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((rotation.asked(), shown.borrow().clone()), (1, Some(first)), "its moment was drawn from an hour here");
    assert_eq!(ClientLimits::default().spread, Duration::from_secs(60));
}

#[tokio::test]
async fn what_nobody_would_take_is_renewed_at_once_and_what_nobody_would_take_is_not_taken() {
    let rotation = Rotation::start().await;
    let (_running, mut shown) = rotation.sidecar(Duration::from_secs(3600));
    let first = given(&mut shown).await;
    // The controller signs on with the one that has left.
    rotation.trusts(&[1]);
    let asks = async {
        while rotation.asked() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asks).await.expect("it asks at once, and again");
    assert_eq!(shown.borrow().as_ref(), Some(&first), "nothing better has come");
    rotation.signs.store(1, Ordering::Relaxed);
    let second = until(&mut shown, |shown| shown.is_some_and(|shown| shown.key != first.key)).await.unwrap();
    let asked = rotation.asked();
    assert!(fits(&second));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(rotation.asked(), asked);
}

#[tokio::test]
async fn a_controller_that_signs_on_with_a_former_authority_is_not_asked_for_ever() {
    let rotation = Rotation::start().await;
    let (_running, mut shown) = rotation.sidecar(Duration::from_millis(50));
    given(&mut shown).await;
    rotation.trusts(&[1, 0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rotation.asked(), 4, "three times early");
}
