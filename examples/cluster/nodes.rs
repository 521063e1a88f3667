//! The nodes: processes of this program, started, killed, restarted, always reaped.

use crate::Options;
use crate::client::{Client, NodeStatus};
use crate::folder::Folder;
use crate::links::Links;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After how many commands a node takes a snapshot, unless the command line says otherwise: every few seconds of load.
const SNAPSHOT_COMMANDS: usize = 50_000;

/// How long a node may take to stop when it is told to: it hands its leadership over first.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// One node, up or down. Nodes are counted from 0 here, their ids from 1; neither is given twice.
struct Node {
    child: Option<Child>,
    client_port: u16,
    peer_port: u16,
    /// Where the others dial it: its proxy.
    link_port: u16,
    /// Whether clients are sent to it.
    serves: bool,
}

/// All nodes. Clones are the same nodes; dropping the last one ends the processes.
#[derive(Clone)]
pub(crate) struct Nodes {
    shared: Arc<Shared>,
}

struct Shared {
    nodes: Mutex<Vec<Node>>,
    dir: PathBuf,
    _folder: Folder,
    /// Where the nodes record their steps, if they do.
    trace: Option<PathBuf>,
    /// How many nodes the cluster begins with.
    first: usize,
    links: Links,
    /// Where to look for the next free port.
    next_port: Mutex<u16>,
    seed: u64,
    tick_ms: u64,
    snapshot_commands: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_all(&self) {
        for node in self.lock().iter_mut() {
            if let Some(mut child) = node.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Nodes {
    /// Starts the first nodes anew in a directory, from which what an earlier run left is removed.
    pub(crate) fn start(options: &Options, first: usize) -> io::Result<Self> {
        let dir = &options.dir;
        let words: Vec<String> = std::env::args().skip(1).collect();
        let folder = Folder::take(dir, &format!("cluster {}", words.join(" ")), STOP_PATIENCE)?;
        let trace = options.trace.then(|| dir.join("trace"));
        for traces in trace.iter().filter(|traces| traces.exists()) {
            fs::remove_dir_all(traces)?;
        }
        clear(dir)?;
        let shared = Shared {
            nodes: Mutex::default(),
            dir: dir.clone(),
            _folder: folder,
            trace,
            first,
            links: Links::default(),
            // Below the range from which systems draw ports of outgoing connections: one of those could be in somebody's
            // hands when a node wants it back.
            next_port: Mutex::new(20_000 + (std::process::id() % 1000) as u16 * 10),
            seed: options.seed,
            tick_ms: options.tick_ms,
            snapshot_commands: options.snapshot_commands.unwrap_or(SNAPSHOT_COMMANDS),
        };
        let nodes = Self { shared: Arc::new(shared) };
        for _ in 0..first {
            nodes.prepare(true)?;
        }
        for node in 0..first {
            nodes.restart(node)?;
        }
        Ok(nodes)
    }

    /// Gives another node its place. Clients are sent to it once [`Nodes::set_serving`] says so.
    fn prepare(&self, serves: bool) -> io::Result<usize> {
        let (client_port, peer_port) = (self.free_port()?, self.free_port()?);
        let link_port = self.shared.links.open(peer_port)?;
        let mut nodes = self.shared.lock();
        nodes.push(Node { child: None, client_port, peer_port, link_port, serves });
        Ok(nodes.len() - 1)
    }

    /// Starts a node under a new id, which waits to be added.
    pub(crate) fn join(&self) -> io::Result<usize> {
        let node = self.prepare(false)?;
        self.restart(node)?;
        Ok(node)
    }

    fn free_port(&self) -> io::Result<u16> {
        let mut next = self.shared.next_port.lock().unwrap_or_else(PoisonError::into_inner);
        let port = (*next..32_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let port = port.ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrInUse, format!("no free port between {next} and 32000"))
        })?;
        *next = port + 1;
        Ok(port)
    }

    /// Starts a node that is down, with the same line as ever.
    pub(crate) fn restart(&self, node: usize) -> io::Result<()> {
        let shared = &self.shared;
        let mut nodes = shared.lock();
        let first = nodes.iter().take(shared.first).enumerate();
        let peers: Vec<String> = first.map(|(at, node)| format!("{}=127.0.0.1:{}", at + 1, node.link_port)).collect();
        let id = (node + 1).to_string();
        let log = File::options().create(true).append(true).open(self.log_path(node))?;
        let trace = shared.trace.iter().flat_map(|dir| [OsStr::new("--trace"), dir.as_os_str()]);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["node", "--until-stdin-ends", "--id", &id]);
        if node < shared.first {
            command.args(["--peers", &peers.join(",")]);
        } else {
            command.arg("--join");
        }
        let child = command
            .args(["--listen", &format!("127.0.0.1:{}", nodes[node].client_port)])
            .args(["--peer-listen", &format!("127.0.0.1:{}", nodes[node].peer_port)])
            .arg("--data")
            .arg(self.data(node))
            .args(trace)
            // On every other node clients read there, on the rest at the leader: both are a part of the history.
            .args((node % 2 == 0).then_some("--follower-reads"))
            .args(["--seed", &shared.seed.to_string(), "--tick-ms", &shared.tick_ms.to_string()])
            .args(["--snapshot-commands", &shared.snapshot_commands.to_string()])
            .args(["--snapshot-trail", &(shared.snapshot_commands / 10).to_string()])
            // Held open by this process, so that its end, however it comes, ends the node.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        nodes[node].child = Some(child);
        Ok(())
    }

