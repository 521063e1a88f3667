//! The schedule of a run.

use crate::Options;
use crate::load::{Load, Recorded};
use crate::nodes::{NODES, Nodes, await_some};
use crate::report;
use crate::screen::{Screen, print_table};
use crate::timeline::{self, Events, Timeline};
use crate::verify::{self, Check};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the cluster may take for a leader, a restart, a catch-up.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long each client rests between two operations when every step is recorded.
const TRACED_PAUSE: Duration = Duration::from_millis(120);

/// Load, kill, restart, verify. `Ok(false)` when a check fails.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let mut screen = Screen::new();
    let nodes = start(options, &screen)?;
    let pause = if options.trace { TRACED_PAUSE } else { Duration::ZERO };
    let load = Load::start(&nodes, options.connections, options.seed, pause).map_err(|error| error.to_string())?;
    screen.say(&format!("load: {} connections over {NODES} nodes", options.connections));
    let phase = Duration::from_secs(options.seconds);
    let mut events = Events::default();
    keep_loading(&load, &nodes, &mut screen, "load", phase)?;
    kill_leader(&load, &nodes, &mut screen, &mut events)?;
    keep_loading(&load, &nodes, &mut screen, "two of three nodes", phase)?;
    restart(&load, &nodes, &mut screen, &mut events)?;
    keep_loading(&load, &nodes, &mut screen, "all nodes", phase)?;

    events.end = load.shared.now();
    let shared = std::sync::Arc::clone(&load.shared);
    let notes = load.stop()?;
    screen.doing("reading every key back");
    let operations: Vec<Recorded> = notes.iter().flat_map(|notes| notes.operations.iter().cloned()).collect();
    let timeline = timeline::measure(operations.iter(), &mut events);
    let reads = verify::read_back(&shared, nodes.port(events.new_leader_node), &operations)?;
    let lost = verify::check_lost(&operations, &reads);
    screen.doing("comparing the replicas");
    let replicas = verify::check_replicas(&nodes, PATIENCE);
    screen.doing("checking the history");
    let history = operations.into_iter().chain(reads).collect();
    let checks = [lost, verify::check_history(history), replicas, verify::check_replies(&notes), failover(&events)];
    nodes.end_all();
    #[cfg(feature = "trace")]
    crate::traced::put_together(&nodes, &options.dir, &screen)?;
    screen.finish();
    publish(options, &timeline, &events, &checks)
}

/// Keeps a cluster up until Ctrl-C.
pub(crate) fn keep_serving(options: &Options) -> Result<bool, String> {
    let screen = Screen::new();
    let nodes = start(options, &screen)?;
    let leader = leader(&nodes).map_or(0, |(leader, _)| leader);
    screen.finish();
    for node in 0..NODES {
        let role = if node == leader { "leader" } else { "follower" };
        println!(
            "node {}  redis-cli -p {}   ({role}; log {})",
            node + 1,
            nodes.port(node),
            nodes.log_path(node).display()
        );
    }
    let port = nodes.port((leader + 1) % NODES);
    println!("\nAny node takes any command. Try:\n");
    println!("  redis-cli -p {port} set greeting hello");
    println!("  redis-cli -p {port} raft.status");
    println!("  redis-benchmark -p {port} -t set,get -n 200000 -c 64 -P 16 -q");
    println!("\nCtrl-C stops the cluster.");
    let mut restarts: Vec<Instant> = Vec::new();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let Some(node) = nodes.find_ended() else { continue };
        // Whoever kills a node by hand wants to see it come back; one that cannot start does not.
        restarts.retain(|at| at.elapsed() < Duration::from_secs(5));
        if restarts.len() >= 4 {
            return Err(ended(&nodes, node));
        }
        restarts.push(Instant::now());
        println!("node {} is gone; it restarts from its log", node + 1);
        nodes.restart(node).map_err(|error| error.to_string())?;
    }
}

/// Starts the nodes and waits until one leads and all answer.
fn start(options: &Options, screen: &Screen) -> Result<Nodes, String> {
    if options.trace && !cfg!(feature = "trace") {
        let build = "cargo run --release --features trace --example cluster -- --trace";
        return Err(format!("this build records no traces; run: {build}"));
    }
    let nodes = Nodes::start(options).map_err(|error| error.to_string())?;
    let at_interrupt = nodes.clone();
    let handler = ctrlc::set_handler(move || {
        at_interrupt.end_all();
        std::process::exit(130);
    });
    handler.map_err(|error| format!("cannot listen for Ctrl-C: {error}"))?;
    let up = || {
        let statuses: Option<Vec<_>> = (0..NODES).map(|node| nodes.status(node)).collect();
        let statuses = statuses?;
        let leader = statuses.iter().position(|status| status.leads)?;
        statuses
            .iter()
            .all(|status| status.leader == Some(leader as u64 + 1))
            .then_some((leader, statuses[leader].term))
    };
    let deadline = Instant::now() + PATIENCE;
    let (leader, term) =
        await_some(deadline, || {}, || if nodes.find_ended().is_some() { Some(None) } else { up().map(Some) })
            .flatten()
            .ok_or_else(|| match nodes.find_ended() {
                Some(node) => ended(&nodes, node),
                None => format!("no leader within {PATIENCE:?}; see {}", nodes.log_path(0).display()),
            })?;
    screen.say(&format!("{NODES} nodes are up; node {} leads term {term}", leader + 1));
    Ok(nodes)
}

/// The leader with the highest term among the nodes that answer.
fn leader(nodes: &Nodes) -> Option<(usize, u64)> {
    let leading = (0..NODES).filter_map(|node| Some((node, nodes.status(node)?))).filter(|(_, status)| status.leads);
    leading.map(|(node, status)| (node, status.term)).max_by_key(|(_, term)| *term)
}

