//! Nodes of the kv example as processes of their own, and redis-cli to talk to them.
//!
//! A node is this test program once more, told by its environment to run the server: so a test never
//! meets a server older than itself. The test program needs a test that calls [`node_process`].

use crate::server::ServeOptions;
use crate::server::backup::{BackupOptions, backup};
use crate::server::inspect::{InspectOptions, inspect};
use crate::server::recover::{RecoverOptions, recover};
use crate::server::restore::{RestoreOptions, restore};
use clap::Parser;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ARGUMENTS: &str = "RAFT_IO_KV_NODE";
const SEPARATOR: char = '\u{1f}';
/// How many nodes the cluster begins with.
const FIRST_NODES: usize = 3;
/// More than any wait of a healthy cluster, on a slow machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct NodeLine {
    #[command(flatten)]
    options: ServeOptions,
}

#[derive(Parser)]
struct RecoverLine {
    #[command(flatten)]
    options: RecoverOptions,
}

#[derive(Parser)]
struct InspectLine {
    #[command(flatten)]
    options: InspectOptions,
}

#[derive(Parser)]
struct BackupLine {
    #[command(flatten)]
    options: BackupOptions,
}

#[derive(Parser)]
struct RestoreLine {
    #[command(flatten)]
    options: RestoreOptions,
}

/// Becomes a node, or the tool that recovers one, if the environment says so; otherwise returns at once.
pub(crate) fn node_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    if let Some(arguments) = arguments.strip_prefix("recover") {
        let line = RecoverLine::parse_from(std::iter::once("kv").chain(arguments.split(SEPARATOR).skip(1)));
        std::process::exit(recover(&line.options).into());
    }
    if let Some(arguments) = arguments.strip_prefix("inspect") {
        let line = InspectLine::parse_from(std::iter::once("kv").chain(arguments.split(SEPARATOR).skip(1)));
        std::process::exit(inspect(&line.options).into());
    }
    if let Some(arguments) = arguments.strip_prefix("backup") {
        let line = BackupLine::parse_from(std::iter::once("kv").chain(arguments.split(SEPARATOR).skip(1)));
        std::process::exit(backup(&line.options).into());
    }
    if let Some(arguments) = arguments.strip_prefix("restore") {
        let line = RestoreLine::parse_from(std::iter::once("kv").chain(arguments.split(SEPARATOR).skip(1)));
        std::process::exit(restore(&line.options).into());
    }
    let line = NodeLine::parse_from(std::iter::once("kv").chain(arguments.split(SEPARATOR)));
    std::process::exit(crate::server::serve(line.options).into());
}

/// Three nodes, and those that join. Dropping it ends their processes.
pub(crate) struct Cluster {
    dir: TempDir,
    nodes: Vec<Node>,
    extra: Vec<String>,
    /// How many files a node may have open; as many as this process unless given.
    open_files: Option<u32>,
}

struct Node {
    child: Option<Child>,
    client_port: u16,
    peer_port: u16,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.kill(node));
    }
}

impl Cluster {
    /// Starts three nodes with these further options and waits for a leader that all know.
    pub(crate) fn start(extra: &[&str]) -> Self {
        Self::start_limited(None, extra)
    }

    /// As [`Cluster::start`], with a limit on the files that each node may have open.
    pub(crate) fn start_with_open_files(open_files: u32, extra: &[&str]) -> Self {
        Self::start_limited(Some(open_files), extra)
    }

    fn start_limited(open_files: Option<u32>, extra: &[&str]) -> Self {
        let nodes =
            (0..FIRST_NODES).map(|_| Node { child: None, client_port: free_port(), peer_port: free_port() }).collect();
        let extra = extra.iter().map(|option| (*option).to_owned()).collect();
        let mut cluster = Self { dir: TempDir::new().expect("a temporary directory"), nodes, extra, open_files };
        (0..3).for_each(|node| cluster.restart(node));
        cluster.leader();
        cluster
    }