    fn data(&self, node: usize) -> PathBuf {
        self.shared.dir.join(format!("node-{}", node + 1))
    }

    /// Deletes everything that a node which is down had.
    pub(crate) fn wipe(&self, node: usize) -> io::Result<()> {
        fs::remove_dir_all(self.data(node))
    }

    /// Where a node's standard error goes.
    pub(crate) fn log_path(&self, node: usize) -> PathBuf {
        self.shared.dir.join(format!("node-{}.log", node + 1))
    }

    /// Where the nodes record their steps, if they do.
    #[cfg(feature = "trace")]
    pub(crate) fn traces(&self) -> Option<&Path> {
        self.shared.trace.as_deref()
    }

    /// SIGKILL. The process is gone when this returns.
    pub(crate) fn kill(&self, node: usize) -> io::Result<()> {
        let child = self.shared.lock()[node].child.take();
        if let Some(mut child) = child {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Has a node stop in its own way, handing over if it leads. The process is gone when this returns.
    pub(crate) fn stop(&self, node: usize) -> io::Result<()> {
        let Some(mut child) = self.shared.lock()[node].child.take() else { return Ok(()) };
        drop(child.stdin.take());
        let deadline = Instant::now() + STOP_PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                let message = format!("node {} did not stop within {STOP_PATIENCE:?}", node + 1);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Says whether clients are sent to a node from now on.
    pub(crate) fn set_serving(&self, node: usize, serves: bool) {
        self.shared.lock()[node].serves = serves;
    }

    /// The nodes to which clients are sent, whether they are up or not.
    pub(crate) fn serving(&self) -> Vec<usize> {
        let nodes = self.shared.lock();
        (0..nodes.len()).filter(|node| nodes[*node].serves).collect()
    }

    /// Cuts a node off from all others, for their messages in both directions.
    pub(crate) fn isolate(&self, node: usize) {
        self.shared.links.isolate(node as u64 + 1);
    }

    /// The opposite of [`Nodes::isolate`].
    pub(crate) fn heal(&self, node: usize) {
        self.shared.links.heal(node as u64 + 1);
    }

    /// Where the other nodes reach a node.
    pub(crate) fn peer_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.shared.lock()[node].link_port)
    }

    /// The leader with the highest term among the nodes that serve and answer.
    pub(crate) fn leader(&self) -> Option<(usize, u64)> {
        let statuses = self.serving().into_iter().filter_map(|node| Some((node, self.status(node)?)));
        let leading = statuses.filter(|(_, status)| status.leads);
        leading.map(|(node, status)| (node, status.term)).max_by_key(|(_, term)| *term)
    }

    /// Ends every node.
    pub(crate) fn end_all(&self) {
        self.shared.end_all();
    }

    /// A node that ended by itself, if there is one.
    pub(crate) fn find_ended(&self) -> Option<usize> {
        let mut nodes = self.shared.lock();
        nodes.iter_mut().position(|node| matches!(node.child.as_mut().map(Child::try_wait), Some(Ok(Some(_)))))
    }

    pub(crate) fn port(&self, node: usize) -> u16 {
        self.shared.lock()[node].client_port
    }

    pub(crate) fn status(&self, node: usize) -> Option<NodeStatus> {
        Client::connect(self.port(node)).ok()?.status()
    }
}

/// Waits until `check` gives something, looking every few milliseconds and calling `idle` between.
pub(crate) fn await_some<T>(
    deadline: Instant,
    mut idle: impl FnMut(),
    mut check: impl FnMut() -> Option<T>,
) -> Option<T> {
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        idle();
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Removes what nodes of an earlier run left. By name: the directory may be one that holds other things.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let Some(rest) = name.strip_prefix("node-") else { continue };
        let is_number = |text: &str| text.parse::<u64>().is_ok();
        if is_number(rest) && path.is_dir() {
            fs::remove_dir_all(path)?;
        } else if rest.strip_suffix(".log").is_some_and(is_number) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