fn keep_loading(load: &Load, nodes: &Nodes, screen: &mut Screen, doing: &str, time: Duration) -> Result<(), String> {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        live(load, screen, doing);
        if let Some(node) = nodes.find_ended() {
            return Err(ended(nodes, node));
        }
    }
    Ok(())
}

fn live(load: &Load, screen: &mut Screen, doing: &str) {
    use std::sync::atomic::Ordering::Relaxed;
    screen.live(doing, load.shared.completed.load(Relaxed), load.shared.unknown.load(Relaxed));
}

fn kill_leader(load: &Load, nodes: &Nodes, screen: &mut Screen, events: &mut Events) -> Result<(), String> {
    let (victim, old_term) = leader(nodes).ok_or("no node leads just before the kill")?;
    events.killed_node = victim;
    events.killed = load.shared.now();
    nodes.kill(victim).map_err(|error| error.to_string())?;
    events.gone = load.shared.now();
    screen.say(&format!("SIGKILL to node {}, the leader of term {old_term}", victim + 1));
    let mut watching: Vec<_> = (0..NODES).filter(|node| *node != victim).map(|node| (node, None)).collect();
    let elected = await_some(
        Instant::now() + PATIENCE,
        || live(load, screen, "no leader"),
        || {
            watching.iter_mut().find_map(|(node, client)| {
                if client.is_none() {
                    *client = crate::client::Client::connect(nodes.port(*node)).ok();
                }
                let status = client.as_mut()?.status()?;
                (status.leads && status.term > old_term).then_some((*node, status.term))
            })
        },
    );
    let (node, term) = elected.ok_or("the survivors elect no leader")?;
    events.new_leader = load.shared.now();
    events.new_leader_node = node;
    let after = milliseconds(events.new_leader - events.killed);
    screen.say(&format!("node {} leads term {term}, {after} after the kill", node + 1));
    Ok(())
}

fn restart(load: &Load, nodes: &Nodes, screen: &mut Screen, events: &mut Events) -> Result<(), String> {
    let node = events.killed_node;
    nodes.restart(node).map_err(|error| error.to_string())?;
    events.restarted = load.shared.now();
    screen.say(&format!("node {} restarts from its log", node + 1));
    let mut first_lag = None;
    let caught_up = await_some(
        Instant::now() + PATIENCE,
        || live(load, screen, "catching up"),
        || {
            // The goal is read before the follower is: having reached it means having had everything
            // that was committed at that moment.
            let goal = nodes.status(events.new_leader_node)?.commit_index;
            let applied = nodes.status(node)?.applied_index;
            first_lag.get_or_insert(goal.saturating_sub(applied));
            (applied >= goal).then_some(())
        },
    );
    events.caught_up = load.shared.now();
    events.lag = first_lag.unwrap_or(0);
    if caught_up.is_none() {
        return Err(format!("node {} does not catch up; see {}", node + 1, nodes.log_path(node).display()));
    }
    load.call_home();
    let after = milliseconds(events.caught_up - events.restarted);
    screen.say(&format!("node {} has caught up, {after} after its restart", node + 1));
    Ok(())
}

fn ended(nodes: &Nodes, node: usize) -> String {
    let log = nodes.log_path(node);
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    format!("node {} ended by itself; the end of {}:\n{}", node + 1, log.display(), last.join("\n"))
}

fn failover(events: &Events) -> Check {
    let detail = match events.next_write {
        Some(at) => format!("writes resumed {} after the kill", milliseconds(at - events.killed)),
        None => "no write was acknowledged after the kill".into(),
    };
    Check { name: "service resumed", holds: events.next_write.is_some(), detail }
}

pub(crate) fn milliseconds(nanoseconds: u64) -> String {
    match nanoseconds as f64 / 1e6 {
        small if small < 10.0 => format!("{small:.2} ms"),
        large => format!("{large:.0} ms"),
    }
}

/// The figures of a run, for the table and the report.
fn figures(timeline: &Timeline, events: &Events) -> Vec<Figure> {
    let quantile = |q: f64| milliseconds(timeline.latencies.value_at_quantile(q));
    let since = |at: u64, from: u64| milliseconds(at.saturating_sub(from));
    let figure = |name, value: String, note: String| Figure { name, value, note };
    let quantiles = [0.5, 0.99, 0.999].map(quantile).join(" / ");
    let next_write = events.next_write.map_or("never".into(), |at| since(at, events.killed));
    vec![
        figure(
            "throughput",
            format!("{:.0} ops/s", timeline.per_second),
            format!("{:.0} before the kill", timeline.per_second_before),
        ),
        figure(
            "operations",
            timeline.latencies.len().to_string(),
            format!("{} of them acknowledged writes", timeline.writes_acknowledged),
        ),
        figure("latency p50 / p99 / p99.9", quantiles, String::new()),
        figure("kill to new leader", since(events.new_leader, events.killed), String::new()),
        figure("kill to next acknowledged write", next_write, String::new()),
        figure(
            "restart to caught up",
            since(events.caught_up, events.restarted),
            format!("{} entries to apply when it answered", events.lag),
        ),
    ]
}

/// One figure, with what may be said about it.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
}

fn publish(options: &Options, timeline: &Timeline, events: &Events, checks: &[Check]) -> Result<bool, String> {
    let figures = figures(timeline, events);
    let path = options.dir.join("report.html");
    let page = report::page(options, timeline, events, &figures, checks);
    std::fs::write(&path, page).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    print_table(&figures, checks);
    println!("  {}", absolute(&path));
    Ok(checks.iter().all(|check| check.holds))
}

fn absolute(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}
