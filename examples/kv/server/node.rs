//! Starting a node and accepting its clients.

use super::connection;
use super::ending::Ending;
use super::forward::Forwarder;
use super::limits;
use super::options::{ServeOptions, Settings};
use super::places::{self, Places};
use super::replies::ReplyMemory;
use super::store::Store;
use raft_io::driver::{DriverOptions, Raft, Snapshots};
use raft_io::log::wal::{WalLog, WalOptions};
use raft_io::snapshot::SnapshotFiles;
use raft_io::snapshot::files::SnapshotOptions;
use raft_io::transport::RaftTransport as _;
use raft_io::transport::tcp::{TcpConfig, TcpTransport};
use raft_io::{ClusterId, NodeId};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How a process ends whose node cannot start.
const CANNOT_START: u8 = 2;
/// How a process ends whose node has stopped for good.
const STOPPED_FOR_GOOD: i32 = 3;
/// What a client is told that finds no place; nothing of it ran.
pub(crate) const TOO_MANY_CLIENTS: &str = "ERR max number of clients reached";
/// Likewise, when the system gives no thread.
pub(crate) const NO_THREAD: &str = "ERR no thread for another client";
/// Likewise, while the node closes.
pub(crate) const STOPS: &str = "CLUSTERDOWN this node stops; nothing ran";
/// How much longer than a batch may wait for a leader a node that stops waits for its clients.
const CLOSING_MAX: Duration = Duration::from_secs(1);
const CLIENT_STACK_BYTES: usize = 256 << 10;

/// What the connections of a node share.
pub(crate) struct Server {
    pub(crate) raft: Raft<Store>,
    pub(crate) settings: Settings,
    pub(crate) started: Instant,
    pub(crate) forwarder: Forwarder,
    transport: TcpTransport,
    pub(crate) places: Places,
    pub(crate) ending: Ending,
    /// Why the node has stopped for good, since it has.
    stopped: OnceLock<String>,
    pub(crate) replies: Arc<ReplyMemory>,
    /// Bytes of unfinished requests, of all clients.
    request_bytes: AtomicUsize,
}

impl Server {
    /// Moves a connection's share of the request memory from `before` to `after` bytes. Growth beyond
    /// what all may hold together is refused, and then nothing is moved.
    pub(crate) fn account(&self, before: usize, after: usize) -> bool {
        if after <= before {
            self.request_bytes.fetch_sub(before - after, Ordering::Relaxed);
            return true;
        }
        let growth = after - before;
        let sum = self.request_bytes.fetch_add(growth, Ordering::Relaxed) + growth;
        let fits = sum <= self.settings.options.request_memory_mib << 20;
        if !fits {
            self.request_bytes.fetch_sub(growth, Ordering::Relaxed);
        }
        fits
    }

    /// What the clients' unfinished requests hold.
    pub(crate) fn request_bytes(&self) -> usize {
        self.request_bytes.load(Ordering::Relaxed)
    }

    /// Why the node answers nothing any more, as an error for clients; `None` while it works.
    pub(crate) fn why_stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Where clients reach a node; `None` while this one has not heard.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<String> {
        if node == self.raft.id() {
            return Some(self.settings.advertised.clone());
        }
        self.transport.client_address(node)
    }
}

/// Runs a node until it is told to stop. Returns only when it cannot start: then the exit code.
pub(crate) fn serve(options: ServeOptions) -> u8 {
    let id = options.id;
    let (server, listener) = match start(options) {
        Ok(started) => started,
        Err(problems) => {
            for problem in problems {
                eprintln!("node {id}: {problem}");
            }
            return CANNOT_START;
        }
    };
    eprintln!("node {id}: serves clients on {}", server.settings.advertised);
    if let Some(configured) = server.raft.status().membership.overruled {
        let members = server.raft.status().membership.in_force;
        eprintln!(
            "node {id}: the members are {members}, as its log knows; --peers names those of the beginning: {configured}"
        );
    }
    let server = Arc::new(server);
    report_roles(&server);
    stop_when_told(&server);
    accept(&server, &listener)
}

