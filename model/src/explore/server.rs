//! The explorer's answers over HTTP, on loopback.

use super::{Explorer, page};
use std::io;
use std::net::{SocketAddr, TcpListener};
use tiny_http::{Header, Method, Request, Response, Server};

/// A server that waits to be run.
pub struct ExploreServer {
    server: Server,
    address: SocketAddr,
    explorer: Explorer,
    configuration: &'static str,
}

/// Why the explorer cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Someone else has the port.
    #[error(
        "{0} is in use: end what listens there, or choose another port, as in --address 127.0.0.1:0 for any free one"
    )]
    InUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
}

impl ExploreServer {
    /// Takes the port; port 0 is any free one.
    ///
    /// # Errors
    /// The port is in use, or the address is not one of this machine.
    pub fn bind(address: SocketAddr, configuration: &'static str) -> Result<Self, ServeError> {
        let listen = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => ServeError::InUse(address),
            _ => ServeError::Listen(address, error),
        };
        let listener = TcpListener::bind(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let server = Server::from_listener(listener, None)
            .map_err(|error| ServeError::Listen(address, io::Error::other(error.to_string())))?;
        Ok(Self { server, address, explorer: Explorer::default(), configuration })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever.
    pub fn run(&self) {
        for request in self.server.incoming_requests() {
            // A browser that went away is no failure of ours.
            let _ = self.answer(request);
        }
    }

    fn answer(&self, request: Request) -> io::Result<()> {
        if *request.method() != Method::Get {
            return respond(request, 405, "text/plain", "only GET is answered here\n".to_string());
        }
        let url = request.url().to_string();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        match path {
            "/" => respond(request, 200, "text/html", page(self.configuration)),
            "/state" => {
                let value = |name: &str| {
                    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
                };
                match self.explorer.state(value("configuration"), value("path")) {
                    Ok(state) => respond(request, 200, "application/json", state.to_string()),
                    Err(error) => respond(request, 404, "text/plain", format!("{error}\n")),
                }
            }
            _ => {
                respond(request, 404, "text/plain", "there is / and /state?configuration=NAME&path=STEPS\n".to_string())
            }
        }
    }
}

fn respond(request: Request, status: u16, kind: &str, body: String) -> io::Result<()> {
    let header = |name: &str, value: &str| Header::from_bytes(name, value).expect("a valid header");
    let response = Response::from_string(body)
        .with_status_code(status)
        .with_header(header("Content-Type", &format!("{kind}; charset=utf-8")))
        .with_header(header("Cache-Control", "no-store"));
    request.respond(response)
}
