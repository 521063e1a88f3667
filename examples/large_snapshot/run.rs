//! The run: three nodes with a large state under load, a snapshot, a fourth node that joins with it, the verdict.

use crate::blocks::BLOCK_BYTES;
use crate::load::{Load, Phase, Seen};
use crate::node::NodeOptions;
use crate::nodes::{self, Client, Process, Status};
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many blocks one command fills.
const FILL_BLOCKS: u64 = 256;
/// With fewer entries to apply a node keeps pace.
const CAUGHT_UP_ENTRIES: u64 = 100;
const LONG: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) directory: PathBuf,
    pub(crate) state_bytes: u64,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) clients: u64,
    pub(crate) rate: u64,
    pub(crate) value_bytes: usize,
    /// How long the load is watched before and after.
    pub(crate) seconds: u64,
}

/// One process's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) node: u64,
    pub(crate) baseline: u64,
    pub(crate) peak: u64,
}

pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    /// Empty where memory cannot be measured.
    pub(crate) memory: Vec<Memory>,
    pub(crate) snapshot_bytes: u64,
    pub(crate) took: [Duration; 3],
    pub(crate) statuses_before: Vec<Status>,
    pub(crate) statuses_after: Vec<Status>,
    /// Of each node: the last entry applied, the checksum, how many writes.
    pub(crate) states: Vec<(u64, String, u64)>,
}

impl Plan {
    fn node(&self, id: u64) -> NodeOptions {
        let directory = self.directory.join(format!("node-{id}"));
        NodeOptions { id, directory, bytes_per_second: self.bytes_per_second, value_bytes: self.value_bytes }
    }

    pub(crate) fn blocks(&self) -> u64 {
        (self.state_bytes / BLOCK_BYTES as u64).max(1)
    }
}

/// Runs it; `say` is told what happens, `live` how far it is.
pub(crate) fn run(
    plan: &Plan,
    command: impl Fn(&NodeOptions) -> Command,
    say: &dyn Fn(&str),
    live: &dyn Fn(String),
) -> io::Result<Outcome> {
    let mut processes = Vec::new();
    for id in 1..=3 {
        processes.push(Process::start(&plan.node(id), &command)?);
    }
    let members: Vec<String> = processes.iter().map(|node| format!("{}={}", node.id, node.address())).collect();
    processes.iter_mut().try_for_each(|node| node.begin(&members.join(" ")))?;
    let mut clients = processes.iter().map(Process::client).collect::<io::Result<Vec<_>>>()?;
    let leader = until("somebody leads", || {
        let found = clients.iter_mut().position(|node| node.status().is_ok_and(|status| status.leads));
        Ok(found)
    })?;
    say(&format!("3 nodes are up; node {} leads", leader + 1));
    prefill(plan, &processes[leader], &mut clients, live)?;
    say(&format!(
        "each holds a state of {} MiB in a file, by {} commands",
        plan.state_bytes >> 20,
        plan.blocks().div_ceil(FILL_BLOCKS)
    ));

    let load = Load::start(processes[leader].client_port, plan.clients, plan.rate, plan.blocks())?;
    say(&format!("load: {} clients, {} writes per second of {} bytes", plan.clients, plan.rate, plan.value_bytes));
    let mut newcomer = Process::start(&plan.node(4), &command)?;
    newcomer.begin("")?;
    clients.push(newcomer.client()?);
    processes.push(newcomer);
    // What the filling left the disk to do is no part of what is compared with.
    watch_for(plan.seconds, &load, "warming up", live);
    load.enter(Phase::Before);
    watch_for(plan.seconds, &load, "before", live);
    let statuses_before = statuses(&mut clients)?;
    let watcher = MemoryWatch::start(processes.iter().map(|node| (node.id, node.pid())).collect());

    load.enter(Phase::Taking);
    let began = Instant::now();
    let snapshot_bytes = ask(&processes[leader], "snapshot", |time| live(format!("taking the snapshot, {time:.0?}")))?;
    let snapshot_bytes: u64 = snapshot_bytes.parse().map_err(io::Error::other)?;
    let taking = began.elapsed();
    say(&format!("the leader has a snapshot of {} MiB, {}", snapshot_bytes >> 20, speed(snapshot_bytes, taking)));
    load.enter(Phase::Fetching);
    let began = Instant::now();
    let request = format!("add 4 {}", processes[3].address());
    let mut adding = Some(ask_in_background(&processes[leader], request)?);
    let newcomer = clients.last_mut().expect("the fourth");
    until("the new node has fetched the snapshot", || {
        let status = newcomer.status()?;
        let (bytes, total) = (status.fetched_bytes, status.fetch_bytes);
        live(format!("fetching, {} of {} MiB, {}", bytes >> 20, total >> 20, speed(bytes, began.elapsed())));
        Ok((status.fetches > 0).then_some(()))
    })?;
    let fetching = began.elapsed();
    say(&format!("node 4 has fetched it, {}", speed(snapshot_bytes, fetching)));
    load.enter(Phase::Installing);
    let began = Instant::now();
    until("the new node has its vote and the state", || {
        live(format!("installing, {:.0?}", began.elapsed()));
        if adding.as_ref().is_some_and(thread::JoinHandle::is_finished) {
            let added = adding.take().map(thread::JoinHandle::join);
            added.transpose().map_err(|_| io::Error::other("adding the node panicked"))?.transpose()?;
        }
        // It hears of its vote after the leader has it committed. The vote needs the log alone; the state comes after.
        let status = newcomer.status()?;
        let caught_up = status.applied > 0 && status.committed - status.applied <= CAUGHT_UP_ENTRIES;
        Ok((status.votes && caught_up && adding.is_none()).then_some(()))
    })?;
    let took = [taking, fetching, began.elapsed()];
    say(&format!("node 4 has installed it, caught up and got its vote, {}", speed(snapshot_bytes, took[2])));
    load.enter(Phase::After);
    watch_for(plan.seconds, &load, "after", live);
    let memory = watcher.stop();
    let seen = load.stop();
    live("comparing the states".to_owned());
    let statuses_after = statuses(&mut clients)?;
    let last = statuses_after.iter().map(|status| status.committed).max().unwrap_or(0);
    for client in &mut clients {
        until("all have applied everything", || Ok((client.status()?.applied >= last).then_some(())))?;
    }
    let states = clients.iter_mut().map(state).collect::<io::Result<_>>()?;
    Ok(Outcome { seen, memory, snapshot_bytes, took, statuses_before, statuses_after, states })
}