/// Opens everything that a node needs, or says everything that is in the way.
fn start(options: ServeOptions) -> Result<(Server, TcpListener), Vec<String>> {
    let mut settings = options.check()?;
    limits::make_oversize_an_error().map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let (cluster, id) = (ClusterId(settings.options.cluster_id), settings.config.id);
    let data = &settings.options.data;
    let log = WalLog::open(data, WalOptions::new(cluster, id));
    let log = log.map_err(|error| problems.push(format!("--data {}: {error}", data.display()))).ok();
    if let Some(log) = &log {
        warn_of_log(id, log);
    }
    let snapshots = log.as_ref().and_then(|_| open_snapshots(&settings, &mut problems));
    let listen = &settings.options.listen;
    let listener = TcpListener::bind(listen);
    let listener = listener.map_err(|error| problems.push(format!("--listen {listen}: {error}"))).ok();
    if let Some(bound) = listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
        if settings.options.advertise.is_none() && settings.advertised.ends_with(":0") {
            settings.advertised = bound.to_string();
        }
    }
    let peer_listen = settings.options.peer_listen.clone();
    let mut config = TcpConfig::new(cluster, id, peer_listen.clone())
        .client_address(settings.advertised.clone())
        .incarnation(log.as_ref().map_or(0, WalLog::incarnation))
        .identities(settings.options.data.join("peers"))
        .on_event(move |event| eprintln!("node {id}: {event}"));
    config.peer_address = settings.peers.get(&settings.options.id).cloned();
    for (peer, address) in &settings.peers {
        config = config.peer(*peer, address.clone());
    }
    let handshakes_max = config.handshakes_max;
    let transport = TcpTransport::bind(config);
    let transport = transport.map_err(|error| problems.push(format!("--peer-listen {peer_listen}: {error}"))).ok();
    let (Some(log), Some(listener), Some(transport)) = (log, listener, transport) else { return Err(problems) };
    let Some(snapshots) = snapshots else { return Err(problems) };
    // Before anything runs that needs descriptors of its own.
    let (wanted, peers) = (settings.options.connections_max, settings.peers.len().saturating_sub(1));
    let places = Places::new(&listener, wanted, peers, handshakes_max).map_err(|problem| vec![problem])?;
    if places.clients_max() < wanted {
        let granted = places.clients_max();
        eprintln!(
            "node {id}: the limit of open files leaves room for {granted} clients, not {wanted}; raise ulimit -n"
        );
    }
    let mut driver = driver_options(&settings, cluster)?;
    driver.snapshots = Some(Snapshots::new(snapshots));
    driver.snapshot_entries = settings.options.snapshot_commands;
    driver.snapshot_bytes = settings.options.snapshot_mib.saturating_mul(1 << 20);
    driver.snapshot_trail_entries = settings.options.snapshot_trail;
    driver.snapshot_fetch_bytes_per_second =
        settings.options.snapshot_fetch_mib.map(|limit| limit.saturating_mul(1 << 20));
    let raft = Raft::start_with(settings.config.clone(), driver, log, transport.clone(), Store::default());
    let raft = raft.map_err(|error| vec![error.to_string()])?;
    let (started, forwarder, request_bytes) = (Instant::now(), Forwarder::new(), AtomicUsize::new(0));
    let (ending, stopped, replies) =
        (Ending::default(), OnceLock::new(), ReplyMemory::new(settings.reply_bytes_shared));
    Ok((
        Server { raft, settings, started, forwarder, transport, places, ending, stopped, replies, request_bytes },
        listener,
    ))
}

/// Beside the log, and not in its directory itself: each syncs its own.
fn open_snapshots(settings: &Settings, problems: &mut Vec<String>) -> Option<SnapshotFiles> {
    let path = settings.snapshots();
    let opened = SnapshotFiles::open(&path, SnapshotOptions::new());
    let store = opened.map_err(|error| problems.push(format!("--snapshots {}: {error}", path.display()))).ok()?;
    for damage in store.damaged() {
        eprintln!("node {}: {damage}", settings.config.id);
    }
    warn_of_foreign(settings.config.id, "the store of snapshots", store.foreign_files());
    Some(store)
}

/// What the log found about its directory that nobody would look for.
fn warn_of_log(id: NodeId, log: &WalLog) {
    if let Some(warning) = log.media_warning() {
        eprintln!("node {id}: {warning}");
    }
    warn_of_foreign(id, "the log", log.foreign_files());
}

/// The node leaves such files alone, so they stay until whoever put them there removes them.
fn warn_of_foreign(id: NodeId, whose: &str, files: &[PathBuf]) {
    for file in files {
        eprintln!("node {id}: {} is not a file that {whose} made, and is left alone", file.display());
    }
}

/// The driver's defaults, and where it records its steps if it is to.
#[cfg(feature = "trace")]
fn driver_options(settings: &Settings, cluster: ClusterId) -> Result<DriverOptions, Vec<String>> {
    use raft_io::trace::TraceOptions;
    let mut driver = DriverOptions::default();
    if let Some(dir) = &settings.options.trace {
        std::fs::create_dir_all(dir).map_err(|error| vec![format!("--trace {}: {error}", dir.display())])?;
        // Every start finds the traces of those before, and begins one of its own.
        let path = |life: u64| dir.join(format!("node-{}-life-{life}.jsonl", settings.config.id));
        let life = (1..).find(|life| !path(*life).exists()).unwrap_or(1);
        driver.trace = Some(TraceOptions::new(path(life)).cluster(cluster).life(life));
    }
    Ok(driver)
}

