# Everything here is a plain command as well; `just` is a convenience.

# Every check, exactly as in continuous integration.
check *names:
    scripts/check {{ names }}

# The README's test command.
test:
    cargo test --workspace --all-features

# Durable servers, everything that goes wrong, a verified history. `just cluster churn --minutes 10` has members come and go at random.
cluster *args:
    cargo run --release --example cluster -- {{ args }}

# A large snapshot under load: memory, elections, latency. `just large-snapshot --mib 64` is a quick look.
large-snapshot *args:
    cargo run --release --example large_snapshot -- {{ args }}

# Our own benchmarks.
bench *args:
    cargo bench --all-features {{ args }}

# One table of ratios against other Raft crates; needs protoc (Debian: protobuf-compiler).
peers *args:
    cargo run --release --manifest-path benches/peers/Cargo.toml -- {{ args }}

# The shipped step function in every state within bounds, the spec under TLC, and both compared.
proof:
    scripts/check model spec mutants
