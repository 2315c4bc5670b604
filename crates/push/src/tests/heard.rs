//! What the log says.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

/// Hears warnings and errors of this thread until it is dropped.
pub(crate) struct Heard {
    lines: Lines,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    pub(crate) fn listen() -> Self {
        let lines = Lines::default();
        let written = lines.clone();
        let log = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_ansi(false);
        let log = log.with_writer(move || written.clone()).finish();
        Self { lines, _guard: tracing::subscriber::set_default(log) }
    }

    /// So far, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.lines.0.lock().unwrap()).lines().map(str::to_owned).collect()
    }
}
