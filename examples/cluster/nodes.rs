//! The nodes: processes of this program, started, killed, restarted, always reaped.

use crate::Options;
use crate::client::{Client, NodeStatus};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const NODES: usize = 3;

/// One node, up or down. Nodes are counted from 0 here, their ids from 1.
struct Node {
    child: Option<Child>,
    client_port: u16,
    peer_port: u16,
}

/// All nodes. Clones are the same nodes; dropping the last one ends the processes.
#[derive(Clone)]
pub(crate) struct Nodes {
    shared: Arc<Shared>,
}

struct Shared {
    nodes: Mutex<Vec<Node>>,
    dir: PathBuf,
    /// Where the nodes record their steps, if they do.
    trace: Option<PathBuf>,
    seed: u64,
    tick_ms: u64,
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
    /// Starts every node anew in a directory, from which what an earlier run left is removed.
    pub(crate) fn start(options: &Options) -> io::Result<Self> {
        let dir = &options.dir;
        fs::create_dir_all(dir)?;
        let trace = options.trace.then(|| dir.join("trace"));
        for traces in trace.iter().filter(|traces| traces.exists()) {
            fs::remove_dir_all(traces)?;
        }
        for id in 1..=NODES {
            // By name: the directory may be one that holds other things.
            let data = dir.join(format!("node-{id}"));
            if data.exists() {
                fs::remove_dir_all(data)?;
            }
            let log = dir.join(format!("node-{id}.log"));
            if log.exists() {
                fs::remove_file(log)?;
            }
        }
        let ports = free_ports(2 * NODES)?;
        let nodes = ports.chunks(2).map(|pair| Node { child: None, client_port: pair[0], peer_port: pair[1] });
        let (dir, seed, tick_ms) = (dir.clone(), options.seed, options.tick_ms);
        let shared = Shared { nodes: Mutex::new(nodes.collect()), dir, trace, seed, tick_ms };
        let nodes = Self { shared: Arc::new(shared) };
        for node in 0..NODES {
            nodes.restart(node)?;
        }
        Ok(nodes)
    }

    /// Starts a node that is down, with the same line as ever.
    pub(crate) fn restart(&self, node: usize) -> io::Result<()> {
        let mut nodes = self.shared.lock();
        let peers: Vec<String> =
            nodes.iter().enumerate().map(|(at, node)| format!("{}=127.0.0.1:{}", at + 1, node.peer_port)).collect();
        let id = (node + 1).to_string();
        let log = File::options().create(true).append(true).open(self.log_path(node))?;
        let trace = self.shared.trace.iter().flat_map(|dir| [OsStr::new("--trace"), dir.as_os_str()]);
        let child = Command::new(std::env::current_exe()?)
            .args(["node", "--until-stdin-ends", "--id", &id, "--peers", &peers.join(",")])
            .args(["--listen", &format!("127.0.0.1:{}", nodes[node].client_port)])
            .args(["--peer-listen", &format!("127.0.0.1:{}", nodes[node].peer_port)])
            .arg("--data")
            .arg(self.shared.dir.join(format!("node-{id}")))
            .args(trace)
            .args(["--seed", &self.shared.seed.to_string(), "--tick-ms", &self.shared.tick_ms.to_string()])
            // Held open by this process, so that its end, however it comes, ends the node.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        nodes[node].child = Some(child);
        Ok(())
    }

    /// Where a node's standard error goes.
    pub(crate) fn log_path(&self, node: usize) -> PathBuf {
        self.shared.dir.join(format!("node-{}.log", node + 1))
    }

    /// Where the nodes record their steps, if they do.
    #[cfg(feature = "trace")]
    pub(crate) fn traces(&self) -> Option<&std::path::Path> {
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

/// Ports that are free now, below the range from which systems draw ports of outgoing connections:
/// one of those could be in somebody's hands when a node wants it back.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let first = 20_000 + (std::process::id() % 1000) as u16 * 10;
    let ports: Vec<u16> =
        (first..32_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect();
    if ports.len() < count {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("no {count} free ports between {first} and 32000"),
        ));
    }
    Ok(ports)
}
