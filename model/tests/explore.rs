//! The explorer, asked over loopback as a browser asks it.

use raft_model::explore::server::{ExploreServer, ServeError};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

fn serve() -> SocketAddr {
    let server = ExploreServer::bind("127.0.0.1:0".parse().expect("an address"), "core").expect("a free port");
    let address = server.address();
    std::thread::spawn(move || server.run());
    address
}

/// The status and the body of an answer.
fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the explorer listens");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_string())
}

fn state(address: SocketAddr, path: &str) -> Value {
    let (status, body) = ask(address, &format!("/state?configuration=core&path={path}"));
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn cells(state: &Value, name: &str) -> Vec<String> {
    let states = state["states"].as_array().expect("states");
    let rows = states.last().and_then(|last| last["rows"].as_array()).expect("rows");
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("there is no row {name}"));
    let lines =
        |cell: &Value| cell.as_array().expect("lines").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    row["cells"].as_array().expect("cells").iter().map(lines).collect()
}

/// The mark of the first choice whose words begin so.
fn mark(state: &Value, words: &str) -> String {
    let choices = state["choices"].as_array().expect("choices");
    let labels: Vec<&str> = choices.iter().filter_map(|choice| choice["label"].as_str()).collect();
    let found = choices.iter().find(|choice| choice["label"].as_str().is_some_and(|label| label.starts_with(words)));
    found.and_then(|choice| choice["mark"].as_str()).unwrap_or_else(|| panic!("no {words} in {labels:?}")).to_string()
}

#[test]
fn the_page_is_served_and_names_the_configurations() {
    let (status, page) = ask(serve(), "/");
    assert_eq!(status, 200);
    assert!(page.contains("<option value=\"core\"") && page.contains("data-configuration=\"core\""), "{page}");
    assert!(page.contains("stateTable") && !page.contains("{{"), "the scripts are in it");
    for resource in ["src=", "@import", "url(http", "https://"] {
        assert!(!page.contains(resource), "the page asks for {resource}");
    }
}

#[test]
fn steps_lead_on_in_the_words_of_the_spec() {
    let address = serve();
    let start = state(address, "");
    assert_eq!(cells(&start, "role"), ["Follower", "Follower", "Follower"]);
    let mut path = mark(&start, "ElectionTimeout(s1)");
    for words in
        ["Persisted(s1, 1 write)", "HandleRequestVoteRequest(s1 -> s", "Persisted(s", "HandleRequestVoteResponse(s"]
    {
        let here = state(address, &path);
        path = format!("{path}.{}", mark(&here, words));
    }
    let led = state(address, &path);
    assert_eq!(cells(&led, "role")[0], "Leader");
    assert_eq!(cells(&led, "log")[0], "1@1 Noop");
    assert_eq!(led["steps"].as_array().map(Vec::len), Some(5));
    assert!(led["diagram"].as_str().is_some_and(|svg| svg.contains("lane Leader")));
    let changes = led["steps"][4]["changes"].to_string();
    assert!(changes.contains("s1.role: Candidate -> Leader"), "{changes}");
    assert!(
        led["choices"]
            .as_array()
            .is_some_and(|choices| choices.iter().all(|choice| choice["broken"] == serde_json::json!([])))
    );
    // The same link means the same in another run, with other numbers inside.
    let again = state(serve(), &path);
    assert_eq!(again, led);
}

#[test]
fn what_does_not_exist_says_what_does() {
    let address = serve();
    let (status, body) = ask(address, "/state?configuration=nope&path=");
    assert!(status == 404 && body.contains("there are: core"), "{body}");
    let (status, body) = ask(address, "/state?configuration=core&path=zzzz");
    assert!(status == 404 && body.contains("step 1 of this link"), "{body}");
    assert_eq!(ask(address, "/etc/passwd").0, 404);
}

#[test]
fn a_port_in_use_says_what_to_do() {
    let taken = ExploreServer::bind(serve(), "core").err().expect("the port is taken");
    assert!(matches!(taken, ServeError::InUse(_)));
    assert!(taken.to_string().contains("choose another port"), "{taken}");
}
