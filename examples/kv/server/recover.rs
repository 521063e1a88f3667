//! `kv recover`: going on without a majority that is lost for good. See docs/RECOVERY.md.

use super::options::parse_peers;
use clap::Args;
use raft_io::driver::Recovery;
use raft_io::log::wal::{WalError, WalLog, WalOptions};
use raft_io::{ClusterId, NodeId};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What was done by hand to the log of this directory, a line each.
const AUDIT: &str = "recoveries.txt";
const DONE: u8 = 0;
const NOT_DONE: u8 = 2;

/// Options of `recover`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RecoverOptions {
    /// The node whose directory it is
    #[arg(long, value_name = "N")]
    pub(crate) id: u64,
    /// The directory of its log; the node must be stopped
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The nodes that are left, this one among them: the voters from now on
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    pub(crate) survivors: Vec<u64>,
    /// Where survivors are that have moved: 1=HOST:PORT,2=HOST:PORT,...
    #[arg(long, value_name = "LIST")]
    pub(crate) addresses: Option<String>,
    /// The identity of the cluster, as given to serve
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cluster_id: u64,
    /// Do it. What only the lost nodes held is lost with them, acknowledged or not
    #[arg(long)]
    pub(crate) yes_i_lose_data: bool,
}

/// Says what it would do, and does it if told so. The exit code.
pub(crate) fn recover(options: &RecoverOptions) -> u8 {
    match run(options) {
        Ok(()) => DONE,
        Err(message) => {
            eprintln!("recover: {message}");
            NOT_DONE
        }
    }
}

fn run(options: &RecoverOptions) -> Result<(), String> {
    let (data, shown) = (&options.data, options.data.display());
    // Opening would make a log where there is none.
    fs::read_dir(data).map_err(|error| format!("--data {shown}: {error}"))?;
    if !data.join("MANIFEST").is_file() {
        return Err(format!("--data {shown}: holds no log"));
    }
    let mut log =
        WalLog::open(data, WalOptions::new(ClusterId(options.cluster_id), NodeId(options.id))).map_err(|error| {
            let advice = if matches!(error, WalError::Locked { .. }) { "; stop the node first" } else { "" };
            format!("--data {shown}: {error}{advice}")
        })?;
    let mut plan =
        Recovery::plan(&log, options.id, options.survivors.iter().copied()).map_err(|error| error.to_string())?;
    if let Some(addresses) = &options.addresses {
        let mut problems = Vec::new();
        for (id, address) in parse_peers("--addresses", addresses, &mut problems) {
            match plan.clone().with_address(id, address) {
                Ok(changed) => plan = changed,
                Err(problem) => problems.push(format!("--addresses {}: {}", problem.value, problem.rule)),
            }
        }
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
    }
    println!("node {} knows the members: {}", plan.id, plan.before);
    println!("its log ends with entry {}, its term is {}", plan.last, plan.term);
    println!("it would go on with the members: {}, appended as entry {}", plan.after, plan.entry);
    if !options.yes_i_lose_data {
        return Err(
            "nothing was changed. Compare the last entries of all survivors, and recover the one whose term, then \
                    index, is the highest, and no other. Whatever the lost nodes had beyond it is lost. To do it, add \
                    --yes-i-lose-data"
                .into(),
        );
    }
    // Written down first: a crash in between leaves a plan that was not carried out, and never a deed that nobody owns to.
    let incarnation = log.incarnation();
    audit(data, "begins", &plan, incarnation).map_err(|error| format!("{AUDIT}: {error}; nothing was changed"))?;
    plan.carry_out(&mut log).map_err(|error| format!("{error}; the log holds all of it or nothing, look again"))?;
    log.close().map_err(|error| error.to_string())?;
    audit(data, "is done", &plan, incarnation).map_err(|error| format!("it is done, but {AUDIT}: {error}"))?;
    println!(
        "done, and written down in {}. Start this node, then the other survivors as they are.",
        data.join(AUDIT).display()
    );
    println!(
        "The nodes that are lost must not come back with what they hold: empty their directories, and add them \
         under ids that were never used."
    );
    Ok(())
}

/// Who, when, where, from what to what.
fn audit(data: &Path, stage: &str, plan: &Recovery, incarnation: u64) -> io::Result<()> {
    let path = data.join(AUDIT);
    let created = !path.exists();
    let mut file = File::options().create(true).append(true).open(&path)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    writeln!(
        file,
        "unix_time={now} recovery {stage}: by={}@{} node={} incarnation={incarnation:016x} term={} last={} entry={} from=[{}] to=[{}]",
        user.unwrap_or_else(|| "unknown".into()),
        host.trim(),
        plan.id,
        plan.term,
        plan.last,
        plan.entry,
        plan.before,
        plan.after,
    )?;
    file.sync_all()?;
    // A name is durable only when its directory is.
    #[cfg(unix)]
    if created {
        File::open(data)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = created;
    Ok(())
}
