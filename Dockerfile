# One image for every Rondo process: `rondo init`, `rondo serve orders`, and all other verbs. It leaves out the embedded
# broker and Postgres of `rondo up`, and can talk TLS and SASL to Kafka.

FROM rust:1.95-slim-trixie AS toolchain
# librdkafka is compiled with make and a C++ compiler, OpenSSL with perl.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make perl \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Panics still name their functions; the line tables would only make the image larger.
ENV CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The workspace without its code: the same for every change that touches no manifest.
FROM toolchain AS manifests
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN find crates -type f ! -name Cargo.toml -delete \
 && for crate in crates/*; do mkdir -p "$crate/src" && echo '//! Empty.' >"$crate/src/lib.rs"; done \
 && printf '//! Empty.\nfn main() {}\n' >crates/rondo/src/main.rs

# Every dependency, compiled once for a given Cargo.lock.
FROM toolchain AS dependencies
COPY --from=manifests /src ./
RUN cargo build --locked --release -p rondo --no-default-features --features kafka-tls \
 && rm -rf crates

FROM dependencies AS build
COPY . .
# Cargo compares times: the sources must look newer than the empty ones compiled above.
RUN find crates -name '*.rs' -exec touch {} + \
 && cargo build --locked --release -p rondo --no-default-features --features kafka-tls \
 && install -D target/release/rondo /out/rondo

FROM debian:trixie-slim
LABEL org.opencontainers.image.title="Rondo" \
      org.opencontainers.image.description="Event-sourced order sagas by choreography, on Kafka and Postgres" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin rondo
COPY --from=toolchain /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/rondo /usr/local/bin/
USER 10001:10001
# orders, payments, inventory
EXPOSE 8080 8082 8083
ENTRYPOINT ["rondo"]
CMD ["--help"]
