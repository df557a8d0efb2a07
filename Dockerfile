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
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY tests tests
RUN cargo build --locked --release --bin runner-coordinator

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/runner-coordinator
COPY --from=build /src/target/release/runner-coordinator /usr/bin/runner-coordinator
USER 65532:65532
VOLUME /var/lib/runner-coordinator
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/runner-coordinator"]
CMD ["serve"]
