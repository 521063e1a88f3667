//! The schedule of a run.

use crate::load::{Load, Recorded};
use crate::nodes::{Nodes, await_some};
use crate::report;
use crate::screen::{Screen, print_table};
use crate::stage::{Figure, PATIENCE, Stage, ended, milliseconds};
use crate::timeline::{self, Events, Timeline};
use crate::verify::{self, Check};
use crate::{Options, faults, members};
use std::path::Path;
use std::time::{Duration, Instant};

/// How many nodes the cluster begins with.
const NODES: usize = 3;

/// How long each client rests between two operations when every step is recorded.
const TRACED_PAUSE: Duration = Duration::from_millis(120);

/// Every part of the story under load, then the verdicts. `Ok(false)` when a check fails.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let screen = Screen::new();
    let nodes = start(options, NODES, &screen)?;
    let pause = if options.trace { TRACED_PAUSE } else { Duration::ZERO };
    let load = Load::start(&nodes, options.connections, options.seed, pause, None);
    let load = load.map_err(|error| error.to_string())?;
    screen.say(&format!("load: {} connections over {NODES} nodes", options.connections));
    let mut stage = Stage::new(nodes, load, screen);
    perform(&mut stage, options)?;

    stage.events.end = stage.now();
    let Stage { nodes, load, screen, mut events, figures, checks } = stage;
    let shared = std::sync::Arc::clone(&load.shared);
    let mut notes = load.stop()?;
    screen.doing("reading every key back");
    let replies = verify::check_replies(&notes);
    let operations: Vec<Recorded> = notes.iter_mut().flat_map(|notes| notes.operations.drain(..)).collect();
    let timeline = timeline::measure(operations.iter(), &mut events);
    let leader = nodes.leader().ok_or("no node leads at the end")?.0;
    let reads = verify::read_back(&shared, nodes.port(leader), &operations)?;
    let lost = verify::check_lost(&operations, &reads);
    screen.doing("comparing the replicas");
    let replicas = verify::check_replicas(&nodes, PATIENCE);
    screen.doing("checking the history");
    let history = operations.into_iter().chain(reads).collect();
    let mut all = vec![lost, verify::check_history(history), replicas, replies, failover(&events)];
    all.extend(checks);
    nodes.end_all();
    #[cfg(feature = "trace")]
    crate::traced::put_together(&nodes, &options.dir, &screen)?;
    screen.finish();
    publish(options, &timeline, &events, figures, &all)
}

/// The story. Recorded, it ends with the killed leader's return: what follows would be more steps than TLC judges in a minute.
fn perform(stage: &mut Stage, options: &Options) -> Result<(), String> {
    let phase = Duration::from_secs(options.seconds);
    stage.keep_loading("load", phase)?;
    let killed = stage.now();
    faults::kill_leader(stage)?;
    stage.keep_loading("two of three nodes", phase)?;
    faults::restart_killed(stage)?;
    stage.end_phase("the leader is killed", killed);
    if options.trace {
        return stage.keep_loading("all nodes", phase);
    }
    let rest = phase / 2;
    stage.keep_loading("all nodes", rest)?;
    faults::isolate_leader(stage, rest)?;
    stage.keep_loading("all nodes", rest)?;
    members::grow(stage)?;
    stage.keep_loading("five members", rest)?;
    members::shrink(stage)?;
    stage.keep_loading("three members", rest)?;
    members::replace_wiped(stage)?;
    stage.keep_loading("all nodes", rest)?;
    faults::restart_all(stage, rest)?;
    stage.keep_loading("all nodes", rest)
}

/// Keeps a cluster up until Ctrl-C.
pub(crate) fn keep_serving(options: &Options) -> Result<bool, String> {
    let screen = Screen::new();
    let nodes = start(options, NODES, &screen)?;
    let leader = nodes.leader().map_or(0, |(leader, _)| leader);
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
pub(crate) fn start(options: &Options, count: usize, screen: &Screen) -> Result<Nodes, String> {
    if options.trace && !cfg!(feature = "trace") {
        let build = "cargo run --release --features trace --example cluster -- --trace";
        return Err(format!("this build records no traces; run: {build}"));
    }
    let nodes = Nodes::start(options, count).map_err(|error| error.to_string())?;
    let at_interrupt = nodes.clone();
    let handler = ctrlc::set_handler(move || {
        at_interrupt.end_all();
        std::process::exit(130);
    });
    handler.map_err(|error| format!("cannot listen for Ctrl-C: {error}"))?;
    let up = || {
        let statuses: Option<Vec<_>> = (0..count).map(|node| nodes.status(node)).collect();
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
    screen.say(&format!("{count} nodes are up; node {} leads term {term}", leader + 1));
    Ok(nodes)
}

fn failover(events: &Events) -> Check {
    let detail = match events.next_write {
        Some(at) => format!("writes resumed {} after the kill", milliseconds(at - events.killed)),
        None => "no write was acknowledged after the kill".into(),
    };
    Check { name: "service resumed", holds: events.next_write.is_some(), detail }
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

fn publish(
    options: &Options,
    timeline: &Timeline,
    events: &Events,
    of_stages: Vec<Figure>,
    checks: &[Check],
) -> Result<bool, String> {
    let mut figures = figures(timeline, events);
    figures.extend(of_stages);
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
