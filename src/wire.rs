//! Messages on the wire: pack-io framing (docs/FORMAT.md).