#[cfg(not(feature = "trace"))]
fn driver_options(_: &Settings, _: ClusterId) -> Result<DriverOptions, Vec<String>> {
    Ok(DriverOptions::default())
}

fn report_roles(server: &Arc<Server>) {
    let mut watch = server.raft.watch();
    let weak = Arc::downgrade(server);
    let id = server.raft.id();
    #[cfg(feature = "trace")]
    let mut complained = false;
    thread::spawn(move || {
        while let Some(server) = weak.upgrade() {
            if let Some(change) = watch.next(Duration::from_secs(1)) {
                let leader = change.leader.map_or("none".into(), |leader| leader.to_string());
                eprintln!("node {id}: {} in term {}, leader {leader}", change.role.name(), change.term);
            }
            let status = server.raft.status();
            #[cfg(feature = "trace")]
            if let Some(reason) = status.trace_stopped.filter(|_| !std::mem::replace(&mut complained, true)) {
                eprintln!("node {id}: records its steps no more: {reason}");
            }
            if let Some(reason) = status.fatal {
                eprintln!("node {id}: has stopped for good and answers nothing any more: {reason}");
                return end_for_good(&server, &reason);
            }
            if status.shutdown {
                return;
            }
        }
    });
}

/// A node that has stopped for good tells its clients, and ends the process so that whoever runs it notices.
fn end_for_good(server: &Server, reason: &str) {
    let _ = server.stopped.set(format!("CLUSTERDOWN the node has stopped for good: {reason}"));
    if server.settings.options.stay {
        eprintln!(
            "node {}: stays, for somebody to look: every command is refused, RAFT.STATUS tells",
            server.raft.id()
        );
        return;
    }
    server.ending.close(None, CLOSING_MAX);
    std::process::exit(STOPPED_FOR_GOOD);
}

/// SIGINT, SIGTERM, and the end of standard input if a supervisor asked for it.
fn stop_when_told(server: &Arc<Server>) {
    let stop = {
        let server = Arc::clone(server);
        move || {
            eprintln!("node {}: stops", server.raft.id());
            let mut watch = server.raft.watch();
            server.raft.shutdown();
            let changes = std::iter::from_fn(|| watch.next(Duration::ZERO));
            let next_leader = changes.filter_map(|change| change.leader).last();
            // A batch that waits for the next leader does so for as long as ever.
            server.ending.close(next_leader, server.settings.leader_wait + CLOSING_MAX);
            std::process::exit(if server.why_stopped().is_some() { STOPPED_FOR_GOOD } else { 0 });
        }
    };
    if server.settings.options.until_stdin_ends {
        let stop = stop.clone();
        thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            stop();
        });
    }
    if let Err(error) = ctrlc::set_handler(stop) {
        eprintln!("node {}: will not stop gracefully on a signal: {error}", server.raft.id());
    }
}

fn accept(server: &Arc<Server>, listener: &TcpListener) -> ! {
    let mut last_id = 0;
    let mut complained: Option<Instant> = None;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                last_id += 1;
                admit(server, stream, last_id);
            }
            Err(error) => {
                // Out of descriptors, most likely. The kernel keeps the client waiting; trying again
                // at once would only burn the processor that could finish somebody's work.
                if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                    eprintln!("node {}: cannot accept clients: {error}", server.raft.id());
                    complained = Some(Instant::now());
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn admit(server: &Arc<Server>, stream: TcpStream, id: u64) {
    let Some(place) = server.places.take() else { return refuse(&stream, TOO_MANY_CLIENTS) };
    let (own, stream) = (Arc::clone(server), Arc::new(stream));
    let spare = Arc::clone(&stream);
    let serving = thread::Builder::new().name(format!("client-{id}")).stack_size(CLIENT_STACK_BYTES).spawn(move || {
        if place.for_node && !places::speaks_as_a_node(&stream).unwrap_or(false) {
            return refuse(&stream, TOO_MANY_CLIENTS);
        }
        let Some(entered) = own.ending.enter(id, &stream) else { return refuse(&stream, STOPS) };
        // A client's error ends its connection and nothing else.
        let _ = connection::serve(&own, &stream, id);
        drop(entered);
        drop(place);
    });
    if serving.is_err() {
        refuse(&spare, NO_THREAD);
    }
}

/// Says why and closes, without waiting for a client that does not listen.
fn refuse(mut stream: &TcpStream, message: &str) {
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(format!("-{message}\r\n").as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}
