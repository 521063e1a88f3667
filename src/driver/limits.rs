//! What is accepted can be carried: the limits of the configuration within those of the transport.
//!
//! A leader that has accepted what nobody can be sent leads on and commits nothing any more. So what a node may accept is
//! compared, before it starts, with what its transport carries in one message and what its log stores in one write; what
//! does not fit is refused there, with field, value and rule.

use crate::config::RaftConfig;
use crate::error::ConfigProblem;
use crate::membership::Membership;
use crate::transport::MessageLimits;
use crate::types::Entry;
use std::format;
use std::vec::Vec;

/// Every rule that the configuration breaks with a transport that carries so much.
pub(super) fn problems(config: &RaftConfig, carries: &MessageLimits) -> Vec<ConfigProblem> {
    let bytes_max = carries.entry_bytes_max;
    let mut problems = Vec::new();
    let mut check = |field, value: usize, needs: usize, rule| {
        if needs > bytes_max {
            let value = format!("{value} (the transport carries {bytes_max} bytes of entries in one message)");
            problems.push(ConfigProblem { field, value, rule });
        }
    };
    let command = config.command_bytes_max;
    check(
        "command_bytes_max",
        command,
        command.saturating_add(Entry::OVERHEAD_BYTES),
        "must be at least 16 bytes less than the transport carries in one message; lower it, or raise the transport's limit",
    );
    check(
        "append_bytes_max",
        config.append_bytes_max,
        config.append_bytes_max,
        "must be at most what the transport carries in one message; lower it, or raise the transport's limit",
    );
    let membership = Membership::ENCODED_BYTES_MAX;
    check(
        "membership",
        membership,
        membership + Entry::OVERHEAD_BYTES,
        "a configuration of the cluster may have 48 KiB and must fit into one message; raise the transport's limit",
    );
    if carries.entries_max == 0 {
        let rule = "the transport must carry at least one entry in one message";
        problems.push(ConfigProblem { field: "append_entries_max", value: "0".into(), rule });
    }
    problems
}

/// The configuration with no more entries in one message than the transport carries. Their bytes were compared.
pub(super) fn within(config: &RaftConfig, carries: &MessageLimits) -> RaftConfig {
    let append_entries_max = config.append_entries_max.min(carries.entries_max);
    RaftConfig { append_entries_max, ..config.clone() }
}
