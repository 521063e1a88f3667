//! Reads the project's own sources, for the tests that check what compilers don't.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file, by its path below the repository's root, with `/` between the parts.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every file with this extension below `folder`, in the order of the paths; none if it does not exist.
pub(crate) fn below(folder: &str, extension: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = vec![root.join(folder)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let children = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            waiting.extend(children.map(|child| child.expect("a readable folder").path()));
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let parts = path.strip_prefix(root).expect("below the root").components();
            let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            found.push(Source { path: parts.join("/"), text: text.replace("\r\n", "\n") });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The code without its comments and without what its strings and characters say; lines stay lines.
pub(crate) fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let skipped = comment_length(&bytes[at..]).or_else(|| literal_length(bytes, at));
        let length = skipped.unwrap_or(1);
        match skipped {
            Some(_) => code.extend(text[at..at + length].chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            None if bytes[at].is_ascii() => code.push(bytes[at] as char),
            // Identifiers are ASCII here; anything else only has to keep its place.
            None => code.push(' '),
        }
        at += length;
    }
    code
}

/// [`code_of`], up to the file's unit tests, which may use whatever they like.
pub(crate) fn shipped_code_of(text: &str) -> String {
    let code = code_of(text);
    let tests = code.find("#[cfg(test)]\nmod ").or_else(|| code.find("#[cfg(all(test")).unwrap_or(code.len());
    code[..tests].to_string()
}

fn comment_length(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
    }
    Some(at)
}

fn literal_length(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let after_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest[0] {
        b'"' => Some(quoted_length(rest, b'"')),
        // A character, not a lifetime: `'x'` or `'\…'`.
        b'\'' if rest.get(1) == Some(&b'\\') => Some(quoted_length(rest, b'\'')),
        b'\'' => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|error| std::str::from_utf8(&rest[1..=error.valid_up_to()]))
                .ok()
                .and_then(|text| text.chars().next())
                .map_or(1, char::len_utf8);
            (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
        }
        b'r' if !after_name || bytes[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None;
            }
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let body = &rest[2 + hashes..];
            let end = body.windows(close.len()).position(|window| window == close).unwrap_or(body.len());
            Some((2 + hashes + end + close.len()).min(rest.len()))
        }
        _ => None,
    }
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}
