# The image that reviewers run: the `artifact` command, on GPUs and on CPUs. docs/container.md says how.
# The torch wheel brings CUDA's libraries: a host needs the NVIDIA driver and container toolkit, no more.

# Another one by digest: docs/container.md has how to find it.
ARG BASE=debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BASE} AS dependencies
# One more package index, for another build of torch; see docs/container.md.
ARG EXTRA_INDEX_URL=""
# Debian's stable release fixes its versions; older ones leave the mirrors, so a pin would break.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml requirements.txt ./
# The files whose hashes requirements.txt holds, all of them wheels: there is no compiler here. Another build of torch
# has other hashes and other needs; then the versions alone hold, of what the project needs with it.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*project["dependencies"], sep="\n")' >runtime.txt \
    && sed '/--hash=/d; s/ \\$//' requirements.txt >versions.txt \
    && if [ -z "$EXTRA_INDEX_URL" ]; then set -- --require-hashes --requirement requirements.txt; \
    else set -- --extra-index-url "$EXTRA_INDEX_URL" --requirement runtime.txt --constraint versions.txt; fi \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: "$@"
# The commands, and where they find the source that the last stage adds.
RUN echo /opt/privimage >"$(echo /opt/venv/lib/python3.*/site-packages)/privimage.pth" \
    && for name in artifact privimage; do \
        printf '#!/opt/venv/bin/python\nfrom %s.cli import main\n\nmain()\n' "$name" >"/opt/venv/bin/$name" \
        && chmod 755 "/opt/venv/bin/$name"; \
    done

# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates dataset-fashion-mnist python3 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
    && install --directory --mode=1777 /data /runs /cache
COPY --from=dependencies /opt/venv /opt/venv
# Every place that a library writes to lies in /cache; USER is for libraries that ask who runs them.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PRIVIMAGE_DATA=/data \
    HOME=/cache \
    USER=reviewer \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    TORCH_HOME=/cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/privimage
# The source comes last, so that a change of it leaves all layers above as they are.
COPY . .
# Readable whatever the umask of the checkout; `runs`, where results go unless told, is the volume.
RUN chmod -R a+rX . \
    && ln -s /runs runs \
    && python -m compileall -q artifact privimage
VOLUME ["/data", "/runs", "/cache"]
USER 1000:1000
ENTRYPOINT ["/opt/privimage/deploy/entrypoint.sh"]
# What only the builder knows, last: another commit leaves every layer as it is. `make image` gives the last two.
ARG BASE
ARG SOURCE=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="privimage" \
      org.opencontainers.image.description="PrivImage (USENIX Security 2024): the method and the reviewers' artifact" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
