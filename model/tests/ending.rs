//! A signal ends `raft-model` together with the programs that it started, and leaves no folders.
#![cfg(unix)]

use raft_io::testkit::walk::walk;
use raft_model::ending::Folder;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Stands in for `java` and `cargo`: says in a pipe which process it is and where it works, and never ends.
const STAND_IN: &str = r#"#!/bin/sh
[ "$1" = -version ] && exit 0
echo begun > begun
echo "$$ $PWD" > "$PIPE"
exec sleep 3600
"#;

/// Runs `raft-model` until the stand-in says that it runs, sends the signal, and returns the exit code.
fn run_until(signal: &str, arguments: &[&str], folder: &Path) -> Option<i32> {
    let bin = folder.join("bin");
    let temporary = folder.join("temporary");
    for made in [&bin, &temporary] {
        std::fs::create_dir_all(made).expect("a folder");
    }
    for name in ["java", "cargo"] {
        let path = bin.join(name);
        std::fs::write(&path, STAND_IN).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it may be run");
    }
    let pipe = folder.join(format!("pipe{signal}"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_raft-model"))
        .args(arguments)
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path")))
        .env("CARGO", bin.join("cargo"))
        .env("TLA2TOOLS_JAR", bin.join("java"))
        .env("TMPDIR", &temporary)
        .env("PIPE", &pipe)
        .stdout(Stdio::null())
        .spawn()
        .expect("raft-model runs");
    let said = std::fs::read_to_string(&pipe).expect("the stand-in speaks");
    let (process, workshop) = said.trim().split_once(' ').expect("a process and a folder");
    assert!(Path::new(workshop).join("begun").exists(), "{workshop}");
    let send =
        |signal: &str, process: &str| Command::new("kill").args([signal, process]).stderr(Stdio::null()).status();
    assert!(send(signal, &child.id().to_string()).expect("kill runs").success());
    let status = child.wait().expect("it ends");
    assert!(!send("-0", process).expect("kill runs").success(), "{arguments:?} {signal}: the stand-in lives on");
    let left: Vec<_> =
        std::fs::read_dir(&temporary).expect("a folder").map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{arguments:?} {signal}: {left:?}");
    status.code()
}

/// After `kill` of a run of TLC its java went on for hours, with both cores and a folder of states that grew.
#[test]
fn a_signal_takes_java_along_and_leaves_no_folders() {
    let folder = Folder::new("ending").expect("a folder");
    let trace = folder.path().join("trace.jsonl");
    let script = walk("cluster 3 disk=manual trace=true", 1, 40).expect("no law is broken");
    raft_io::trace::write(&trace, script.cluster().expect("a cluster").trace()).expect("a file");
    let trace = trace.to_str().expect("a name");
    let scratch = folder.path().join("scratch");
    let scratch = scratch.to_str().expect("a name");
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec");
    let commands: [&[&str]; 4] = [
        &["tlc", "MCMonotone", "--spec", spec],
        &["conform", "conform-monotone", "--spec", spec],
        &["trace", trace, "--spec", spec],
        &["mutants", "4", "--scratch", scratch],
    ];
    for (at, command) in commands.into_iter().enumerate() {
        for signal in ["-TERM", "-INT"] {
            let folder = folder.path().join(at.to_string());
            assert_eq!(run_until(signal, command, &folder), Some(2), "{command:?} {signal}");
        }
    }
}
