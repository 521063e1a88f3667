//! A TCP proxy that can damage, swallow or hold back what passes through it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What the proxy does with bytes from the side that connected, or with those that come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes them on.
    Pass,
    /// Passes them on with one bit flipped in each piece.
    Corrupt,
    /// Passes them on slowly: one piece of at most 64 KiB every 40 ms.
    Throttle,
    /// As `Corrupt`, with what comes back.
    CorruptBack,
    /// As `Throttle`, with what comes back.
    ThrottleBack,
    /// Reads nothing, so that the sender's window fills.
    Stall,
    /// Reads and forgets them, and forgets what comes back: a line that is dead, with sockets open.
    Swallow,
}

/// Listens on loopback and connects each client to `target`. Lives until the process ends.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    streams: Vec<TcpStream>,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Mutex::new(State { mode: Mode::Pass, streams: Vec::new() });
        let shared = Arc::new(Shared { target, state, changed: Condvar::new() });
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(own.target) else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let streams = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                own.state.lock().unwrap().streams.extend(streams);
                let (there, back) = (Arc::clone(&own), Arc::clone(&own));
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || there.carry(from, to, true));
                thread::spawn(move || back.carry(server, client, false));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.state.lock().unwrap().mode = mode;
        self.shared.changed.notify_all();
    }

    /// How many connections were made through it.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state.lock().unwrap().streams.len() / 2
    }
}

impl Shared {
    /// Waits as long as `blocked` holds for the mode.
    fn mode_unless(&self, blocked: impl Fn(Mode) -> bool) -> Mode {
        let mut state = self.state.lock().unwrap();
        while blocked(state.mode) {
            state = self.changed.wait(state).unwrap();
        }
        state.mode
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, forward: bool) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let stalled = |mode| mode == Mode::Stall && forward;
            self.mode_unless(stalled);
            let read = from.read(&mut buffer).unwrap_or(0);
            if read == 0 {
                break;
            }
            let piece = &mut buffer[..read];
            match self.mode_unless(stalled) {
                Mode::Swallow => continue,
                Mode::Throttle if forward => thread::sleep(Duration::from_millis(40)),
                Mode::ThrottleBack if !forward => thread::sleep(Duration::from_millis(40)),
                Mode::Corrupt if forward => piece[read / 2] ^= 0x10,
                Mode::CorruptBack if !forward => piece[read / 2] ^= 0x10,
                _ => {}
            }
            if to.write_all(piece).is_err() {
                break;
            }
        }
        // A dead line does not carry the end of a connection either.
        self.mode_unless(|mode| mode == Mode::Swallow);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
