//! `isthmus inject`: YAML of workloads -> the same YAML with sidecars, as the webhook would have them. No cluster is asked.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use isthmus_inject::{Image, Outcome, Settings, enabled_namespace, inject_object};
use serde_json::{Value, json};

use crate::args::Inject;
use crate::source::document::{self, SyntaxError};
use crate::source::read::is_yaml;

/// Everything that asks for a sidecar has one.
const GOOD: u8 = 0;
/// Something cannot have one; then nothing is printed, so that nothing is applied by halves.
const REFUSED: u8 = 1;
/// It could not be tried.
const FAILED: u8 = 2;

/// What is printed, and what is told besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// All documents, in their order.
    pub yaml: String,
    /// A line for each object that makes pods.
    pub notes: Vec<String>,
    /// A line for each that cannot have a sidecar.
    pub refusals: Vec<String>,
}

/// What could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// No file.
    #[error("{}: {source}", path.display())]
    Read {
        /// What was named.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No YAML.
    #[error("{}:{source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: SyntaxError,
    },
    /// No form in YAML.
    #[error("an object cannot be written: {0}")]
    Write(#[from] serde_saphyr::ser::Error),
    /// Sidecars would trust nobody.
    #[error("{}: no PEM certificate is in it; see `isthmus inject --help`", .0.display())]
    NoCertificate(PathBuf),
}

/// Reads, injects and prints.
pub fn run(args: &Inject) -> ExitCode {
    let injected = match settings(args).and_then(|settings| read(&args.paths).map(|texts| (settings, texts))) {
        Ok((settings, texts)) => {
            let mut injected = None;
            document::with_room(|| injected = Some(inject(&texts, &settings)));
            injected.unwrap_or_else(|| inject(&texts, &settings))
        }
        Err(error) => Err(error),
    };
    match injected {
        Ok(Injected { yaml, notes, refusals }) => {
            notes.iter().chain(&refusals).for_each(|line| eprintln!("isthmus: {line}"));
            if refusals.is_empty() {
                print!("{yaml}");
            }
            ExitCode::from(if refusals.is_empty() { GOOD } else { REFUSED })
        }
        Err(error) => {
            eprintln!("isthmus: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Gives every pod and pod template of these files a sidecar, but for those that opt out. Whatever makes no pods stays as it is.
///
/// # Errors
/// When a file is no YAML.
pub fn inject(texts: &[(PathBuf, String)], settings: &Settings) -> Result<Injected, InjectError> {
    let mut injected = Injected { yaml: String::new(), notes: Vec::new(), refusals: Vec::new() };
    let namespace = enabled_namespace();
    for (path, text) in texts {
        let documents = document::parse(text).map_err(|source| InjectError::Syntax { path: path.clone(), source })?;
        for document in documents {
            let name = name(&document.value);
            let object = match inject_object(&document.value, &namespace, settings) {
                Some(Outcome::Patched(object)) => {
                    injected.notes.push(format!("{name} has a sidecar"));
                    object
                }
                Some(Outcome::Skipped(why)) => {
                    injected.notes.push(format!("{name} stays as it is: {why}"));
                    document.value
                }
                Some(Outcome::Refused(why)) => {
                    injected.refusals.push(format!(
                        "{}:{}: {name} cannot have a sidecar: {why}",
                        path.display(),
                        document.lines.line()
                    ));
                    continue;
                }
                None => document.value,
            };
            if !injected.yaml.is_empty() {
                injected.yaml.push_str("---\n");
            }
            // Writing to a text does not fail.
            let _ = write!(injected.yaml, "{}", serde_saphyr::to_string(&object)?);
        }
    }
    Ok(injected)
}

/// `Deployment/shop/cart`
fn name(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
    let parts = [text("/kind"), text("/metadata/namespace"), Some(name)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}

fn settings(args: &Inject) -> Result<Settings, InjectError> {
    let ca = read_file(&args.ca)?;
    if !ca.contains("-----BEGIN CERTIFICATE-----") {
        return Err(InjectError::NoCertificate(args.ca.clone()));
    }
    let image = |name: &str| Image { name: name.to_owned(), pull_policy: args.image_pull_policy.clone() };
    Ok(Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proxy: image(&args.proxy_image),
        redirect: image(&args.redirect_image),
        controller: format!("isthmus-controller.{}.svc:15410", args.controller_namespace),
        ca,
        log: args.log.clone(),
        // As in the chart.
        resources: json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } }),
        kubernetes: args.kubernetes_version,
    })
}

/// The files that are named, those of folders in the order of their paths.
fn read(paths: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, InjectError> {
    let mut texts = Vec::new();
    for path in paths {
        if path.is_dir() {
            let failed = |source| InjectError::Read { path: path.clone(), source };
            let entries = std::fs::read_dir(path).map_err(failed)?;
            let mut within: Vec<PathBuf> =
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed)?;
            within.retain(|path| path.is_dir() || is_yaml(path));
            within.sort();
            texts.extend(read(&within)?);
        } else {
            texts.push((path.clone(), read_file(path)?));
        }
    }
    Ok(texts)
}

fn read_file(path: &Path) -> Result<String, InjectError> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|source| InjectError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    /// The command line, with a CA in a folder of its own.
    fn args(folder: &Path, line: &str) -> Inject {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("ca.crt"), CA).unwrap();
        let ca = format!("--ca={}", folder.join("ca.crt").display());
        let words = ["isthmus", "inject", &ca].into_iter().map(str::to_owned);
        match Args::try_parse_from(words.chain(line.split_whitespace().map(str::to_owned))).unwrap().command {
            Command::Inject(inject) => inject,
            other => panic!("{other:?}"),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("isthmus-inject-{name}-{}", std::process::id()))
    }

    fn documents(yaml: &str) -> Vec<Value> {
        document::parse(yaml).unwrap().into_iter().map(|document| document.value).collect()
    }

    #[test]
    fn what_makes_no_pods_stays_as_it_is() {
        let folder = scratch("examples");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/mesh");
        let args = args(&folder, &examples.display().to_string());
        let texts = read(&args.paths).unwrap();
        let injected = inject(&texts, &settings(&args).unwrap()).unwrap();
        let given: Vec<Value> = texts.iter().flat_map(|(_, text)| documents(text)).collect();
        assert!(given.len() > 5);
        assert_eq!(documents(&injected.yaml), given);
        assert_eq!((injected.notes, injected.refusals), (Vec::new(), Vec::new()));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn workloads_get_sidecars() {
        let folder = scratch("workloads");
        let args = args(&folder, "--controller-namespace=mesh --proxy-image=p:1 --log=debug --kubernetes-version=1.31");
        let text = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  template:
    metadata: {annotations: {note: 'yes', number: '1e3', empty: ''}}
    spec: {containers: [{name: cart, image: cart, args: ['~', 'null', '0x1', '- a', 'a: b # c']}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Pod, metadata: {name: out, labels: {isthmus.dev/inject: disabled}}, spec: {containers: [{name: a}]}}
  - {apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a}]}}}}}}
