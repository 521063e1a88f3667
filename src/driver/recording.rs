//! The trace of a running node. Without the feature `trace` nothing of it is left.

#[cfg(feature = "trace")]
pub(super) use with::Recording;
#[cfg(not(feature = "trace"))]
pub(super) use without::Recording;

#[cfg(feature = "trace")]
mod with {
    use crate::action::Actions;
    use crate::config::RaftConfig;
    use crate::driver::DriverOptions;
    use crate::event::Event;
    use crate::log::{LogView, Read, SharedLog};
    use crate::message::Envelope;
    use crate::protocol::Protocol;
    use crate::trace::line::{EntryRun, add_runs};
    use crate::trace::{Input, TraceFile};
    use crate::types::Index;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// How much of the log is read at a time when a recording begins.
    const READ_BYTES: usize = 1 << 20;

    /// What is recorded of a node: nothing unless its options ask for it. Guarded by the lock under which the protocol
    /// steps, so that the order of the lines is that of the steps.
    #[derive(Default)]
    pub(in super::super) struct Recording {
        file: Option<TraceFile>,
    }

    impl Recording {
        pub(in super::super) fn start<L: SharedLog>(
            options: &DriverOptions,
            config: &RaftConfig,
            protocol: &Protocol,
            view: &L::Reader,
        ) -> Self {
            let file = options.trace.as_ref().map(|trace| TraceFile::start(trace, config, protocol, held::<L>(view)));
            Self { file }
        }

        /// What `event` brings, if that is to be recorded.
        #[inline]
        pub(in super::super) fn input(&self, event: &Event) -> Option<Input> {
            self.file.as_ref().filter(|file| file.is_recording()).map(|_| Input::of(event))
        }

        /// Records a step, before its actions are carried out.
        #[inline]
        pub(in super::super) fn step(&mut self, input: Option<Input>, protocol: &Protocol, actions: &Actions) {
            if let (Some(file), Some(input)) = (&mut self.file, input) {
                file.step(input, protocol, actions);
            }
        }

        pub(in super::super) fn sent_from_log(&mut self, envelope: &Envelope, protocol: &Protocol) {
            if let Some(file) = &mut self.file {
                file.sent_from_log(envelope, protocol);
            }
        }

        /// Nothing comes any more.
        pub(in super::super) fn flush(&mut self) {
            self.file.iter_mut().for_each(TraceFile::flush);
        }

        pub(in super::super) fn stopped(&self) -> Option<String> {
            self.file.as_ref().and_then(TraceFile::stopped).map(ToString::to_string)
        }
    }

    /// Every entry of the log.
    fn held<L: SharedLog>(view: &L::Reader) -> Result<Vec<EntryRun>, String> {
        let (mut runs, mut next) = (Vec::new(), view.base().index.next());
        while next <= view.last().index {
            let read = L::read_cold(view, next, Index::MAX, READ_BYTES).map_err(|error| error.to_string())?;
            let Read::Entries(entries) = read else { return Err("the log lost entries while they were read".into()) };
            let Some(last) = entries.last_id() else { return Err("the log withholds entries".into()) };
            add_runs(&mut runs, entries.iter());
            next = last.index.next();
        }
        Ok(runs)
    }
}

#[cfg(not(feature = "trace"))]
mod without {
    use crate::action::Actions;
    use crate::config::RaftConfig;
    use crate::driver::DriverOptions;
    use crate::event::Event;
    use crate::log::SharedLog;
    use crate::message::Envelope;
    use crate::protocol::Protocol;

    /// Nothing.
    #[derive(Default)]
    pub(in super::super) struct Recording;

    /// What an event brings: nothing that anybody wants to know.
    pub(in super::super) struct Unrecorded;

    #[allow(clippy::unused_self, clippy::trivially_copy_pass_by_ref, reason = "it has the shape of the real one")]
    impl Recording {
        pub(in super::super) fn start<L: SharedLog>(
            _: &DriverOptions,
            _: &RaftConfig,
            _: &Protocol,
            _: &L::Reader,
        ) -> Self {
            Self
        }

        #[inline]
        pub(in super::super) fn input(&self, _: &Event) -> Unrecorded {
            Unrecorded
        }

        #[inline]
        pub(in super::super) fn step(&mut self, _: Unrecorded, _: &Protocol, _: &Actions) {}

        #[inline]
        pub(in super::super) fn sent_from_log(&mut self, _: &Envelope, _: &Protocol) {}

        pub(in super::super) fn flush(&mut self) {}
    }
}
