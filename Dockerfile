# autotune as an image. It tunes containers of the engine whose socket it is given, and sends its load from the host's network:
#
#   docker build -t autotune .
#   docker run --rm -it --init --network host --pid host --user 0 \
#     -v /var/run/docker.sock:/var/run/docker.sock -v "$PWD:/work" -w /work \
#     autotune --space experiments/pool.toml
#
# Host network: the load must reach the published ports, and a bridge between the two would be measured as well. Host pids: the
# cgroups of the trials are read by their processes. /work: the space file, and the results, which outlive the container.
# The guardian ends with this container: after `docker kill`, or a second Ctrl-C, run `restore` in a new one. For nights, install on
# the host, where it lives on.
#
# Where no registry is within reach, build the program with cargo and put it on a base that is there:
#
#   docker build -t autotune --target prebuilt --build-arg RUNTIME=debian:bookworm-slim --build-arg PROGRAM=target/release/autotune .

ARG RUST=rust:1.95-bookworm
ARG RUNTIME=debian:bookworm-slim

FROM ${RUNTIME} AS prebuilt
ARG PROGRAM=target/release/autotune
COPY ${PROGRAM} /usr/local/bin/autotune
ENTRYPOINT ["autotune"]
CMD ["--help"]

FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && install -D target/release/autotune /out/autotune

FROM ${RUNTIME} AS built
# https services are verified with the host's trust store.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/autotune /usr/local/bin/autotune
ENTRYPOINT ["autotune"]
CMD ["--help"]
