//! The file that a running node's lines go to.

use super::line::{EntryRun, Line};
use super::tracer::{Input, Tracer};
use crate::action::Action;
use crate::config::RaftConfig;
use crate::message::Envelope;
use crate::protocol::Protocol;
use crate::types::ClusterId;
use std::fmt;
use std::format;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::string::String;
use std::vec::Vec;

/// Where a node records its steps.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct TraceOptions {
    /// The file, one for each life of a node. It must not exist: a trace is never overwritten.
    pub path: PathBuf,
    /// The cluster, which the nodes' traces are put together by. Default 0.
    pub cluster: ClusterId,
    /// A number that is larger in every life of this node. Default 1.
    pub life: u64,
    /// After so many lines the recording ends; the node goes on. Default 1,000,000.
    pub lines_max: u64,
}

impl TraceOptions {
    /// Records the first life of a node in a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cluster: ClusterId(0), life: 1, lines_max: 1_000_000 }
    }

    /// Sets [`TraceOptions::cluster`].
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = cluster;
        self
    }

    /// Sets [`TraceOptions::life`].
    #[must_use]
    pub fn life(mut self, life: u64) -> Self {
        self.life = life;
        self
    }

    /// Sets [`TraceOptions::lines_max`].
    #[must_use]
    pub fn lines_max(mut self, lines: u64) -> Self {
        self.lines_max = lines;
        self
    }
}

/// How much is kept back before it is written, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// One node's life on its way into a file.
///
/// A line is with the operating system before anything that its step caused leaves the node, so that a node that is
/// killed leaves no message and no write in the world that its trace does not tell of. Lines of steps without such
/// effects wait for the next one that has some.
pub struct TraceFile {
    tracer: Tracer,
    /// `None` once the recording has ended.
    sink: Option<File>,
    buffer: Vec<u8>,
    /// How many lines may still come.
    lines_left: u64,
    stopped: Option<String>,
}

impl fmt::Debug for TraceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceFile").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

impl TraceFile {
    /// Begins with the line of the start. `log` is what the log held, or why it cannot be told. Never fails: a recording
    /// that cannot begin is one that has [`stopped`](Self::stopped).
    #[must_use]
    pub fn start(
        options: &TraceOptions,
        config: &RaftConfig,
        protocol: &Protocol,
        log: Result<Vec<EntryRun>, String>,
    ) -> Self {
        let (runs, problem) = match log {
            Ok(runs) => (runs, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let (tracer, line) = Tracer::start(options.cluster, options.life, config, protocol, runs);
        let mut file = Self { tracer, sink: None, buffer: Vec::new(), lines_left: options.lines_max, stopped: problem };
        if file.stopped.is_none() {
            match File::options().write(true).create_new(true).open(&options.path) {
                Ok(sink) => file.sink = Some(sink),
                Err(error) => file.stopped = Some(format!("{}: {error}", options.path.display())),
            }
        }
        file.write(&line, true);
        file
    }

    /// Whether lines are still taken.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.sink.is_some()
    }

    /// Why the recording ended before the node did, if it did.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Records a step that was not refused, before its actions are carried out.
    pub fn step(&mut self, input: Input, protocol: &Protocol, actions: &[Action]) {
        if self.is_recording() {
            let line = self.tracer.step(input, protocol, actions);
            let leaves = |action: &Action| {
                matches!(
                    action,
                    Action::Persist(_) | Action::Send(_) | Action::SendFromLog { .. } | Action::Apply { .. }
                )
            };
            self.write(&line, actions.iter().any(leaves));
        }
    }

    /// Records an append whose entries had to be read first, before it is sent.
    pub fn sent_from_log(&mut self, envelope: &Envelope, protocol: &Protocol) {
        if self.is_recording() {
            let line = self.tracer.sent_from_log(envelope, protocol);
            self.write(&line, true);
        }
    }

    fn write(&mut self, line: &Line, at_once: bool) {
        if self.lines_left == 0 {
            self.flush();
            self.sink = None;
            self.stopped.get_or_insert_with(|| "the trace has all the lines that it may have".into());
            return;
        }
        self.lines_left -= 1;
        // A line is plain data, and a vector takes everything: this cannot fail.
        let _ = serde_json::to_writer(&mut self.buffer, line);
        self.buffer.push(b'\n');
        if at_once || self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Hands everything recorded so far to the operating system.
    pub fn flush(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        if let Err(error) = sink.write_all(&self.buffer) {
            self.sink = None;
            self.stopped = Some(format!("the trace cannot be written: {error}"));
        }
        self.buffer.clear();
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        self.flush();
    }
}
