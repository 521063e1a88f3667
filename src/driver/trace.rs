//! Events for the `tracing` facade; nothing at all without the feature.

/// An event at the level named first, with `tracing`'s own syntax. Whoever listens is not ours, and may panic.
macro_rules! trace_event {
    ($level:ident, $($rest:tt)+) => {
        #[cfg(feature = "tracing")]
        let _ = crate::driver::contain::contain(|| ::tracing::$level!($($rest)+));
    };
}

pub(super) use trace_event;
