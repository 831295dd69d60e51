# Ray with every stage of boig: no Airflow. Build from the repository's root; TORCH_BACKEND=cu130 for NVIDIA GPUs.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

ARG TORCH_BACKEND=cpu
ENV PYTHONUNBUFFERED=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_SYSTEM_PYTHON=1 DS_BUILD_OPS=0 RAY_USAGE_STATS_ENABLED=0
COPY infra/tools/uv.lock /tmp/uv.lock
# DeepSpeed compiles small operators at first use, so a compiler belongs to the image.
RUN apt-get update && apt-get install -y --no-install-recommends g++ procps && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --require-hashes -r /tmp/uv.lock && useradd --uid 1000 --create-home ray
WORKDIR /opt/boig

# The constraints pin what the extra asks for, and hold all but torch and its CUDA packages to their hashes.
COPY pyproject.toml requirements.lock ./
RUN uv pip install --torch-backend ${TORCH_BACKEND} -c requirements.lock -b requirements.lock -r pyproject.toml --extra ray
COPY README.md ./
COPY boig_core boig_core
COPY ray_jobs ray_jobs
RUN uv pip install --no-deps -b requirements.lock -e .

USER ray
EXPOSE 6379 8265
