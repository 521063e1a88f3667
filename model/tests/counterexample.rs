//! Counterexamples of laws that are none: the shortest way to a state that should be reached, told as if it were
//! forbidden. The script of each must lead the real cluster to the very same state.

use raft_io::testkit::script::golden;
use raft_io::{LogView, NodeId, Protocol};
use raft_model::action::Action;
use raft_model::cluster::{Cluster, State};
use raft_model::config::{Configuration, Network};
use raft_model::configurations::named;
use raft_model::counterexample::{Trace, page, script, text, write_files};
use raft_model::laws::Law;
use raft_model::server::Server;
use stateright::{Checker, HasDiscoveries, Model, Property};

type Forbidden = fn(&Cluster, &State) -> bool;

/// A cluster in which some states are said to be forbidden.
struct Forbidding(Cluster, Forbidden);

impl Model for Forbidding {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.0.init_states()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.0.actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.0.next_state(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("Forbidden", |model: &Self, state: &State| !(model.1)(&model.0, state))]
    }
}

/// A shortest way to a forbidden state, as if it broke a law.
fn counterexample(
    configuration: Configuration,
    forbidden: Forbidden,
) -> (Cluster, Trace, Vec<(State, Option<Action>)>) {
    let cluster = Cluster::new(configuration);
    let model = Forbidding(cluster.clone(), forbidden);
    let checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let path = checker.discovery("Forbidden").expect("the state is reached").into_vec();
    let trace = Trace { laws: vec![Law::CommittedIsDurable], ..Trace::of_path(&cluster, &path) };
    (cluster, trace, path)
}

fn core() -> Configuration {
    named("core").expect("there is a core").clone()
}

fn servers<'a>(cluster: &'a Cluster, state: &'a State) -> impl Iterator<Item = std::sync::Arc<Server>> + 'a {
    let count = usize::from(cluster.configuration().servers);
    state.servers()[..count].iter().map(|&id| cluster.tables().server(id))
}

fn is_committed(_: &Cluster, state: &State) -> bool {
    !state.committed().is_empty()
}

fn is_reelected(cluster: &Cluster, state: &State) -> bool {
    state.leaders().count() > 1 && is_committed(cluster, state)
}

/// Some server lost entries to a conflict: its disk disagrees with its log.
fn is_truncated(cluster: &Cluster, state: &State) -> bool {
    servers(cluster, state).any(|server| server.in_flight.iter().any(|write| write.truncate_from.is_some()))
}

/// A server follows a leader again after a crash.
fn is_back(cluster: &Cluster, state: &State) -> bool {
    state.crashes() > 0 && is_committed(cluster, state)
}

/// The script replays, and its cluster ends in the model's last state.
fn replays(configuration: Configuration, forbidden: Forbidden) -> String {
    let (cluster, trace, path) = counterexample(configuration, forbidden);
    let replay = script::of_trace(&trace);
    assert_eq!(replay.failure, None, "{}", replay.text);
    assert_eq!(golden(&replay.text).as_ref(), Ok(&replay.text));
    let replayed = replay.cluster.expect("the script runs through");
    let (last, _) = path.last().expect("a path has a state");
    for server in servers(&cluster, last) {
        let id = server.protocol.id();
        let words = |protocol: &Protocol| {
            let hard_state = (protocol.term(), protocol.vote(), protocol.role(), protocol.leader());
            (hard_state, protocol.last(), protocol.durable_index(), protocol.commit_index(), protocol.applied_through())
        };
        let found = replayed.protocol(id).expect("it runs");
        assert_eq!(words(found), words(&server.protocol), "{id} in\n{}", replay.text);
        let disk = replayed.disk(id).expect("it has a disk");
        assert!(disk.iter().eq(server.disk.iter()) && disk.hard_state() == server.disk.hard_state(), "{}", replay.text);
    }
    replay.text
}

#[test]
fn a_commit_replays() {
    let text = replays(core(), is_committed);
    assert!(text.starts_with("# CommittedIsDurable is broken: "), "{text}");
    assert!(text.contains("`raft-model check core`"), "{text}");
    assert!(
        text.contains("handle_append_entries_request 1 ") || text.contains("handle_append_entries_request "),
        "{text}"
    );
}

#[test]
fn a_reelection_replays() {
    replays(core(), is_reelected);
}

#[test]
fn a_truncation_replays() {
    replays(core(), is_truncated);
}

#[test]
fn a_crash_and_its_restart_replay() {
    let text = replays(Configuration { crashes_max: 1, ..core() }, is_back);
    assert!(text.contains("keep=") && text.contains("restart "), "{text}");
}

