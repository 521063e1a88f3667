//! The way to each node leads through a small proxy of this program, so that a node can be cut off from the others without
//! a firewall and without root.
//!
//! A proxy reads the first frame of a connection, which says who dials whom, and from then on only copies. Clients, and the
//! connections on which nodes forward commands, do not pass here: an isolated leader is still asked, and would be found out if
//! it answered.

use raft_io::wire::{CONTROL_FRAME_BYTES_MAX, Frame, Limits, decode_borrowed};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What the length field of a frame does not count: itself and the checksum.
const UNCOUNTED_BYTES: usize = 8;
/// How long the first frame may take, and a dialled node.
const PATIENCE: Duration = Duration::from_secs(2);
const STACK_BYTES: usize = 128 << 10;

/// All proxies. Clones are the same ones.
#[derive(Clone, Default)]
pub(crate) struct Links {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Ids of nodes that reach nobody and are reached by nobody.
    isolated: BTreeSet<u64>,
    /// Connections that are open, by number.
    open: BTreeMap<u64, Link>,
    /// The number of the next one.
    next: u64,
}

struct Link {
    from: u64,
    to: u64,
    ends: [TcpStream; 2],
}

impl Link {
    fn close(&self) {
        for end in &self.ends {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Links {
    /// Listens for whoever dials the node that itself listens on `target`, on a port of the system's choice.
    pub(crate) fn open(&self, target: u16) -> io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let links = self.clone();
        spawn(move || {
            for dialled in listener.incoming().flatten() {
                let links = links.clone();
                // A dialler that is dropped here tries again.
                let _ = spawn(move || links.carry(dialled, target));
            }
        })?;
        Ok(port)
    }

    /// Cuts every connection of a node, and refuses new ones.
    pub(crate) fn isolate(&self, id: u64) {
        let mut state = self.lock();
        state.isolated.insert(id);
        state.open.values().filter(|link| link.from == id || link.to == id).for_each(Link::close);
    }

    /// Lets a node's connections through again.
    pub(crate) fn heal(&self, id: u64) {
        self.lock().isolated.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries one connection to its end, which either side, a cut or a failure brings.
    fn carry(&self, dialler: TcpStream, target: u16) -> io::Result<()> {
        dialler.set_read_timeout(Some(PATIENCE))?;
        let (hello, from, to) = read_hello(&dialler)?;
        if self.is_cut(from, to) {
            return Ok(());
        }
        let node = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, target)), PATIENCE)?;
        dialler.set_read_timeout(None)?;
        dialler.set_nodelay(true)?;
        node.set_nodelay(true)?;
        let Some(number) = self.register(from, to, [dialler.try_clone()?, node.try_clone()?]) else { return Ok(()) };
        let (mut back, mut to_dialler) = (node.try_clone()?, dialler.try_clone()?);
        let answers = spawn(move || {
            let _ = io::copy(&mut back, &mut to_dialler);
            let _ = to_dialler.shutdown(Shutdown::Both);
        });
        let (mut messages, mut to_node) = (&dialler, &node);
        if answers.is_ok() && to_node.write_all(&hello).is_ok() {
            let _ = io::copy(&mut messages, &mut to_node);
        }
        if let Some(link) = self.lock().open.remove(&number) {
            link.close();
        }
        Ok(())
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        let state = self.lock();
        state.isolated.contains(&from) || state.isolated.contains(&to)
    }

    /// Notes a connection for [`Links::isolate`]; `None` when that came first.
    fn register(&self, from: u64, to: u64, ends: [TcpStream; 2]) -> Option<u64> {
        let mut state = self.lock();
        if state.isolated.contains(&from) || state.isolated.contains(&to) {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Link { from, to, ends });
        Some(number)
    }
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(run).map(drop)
}

/// The first frame as it came, who dials and whom.
fn read_hello(mut dialler: &TcpStream) -> io::Result<(Vec<u8>, u64, u64)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the first frame is no hello");
    let mut frame = vec![0; UNCOUNTED_BYTES];
    dialler.read_exact(&mut frame)?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if length > CONTROL_FRAME_BYTES_MAX {
        return Err(invalid());
    }
    frame.resize(UNCOUNTED_BYTES + length, 0);
    dialler.read_exact(&mut frame[UNCOUNTED_BYTES..])?;
    match decode_borrowed(&frame, &Limits::default()) {
        Ok(Frame::Hello(hello)) => Ok((frame, hello.from.0, hello.to.0)),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_io::wire::{Hello, PROTOCOL, Purpose, encode_control};
    use raft_io::{ClusterId, NodeId};

    fn hello(from: u64, to: u64) -> Vec<u8> {
        let hello = Hello {
            cluster: ClusterId(1),
            from: NodeId(from),
            to: NodeId(to),
            incarnation: 0,
            version_first: PROTOCOL,
            version_last: PROTOCOL,
            frame_bytes_max: 1 << 20,
            client_address: None,
            peer_address: None,
            purpose: Purpose::Messages,
            introduction: raft_io::wire::Introduction::default(),
        };
        let mut frame = Vec::new();
        encode_control(&Frame::Hello(hello), &mut frame).expect("it is short");
        frame
    }

    /// Dials and says hello; what comes back of the hello, nothing if the proxy closes instead.
    fn dial(port: u16, from: u64) -> (TcpStream, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        let said = hello(from, 2);
        stream.write_all(&said).expect("the proxy reads");
        let mut heard = vec![0; said.len()];
        let echoed = stream.read_exact(&mut heard).is_ok();
        (stream, if echoed { heard } else { Vec::new() })
    }

    #[test]
    fn a_cut_closes_what_is_open_and_refuses_what_comes_until_it_is_healed() {
        // Node 2 says back whatever it hears.
        let node = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let target = node.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for stream in node.incoming().flatten() {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        let links = Links::default();
        let port = links.open(target).expect("a free port");
        let (mut of_one, heard) = dial(port, 1);
        assert_eq!(heard, hello(1, 2));
        let (mut of_three, heard) = dial(port, 3);
        assert_eq!(heard, hello(3, 2));
        links.isolate(1);
        assert!(matches!(of_one.read(&mut [0]), Ok(0) | Err(_)), "it is closed");
        assert_eq!(dial(port, 1).1, b"", "node 1 is not let through");
        of_three.write_all(b"x").expect("the connection of node 3 stands");
        let mut byte = [0];
        of_three.read_exact(&mut byte).expect("and carries");
        links.heal(1);
        assert_eq!(dial(port, 1).1, hello(1, 2));
        links.isolate(2);
        assert!(matches!(of_three.read(&mut [0]), Ok(0) | Err(_)), "whoever dialled, it led to node 2");
        assert_eq!(dial(port, 3).1, b"");
    }
}
