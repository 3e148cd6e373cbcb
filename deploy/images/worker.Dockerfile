# A machine's side: the agent with Ray, and what runs the ranks: torch, DeepSpeed, transformers.
#
#   make images
#
# torch comes from the build context `wheels` (`make images` puts this machine's own CPU build
# there), else from TORCH_INDEX, else from the index that the base image's pip is set to.
# CUDA: TORCH_INDEX of the wanted version; its packages bring the libraries, the host needs the
# driver and the container toolkit. BASE_IMAGE: a Debian whose python3 is 3.11.
ARG BASE_IMAGE=debian:bookworm-slim

FROM scratch AS wheels

# --- Python, pip ---------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv
WORKDIR /source

# --- what the environment needs: layers that change with pyproject.toml only ---------------------
# It keeps its pip: a job's `setup` installs with it.
FROM python AS dependencies
ARG TORCH_INDEX=
COPY pyproject.toml constraints.txt deploy/images/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 requirements.py --only torch > torch.txt \
    && python3 -m venv /opt/quarterdeck \
    && pip --python /opt/quarterdeck install \
         ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} --find-links /wheels \
         -c constraints.txt -r torch.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 requirements.py workers tracing > requirements.txt \
    && PIP_CONSTRAINT=/source/constraints.txt \
       pip --python /opt/quarterdeck install -r requirements.txt

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

# --- the image -----------------------------------------------------------------------------------
FROM ${BASE_IMAGE}
# tini is process 1: it buries what dead ranks leave behind.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* \
    && groupadd --gid 10001 quarterdeck \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/quarterdeck --no-create-home \
         --shell /bin/bash quarterdeck \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/quarterdeck \
    && install -d -o 10001 -g 10001 -m 0750 /srv/quarterdeck/agent /srv/quarterdeck/artifacts
COPY --from=dependencies /opt/quarterdeck /opt/quarterdeck
COPY --from=installed /installed/opt/quarterdeck /opt/quarterdeck

ENV PATH=/opt/quarterdeck/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    QUARTERDECK_HOME=/var/lib/quarterdeck
# State lies there, in /tmp and in /dev/shm only: the root file system may be read-only.
WORKDIR /var/lib/quarterdeck
USER 10001:10001
ENTRYPOINT ["tini", "--", "quarterdeck"]
CMD ["--help"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Quarterdeck worker" \
      org.opencontainers.image.description="agent with Ray, torch, DeepSpeed, transformers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
