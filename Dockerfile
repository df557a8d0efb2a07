# The daemon as an image. It steers the engine of the machine it runs on, so it needs that engine's socket, which is worth root on the
# machine: give it to nothing else. It has to be in the machine's network, since it listens on the runners' bridge:
#
#   docker build -t runner-coordinator .
#   docker run -d --name runner-coordinator --network host --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --user "65532:$(stat -c %g /var/run/docker.sock)" \
#     -v /var/run/docker.sock:/var/run/docker.sock \
#     -v runner-coordinator:/var/lib/runner-coordinator \
#     -e RUNNER_COORDINATOR__DOCKER__DATA_DIR=/var/lib/docker/volumes/runner-coordinator/_data \
#     -v /etc/runner-coordinator:/etc/runner-coordinator:ro \
#     runner-coordinator
#
# So it has no right to set rules of the firewall and no program nft: classes need `network = "none"` or `"open"`, and others start nothing.
#
# It holds the program, the libraries that it is linked to, and certificates: no shell, no packages. BASE puts that on top of another image,
# for those who want a shell. BINARY=prebuilt takes what `make dist` laid out in the context instead of building it.
ARG BASE=scratch
ARG BINARY=build

FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY tests tests
COPY docs docs
COPY config config
RUN cargo build --locked --release --bin runner-coordinator \
 && config/image/root target/release/runner-coordinator /of-image

FROM scratch AS prebuilt
COPY of-image /of-image

FROM ${BINARY} AS binary

FROM ${BASE}
COPY --from=binary /of-image/root /
COPY --from=binary --chown=65532:65532 /of-image/state /var/lib/runner-coordinator
USER 65532:65532
VOLUME /var/lib/runner-coordinator
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/runner-coordinator"]
CMD ["serve"]
