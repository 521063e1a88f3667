//! Counts instructions: runs this program again under callgrind, which looks at `measured_region` alone.

use crate::contender::Contender;
use std::process::{Command, Stdio};

/// Whether valgrind can be run.
pub fn is_installed() -> bool {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Instructions per entry in the measured region; `None` if callgrind did not say.
pub fn instructions_per_entry(contender: Contender, nodes: u64, batch: usize) -> Option<f64> {
    let entries = (batch * 8).max(2048);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured_region"])
        .arg(std::env::current_exe().ok()?)
        .args(["--only", contender.name()])
        .args(["--nodes", &nodes.to_string()])
        .args(["--batches", &batch.to_string()])
        .args(["--entries", &entries.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    // ==1234== Collected : 5678
    let collected = text.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse::<f64>().ok()?;
    let measured = entries.div_ceil(batch) * batch;
    (output.status.success() && collected > 0.0).then(|| collected / measured as f64)
}
