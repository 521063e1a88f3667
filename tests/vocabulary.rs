//! One vocabulary (law 7): a transition has one name in `Transition`, in the protocol's functions and among the messages.

mod sources;

use raft_io::Transition;
use sources::{below, shipped_code_of};
use std::collections::BTreeSet;

type Names = BTreeSet<String>;

/// What `step` and `dispatch` call beside transitions.
const HELPERS: &[&str] = &["public_role", "receive", "conclude", "check"];

#[test]
fn every_transition_is_a_function_of_the_protocol_and_nothing_else_is() {
    let functions = defined(&protocol_code());
    assert_eq!(function_violations(&transitions(), &functions), Vec::<String>::new());
}

#[test]
fn step_and_dispatch_run_exactly_the_transitions() {
    let code = protocol_code();
    let mut called: Names = calls_in(&code, "step");
    called.extend(calls_in(&code, "dispatch"));
    for helper in HELPERS {
        called.remove(*helper);
    }
    assert_eq!(called, transitions().iter().map(|name| snake_case(name)).collect::<Names>());
}

#[test]
fn every_message_has_its_transition() {
    let message = below("src", "rs").into_iter().find(|source| source.path == "src/message.rs").expect("message.rs");
    let handled =
        variants(&shipped_code_of(&message.text), "Message").iter().map(|name| format!("Handle{name}")).collect();
    let handlers: Names = transitions().into_iter().filter(|name| name.starts_with("Handle")).collect();
    assert_eq!(handlers, handled);
}

/// What the environment does: actions of the spec and of the model that are no transitions.
const ENVIRONMENT: &[&str] = &["Crash", "Wipe", "BackUp", "RollBack", "DropMessage"];

#[test]
fn the_spec_has_one_action_for_each_transition() {
    let spec = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/spec/Raft.tla")).expect("spec/Raft.tla");
    let mut expected = transitions();
    expected.extend(ENVIRONMENT.iter().map(|name| (*name).to_string()));
    assert_eq!(spec_actions(&spec), expected);
    for name in expected {
        assert!(spec.contains(&format!("\n{name}(i) ==")), "{name} is not defined");
    }
}

#[test]
fn the_model_labels_its_actions_with_the_same_names() {
    let action =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/model/src/action.rs")).expect("action.rs");
    let code = shipped_code_of(&action);
    assert!(code.contains("Transition::ALL.iter().map(|transition| transition.name())"), "labels are the transitions");
    let list = action.split("const ENVIRONMENT").nth(1).and_then(|rest| rest.split(';').nth(1)).unwrap_or_default();
    let listed: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(listed, ENVIRONMENT);
}

#[test]
fn the_trace_spec_explains_every_transition_by_its_own_action() {
    let spec = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/spec/TraceRaft.tla")).expect("TraceRaft");
    for name in transitions() {
        let explained =
            spec.lines().filter_map(|line| line.trim().strip_prefix(&format!("\\/ Line.event = \"{name}\" /\\ ")));
        let explained: Vec<&str> = explained.collect();
        assert!(explained.iter().any(|action| action.contains(&name)), "{name}: {explained:?}");
    }
}

#[cfg(feature = "trace")]
#[test]
fn a_trace_names_its_events_as_the_spec_does() {
    use raft_io::trace::EventName;
    for transition in Transition::ALL {
        let written = serde_json::to_string(&EventName::Step(*transition)).expect("a name");
        assert_eq!(written, format!("\"{}\"", transition.name()));
        assert_eq!(serde_json::from_str::<EventName>(&written).expect("a name"), EventName::Step(*transition));
    }
}

/// The actions in the disjunction `Next`.
fn spec_actions(spec: &str) -> Names {
    let next = spec.split("\nNext ==\n").nth(1).expect("Next");
    let disjuncts = next.lines().take_while(|line| line.trim_start().starts_with("\\/"));
    disjuncts.filter_map(|line| line.split(" : ").nth(1)).map(|action| word(action).to_string()).collect()
}

