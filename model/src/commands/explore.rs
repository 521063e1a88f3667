//! `raft-model explore`: a model in the browser.

use crate::configurations::named;
use crate::explore::ExploreError;
use crate::explore::server::ExploreServer;
use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Step through a model in the browser: what can happen, what each step changes, the space-time diagram of the way.
///
/// The page needs nothing but this server. A link to it leads back to the same state. End it with Ctrl-C.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The configuration to begin with; the page can change it. See `raft-model check --list`.
    #[arg(default_value = "core")]
    configuration: String,
    /// Where to listen. Anyone who reaches it can use it: leave it on loopback. Port 0 is any free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3000")]
    address: SocketAddr,
}

/// Runs the command; it ends only by a signal, or if it cannot begin.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let Some(configuration) = named(&arguments.configuration) else {
        eprintln!("{}", ExploreError::UnknownConfiguration(arguments.configuration.clone()));
        return ExitCode::from(2);
    };
    // The page reports what stops a server; its backtrace would only hide that.
    std::panic::set_hook(Box::new(|_| {}));
    match ExploreServer::bind(arguments.address, configuration.name) {
        Ok(server) => {
            println!("http://{}/#{}", server.address(), configuration.name);
            server.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
