//! What the log says, for tests of it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

/// Hears warnings and errors of this thread, from when it is made until it is dropped.
pub(crate) struct Heard {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics with it").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    pub(crate) fn listen() -> Self {
        let lines = Lines::default();
        let written = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::WARN)
            .with_ansi(false)
            .with_writer(move || written.clone())
            .finish();
        Self { lines, _guard: tracing::subscriber::set_default(log) }
    }

    /// How many lines have all of these in them.
    pub(crate) fn count(&self, parts: &[&str]) -> usize {
        self.text().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Waits until there is a line with all of these in it.
    pub(crate) async fn line(&self, parts: &[&str]) {
        for _ in 0..400 {
            if self.count(parts) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line with {parts:?} in:\n{}", self.text());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.0.lock().expect("nobody panics with it")).into_owned()
    }
}
