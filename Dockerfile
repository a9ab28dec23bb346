# The image that reviewers run: the `artifact` command, on GPUs and on CPUs. docs/container.md says how.
# The torch wheel brings CUDA's libraries: a host needs the NVIDIA driver and container toolkit, no more.
# `--build-arg CPU_INDEX=ADDRESS` makes one without those libraries, for machines that have no GPU.

# Another one by digest: docs/container.md has how to find it.
ARG BASE=debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BASE} AS python
# Debian's stable release fixes its versions; older ones leave the mirrors, so a pin would break.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# An environment with the commands, and with where they find the source.
RUN python3 -m venv --without-pip /opt/venv \
    && echo /opt/privimage >"$(echo /opt/venv/lib/python3.*/site-packages)/privimage.pth" \
    && for name in artifact privimage; do \
        printf '#!/opt/venv/bin/python\nfrom %s.cli import main\n\nmain()\n' "$name" >"/opt/venv/bin/$name" \
        && chmod 755 "/opt/venv/bin/$name"; \
    done
COPY requirements.txt ./

FROM python AS packages
# The CPU index that pytorch.org's install page names, for an image without CUDA's libraries; empty for the whole one.
# An argument and no second target: Docker's older builder, which Debian 12 has, would build both.
ARG CPU_INDEX=""
# Torch for CPUs is another file than that of the hashes in requirements.txt. So torch and torchvision are held to their
# versions there, and come from that index and no other: a file of CUDA's must not slip in for one that is missing. All
# else is held to its hash. Each step can say in one sentence why it failed.
RUN if [ -z "$CPU_INDEX" ]; then cp requirements.txt hashed.txt; : >torch.txt; else \
        sed -nE 's/^((torch|torchvision)==[^ ;]*).*/\1/p' requirements.txt >torch.txt; \
        awk '/^[^ ]/ {kept = !/^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ || /^nvidia-ml-py=/} kept' \
            requirements.txt >hashed.txt; fi
# One try: an index that is not reached ends the build at once.
RUN [ ! -s torch.txt ] || PIP_CONFIG_FILE=/dev/null python3 -m pip --python /opt/venv/bin/python install --quiet \
        --no-cache-dir --no-deps --only-binary :all: --retries 0 --timeout 20 --index-url "$CPU_INDEX" --requirement torch.txt \
    || { echo "error: CPU_INDEX is not reached, or lacks $(paste -sd' ' torch.txt) for this Python" >&2; exit 1; }
# The files whose hashes are held, all of them wheels: there is no compiler here.
RUN python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: \
    --require-hashes --requirement hashed.txt
RUN [ ! -s torch.txt ] || /opt/venv/bin/python -c 'import torch; raise SystemExit(torch.version.cuda is not None)' \
    || { echo "error: CPU_INDEX has a torch for CUDA" >&2; exit 1; }

FROM python AS source
WORKDIR /opt/privimage
COPY . .
# Readable whatever the umask of the checkout; `runs`, where results go unless told, is the volume.
RUN chmod -R a+rX . \
    && ln -s /runs runs \
    && python3 -m compileall -q artifact privimage

# hadolint ignore=DL3006
FROM ${BASE} AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates dataset-fashion-mnist python3 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
    && install --directory --mode=1777 /data /runs /cache
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
VOLUME ["/data", "/runs", "/cache"]
USER 1000:1000
ENTRYPOINT ["/opt/privimage/deploy/entrypoint.sh"]
# What only the builder knows, behind the last command of this stage: another commit leaves every layer as it is.
# `make image` gives the last two.
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

FROM runtime
# The source comes last, so that a change of it leaves all layers above as they are.
COPY --from=packages /opt/venv /opt/venv
COPY --from=source /opt/privimage .
