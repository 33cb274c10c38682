# A coordinator's image: septum, septum_server and septum_strategies, and no other zone.
#
#   docker build -t septum-coordinator:0.1.0 -f deploy/images/coordinator.Dockerfile \
#     --build-context bundle=bundle --build-arg FINGERPRINT=... deploy/images
#
# `bundle` is what `septum offline-bundle bundle --zone server` made. Nothing is fetched but the
# base; name it by digest (BASE=python:3.11-slim@sha256:...) to have the same one every time.
ARG BASE=python:3.11-slim

FROM ${BASE} AS installed
ARG FINGERPRINT
COPY --from=bundle . /bundle
RUN --network=none sh /bundle/install.sh "${FINGERPRINT}" /usr/local/septum

FROM ${BASE}
COPY --from=installed /usr/local/septum /usr/local/septum
COPY --chmod=0555 healthy /usr/local/lib/septum/
# Debian's set-user-ID programs have no use here, and without them nothing can gain a privilege.
RUN --network=none find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
 && install -d -o 10001 -g 10001 -m 0700 /data
ENV PATH=/usr/local/septum/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=septum \
    LOGNAME=septum \
    TMPDIR=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    SEPTUM_COORDINATOR=/data/coordinator
USER 10001:10001
WORKDIR /tmp
EXPOSE 8443
# SuperLink, edge, desk and SuperExec, which `septum server up` keeps running.
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=4 \
  CMD ["/usr/local/lib/septum/healthy", "/data/coordinator", "4"]
ENTRYPOINT ["septum"]
CMD ["server", "up"]
