//! The module that gives `TraceRaft.tla` its constants.

use super::window::Window;
use super::{Error, Options, Variant, record};
use crate::ending::Folder;
use crate::render::node;
use crate::tlc::TlcError;
use crate::value::Value;
use std::fmt::Write as _;

/// The module and its configuration.
pub(super) const NAME: &str = "TraceRun";

/// Makes a folder with the spec and the module.
///
/// # Errors
/// TLC could not hold the module, or a file cannot be read or written.
pub(super) fn folder(options: &Options<'_>, window: &Window, variants: &[Variant]) -> Result<Folder, Error> {
    let spec = options.spec;
    let module = module(window, variants, options.heap_mebibytes)?;
    let io = |doing: String| move |error| Error::Tlc(TlcError::Io { doing, error });
    let folder = Folder::new("trace").map_err(io("making a temporary folder".to_string()))?;
    let path = folder.path();
    for name in ["RaftMembership.tla", "RaftServer.tla", "Raft.tla", "TraceRaft.tla"] {
        let from = spec.join(name);
        std::fs::copy(&from, path.join(name)).map_err(io(format!("copying {}", from.display())))?;
    }
    let common = spec.join("TraceRaft.cfg");
    let common = std::fs::read_to_string(&common).map_err(io(format!("reading {}", common.display())))?;
    let files = [("tla", module), ("cfg", common + &constants(window))];
    for (ending, text) in files {
        let file = path.join(format!("{NAME}.{ending}"));
        std::fs::write(&file, text).map_err(io(format!("writing {}", file.display())))?;
    }
    Ok(folder)
}

/// What TLC needs for each byte of the module's text, in bytes: its syntax tree takes 54, the values 110. TLC 2.15 held 165 to
/// 175 at traces of 2,000 and 8,000 steps; and Java keeps what lives long in two thirds of its heap.
const HEAP_PER_BYTE: u64 = 260;

/// What TLC needs apart from the trace, in MiB.
const HEAP_BASE_MEBIBYTES: u64 = 64;

/// Whether TLC can hold so much text.
///
/// # Errors
/// It cannot: how many of the lines it can.
fn check_size(lengths: &[usize], heap_mebibytes: u64) -> Result<(), Error> {
    let needed = |bytes: usize| HEAP_BASE_MEBIBYTES + ((bytes as u64 * HEAP_PER_BYTE) >> 20);
    let sums = lengths.iter().scan(0, |sum: &mut usize, length| {
        *sum += length;
        Some(*sum)
    });
    let steps_max = sums.take_while(|bytes| needed(*bytes) <= heap_mebibytes).count();
    let steps = lengths.len();
    if steps_max == steps {
        return Ok(());
    }
    let needed_mebibytes = needed(lengths.iter().sum());
    Err(Error::TooLarge { steps, steps_max, heap_mebibytes, needed_mebibytes })
}

/// The constants' values, a line of the trace a line of the text.
fn module(window: &Window, variants: &[Variant], heap_mebibytes: u64) -> Result<String, Error> {
    let lines = window.lines().iter().enumerate().map(|(at, line)| record::line(window, at, line).to_string());
    let lines: Vec<String> = lines.collect();
    let lengths: Vec<usize> = lines.iter().map(String::len).collect();
    check_size(&lengths, heap_mebibytes)?;
    let variants = variants.iter().map(|variant| {
        let line = record::line(window, variant.at, &variant.line);
        Value::record([("at", Value::int(variant.at as u64 + 1)), ("line", line)]).to_string()
    });
    let mut text = format!("---- MODULE {NAME} ----\nEXTENDS TraceRaft\nCONSTANTS {}\n", names(window));
    let _ = writeln!(text, "TheDisks == {}", record::disks(window));
    sequence(&mut text, "TheTrace", lines.into_iter());
    sequence(&mut text, "TheVariants", variants);
    Ok(text + "====\n")
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
         Leases = {}\n  NamesHistory = {}\n  MaxInflight = {}\n  MaxAppendEntries = {entries_max}\n  Trace <- TheTrace\n  Disks <- TheDisks\n  Variants <- TheVariants\n",
        boolean(settings.pre_vote),
        boolean(settings.check_quorum),
        boolean(settings.leases),
        boolean(settings.names_history),
        settings.inflight_messages_max.min(1_000_000_000),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_heap_cannot_hold_is_refused_with_the_number_of_steps_that_it_can() {
        let lengths = [3 << 20; 100];
        assert!(check_size(&lengths[..5], 4096).is_ok());
        let refused = check_size(&lengths, 4096).expect_err("it is too much");
        let Error::TooLarge { steps: 100, steps_max: 5, heap_mebibytes: 4096, .. } = refused else {
            panic!("{refused}")
        };
        assert!(refused.to_string().contains("--events 5"), "{refused}");
        assert!(check_size(&lengths[..6], 4096).is_err());
        assert!(matches!(check_size(&lengths, 10), Err(Error::TooLarge { steps_max: 0, .. })));
        assert!(check_size(&[], 64).is_ok());
    }
}