fn prefill(plan: &Plan, leader: &Process, clients: &mut [Client], live: &dyn Fn(String)) -> io::Result<()> {
    let mut filler = leader.client()?;
    let mut next = 0;
    while next < plan.blocks() {
        let count = FILL_BLOCKS.min(plan.blocks() - next);
        filler.call(&format!("fill {next} {count}"))?;
        next += count;
        if next % (16 * FILL_BLOCKS) == 0 {
            // So that the baseline is not that of a disk with gigabytes to write.
            clients.iter_mut().try_for_each(|node| node.call("settle").map(drop))?;
            live(format!("filling the state, {} of {} MiB", (next * BLOCK_BYTES as u64) >> 20, plan.state_bytes >> 20));
        }
    }
    let last = filler.status()?.committed;
    for node in clients.iter_mut() {
        until("all are filled", || Ok((node.status()?.applied >= last).then_some(())))?;
        node.call("settle")?;
    }
    Ok(())
}

fn statuses(clients: &mut [Client]) -> io::Result<Vec<Status>> {
    clients.iter_mut().map(Client::status).collect()
}

fn state(client: &mut Client) -> io::Result<(u64, String, u64)> {
    let answer = client.call("checksum")?.to_owned();
    let mut words = answer.split(' ');
    let (applied, sum, writes) = (words.next(), words.next(), words.next());
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
    match (number(applied), sum, number(writes)) {
        (Some(applied), Some(sum), Some(writes)) => Ok((applied, sum.to_owned(), writes)),
        _ => Err(io::Error::other(format!("no state: {answer}"))),
    }
}

fn ask_in_background(node: &Process, request: String) -> io::Result<thread::JoinHandle<io::Result<String>>> {
    let mut client = node.client()?;
    Ok(thread::spawn(move || client.call(&request).map(str::to_owned)))
}

fn ask(node: &Process, request: &str, mut live: impl FnMut(Duration)) -> io::Result<String> {
    let (asked, began) = (ask_in_background(node, request.to_owned())?, Instant::now());
    while !asked.is_finished() {
        live(began.elapsed());
        thread::sleep(LOOK);
    }
    asked.join().map_err(|_| io::Error::other("asking panicked"))?
}

fn until<T>(what: &str, mut look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::sleep(LOOK);
    }
    Err(io::Error::other(format!("not in time: {what}")))
}

fn watch_for(seconds: u64, load: &Load, phase: &str, live: &dyn Fn(String)) {
    let (began, first) = (Instant::now(), load.acknowledged());
    while began.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(LOOK);
        let rate = (load.acknowledged() - first) as f64 / began.elapsed().as_secs_f64();
        live(format!("{phase}: {rate:.0} writes/s"));
    }
}

pub(crate) fn speed(bytes: u64, time: Duration) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{:.1} s, {:.0} MiB/s", time.as_secs_f64(), mib / time.as_secs_f64().max(0.001))
}

/// Looks at every process's memory again and again; the kernel's own high-water mark besides, where it can be reset.
struct MemoryWatch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
    seen: Arc<Mutex<Vec<Memory>>>,
    pids: Vec<(u64, u32, bool)>,
}

impl MemoryWatch {
    fn start(processes: Vec<(u64, u32)>) -> Self {
        let resident = |pid| nodes::memory(pid, "VmRSS");
        let first = processes.iter().filter_map(|(node, pid)| {
            let baseline = resident(*pid)?;
            Some(Memory { node: *node, baseline, peak: baseline })
        });
        let (seen, stop) = (Arc::new(Mutex::new(first.collect::<Vec<_>>())), Arc::new(AtomicBool::new(false)));
        let pids: Vec<_> = processes.iter().map(|(node, pid)| (*node, *pid, nodes::reset_peak(*pid))).collect();
        let (watched, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for (memory, (_, pid)) in
                    watched.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().zip(&processes)
                {
                    memory.peak = memory.peak.max(resident(*pid).unwrap_or(0));
                }
                thread::sleep(LOOK);
            }
        });
        Self { stop, thread, seen, pids }
    }

    fn stop(self) -> Vec<Memory> {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.join();
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for (memory, (_, pid, reset)) in seen.iter_mut().zip(&self.pids) {
            if *reset {
                memory.peak = memory.peak.max(nodes::memory(*pid, "VmHWM").unwrap_or(0));
            }
        }
        seen
    }
}
