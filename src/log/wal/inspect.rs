//! Looking into a log's directory without opening it: what is there, whether it would open, and if not, what is damaged where.
//!
//! The look goes the way that opening goes, over a [`ShadowDirectory`]: it finds what opening would find, and changes nothing.

use super::error::WalError;
use super::identity;
use super::manifest::{MANIFEST, Manifest, Segment};
use super::options::WalOptions;
use super::recovery::{self, Recovered};
use super::room::Found;
use super::shadow::ShadowDirectory;
use super::watermark::WATERMARK;
use crate::directory::Directory;
use crate::life::Life;
use crate::membership::Membership;
use crate::types::{ClusterId, EntryId, GroupId, HardState, Index, NodeId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec::Vec;

/// How often the look begins anew because the log changed meanwhile.
const TRIES: usize = 3;

/// What a log's directory holds.
#[derive(Debug)]
#[non_exhaustive]
pub struct WalInspection {
    /// Whose log it is; `None` if the manifest is missing or damaged.
    pub identity: Option<WalIdentity>,
    /// The newest openings of the directory, as far as the manifest has them: none of a directory that version 0.6 wrote.
    pub lives: Vec<Life>,
    /// The files of the log, in order; none if the manifest is missing or damaged.
    pub segments: Vec<WalSegment>,
    /// What looks like a segment and is none that this log made. Opening leaves it alone.
    pub foreign: Vec<PathBuf>,
    /// What the log holds, or why it does not open.
    pub content: Result<WalContent, WalError>,
    /// The log was written to during the look, each time that it was tried: a node is at work on it.
    pub in_motion: bool,
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The group; that of its records, if it holds any.
    pub group: GroupId,
    /// The identity of the directory, as [`WalLog::incarnation`](super::WalLog::incarnation) of its last opening.
    pub incarnation: u64,
    /// How often it was opened.
    pub openings: u64,
}

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalSegment {
    /// Where it is.
    pub file: PathBuf,
    /// The position in the log of its first byte.
    pub position: u64,
    /// Its size as the manifest has it, in bytes.
    pub bytes: u64,
    /// Its size on the disk; `None` if it is missing.
    pub bytes_found: Option<u64>,
    /// The first entry that begins in it, if the log is intact and one does.
    pub first: Option<Index>,
}

/// What an intact log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalContent {
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry that the snapshot covers with which the log begins; [`EntryId::ZERO`] without any.
    pub snapshot: EntryId,
    /// The entry before the first one.
    pub base: EntryId,
    /// The last entry; equal to `base` if there is none.
    pub last: EntryId,
    /// The newest configuration, and the index of its entry or snapshot; `None` of a log that knows none.
    pub membership: Option<(Index, Arc<Membership>)>,
}

impl WalContent {
    /// How many entries it holds.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.last.index.0 - self.base.index.0
    }
}

/// Looks into the directory of a log. Writes, creates and locks nothing, so a node may be at work on it; then the look is one
/// at a moment, and is repeated if the log changed its files meanwhile.
///
/// # Errors
/// There is no such directory ([`io::ErrorKind::NotFound`]), or no log in it ([`io::ErrorKind::InvalidInput`]), or it
/// cannot be read.
pub fn inspect(directory: impl AsRef<Path>) -> io::Result<WalInspection> {
    let mut tried = 1;
    loop {
        let mut found = look(directory.as_ref())?;
        let changed = manifest(directory.as_ref())?.map(|manifest| manifest.segments) != Some(found.listed);
        if changed && found.inspection.content.is_err() && tried < TRIES {
            tried += 1;
            continue;
        }
        found.inspection.in_motion = changed && found.inspection.identity.is_some();
        return Ok(found.inspection);
    }
}

struct Look {
    inspection: WalInspection,
    listed: Vec<Segment>,
}

fn manifest(directory: &Path) -> io::Result<Option<Manifest>> {
    Ok(Manifest::load(&ShadowDirectory::new(directory)?).ok().flatten())
}

fn look(path: &Path) -> io::Result<Look> {
    let shadow = || ShadowDirectory::new(path);
    let directory = shadow()?;
    let found = Found::look(&directory).map_err(io::Error::other)?;
    let manifest = match Manifest::load(&directory) {
        Ok(Some(manifest)) => manifest,
        Ok(None) if !found.has_segments() && !found.has_file(WATERMARK) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no log in this directory"));
        }
        missing_or_damaged => return Ok(without_manifest(missing_or_damaged.map(drop), &directory)),
    };
    let mut options = WalOptions::new(manifest.cluster, manifest.node);
    let mut recovered = recovery::recover(&directory, &options);
    if let Err(WalError::WrongGroup { found, .. }) = recovered {
        options = options.group(found);
        recovered = recovery::recover(&shadow()?, &options);
    }
    let identity = WalIdentity {
        cluster: manifest.cluster,
        node: manifest.node,
        group: options.group,
        incarnation: identity(manifest.incarnation, manifest.opening),
        openings: manifest.opening,
    };
    let view = recovered.as_ref().ok().map(|recovered| &recovered.view);
    let first = |segment: &Segment, next: Option<&Segment>| {
        view.and_then(|view| view.first_in(segment.base, next.map_or(u64::MAX, |next| next.base)))
    };
    let segments = manifest.segments.iter().enumerate().map(|(position, segment)| WalSegment {
        file: path.join(segment.name()),
        position: segment.base,
        bytes: segment.bytes,
        bytes_found: std::fs::metadata(path.join(segment.name())).ok().map(|file| file.len()),
        first: first(segment, manifest.segments.get(position + 1)),
    });
    let segments = segments.collect();
    let foreign = found.foreign(&directory, &manifest).unwrap_or_default();
    let content = recovered.map(|recovered| content(&recovered));
    let lives = manifest.lives;
    let inspection = WalInspection { identity: Some(identity), lives, segments, foreign, content, in_motion: false };
    Ok(Look { inspection, listed: manifest.segments })
}

fn without_manifest(loaded: Result<(), WalError>, directory: &ShadowDirectory) -> Look {
    let file = directory.path().join(MANIFEST);
    let reason = "the manifest is missing";
    let missing = || WalError::Corrupt { file, offset: 0, first: Index(1), last: None, reason };
    let content = Err(loaded.err().unwrap_or_else(missing));
    let (lives, segments, foreign) = (Vec::new(), Vec::new(), Vec::new());
    let inspection = WalInspection { identity: None, lives, segments, foreign, content, in_motion: false };
    Look { inspection, listed: Vec::new() }
}

fn content(recovered: &Recovered) -> WalContent {
    let view = &recovered.view;
    let later = view.memberships.later.last().map(|(index, membership)| (*index, Arc::clone(membership)));
    let at_snapshot = view.memberships.at_snapshot.as_ref();
    let membership = later.or_else(|| at_snapshot.map(|membership| (view.snapshot.index, Arc::clone(membership))));
    WalContent { hard_state: view.hard_state, snapshot: view.snapshot, base: view.base, last: view.last, membership }
}