    /// The command line of a node.
    pub(crate) fn line(&self, node: usize) -> Vec<String> {
        let first = self.nodes.iter().take(FIRST_NODES).enumerate();
        let peers = first.map(|(at, node)| format!("{}=127.0.0.1:{}", at + 1, node.peer_port)).collect::<Vec<_>>();
        let options = [
            ("--id", (node + 1).to_string()),
            ("--listen", format!("127.0.0.1:{}", self.nodes[node].client_port)),
            ("--peer-listen", self.peer_address(node)),
            ("--data", self.data(node).display().to_string()),
            ("--tick-ms", "60".into()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let peers = if node < FIRST_NODES { vec!["--peers".into(), peers.join(",")] } else { vec!["--join".into()] };
        options.chain(peers).chain(self.extra.iter().cloned()).collect()
    }

    /// Where the other nodes reach a node.
    pub(crate) fn peer_address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].peer_port)
    }

    /// A place for one more node, which is down and has nothing yet.
    pub(crate) fn place(&mut self) -> usize {
        self.nodes.push(Node { child: None, client_port: free_port(), peer_port: free_port() });
        self.nodes.len() - 1
    }

    /// Gives a node that is down the address at which another one was.
    pub(crate) fn take_peer_port_of(&mut self, node: usize, other: usize) {
        self.nodes[node].peer_port = self.nodes[other].peer_port;
    }

    /// Starts a node that waits to be added.
    pub(crate) fn join(&mut self) -> usize {
        let node = self.place();
        self.restart(node);
        let serves = await_some(|| (!self.raft_status(node, "id").is_empty()).then_some(node));
        serves.unwrap_or_else(|| panic!("it does not serve\n{}", self.logs()))
    }

    /// Gives a node that is down another address for the other nodes.
    pub(crate) fn move_peer_port(&mut self, node: usize) {
        self.nodes[node].peer_port = free_port();
    }

    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{}", node + 1))
    }

    pub(crate) fn port(&self, node: usize) -> u16 {
        self.nodes[node].client_port
    }

    pub(crate) fn process_id(&self, node: usize) -> u32 {
        self.nodes[node].child.as_ref().expect("the node is up").id()
    }

    /// Starts a node that is down.
    pub(crate) fn restart(&mut self, node: usize) {
        let log = fs::File::options().create(true).append(true).open(self.log(node)).expect("a log file");
        self.nodes[node].child =
            Some(command(&self.line(node), self.open_files).stderr(log).spawn().expect("the node starts"));
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{}.log", node + 1))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self, node: usize) -> Option<i32> {
        self.signal(node, "-TERM");
        self.await_end(node)
    }

    /// Waits until a node ends by itself; the exit code.
    pub(crate) fn await_end(&mut self, node: usize) -> Option<i32> {
        let mut child = self.nodes[node].child.take().expect("the node is up");
        child.wait().expect("the node ends").code()
    }

    /// Sends a signal, named as kill(1) does.
    pub(crate) fn signal(&self, node: usize, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process_id(node).to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// The leader that every one of the first nodes that is up knows, with an address.
    pub(crate) fn leader(&self) -> usize {
        self.leader_among(&(0..FIRST_NODES).collect::<Vec<_>>())
    }

    /// The leader, one of these nodes, that every one of them that is up knows, with an address.
    pub(crate) fn leader_among(&self, nodes: &[usize]) -> usize {
        let up: Vec<usize> = nodes.iter().copied().filter(|node| self.nodes[*node].child.is_some()).collect();
        let leader = await_some(|| {
            let leaders: Vec<String> = up.iter().map(|node| self.raft_status(*node, "leader")).collect();
            let known = up.iter().all(|node| !self.raft_status(*node, "leader_address").is_empty());
            let agreed = known && leaders.iter().all(|leader| *leader == leaders[0]);
            let leader = leaders[0].parse::<usize>().ok()? - 1;
            (agreed && up.contains(&leader)).then_some(leader)
        });
        leader.unwrap_or_else(|| panic!("no leader\n{}", self.logs()))
    }

    /// Some node that does not lead.
    pub(crate) fn follower(&self) -> usize {
        let leader = self.leader();
        (0..3).find(|node| *node != leader && self.nodes[*node].child.is_some()).expect("a follower is up")
    }

    /// One field of RAFT.STATUS; empty if the node does not answer.
    pub(crate) fn raft_status(&self, node: usize, field: &str) -> String {
        let output = redis_cli(self.port(node), &["raft.status"]);
        let lines: Vec<&str> = output.lines().collect();
        lines.chunks(2).find(|pair| pair[0] == field).and_then(|pair| pair.get(1)).unwrap_or(&"").to_string()
    }

    /// Runs redis-cli against a node.
    pub(crate) fn cli(&self, node: usize, arguments: &[&str]) -> String {
        redis_cli(self.port(node), arguments)
    }

    pub(crate) fn connect(&self, node: usize) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port(node))).expect("the node accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
    }

    pub(crate) fn logs(&self) -> String {
        (0..self.nodes.len()).map(|node| fs::read_to_string(self.log(node)).unwrap_or_default()).collect()
    }
}