#[test]
fn a_network_that_forgets_nothing_replays() {
    let election_only =
        Configuration { network: Network::Monotone, client_requests: false, heartbeats: false, ..core() };
    replays(Configuration { log_max: 1, term_max: 1, ..election_only }, is_committed);
}

#[test]
fn pre_votes_and_windows_replay() {
    let configuration = Configuration { pre_vote: true, check_quorum: true, inflight_max: 2, pending_max: 2, ..core() };
    let text = replays(configuration, is_committed);
    assert!(text.contains("handle_pre_vote_request"), "{text}");
}

/// A message that is handled twice is sent anew in the script.
#[test]
fn a_duplicate_replays() {
    fn is_twice(cluster: &Cluster, state: &State) -> bool {
        // A refusal of a heartbeat that was handled and stayed: whoever follows answers the same question again.
        let answers = state.messages().iter().map(|&id| cluster.tables().message(id));
        answers.filter(|message| message.to == NodeId(1)).count() > 1 && is_committed(cluster, state)
    }
    let network = Network::Lossy { messages_max: 2, duplication: true };
    replays(Configuration { network, term_max: 1, log_max: 1, ..core() }, is_twice);
}

#[test]
fn a_joint_configuration_replays() {
    fn is_left(cluster: &Cluster, state: &State) -> bool {
        servers(cluster, state).any(|server| {
            let (index, membership) = server.protocol.committed_membership();
            index.0 > 2 && !membership.is_joint()
        })
    }
    let text = replays(named("conform-membership-joint").expect("a configuration").clone(), is_left);
    assert!(text.contains("cluster 2 disk=manual servers=3 learners=3"), "{text}");
    assert!(text.contains("change_membership 1 voters=1,3"), "{text}");
}

#[test]
fn a_joiner_that_fetches_a_snapshot_replays() {
    fn knows(cluster: &Cluster, state: &State) -> bool {
        servers(cluster, state)
            .any(|server| server.protocol.id() == NodeId(2) && server.protocol.snapshot().index.0 > 0)
    }
    let text = replays(named("conform-membership-snapshots").expect("a configuration").clone(), knows);
    assert!(text.contains("change_membership 1 voters=1 learners=2"), "{text}");
    assert!(text.contains("snapshot_fetched 2"), "{text}");
}

#[test]
fn the_text_names_each_transition_and_what_it_changed() {
    let (_, trace, _) = counterexample(core(), is_committed);
    let text = text::of_trace(&trace);
    let first = text.lines().next().expect("a line");
    assert!(first.starts_with("   1  ElectionTimeout(s"), "{text}");
    assert!(text.contains(".role: Follower -> Candidate"), "{text}");
    assert!(text.contains("HandleRequestVoteRequest(s"), "{text}");
    assert!(text.contains("messages: + RequestVoteRequest(s"), "{text}");
    assert!(text.contains("committed: + 1@1 Noop in term 1"), "{text}");
    assert!(
        text.trim_end().ends_with("CommittedIsDurable is broken: A committed entry is durable on a quorum."),
        "{text}"
    );
}

#[test]
fn the_page_needs_nothing_else() {
    let (_, trace, _) = counterexample(core(), is_reelected);
    let page = page::of_counterexample(&trace);
    let diagram = page.split("<svg").nth(1).and_then(|rest| rest.split("</svg>").next()).expect("a diagram");
    assert_eq!(diagram.matches("class=\"server\"").count(), 6, "a lane for each server, named at both ends");
    assert_eq!(diagram.matches("<rect class=\"row").count(), trace.steps.len(), "a row for each step");
    assert!(diagram.contains("marker-end"), "messages are arrows");
    for resource in ["src=", "href=", "@import", "url(http", "fetch("] {
        assert!(!page.contains(resource), "the page asks for {resource}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_files_are_written_where_they_are_asked_for() {
    let (_, trace, _) = counterexample(core(), is_committed);
    let directory = std::env::temp_dir().join(format!("raft-model-{}", std::process::id())).join("new");
    let files = write_files(&trace, &directory, "counterexample").expect("files");
    let script = std::fs::read_to_string(&files.script).expect("a script");
    assert_eq!(golden(&script), Ok(script.clone()));
    assert!(files.page.ends_with("counterexample.html") && files.page.exists() && files.picture.exists());
    std::fs::remove_dir_all(directory.parent().expect("a parent")).expect("removed");
}
