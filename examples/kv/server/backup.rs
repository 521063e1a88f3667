//! `kv backup` and RAFT.BACKUP: the whole state of a running cluster, from any node into a file.
//!
//! The reply to RAFT.BACKUP is one bulk string, sent as it is read from the disk: a node holds a chunk of it and no more. If it
//! cannot go on, it closes the connection, and what has arrived is no backup.

use super::node::Server;
use super::progress::{Progress, megabytes};
use super::replies::{Allowance, Out};
use super::resp;
use clap::Args;
use raft_io::backup::{BackupError, BackupInfo, BackupReader};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DONE: u8 = 0;
const NOT_DONE: u8 = 2;
/// How long the snapshot may take that a backup is made of: as long as the state is large.
const SNAPSHOT_MAX: Duration = Duration::from_secs(3600);
/// How much is read from the disk and sent at a time.
const PIECE_BYTES: usize = 64 << 10;
/// What a backup holds of the memory for replies: a chunk, a piece, and what is on its way.
const ROOM_BYTES: usize = 1 << 20;

/// Options of `backup`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BackupOptions {
    /// The file to make, which must not exist; `-` for standard output
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Any node of the cluster, where clients connect. A follower's backup costs the leader least
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) from: String,
    /// Take what that node has, though it may be behind: also when no node leads
    #[arg(long)]
    pub(crate) stale: bool,
    /// Give up when the node is silent for so long. It is silent while it takes the snapshot, which takes as long as the state
    /// is large
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub(crate) silence_s: u64,
    /// Print what was backed up as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether the words after RAFT.BACKUP make sense.
pub(crate) fn is_asked_for(request: &resp::Request<'_>) -> bool {
    request.from(1).all(|word| word.eq_ignore_ascii_case(b"stale")) && request.len() <= 2
}

/// Answers RAFT.BACKUP. An error ends the connection.
pub(crate) fn stream(server: &Server, stale: bool, out: &mut Out<'_>) -> io::Result<()> {
    if !stale {
        // Everything that was acknowledged before this request is in it, whichever node it is.
        if let Err(error) = server.raft.follower_read(|_| ()).wait(server.settings.result_wait) {
            let error = format!("TRYAGAIN {error}; RAFT.BACKUP STALE takes what this node has");
            resp::write_error(&mut out.bytes, &error);
            return Ok(());
        }
    }
    let mut backup = match server.raft.backup(SNAPSHOT_MAX) {
        Ok(backup) => backup,
        Err(error) => {
            resp::write_error(&mut out.bytes, &format!("ERR {error}"));
            return Ok(());
        }
    };
    let deadline = Instant::now() + server.settings.result_wait;
    let Some(room) = server.replies.take(ROOM_BYTES, deadline) else {
        resp::write_error(&mut out.bytes, "BUSY the replies to clients take all the memory they may");
        return Ok(());
    };
    let allowance = Allowance::with(room);
    out.begin(&allowance);
    // Sizes of files fit.
    resp::write_bulk_header(&mut out.bytes, backup.info().file_bytes() as usize);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match backup.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                out.begin(&allowance);
                out.bytes.extend_from_slice(&piece[..count]);
                out.flush()?;
            }
            Err(error) => {
                eprintln!("node {}: a backup was cut: {error}", server.raft.id());
                return Err(error);
            }
        }
    }
    out.bytes.extend_from_slice(b"\r\n");
    out.flush()
}

