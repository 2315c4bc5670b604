//! Runs tests and prints a row for each. Of its own, because some tests must run alone, and because each says what it has measured.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;

use crate::fault::{Fault, Outcome};
use crate::stage::{self, Stage};

/// Names the kubeconfig of the cluster.
pub(crate) const KUBECONFIG: &str = "ISTHMUS_CLUSTER_KUBECONFIG";
/// How long a test may take, and one that is asked for.
const PATIENCE: [Duration; 2] = [Duration::from_secs(180), Duration::from_secs(900)];
/// Tests at a time, unless `--jobs` says otherwise.
const JOBS: usize = 3;

/// A test.
pub(crate) struct Test {
    /// `module::function`.
    pub(crate) name: &'static str,
    pub(crate) with: With,
    pub(crate) run: fn(Arc<Stage>) -> BoxFuture<'static, Outcome>,
}

/// What a test can run beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    /// It touches only what is its own.
    Others,
    /// It does something to the controller.
    Nobody,
    /// As [`With::Nobody`], and only if it is named: a measurement.
    Asked,
}

/// An entry of the list: its name is that of the function.
macro_rules! test {
    ($with:expr, $module:ident::$function:ident) => {
        $crate::harness::Test {
            name: concat!(stringify!($module), "::", stringify!($function)),
            with: $with,
            run: |stage| Box::pin(crate::$module::$function(stage)),
        }
    };
}
pub(crate) use test;

/// What the command line says: parts of names, `--calm` to leave out what disturbs the controller, `--jobs N`. Flags of the usual harness
/// are passed over, since `cargo test` may give them to every binary.
#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    filters: Vec<String>,
    calm: bool,
    jobs: usize,
}

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> Self {
        let mut arguments = Self { filters: Vec::new(), calm: false, jobs: JOBS };
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--calm" => arguments.calm = true,
                "--jobs" => arguments.jobs = words.next().and_then(|number| number.parse().ok()).unwrap_or(JOBS).max(1),
                word if word.starts_with('-') => {}
                _ => arguments.filters.push(word),
            }
        }
        arguments
    }

    fn takes(&self, test: &Test) -> bool {
        let named = self.filters.iter().any(|filter| test.name.contains(filter.as_str()));
        match test.with {
            With::Others => self.filters.is_empty() || named,
            With::Nobody => !self.calm && (self.filters.is_empty() || named),
            With::Asked => named,
        }
    }
}

/// Runs what the command line asks for.
pub(crate) fn main(tests: &'static [Test]) -> ExitCode {
    let Some(kubeconfig) = env::var_os(KUBECONFIG).filter(|value| !value.is_empty()) else {
        println!("cluster: not run, it needs a cluster: ./dev test --all, or cargo xtask cluster test");
        return ExitCode::SUCCESS;
    };
    let arguments = Arguments::parse(env::args().skip(1));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    match runtime.block_on(run(tests, &arguments, kubeconfig.as_ref())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => failed(&fault.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("cluster: {why}");
    ExitCode::FAILURE
}

/// Whether all of them passed, and there were any.
async fn run(tests: &'static [Test], arguments: &Arguments, kubeconfig: &std::path::Path) -> Outcome<bool> {
    let cluster = stage::connect(kubeconfig).await?;
    stage::clear(&cluster).await?;
    let start = Instant::now();
    let chosen: Vec<&Test> = tests.iter().filter(|test| arguments.takes(test)).collect();
    let (beside, alone): (Vec<_>, Vec<_>) = chosen.iter().partition(|test| test.with == With::Others);
    let mut passed = 0;
    for (tests, jobs) in [(beside, arguments.jobs), (alone, 1)] {
        let mut ended = stream::iter(tests.into_iter().map(|test| one(test, cluster.clone()))).buffer_unordered(jobs);
        while let Some(ok) = ended.next().await {
            passed += usize::from(ok);
        }
    }
    let left = stage::swept(&cluster).await.err();
    if let Some(fault) = &left {
        println!("FAIL {fault}");
    }
    println!("\n{passed} of {} passed in {:.0} s", chosen.len(), start.elapsed().as_secs_f32());
    Ok(passed == chosen.len() && passed > 0 && left.is_none())
}

/// Runs a test, takes away what it made, and prints its row.
async fn one(test: &Test, cluster: kube::Client) -> bool {
    let (start, stage) = (Instant::now(), Arc::new(Stage::new(cluster, test.name)));
    // In a task, so that a panic is the end of this test only.
    let mut task = tokio::spawn((test.run)(Arc::clone(&stage)));
    let patience = PATIENCE[usize::from(test.with == With::Asked)];
    let outcome = match tokio::time::timeout(patience, &mut task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Fault::said(panic.to_string())),
        Err(_) => {
            task.abort();
            Err(Fault::said(format!("not done after {} s", patience.as_secs())))
        }
    };
    let found = if outcome.is_err() { stage.describe().await } else { Vec::new() };
    let swept = stage.end().await;
    let outcome = outcome.and(swept);
    let word = if outcome.is_ok() { "ok  " } else { "FAIL" };
    println!("{word} {:<62} {:>6.1} s", test.name, start.elapsed().as_secs_f32());
    stage.said().iter().for_each(|line| println!("     {line}"));
    if let Err(fault) = &outcome {
        println!("     {fault}");
        found.iter().for_each(|line| println!("     | {line}"));
    }
    outcome.is_ok()
}