/// Looks until there is something to see or patience ends.
pub(crate) fn await_some<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Starts a node with this line and waits until it gives up: its exit code and what it said.
pub(crate) fn start_in_vain(line: &[String]) -> (Option<i32>, String) {
    let output = command(line, None).stderr(Stdio::piped()).output().expect("the process runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// As [`start_in_vain`], with a limit on the files that the node may have open.
pub(crate) fn start_in_vain_with_open_files(open_files: u32, line: &[String]) -> (Option<i32>, String) {
    let output = command(line, Some(open_files)).stderr(Stdio::piped()).output().expect("the process runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs `kv recover` with this line: its exit code and everything that it said.
pub(crate) fn run_recover(line: &[&str]) -> (Option<i32>, String) {
    run_tool("recover", line)
}

/// Runs `kv inspect` with this line: its exit code and everything that it said.
pub(crate) fn run_inspect(line: &[&str]) -> (Option<i32>, String) {
    run_tool("inspect", line)
}

/// Runs `kv backup` with this line: its exit code and everything that it said.
pub(crate) fn run_backup(line: &[&str]) -> (Option<i32>, String) {
    run_tool("backup", line)
}

/// Runs `kv restore` with this line: its exit code and everything that it said.
pub(crate) fn run_restore(line: &[&str]) -> (Option<i32>, String) {
    run_tool("restore", line)
}

/// Begins `kv restore` with this line, which may read what it is given.
pub(crate) fn begin_restore(line: &[&str]) -> Child {
    let line: Vec<String> = std::iter::once("restore").chain(line.iter().copied()).map(str::to_owned).collect();
    command(&line, None).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the process runs")
}

fn run_tool(name: &str, line: &[&str]) -> (Option<i32>, String) {
    let line: Vec<String> = std::iter::once(name).chain(line.iter().copied()).map(str::to_owned).collect();
    let output = command(&line, None).stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the process runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

fn command(line: &[String], open_files: Option<u32>) -> Command {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = match open_files {
        None => Command::new(program),
        Some(limit) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\"")).arg(program);
            shell
        }
    };
    command.args(["node_process", "--exact", "--nocapture", "--test-threads", "1"]);
    command.env(ARGUMENTS, line.join(&SEPARATOR.to_string())).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// What redis-cli prints, without the last line break.
pub(crate) fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let output = redis_tool("redis-cli", port, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.trim_end_matches('\n').to_owned()
}

/// Runs a program of Debian's redis-tools to its end.
pub(crate) fn redis_tool(name: &str, port: u16, arguments: &[&str]) -> Output {
    let output = Command::new(name).args(["-p", &port.to_string()]).args(arguments).output();
    output.unwrap_or_else(|error| panic!("cannot run {name} ({error}): install the package redis-tools"))
}

/// Sends bytes and reads until the server closes or `until` has arrived.
pub(crate) fn exchange(stream: &mut TcpStream, request: &[u8], until: &[u8]) -> Vec<u8> {
    stream.write_all(request).expect("the server takes the request");
    let mut reply = Vec::new();
    let mut chunk = [0; 4096];
    while !reply.ends_with(until) || until.is_empty() {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => reply.extend_from_slice(&chunk[..count]),
            Err(error) => panic!("reading after {:?}: {error}", String::from_utf8_lossy(&reply)),
        }
    }
    reply
}

/// A free port below those that systems hand to outgoing connections: one of these could be taken
/// when a node wants it back.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 11_000 + (std::process::id() % 400) as u16 * 20;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The replies to these requests, as text.
pub(crate) fn text(stream: &mut TcpStream, request: &str) -> String {
    let request = format!("{request}PING end\r\n");
    let reply = String::from_utf8(exchange(stream, request.as_bytes(), b"$3\r\nend\r\n")).expect("replies are text");
    reply.strip_suffix("$3\r\nend\r\n").expect("the last reply").to_owned()
}