";
        let injected = inject(&[("-".into(), text.to_owned())], &settings(&args).unwrap()).unwrap();
        assert_eq!(
            injected.notes,
            [
                "Deployment/shop/cart has a sidecar",
                "Pod/out stays as it is: the pod has `isthmus.dev/inject: disabled`",
                "CronJob/nightly has a sidecar"
            ]
        );
        let (given, printed) = (documents(text), documents(&injected.yaml));
        assert_eq!((printed.len(), &printed[1], &printed[2]), (4, &given[1], &given[2]));
        let containers = |object: &Value, at: &str| object.pointer(&format!("{at}/spec/initContainers/1")).cloned().unwrap();
        let proxy = containers(&printed[0], "/spec/template");
        assert_eq!((&proxy["image"], &proxy["env"][0]["value"]), (&json!("p:1"), &json!("isthmus-controller.mesh.svc:15410")));
        assert_eq!((&proxy["env"][1]["value"], &proxy["env"][2]["value"]), (&json!(CA), &json!("debug")));
        assert_eq!(containers(&printed[3], "/spec/jobTemplate/spec/template"), proxy);
        assert_eq!(printed[0]["spec"]["template"]["spec"]["containers"], given[0]["spec"]["template"]["spec"]["containers"]);
        assert_eq!(printed[0]["spec"]["template"]["metadata"]["annotations"]["number"], "1e3");
        let again = inject(&[("-".into(), injected.yaml.clone())], &settings(&args).unwrap()).unwrap();
        assert_eq!(documents(&again.yaml), printed, "what has a sidecar stays as it is");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn faults_say_where() {
        let folder = scratch("faults");
        let args = args(&folder, "--kubernetes-version=1.28");
        let settings = settings(&args).unwrap();
        let pod = "# A pod.\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n";
        let refused = inject(&[("a.yaml".into(), pod.to_owned())], &settings).unwrap().refusals;
        assert!(
            refused[0].starts_with("a.yaml:2: Pod/a cannot have a sidecar: Kubernetes 1.28 has no native sidecars"),
            "{refused:?}"
        );
        let error = inject(&[("b.yaml".into(), "a: [".to_owned())], &settings).unwrap_err().to_string();
        assert!(error.starts_with("b.yaml:1:"), "{error}");
        let error = read(&[folder.join("none")]).unwrap_err().to_string();
        assert!(error.contains("none: "), "{error}");
        fs::write(&args.ca, "words").unwrap();
        let error = super::settings(&args).unwrap_err().to_string();
        assert!(error.contains("no PEM certificate"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
