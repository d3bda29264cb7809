# The menu. Each line is one command; what it does lives in Rust.

# Everything in one process tree: broker, registry, Postgres, services
up *ARGS:
    cargo run -- up {{ARGS}}

# All tests, on embedded servers
test *ARGS:
    cargo test --workspace {{ARGS}}

# What CI denies
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Licences and advisories of all dependencies
deny:
    cargo deny check

# The proof that nothing was made or lost, against a running installation
audit *ARGS:
    cargo run -- audit {{ARGS}}

# What a running installation brings to its end, a second, and how fast
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# The same beside another system's bench, in turns: a command that prints the same lines of JSON
bench-versus COMMAND *ARGS:
    cargo run --release -- bench versus {{quote(COMMAND)}} {{ARGS}}
