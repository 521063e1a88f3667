//! The module that gives `TraceRaft.tla` its constants.

use super::window::Window;
use super::{Error, Variant, record};
use crate::ending::Folder;
use crate::render::node;
use crate::tlc::TlcError;
use crate::value::Value;
use std::fmt::Write as _;
use std::path::Path;

/// The module and its configuration.
pub(super) const NAME: &str = "TraceRun";

/// Makes a folder with the spec and the module.
pub(super) fn folder(spec: &Path, window: &Window, variants: &[Variant]) -> Result<Folder, Error> {
    let io = |doing: String| move |error| Error::Tlc(TlcError::Io { doing, error });
    let folder = Folder::new("trace").map_err(io("making a temporary folder".to_string()))?;
    let path = folder.path();
    for name in ["RaftMembership.tla", "RaftServer.tla", "Raft.tla", "TraceRaft.tla"] {
        let from = spec.join(name);
        std::fs::copy(&from, path.join(name)).map_err(io(format!("copying {}", from.display())))?;
    }
    let common = spec.join("TraceRaft.cfg");
    let common = std::fs::read_to_string(&common).map_err(io(format!("reading {}", common.display())))?;
    let files = [("tla", module(window, variants)), ("cfg", common + &constants(window))];
    for (ending, text) in files {
        let file = path.join(format!("{NAME}.{ending}"));
        std::fs::write(&file, text).map_err(io(format!("writing {}", file.display())))?;
    }
    Ok(folder)
}

/// The constants' values, a line of the trace a line of the text.
fn module(window: &Window, variants: &[Variant]) -> String {
    let lines = window.lines().iter().enumerate().map(|(at, line)| record::line(window, at, line).to_string());
    let variants = variants.iter().map(|variant| {
        let line = record::line(window, variant.at, &variant.line);
        Value::record([("at", Value::int(variant.at as u64 + 1)), ("line", line)]).to_string()
    });
    let mut text = format!("---- MODULE {NAME} ----\nEXTENDS TraceRaft\nCONSTANTS {}\n", names(window));
    let _ = writeln!(text, "TheDisks == {}", record::disks(window));
    sequence(&mut text, "TheTrace", lines);
    sequence(&mut text, "TheVariants", variants);
    text + "====\n"
}

/// How many values one definition takes: very long ones are slow to parse.
const CHUNK: usize = 200;

fn sequence(text: &mut String, name: &str, values: impl Iterator<Item = String>) {
    let values: Vec<String> = values.collect();
    let chunks: Vec<&[String]> = values.chunks(CHUNK).collect();
    for (at, chunk) in chunks.iter().enumerate() {
        let _ = writeln!(text, "{name}{at} == <<\n{}\n>>", chunk.join(",\n"));
    }
    let parts: Vec<String> = (0..chunks.len()).map(|at| format!("{name}{at}")).collect();
    let _ = writeln!(text, "{name} == {}", if parts.is_empty() { "<<>>".to_string() } else { parts.join(" \\o ") });
}

fn names(window: &Window) -> String {
    let names: Vec<String> = window.servers().map(|id| node(id).to_string()).collect();
    names.join(", ")
}

/// The part of the configuration that differs from trace to trace.
fn constants(window: &Window) -> String {
    let settings = window.settings();
    let names = names(window);
    let mut text = String::new();
    for id in window.servers() {
        let _ = writeln!(text, "  {0} = {0}", node(id));
    }
    let boolean = |value: bool| if value { "TRUE" } else { "FALSE" };
    // The model has one entry in an append when a byte is all that fits; anything else is a limit that the spec does
    // without.
    let entries_max = if settings.append_bytes_max == 1 { 1 } else { 1_000_000_000 };
    let _ = write!(
        text,
        "  Server = {{{names}}}\n  Campaigners = {{{names}}}\n  Readers = {{{names}}}\n  PreVote = {}\n  CheckQuorum = {}\n  \
         Leases = {}\n  MaxInflight = {}\n  MaxAppendEntries = {entries_max}\n  Trace <- TheTrace\n  Disks <- TheDisks\n  Variants <- TheVariants\n",
        boolean(settings.pre_vote),
        boolean(settings.check_quorum),
        boolean(settings.leases),
        settings.inflight_messages_max.min(1_000_000_000),
    );
    text
}
