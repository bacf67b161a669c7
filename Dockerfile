# pglull in a container: docker build -t pglull . ; what it expects to be mounted: deploy/README.md.
# Any image with Debian 12's libc will do; one without a shell is best, since nothing here needs one:
# --build-arg RUNTIME=your-mirror/distroless/cc-debian12:nonroot
ARG RUNTIME=debian:bookworm-slim

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY benches benches
COPY tests tests
RUN cargo build --release --locked --bin pglull

# hadolint ignore=DL3006
FROM ${RUNTIME}
COPY --from=build /src/target/release/pglull /usr/bin/pglull
USER 65532:65532
# Clients, and metrics with health.
EXPOSE 6432 9632
# Every open transaction ends, and each client is closed at its next boundary. (TERM waits for clients to leave, which those
# of an application's own pool never do.)
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/bin/pglull", "probe", "live"]
ENTRYPOINT ["/usr/bin/pglull"]
CMD ["run", "/etc/pglull/pglull.toml"]
