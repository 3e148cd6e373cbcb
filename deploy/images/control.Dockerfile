# The control plane: api, controller, gateway, migrations, the command line. No torch, no Ray.
#
#   make images-control
#
# BASE_IMAGE: a Debian whose python3 is 3.11. POSTGRES_IMAGE: where pg_dump and pg_restore come
# from, of the same Debian; `quarterdeck db backup` copies servers up to its version. Name digests
# where nothing may move.
ARG BASE_IMAGE=debian:bookworm-slim
ARG POSTGRES_IMAGE=postgres:16-bookworm

# --- Python, pip ---------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv
WORKDIR /source

# --- what the environment needs: a layer that changes with pyproject.toml only -------------------
FROM python AS dependencies
COPY pyproject.toml constraints.txt deploy/images/requirements.py deploy/images/trim.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 requirements.py tracing s3 > requirements.txt \
    && python3 -m venv --without-pip /opt/quarterdeck \
    && pip --python /opt/quarterdeck install -c constraints.txt -r requirements.txt \
    && python3 trim.py /opt/quarterdeck/lib/python3.11/site-packages

# --- Quarterdeck's wheel -------------------------------------------------------------------------
FROM python AS wheel
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY migrations migrations
COPY workers workers
COPY platform platform
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_CONSTRAINT=/source/constraints.txt pip wheel --no-deps --wheel-dir /wheel .

FROM dependencies AS installed
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/quarterdeck install --no-deps --no-index --root /installed /wheel/*.whl

# --- pg_dump and pg_restore, without the rest of the server --------------------------------------
FROM ${POSTGRES_IMAGE} AS postgres
RUN install -D -t /client/bin /usr/lib/postgresql/*/bin/pg_dump /usr/lib/postgresql/*/bin/pg_restore \
    && install -D -t /client/lib /usr/lib/*/libpq.so.5

# --- the image -----------------------------------------------------------------------------------
FROM ${BASE_IMAGE}
COPY --from=postgres /client/ /usr/local/
# Debian's libpq5 is there for what it depends on; that of the server's version goes before it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libpq5 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* \
    && ldconfig && pg_dump --version && pg_restore --version \
    && groupadd --gid 10001 quarterdeck \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/quarterdeck --no-create-home \
         --shell /usr/sbin/nologin quarterdeck \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/quarterdeck \
    && install -d -o 10001 -g 10001 -m 0750 \
         /srv/quarterdeck/agent /srv/quarterdeck/artifacts /srv/quarterdeck/database
COPY --from=dependencies /opt/quarterdeck /opt/quarterdeck
COPY --from=installed /installed/opt/quarterdeck /opt/quarterdeck

ENV PATH=/opt/quarterdeck/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    QUARTERDECK_HOME=/var/lib/quarterdeck
# State lies there and in /tmp only: the root file system may be read-only.
WORKDIR /var/lib/quarterdeck
USER 10001:10001
EXPOSE 8080 8081
ENTRYPOINT ["quarterdeck"]
CMD ["--help"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Quarterdeck control plane" \
      org.opencontainers.image.description="api, controller, gateway, migrations, command line" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
