//! `docs/INVARIANTS.md` against the code: every law has its row, and what a row names exists.

// Only its listing of files is needed here.
#[allow(dead_code)]
mod sources;

use raft_io::testkit::invariants::Law;
use sources::below;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table: the law's name, and the row's cells.
fn rows(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    let cells = lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect());
    let named = |cells: Vec<String>| (words_in_code(&cells[0]).into_iter().next().unwrap_or_default(), cells);
    cells.map(named).collect()
}

/// What stands between backquotes.
fn words_in_code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

/// The laws that assertions of the protocol name: a string literal that starts with two or more joined words.
fn asserted_laws(code: &str) -> BTreeSet<String> {
    let literals = code.split('"').skip(1).step_by(2);
    let names = literals.map(|literal| literal.split(':').next().unwrap_or_default());
    let is_law = |name: &&str| {
        name.starts_with(char::is_uppercase)
            && name.chars().all(char::is_alphanumeric)
            && name.chars().filter(|letter| letter.is_uppercase()).count() >= 2
    };
    names.filter(is_law).map(str::to_string).collect()
}

/// Functions that a cell of "Asserted in the code" names and the files named before them do not define.
fn missing_functions(cell: &str) -> Vec<String> {
    let mut file = String::new();
    let mut missing = Vec::new();
    for word in words_in_code(cell) {
        if word.ends_with(".rs") {
            file = read(&word);
        } else if word.starts_with(char::is_lowercase) && !file.contains(&format!("fn {word}")) {
            missing.push(word);
        }
    }
    missing
}

#[test]
fn every_law_has_one_row() {
    let table: Vec<String> = rows(&read("docs/INVARIANTS.md")).into_iter().map(|(name, _)| name).collect();
    let names: BTreeSet<String> = table.iter().cloned().collect();
    assert_eq!(names.len(), table.len(), "a law has one row");
    let mut laws: BTreeSet<String> = Law::ALL.iter().map(ToString::to_string).collect();
    for room in below("src/protocol", "rs") {
        laws.extend(asserted_laws(&room.text));
    }
    laws.extend(asserted_laws(&read("src/log/wal/view.rs")));
    let of_sessions = asserted_laws(&read("src/session/table.rs"));
    assert!(of_sessions.is_subset(&session_laws()), "the model of sessions has not all of {of_sessions:?}");
    laws.extend(session_laws());
    assert_eq!(names, laws);
}

#[test]
fn what_a_row_names_exists() {
    let files = [
        "invariants",
        "campaign_laws",
        "read_laws",
        "clocks",
        "transfer_laws",
        "snapshot_laws",
        "membership_laws",
        "replication_laws",
        "loss_laws",
    ];
    let checker: String = files.map(|file| read(&format!("src/testkit/{file}.rs"))).concat();
    for (name, cells) in rows(&read("docs/INVARIANTS.md")) {
        assert_eq!(cells.len(), 6, "{name}");
        assert_eq!(missing_functions(&cells[3]), Vec::<String>::new(), "{name}");
        for word in words_in_code(&cells[4]) {
            assert!(checker.contains(&format!("fn {word}(")), "{name}: the checker has no {word}");
        }
    }
}

/// Laws that no scenario names, and why none does.
const WITHOUT_A_SCENARIO: &[(&str, &str)] = &[
    ("CacheBytesAreSummed", "a script's log has no cache: src/log/wal/view.rs checks its own in the tests of the log"),
    ("HistoryIsOne", "a script's servers draw no identities: walks do, and the driver's tests of histories"),
    ("ReadsSeeWrites", "a script's log cannot fail to return what it holds: the conformance suite of logs asks others"),
    ("SessionAppliedOnce", "the protocol knows of no sessions: tests/session_reference.rs and their model"),
    ("SessionAnswersAlike", "the protocol knows of no sessions: tests/session_reference.rs and their model"),
    ("SessionEndsForAReason", "the protocol knows of no sessions: tests/session_reference.rs and their model"),
    ("SessionIdUnique", "the protocol knows of no sessions: tests/session_reference.rs and their model"),
];

/// The laws that scripts name in their `# Law:` lines, by script; and what is wrong with these lines.
fn laws_of_scenarios(table: &BTreeSet<String>, scripts: &[(String, String)]) -> (BTreeSet<String>, Vec<String>) {
    let (mut named, mut wrong) = (BTreeSet::new(), Vec::new());
    for (script, text) in scripts {
        let story = text.lines().take_while(|line| line.starts_with('#'));
        let lines: Vec<&str> = story.filter_map(|line| line.strip_prefix("# Law: ")).collect();
        let [line] = lines[..] else {
            wrong.push(format!("{script}: its story has one line `# Law: …`, not {}", lines.len()));
            continue;
        };
        if let Some(reason) = line.strip_prefix("none") {
            let has_reason = reason.strip_prefix(": ").is_some_and(|reason| reason.split(' ').count() > 2);
            wrong.extend((!has_reason).then(|| format!("{script}: why does it show no law?")));
            continue;
        }
        for law in line.split(", ") {
            wrong.extend((!table.contains(law)).then(|| format!("{script}: there is no law {law}")));
            named.insert(law.to_string());
        }
    }
    (named, wrong)
}

