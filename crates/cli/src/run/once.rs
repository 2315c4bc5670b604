//! `--once`: what a cluster would say of the folder.

use std::io::Write;

use crate::args::Run;
use crate::standalone::{Standalone, View};
use crate::statuses::{self, Format};
use crate::table;

/// Prints statuses to standard output and everything else to standard error.
pub(super) async fn once(args: &Run) -> Result<u8, String> {
    let standalone = Standalone::open(&args.paths, args.settings()).await.map_err(|error| error.to_string())?;
    let view = standalone.view();
    if view.is_empty() {
        let names = args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(format!("{names}: there is nothing to judge: no *.yaml, *.yml or *.json file holds an object"));
    }
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).map_err(|error| error.to_string())?.to_string();
    let text = print(view, args.output, &now)?;
    if args.output != Format::Table {
        // Whoever reads the log of a pipeline wants to know why it failed.
        for problem in statuses::problems(&view.statuses) {
            eprintln!("{}", problem.at(&view.origins));
        }
        for message in &view.messages {
            eprintln!("{message}");
        }
    }
    // A pipe that was closed has had what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(code(view))
}

fn print(view: &View, format: Format, now: &str) -> Result<String, String> {
    if format == Format::Table {
        return Ok(table::render(view, None).into_iter().map(|line| line.text + "\n").collect());
    }
    statuses::render(&statuses::objects(&view.statuses, &view.objects, now), format).map_err(|error| error.to_string())
}

fn code(view: &View) -> u8 {
    if view.is_good() { super::GOOD } else { super::NOT_GOOD }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{GOOD, NOT_GOOD};
    use super::*;
    use crate::standalone::{Echoes, Settings};

    async fn example(name: &str) -> Standalone {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        Standalone::open(&[folder], Settings { echo: Echoes::Named, dev_certificates: true, ..Settings::default() })
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_exit_code_says_whether_all_is_good() {
        for (name, expected) in [("canary", GOOD), ("grpc", GOOD), ("https", GOOD), ("mirror", GOOD), ("shop", NOT_GOOD)] {
            let standalone = example(name).await;
            assert_eq!(code(standalone.view()), expected, "{name}: {:?}", statuses::problems(&standalone.view().statuses));
        }
    }

    #[tokio::test]
    async fn statuses_are_printed() {
        let standalone = example("shop").await;
        let print = |format| print(standalone.view(), format, "2026-01-02T03:04:05Z").unwrap();
        let yaml = print(Format::Yaml);
        assert!(
            yaml.contains("kind: HTTPRoute")
                && yaml.contains("reason: BackendNotFound")
                && yaml.contains("lastTransitionTime: \"2026-01-02T03:04:05Z\""),
            "{yaml}"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&print(Format::Json)).is_ok_and(|list| list["kind"] == "List"));
        let table = print(Format::Table);
        assert!(
            table.contains("reviews:8080 INVALID: 500")
                && table.contains("storefront:80 90% (echo), storefront-canary:80 10% (echo)"),
            "{table}"
        );
    }
}
