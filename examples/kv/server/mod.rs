//! A key-value server over Raft that speaks RESP2.
//!
//! | Room | What it holds |
//! |---|---|
//! | `options` | the command line, checked as a whole |
//! | `node` | opening the log, the transport and the listener; the accept loop |
//! | `places` | how many may be connected, and that the other nodes always may |
//! | `limits` | what the system lets a process do with files |
//! | `ending` | a node that stops answers what it took, then closes its clients' connections |
//! | `connection` | one client: batches of pipelined requests in, one write of replies out |
//! | `replies` | what the replies of all clients may hold together, and writing them |
//! | `router` | getting a batch to the leader: here, forwarded, or a redirect |
//! | `forward` | the lanes to the leader, on which the batches of many clients travel together |
//! | `command` | what the words of a request mean |
//! | `store` | the replicated state machine and the encoding of its commands |
//! | `sessions` | commands that run once however often they are sent |
//! | `shards`, `image` | its keys and values, shared with snapshots of them, and those as bytes |
//! | `admin` | answers about this node |
//! | `members` | changing who belongs to the cluster, and telling clients |
//! | `backup` | the whole state of a running cluster in a file |
//! | `restore` | a backup becomes a cluster again |
//! | `progress` | how far a long piece of work has come |
//! | `inspect` | what a node's directory holds, and what is damaged where |
//! | `recover` | going on without a majority that is lost for good |
//! | `resp`, `reply` | RESP2: requests in and replies out, and the other way round |

mod admin;
pub(crate) mod backup;
mod command;
mod connection;
mod ending;
mod forward;
mod image;
pub(crate) mod inspect;
mod limits;
mod members;
mod node;
mod options;
mod places;
mod progress;
pub(crate) mod recover;
mod replies;
pub(crate) mod reply;
pub(crate) mod resp;
pub(crate) mod restore;
mod router;
pub(crate) mod sessions;
mod shards;
pub(crate) mod store;

pub(crate) use node::serve;
pub(crate) use options::ServeOptions;
