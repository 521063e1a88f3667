//! The nodes from outside: their processes, what they answer, how much memory they hold.

use crate::node::{NodeOptions, READY};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// A node's process; dropping it ends it.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    pub(crate) id: u64,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts what `command` makes of the options, over an empty directory.
    pub(crate) fn start(options: &NodeOptions, command: impl Fn(&NodeOptions) -> Command) -> io::Result<Self> {
        if options.directory.exists() {
            fs::remove_dir_all(&options.directory)?;
        }
        fs::create_dir_all(&options.directory)?;
        let errors = File::create(options.directory.join("stderr"))?;
        let mut child = command(options).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { unreachable!("both are pipes") };
        let mut process = Self { child, stdin, id: options.id, client_port: 0, peer_port: 0 };
        let mut lines = BufReader::new(stdout).lines();
        let ready = loop {
            let line = lines.next().ok_or_else(|| failed(options, "it ended before it was ready"))??;
            if let Some((_, ports)) = line.split_once(READY) {
                break ports.to_owned();
            }
        };
        // Whatever it says later must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let mut ports = ready.split_whitespace().filter_map(|port| port.parse().ok());
        let (Some(client_port), Some(peer_port)) = (ports.next(), ports.next()) else {
            return Err(failed(options, "it did not say its ports"));
        };
        (process.client_port, process.peer_port) = (client_port, peer_port);
        Ok(process)
    }

    /// Says who the members are; with none it joins.
    pub(crate) fn begin(&mut self, members: &str) -> io::Result<()> {
        writeln!(self.stdin, "{members}")
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }

    pub(crate) fn client(&self) -> io::Result<Client> {
        Client::connect(self.client_port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn failed(options: &NodeOptions, reason: &str) -> io::Error {
    let said = fs::read_to_string(options.directory.join("stderr")).unwrap_or_default();
    io::Error::other(format!("node {}: {reason}: {said}", options.id))
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) term: u64,
    pub(crate) leads: bool,
    pub(crate) role_changes: u64,
    pub(crate) applied: u64,
    pub(crate) committed: u64,
    pub(crate) first: u64,
    pub(crate) votes: bool,
    pub(crate) has_snapshot: bool,
    pub(crate) fetches: u64,
    pub(crate) disk_stalls: u64,
    pub(crate) fetched_bytes: u64,
    pub(crate) fetch_bytes: u64,
    pub(crate) fatal: bool,
}

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Client {
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(660)))?;
        Ok(Self { stream: BufReader::new(stream), line: String::new() })
    }

    /// Sends a request and waits for its answer, without the `ok`.
    pub(crate) fn call(&mut self, request: &str) -> io::Result<&str> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        self.line.clear();
        self.stream.read_line(&mut self.line)?;
        let answer = self.line.trim_end();
        let refused = || io::Error::other(format!("{request}: {answer}"));
        answer.strip_prefix("ok").map(str::trim_start).ok_or_else(refused)
    }

    pub(crate) fn status(&mut self) -> io::Result<Status> {
        let answer = self.call("status")?;
        let numbers: Vec<u64> = answer.split(' ').filter_map(|number| number.parse().ok()).collect();
        let &[
            term,
            leads,
            role_changes,
            applied,
            committed,
            first,
            votes,
            has_snapshot,
            fetches,
            disk_stalls,
            fetched_bytes,
            fetch_bytes,
            fatal,
        ] = numbers.as_slice()
        else {
            return Err(io::Error::other(format!("no status: {answer}")));
        };
        let (leads, votes, has_snapshot, fatal) = (leads == 1, votes == 1, has_snapshot == 1, fatal == 1);
        Ok(Status {
            term,
            leads,
            role_changes,
            applied,
            committed,
            first,
            votes,
            has_snapshot,
            fetches,
            disk_stalls,
            fetched_bytes,
            fetch_bytes,
            fatal,
        })
    }
}

/// What Linux says of a process's memory, in bytes: a field of `/proc/PID/status`. Elsewhere nothing.
pub(crate) fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Begins the high-water mark of a process's memory anew. Whether that could be done.
pub(crate) fn reset_peak(pid: u32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}
