# syntax=docker/dockerfile:1
# weir in an image without a shell or a package manager, run by an unprivileged user, fit for a read-only root:
#
#   docker build -t weir .
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges \
#       -p 8080:8080 -v weir-state:/var/lib/weir weir \
#       run --listen 0.0.0.0:8080 --upstream host.docker.internal:3000 --state /var/lib/weir
#
# With a file: -v ./weir.toml:/etc/weir/weir.toml:ro and no arguments.
#
# ./release optimises by a profile: it runs what it has built under load, on two CPUs at least. `--build-arg PROFILED=no` builds in a
# third of the time, on one CPU too, what takes 10 to 20 % more per request.

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
ARG PROFILED=yes
WORKDIR /src
COPY . .
# The caches are the builder's, not the image's: a rebuild compiles only what changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    if [ "$PROFILED" = yes ]; then ./release >/tmp/binary; \
    else cargo build --release --locked --bin weir && echo target/release/weir >/tmp/binary; fi \
    && install -D -m 0755 "$(cat /tmp/binary)" /out/usr/local/bin/weir \
    && install -d -m 0700 /out/var/lib/weir \
    && install -d -m 0755 /out/etc/weir

# glibc and libgcc, which the binary links, certificates, /etc/passwd, and nothing else.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="weir" \
    org.opencontainers.image.description="A traffic-inspection sidecar that counts every byte of every request and session, exactly" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/usr/local/bin/weir /usr/local/bin/weir
COPY --from=build /out/etc/weir /etc/weir
# The journal: the only place weir writes. It must outlive the container, or bytes not yet shipped are lost with it.
COPY --from=build --chown=65532:65532 --chmod=0700 /out/var/lib/weir /var/lib/weir
VOLUME ["/var/lib/weir"]
USER 65532:65532
# 8080: what weir.toml's first listener commonly is. 9900: admin (probes, metrics, live sessions); keep it inside.
EXPOSE 8080 9900
# Asks the admin listener's /readyz on this host; there is no shell here to do it with.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/weir", "health"]
# SIGTERM drains; give it longer than drain_timeout_ms: docker stop --timeout 40.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/weir"]
CMD ["run", "--config", "/etc/weir/weir.toml"]
