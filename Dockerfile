# The backend and its workers, from one file with two targets:
#   docker build --target server .         the server alone, without torch
#   docker build .                         the worker, which may serve too; torch without CUDA
#   docker build --build-arg DEVICE=cuda . torch with CUDA, as requirements.lock has it; the host brings the driver
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS locked
# the compiler of the mask codec; the build stages alone have it, at whatever version the release of Debian has
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
ENV VIRTUAL_ENV=/opt/segloop PATH=/opt/segloop/bin:$PATH UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/segloop \
 && awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock > uv.lock \
 && pip install --no-cache-dir --no-deps --require-hashes -r uv.lock
RUN awk '/^[^ ]/ {torch = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/} torch' requirements.lock > torch.lock \
 && awk '/^[^ ]/ {torch = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/} !torch' requirements.lock > others.lock \
 && awk '/^(torch|torchvision)==/ {print $1}' torch.lock > torch.txt
RUN uv pip install --no-deps --require-hashes -r others.lock
COPY . .
RUN uv pip install --no-deps --no-build-isolation .

# what the tests and the worker need goes again
FROM locked AS server-build
ARG SERVER_EXTRAS=aws,gunicorn,otel
RUN python deploy/unneeded.py "segloop[$SERVER_EXTRAS]" > unneeded.txt \
 && uv pip uninstall -r unneeded.txt

FROM locked AS worker-build
ARG DEVICE=cpu
ARG EXTRAS=worker,aws,gunicorn,otel,tensorboard
# CPU builds of torch have hashes of their own: they are of the locked versions, and uv knows where they are
RUN case "$DEVICE" in \
      cuda) uv pip install --no-deps --require-hashes -r torch.lock ;; \
      cpu) uv pip install --no-deps --torch-backend cpu -r torch.txt ;; \
      *) echo "DEVICE is '$DEVICE': use cpu or cuda" >&2; exit 1 ;; \
    esac
RUN python deploy/unneeded.py "segloop[$EXTRAS]" > unneeded.txt \
 && uv pip uninstall -r unneeded.txt

FROM python:${PYTHON}-slim-bookworm AS runtime
RUN useradd --uid 1000 --user-group --home-dir /data --create-home segloop
ENV PATH=/opt/segloop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SEGLOOP_DATA_DIR=/data \
    TORCH_HOME=/data/cache/torch \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\") or 9090}/health', timeout=2)"]
CMD ["segloop", "serve"]

FROM runtime AS server
COPY --from=server-build /opt/segloop /opt/segloop

FROM runtime AS worker
COPY --from=worker-build /opt/segloop /opt/segloop
