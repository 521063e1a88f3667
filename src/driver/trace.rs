//! Events for the `tracing` facade; nothing at all without the feature.

/// An event at the level named first, with `tracing`'s own syntax.
macro_rules! trace_event {
    ($level:ident, $($rest:tt)+) => {
        #[cfg(feature = "tracing")]
        ::tracing::$level!($($rest)+);
    };
}

pub(super) use trace_event;