/// Takes a backup into a file. The exit code.
pub(crate) fn backup(options: &BackupOptions) -> u8 {
    let to_stdout = options.file == Path::new("-");
    match run(options, to_stdout) {
        Ok(info) => {
            let text = if options.json { format!("{:#}\n", json(&info)) } else { done(options, &info) };
            // What goes through a pipe stays alone there.
            let mut out: Box<dyn Write> = if to_stdout { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            // Nobody may be listening any more: the backup is made all the same.
            let _ = out.write_all(text.as_bytes());
            DONE
        }
        Err(message) => {
            eprintln!("backup: {message}");
            NOT_DONE
        }
    }
}

fn run(options: &BackupOptions, to_stdout: bool) -> Result<BackupInfo, String> {
    let (file, shown) = (&options.file, options.file.display());
    if !to_stdout && file.symlink_metadata().is_ok() {
        return Err(format!("{shown} exists; nothing was done"));
    }
    let (bytes, mut reply) = ask(options)?;
    if to_stdout {
        return receive(&mut reply, bytes, &mut io::stdout().lock());
    }
    // Under its name only once it is whole and durable. Each process has a name of its own for the rest.
    let name = file.file_name().ok_or(format!("{shown} is no name of a file"))?.to_string_lossy().into_owned();
    let partial = file.with_file_name(format!("{name}.{}.partial", std::process::id()));
    let made = write_file(&mut reply, bytes, file, &partial);
    if made.is_err() {
        let _ = fs::remove_file(&partial);
    }
    made
}

fn write_file(reply: &mut impl Read, bytes: u64, file: &Path, partial: &Path) -> Result<BackupInfo, String> {
    let failed = |error: io::Error| format!("{}: {error}; no file was made", partial.display());
    let mut out = File::create_new(partial).map_err(failed)?;
    let info = receive(reply, bytes, &mut out)?;
    out.sync_all().map_err(failed)?;
    name(partial, file).map_err(|error| format!("{}: {error}; no file was made", file.display()))?;
    sync_parent(file).map_err(|error| format!("{} is made, and may not be durable: {error}", file.display()))?;
    Ok(info)
}

/// Gives a whole file its name, and replaces nothing that came there meanwhile.
fn name(partial: &Path, file: &Path) -> io::Result<()> {
    match fs::hard_link(partial, file) {
        Ok(()) => fs::remove_file(partial),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // A file system without links.
        Err(_) => fs::rename(partial, file),
    }
}

/// A name is durable only when its directory is.
fn sync_parent(file: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Asks the node, and reads how much comes.
fn ask(options: &BackupOptions) -> Result<(u64, BufReader<TcpStream>), String> {
    let from = &options.from;
    let failed = |error: io::Error| format!("{from}: {error}; no backup was taken");
    let silence = Duration::from_secs(options.silence_s.max(1));
    let addresses: Vec<_> = from.to_socket_addrs().map_err(failed)?.collect();
    let mut connected = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        connected = TcpStream::connect_timeout(&address, Duration::from_secs(10));
        if connected.is_ok() {
            break;
        }
    }
    let stream = connected.map_err(failed)?;
    stream.set_read_timeout(Some(silence)).map_err(failed)?;
    let mut request = Vec::new();
    let words: &[&str] = if options.stale { &["RAFT.BACKUP", "STALE"] } else { &["RAFT.BACKUP"] };
    resp::write_request(&mut request, words);
    (&stream).write_all(&request).map_err(failed)?;
    let mut reply = BufReader::with_capacity(PIECE_BYTES, stream);
    let mut line = Vec::new();
    (&mut reply).take(4096).read_until(b'\n', &mut line).map_err(failed)?;
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    match line.split_at_checked(1) {
        Some(("$", bytes)) => {
            let bytes = bytes.parse().map_err(|_| format!("{from}: it is no node of this kv: it answered {line:?}"))?;
            Ok((bytes, reply))
        }
        Some(("-", error)) => Err(format!("{from} answered: {error}; no backup was taken")),
        _ => Err(format!("{from}: it is no node of this kv: it answered {line:?}")),
    }
}

/// Writes on what it reads, so that what is written is what was checked.
struct Tee<'a, R, W> {
    from: R,
    to: &'a mut W,
    written: io::Result<()>,
    progress: Progress,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if let Err(error) = self.to.write_all(&buffer[..count]) {
            let kind = error.kind();
            self.written = Err(error);
            return Err(kind.into());
        }
        self.progress.advance(count as u64);
        Ok(count)
    }
}

/// Takes the backup in, verified from its first byte to its last.
fn receive(reply: &mut impl Read, bytes: u64, to: &mut impl Write) -> Result<BackupInfo, String> {
    let progress = Progress::new("backup", bytes);
    let mut tee = Tee { from: reply.take(bytes), to, written: Ok(()), progress };
    let read = BackupReader::open(&mut tee).and_then(BackupReader::verify);
    let Tee { to, written, progress, .. } = tee;
    progress.end();
    written.and_then(|()| to.flush()).map_err(|error| format!("writing failed: {error}; no backup was taken"))?;
    read.map_err(|error| match error {
        BackupError::Cut { offset } => {
            format!(
                "the node ended the connection after {offset} of {bytes} bytes; its log says why; no backup was taken"
            )
        }
        error => format!("what came is not right: {error}"),
    })
}

/// When it was, for a person: `2026-11-30 22:44:01 UTC`.
pub(crate) fn time(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Howard Hinnant's days_from_civil, the other way round: eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// What a backup holds, for a person, a line each.
pub(crate) fn text(info: &BackupInfo) -> Vec<String> {
    let cluster = info.cluster.map_or("no cluster that it knew of".into(), |cluster| format!("cluster {cluster}"));
    let members = &info.membership;
    let history = info.history().map_or("none".into(), |history| history.id().to_string());
    vec![
        format!("of {cluster}, taken on node {} at {}", info.node, time(info.unix_seconds)),
        format!("all entries up to {}, {} of state", info.last, megabytes(info.bytes)),
        format!("members then: {members}; history {history}"),
    ]
}

fn done(options: &BackupOptions, info: &BackupInfo) -> String {
    let to_stdout = options.file == Path::new("-");
    let file = if to_stdout { "to standard output".into() } else { options.file.display().to_string() };
    let mut lines = vec![format!("backed up: {file}, {}, whole", megabytes(info.file_bytes()))];
    lines.extend(text(info).into_iter().map(|line| format!("  {line}")));
    lines.push("  the way back: kv restore --help, and docs/RECOVERY.md".into());
    lines.join("\n") + "\n"
}

pub(crate) fn json(info: &BackupInfo) -> Value {
    let ids = |ids: &[raft_io::NodeId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let history = info.history().map(|history| {
        let ancestors: Vec<_> = history.ancestors().iter().map(|known| known.id.to_string()).collect();
        json!({ "id": history.id().to_string(), "ancestors": ancestors })
    });
    json!({
        "cluster": info.cluster.map(|cluster| cluster.0), "group": info.group.0, "node": info.node.0,
        "last": { "index": info.last.index.0, "term": info.last.term.0 }, "bytes": info.bytes,
        "file_bytes": info.file_bytes(), "unix_time": info.unix_seconds, "history": history,
        "membership": {
            "voters": ids(info.membership.voters()), "learners": ids(info.membership.learners()),
            "text": info.membership.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn a_time_is_shown_for_a_person() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_796_078_641, "2026-11-30 22:44:01 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(time(seconds), shown);
        }
    }
}
