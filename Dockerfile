# The backend and its workers: one image, the command says which.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/segloop \
 && awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock > uv.lock \
 && /opt/segloop/bin/pip install --no-cache-dir --no-deps --require-hashes -r uv.lock \
 && /opt/segloop/bin/uv pip install --no-cache --python /opt/segloop/bin/python --no-deps --require-hashes -r requirements.lock
COPY . .
RUN /opt/segloop/bin/uv pip install --no-cache --python /opt/segloop/bin/python --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 segloop && mkdir /data && chown segloop /data
COPY --from=build /opt/segloop /opt/segloop
ENV PATH=/opt/segloop/bin:$PATH SEGLOOP_DATA_DIR=/data PYTHONUNBUFFERED=1
USER segloop
WORKDIR /data
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/health', timeout=2)"]
CMD ["segloop", "serve"]
