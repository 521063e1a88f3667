//! Unified diffs: as much of them as the mutants need.

use thiserror::Error;

/// Why a patch cannot be read or applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatchError {
    /// A line that has no place in a unified diff. Nothing was applied.
    #[error("line {line}: expected {expected}, found {found:?}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The lines that a hunk replaces are not in the file. Nothing was applied: bring the patch up to date.
    #[error("{path} has no such lines as those at {line} any more: {first:?}")]
    NoSuchLines {
        /// The file.
        path: String,
        /// Where they should be, counted from 1.
        line: usize,
        /// The first of them.
        first: String,
    },
}

/// What a patch does to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePatch {
    /// The file, from the root of the repository.
    pub path: String,
    hunks: Vec<Hunk>,
}

/// A run of lines that takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hunk {
    /// Where the old lines begin, counted from 1; only a hint.
    line: usize,
    old: Vec<String>,
    new: Vec<String>,
}

/// Reads the diff in `text`; whatever stands above it is none of it.
///
/// # Errors
/// The first line that has no place there.
pub fn parse(text: &str) -> Result<Vec<FilePatch>, PatchError> {
    let mut files: Vec<FilePatch> = Vec::new();
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with("--- ")).peekable();
    while let Some((at, line)) = lines.next() {
        let malformed = |expected| PatchError::Malformed { line: at + 1, expected, found: line.to_string() };
        if line.starts_with("--- ") {
            let (_, next) = lines.next().ok_or(malformed("+++ after ---"))?;
            let path = next.strip_prefix("+++ b/").ok_or(malformed("+++ b/… after ---"))?;
            files.push(FilePatch { path: path.to_string(), hunks: Vec::new() });
        } else if let Some(ranges) = line.strip_prefix("@@ -") {
            let line = ranges.split([',', ' ']).next().and_then(|number| number.parse().ok());
            let line = line.ok_or(malformed("@@ -line,count +line,count @@"))?;
            let file = files.last_mut().ok_or(malformed("--- before @@"))?;
            file.hunks.push(Hunk { line, old: Vec::new(), new: Vec::new() });
        } else {
            let hunk = files.last_mut().and_then(|file| file.hunks.last_mut()).ok_or(malformed("@@ before lines"))?;
            match line.split_at_checked(1) {
                Some((" ", text)) => {
                    hunk.old.push(text.to_string());
                    hunk.new.push(text.to_string());
                }
                Some(("-", text)) => hunk.old.push(text.to_string()),
                Some(("+", text)) => hunk.new.push(text.to_string()),
                // An editor took the blank of an empty line away.
                None => {
                    hunk.old.push(String::new());
                    hunk.new.push(String::new());
                }
                Some(_) => return Err(malformed("a line that begins with a blank, + or -")),
            }
        }
    }
    Ok(files)
}

impl FilePatch {
    /// The file as the patch makes it.
    ///
    /// # Errors
    /// What a hunk replaces is not there.
    pub fn apply(&self, source: &str) -> Result<String, PatchError> {
        let mut lines: Vec<&str> = source.lines().collect();
        // From the end, so that the hunks before stay where they are.
        for hunk in self.hunks.iter().rev() {
            let at = hunk.place(&lines).ok_or_else(|| PatchError::NoSuchLines {
                path: self.path.clone(),
                line: hunk.line,
                first: hunk.old.first().cloned().unwrap_or_default(),
            })?;
            lines.splice(at..at + hunk.old.len(), hunk.new.iter().map(String::as_str));
        }
        Ok(lines.join("\n") + "\n")
    }
}

impl Hunk {
    /// Where the old lines stand, counted from 0: the place nearest to the hint.
    fn place(&self, lines: &[&str]) -> Option<usize> {
        let expected = self.line.saturating_sub(1);
        let places = lines.windows(self.old.len().max(1)).enumerate();
        places
            .filter(|(_, window)| window.iter().zip(&self.old).all(|(line, old)| line == old))
            .map(|(at, _)| at)
            .min_by_key(|at| at.abs_diff(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "number: 1\n\n--- a/x.rs\n+++ b/x.rs\n@@ -2,3 +2,3 @@ fn main\n b\n-c\n+C\n d\n";

    #[test]
    fn a_patch_finds_its_lines_where_they_moved_to() {
        let files = parse(DIFF).expect("a diff");
        assert_eq!(files[0].path, "x.rs");
        assert_eq!(files[0].apply("a\nb\nc\nd\n"), Ok("a\nb\nC\nd\n".to_string()));
        assert_eq!(files[0].apply("0\n0\n0\na\nb\nc\nd\n"), Ok("0\n0\n0\na\nb\nC\nd\n".to_string()));
    }

    #[test]
    fn a_patch_of_lines_that_are_gone_does_not_apply() {
        let files = parse(DIFF).expect("a diff");
        for source in ["", "a\nb\nX\nd\n", "b\n"] {
            assert!(matches!(files[0].apply(source), Err(PatchError::NoSuchLines { line: 2, .. })), "{source:?}");
        }
    }

    #[test]
    fn what_is_no_diff_is_refused() {
        for text in ["--- a/x", "--- a/x\n+++ c\n", "--- a/x\n+++ b/x\n a\n", "--- a/x\n+++ b/x\n@@ -x @@\n"] {
            assert!(matches!(parse(text), Err(PatchError::Malformed { .. })), "{text:?}");
        }
    }
}