/// A story that no law speaks of guards nothing but its own output, and a law without a story has nobody to explain it.
#[test]
fn each_scenario_names_its_law_and_each_law_has_a_scenario() {
    let table: BTreeSet<String> = rows(&read("docs/INVARIANTS.md")).into_iter().map(|(name, _)| name).collect();
    let scripts: Vec<(String, String)> =
        below("tests/scenarios", "txt").into_iter().map(|file| (file.path, file.text)).collect();
    assert!(scripts.len() > 200, "the scenarios were not found");
    let (named, wrong) = laws_of_scenarios(&table, &scripts);
    assert_eq!(wrong, Vec::<String>::new());
    let excused: BTreeSet<String> = WITHOUT_A_SCENARIO.iter().map(|(law, _)| (*law).to_string()).collect();
    let without: BTreeSet<String> = table.difference(&named).cloned().collect();
    assert_eq!(without, excused, "laws without a scenario, against the list of those that have a reason");
}

#[test]
fn the_laws_of_scenarios_can_be_wrong() {
    let table = BTreeSet::from(["ALaw".to_string()]);
    let wrong = |story: &str| {
        let scripts = [("a".to_string(), format!("{story}\n\ncluster 1\n"))];
        laws_of_scenarios(&table, &scripts).1
    };
    assert_eq!(wrong("# Story.\n# Law: ALaw"), Vec::<String>::new());
    assert_eq!(wrong("# Story.\n# Law: none: because of this"), Vec::<String>::new());
    assert_eq!(wrong("# Story."), ["a: its story has one line `# Law: …`, not 0"]);
    assert_eq!(wrong("# Story.\n# Law: ALaw, Gone"), ["a: there is no law Gone"]);
    assert_eq!(wrong("# Story.\n# Law: none"), ["a: why does it show no law?"]);
}

/// The laws that the model of sessions lists.
fn session_laws() -> BTreeSet<String> {
    let model = read("model/src/session.rs");
    let list = model.split("pub const LAWS").nth(1).and_then(|rest| rest.split(';').nth(1)).unwrap_or_default();
    let laws = asserted_laws(list);
    assert!(!laws.is_empty(), "the list of the model of sessions was not found");
    laws
}

/// What a cell names on its side: the law's own name for `same`, else what stands in backquotes; `–` is nothing.
fn counterpart(law: &str, cell: &str) -> Option<String> {
    if cell.starts_with("same") { Some(law.to_string()) } else { words_in_code(cell).into_iter().next() }
}

#[test]
fn the_spec_and_the_model_have_what_the_table_says() {
    let (spec, model) = (read("spec/RaftLaws.tla"), read("model/src/laws.rs"));
    for (law, cells) in rows(&read("docs/INVARIANTS.md")) {
        if let Some(name) = counterpart(&law, &cells[2]) {
            assert!(spec.contains(&format!("\n{name} ==")), "{law}: spec/RaftLaws.tla does not define {name}");
            let action = cells[2].contains('→');
            let text = &spec[spec.find(&format!("\n{name} ==")).unwrap_or_default() + 1..];
            let definition = text.split("\n\n").next().unwrap_or_default();
            let definition = definition.split("\n").take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
            let first = definition.split(" ==").nth(1).unwrap_or_default();
            assert_eq!(first.trim_start().starts_with("[]["), action, "{law}: → is an action property of the spec");
        }
        if let Some(name) = counterpart(&law, &cells[5]) {
            let is_there = model.contains(&format!("        {name},\n")) || session_laws().contains(&name);
            assert!(is_there, "{law}: neither model/src/laws.rs nor model/src/session.rs has {name}");
        }
    }
}

#[test]
fn the_reading_of_the_table_can_fail() {
    let table = "| Law | x |\n|---|---|\n| `ALaw`: text | §1 | same | `src/lib.rs` `gone` | – | same |\n";
    let rows = rows(table);
    assert_eq!(rows[0].0, "ALaw");
    assert_eq!(missing_functions(&rows[0].1[3]), ["gone"]);
    let code = r#"assert!(x, "TermsGrow"); panic!("no law"); assert!(y, "PersistFirst: why"); "Hello""#;
    assert_eq!(asserted_laws(code).into_iter().collect::<Vec<_>>(), ["PersistFirst", "TermsGrow"]);
}
