//! WalLog: the durable log on wal-db (docs/FORMAT.md).