fn protocol_code() -> String {
    let rooms = below("src/protocol", "rs");
    assert!(rooms.len() > 1, "the protocol's sources were not found");
    rooms.iter().map(|room| shipped_code_of(&room.text)).collect()
}

fn transitions() -> Names {
    Transition::ALL.iter().map(|transition| transition.name().to_string()).collect()
}

/// `HandleX` is `handle_x`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// A function for each transition, and no function that is named like a transition without being one.
fn function_violations(transitions: &Names, functions: &Names) -> Vec<String> {
    let expected: Names = transitions.iter().map(|name| snake_case(name)).collect();
    let missing = expected.difference(functions).map(|name| format!("no function {name} in src/protocol"));
    let like_one = |name: &&String| name.starts_with("handle_") || name.ends_with("_timeout");
    let extra = functions.difference(&expected).filter(like_one).map(|name| format!("{name} is no Transition"));
    missing.chain(extra).collect()
}

/// The names after `fn`.
fn defined(code: &str) -> Names {
    code.split("fn ").skip(1).map(|rest| word(rest).to_string()).collect()
}

/// The methods of `self` that the body of `function` calls.
fn calls_in(code: &str, function: &str) -> Names {
    let at = code.find(&format!("fn {function}(")).unwrap_or_else(|| panic!("no fn {function}"));
    let body = braces(&code[at..]);
    let methods = body.split("self.").skip(1).filter(|rest| rest[word(rest).len()..].starts_with('('));
    methods.map(|rest| word(rest).to_string()).collect()
}

/// The variants of an enum whose variants hold one tuple each.
fn variants(code: &str, name: &str) -> Names {
    let at = code.find(&format!("pub enum {name} ")).unwrap_or_else(|| panic!("no enum {name}"));
    let lines = braces(&code[at..]).lines().map(str::trim);
    lines.filter(|line| line.starts_with(char::is_uppercase)).map(|line| word(line).to_string()).collect()
}

/// What stands within the first pair of braces.
fn braces(code: &str) -> &str {
    let open = code.find('{').expect("an opening brace");
    let mut depth = 0;
    for (at, letter) in code[open..].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[open + 1..open + at];
        }
    }
    panic!("no closing brace");
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

mod the_checks_themselves {
    use super::*;

    #[test]
    fn the_actions_of_a_spec_are_those_of_next() {
        let spec =
            "Other(i) == TRUE\nNext ==\n    \\/ \\E i \\in S : One(i)\n    \\/ \\E i \\in S : Two(i)\n\nSpec == Next\n";
        assert_eq!(spec_actions(spec), names(&["One", "Two"]));
    }

    fn names(all: &[&str]) -> Names {
        all.iter().map(|name| (*name).to_string()).collect()
    }

    #[test]
    fn a_missing_and_a_nameless_handler_are_found() {
        let transitions = names(&["HandleVote", "Persisted"]);
        let code = "fn handle_vote(&mut self) {} pub(super) fn persisted<C>() {} fn helper() {}";
        assert_eq!(function_violations(&transitions, &defined(code)), [""; 0]);
        let renamed = code.replace("handle_vote", "handle_ballot");
        assert_eq!(
            function_violations(&transitions, &defined(&renamed)),
            ["no function handle_vote in src/protocol", "handle_ballot is no Transition"]
        );
        let another = format!("{code} fn lease_timeout() {{}}");
        assert_eq!(function_violations(&transitions, &defined(&another)), ["lease_timeout is no Transition"]);
    }

    #[test]
    fn calls_and_variants_are_read_from_the_right_place() {
        let code =
            "fn step(&mut self) { if x { self.persisted(1); } self.term = self.tail.last(); } fn b() { self.c(); }";
        assert_eq!(calls_in(code, "step"), names(&["persisted"]));
        let code = "pub enum Message {\n    A(A),\n    #[x]\n    BcRequest(B),\n}\npub enum Other {\n    C,\n}";
        assert_eq!(variants(code, "Message"), names(&["A", "BcRequest"]));
        assert_eq!(snake_case("HandlePreVoteRequest"), "handle_pre_vote_request");
    }
}
