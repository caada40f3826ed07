# One image for every role: `serve` (the default), `worker`, `migrate`, `simulator`. Builds with docker, podman and buildah.
# Python 3.11 because that is what the tests run on, and the oldest that requirements.lock was resolved for.
FROM python:3.11-slim-bookworm AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_REQUIRE_HASHES=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/callgate \
    && pip --python /opt/callgate/bin/python install --no-compile -r requirements.lock

# Installs only the build backend and its dependencies from the development lock. If it needs another one, the hash check fails.
COPY requirements-dev.lock ./
RUN awk '/^[a-z]/ { wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } wanted' requirements-dev.lock \
        > requirements-build.lock \
    && pip install -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY docs docs
COPY migrations migrations
COPY simulator simulator
RUN python -m hatchling build --target wheel \
    && PIP_REQUIRE_HASHES=0 pip --python /opt/callgate/bin/python install --no-deps --no-index --no-compile dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/callgate/lib


FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="Callgate" \
      org.opencontainers.image.description="A gateway in front of Twilio's Calls resource: one request, at most one ring." \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="MIT"

# The base has pip and setuptools, which are not needed at run time, and a standard library without bytecode, which a
# process on a read-only root would compile at every start.
RUN rm -rf /usr/local/lib/python3.11/site-packages/* /usr/local/lib/python3.11/ensurepip /usr/local/bin/pip* \
    && python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.11

COPY --from=builder /opt/callgate /opt/callgate
ENV PATH=/opt/callgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number, so that Kubernetes can check that it is not root.
USER 10001:10001
EXPOSE 8000
# Uses the role and port of the container's own command. Kubernetes has its own probes.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["callgate", "healthcheck"]
ENTRYPOINT ["callgate"]
CMD ["serve", "--host", "0.0.0.0"]
